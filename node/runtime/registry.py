"""A client of the distribution API (version 2): manifests and blobs, with whatever authentication a registry asks for.

A request goes out bare; a 401 says what is wanted: Basic, or a token from a service that the challenge names. The token
is kept for the rest of the pull. A registry's refusal is passed on in its own words.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from node.runtime.interface import ERR_IMAGE_PULL, RegistryAuth, RuntimeFailure
from node.runtime.reference import Reference

INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
MAX_MANIFEST_BYTES = 4 << 20  # what registries themselves accept
CHUNK_BYTES = 256 << 10
CONNECT_S = 5.0
READ_S = 30.0  # without a single byte; a slow blob may take as long as it likes
ATTEMPTS = 3  # of one request that failed for a reason that may pass
BACKOFF_S = (0.2, 0.8)  # between them

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class RegistryError(Exception):
    """A registry refused, or did not answer. `retryable`: the same request may work in a moment."""

    def __init__(self, message: str, *, status: int = 0, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index as the registry sent it."""

    media_type: str
    digest: str
    data: bytes


class Registries:
    """All registries that this node may pull from.

    `mirrors` maps a registry's name to the address that stands for it: `{"docker.io": "http://10.0.0.100:5000"}`. A name
    that has a mirror is asked for nowhere else.
    """

    def __init__(self, mirrors: Mapping[str, str] | None = None) -> None:
        self._mirrors = {name: url.rstrip("/") for name, url in (mirrors or {}).items()}
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def repository(self, reference: Reference, auth: RegistryAuth | None) -> Repository:
        """The repository that a reference is in, seen with one credential."""
        base = self._mirrors.get(reference.domain) or _base(reference.domain)
        return Repository(self.session(), base, reference, auth)


def _base(domain: str) -> str:
    if domain == "docker.io":
        return "https://registry-1.docker.io"
    host = domain.partition(":")[0]
    # As with Docker, a registry on the host itself needs no TLS.
    return f"{'http' if host == 'localhost' or host.startswith('127.') else 'https'}://{domain}"


class Repository:
    """One repository of one registry, for the length of one pull."""

    def __init__(
        self, session: aiohttp.ClientSession, base: str, reference: Reference, auth: RegistryAuth | None
    ) -> None:
        self._session = session
        self._base = base
        self._path = reference.path
        # A mirror that stands for several registries is told which one is meant, as containerd does.
        self._query = {"ns": reference.domain} if urlsplit(base).netloc != reference.domain else {}
        self._auth = auth
        self._authorization = ""

    async def manifest(self, target: str) -> Manifest:
        """Fetch a manifest or index by tag or digest. Raises RegistryError."""
        headers = {"Accept": ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))}
        async for attempt in _attempts():
            with attempt:
                async with self._get(f"manifests/{target}", headers) as response:
                    data = bytearray()
                    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                        data += chunk
                        if len(data) > MAX_MANIFEST_BYTES:
                            raise RegistryError(f"{self}: manifest {target} is larger than {MAX_MANIFEST_BYTES} bytes")
                    return self._checked(target, bytes(data), response.headers.get("Content-Type", ""))
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def _checked(self, target: str, data: bytes, content_type: str) -> Manifest:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if target.startswith("sha256:") and target != digest:
            raise RegistryError(f"{self}: asked for manifest {target}, was sent {digest}")
        media_type = content_type.partition(";")[0].strip()
        if media_type not in INDEX_TYPES + MANIFEST_TYPES:
            try:
                media_type = json.loads(data).get("mediaType", media_type)
            except (ValueError, AttributeError):
                media_type = content_type
        if media_type not in INDEX_TYPES + MANIFEST_TYPES:
            raise RegistryError(f"{self}: manifest {target} has the unsupported type {media_type!r}")
        return Manifest(media_type, digest, data)

    async def blob(self, digest: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob from `offset` on, once: a caller that lost the connection calls again. Raises RegistryError."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            async with self._get(f"blobs/{digest}", headers) as response:
                skip = offset if response.status != 206 else 0  # the registry does not do ranges
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    yield chunk[skip:]
                    skip = 0
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RegistryError(f"{self}: blob {digest}: {_words(error)}", retryable=True) from error

    @asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        url = f"{self._base}/v2/{self._path}/{path}"
        for challenged in (False, True):
            sent = {**headers, "Authorization": self._authorization} if self._authorization else dict(headers)
            try:
                response = await self._session.get(url, headers=sent, params=self._query)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise RegistryError(f"{self}: {_words(error)}", retryable=True) from error
            async with response:
                if response.status == 401 and not challenged:
                    await self._answer(response.headers.getall("WWW-Authenticate", []))
                    if self._authorization:
                        continue
                if response.status >= 400:
                    raise await self._refusal(response)
                yield response
                return

    async def _answer(self, challenges: Sequence[str]) -> None:
        """Get ready to send what the registry asks for."""
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "basic" and self._auth is not None and self._auth.username:
                self._authorization = f"Basic {_basic(self._auth)}"
                return
            if scheme.lower() == "bearer":
                self._authorization = f"Bearer {await self._token(dict(_CHALLENGE.findall(rest)))}"
                return

    async def _token(self, challenge: Mapping[str, str]) -> str:
        if self._auth is not None and self._auth.token:
            return self._auth.token
        realm = challenge.get("realm", "")
        if urlsplit(realm).scheme not in ("http", "https"):
            raise RegistryError(f"{self}: cannot get a token from realm {realm!r}")
        query = {"scope": challenge.get("scope", f"repository:{self._path}:pull")}
        if "service" in challenge:
            query["service"] = challenge["service"]
        headers = {"Authorization": f"Basic {_basic(self._auth)}"} if self._auth and self._auth.username else {}
        try:
            async with self._session.get(realm, params=query, headers=headers) as response:
                if response.status >= 400:
                    raise await self._refusal(response)
                answer = json.loads(await response.read())
                token = answer.get("token") or answer.get("access_token")
        except (aiohttp.ClientError, TimeoutError, ValueError, AttributeError) as error:
            raise RegistryError(f"{self}: no token from {realm}: {_words(error)}", retryable=True) from error
        if not isinstance(token, str):
            raise RegistryError(f"{self}: the answer of {realm} holds no token")
        return token

    async def _refusal(self, response: aiohttp.ClientResponse) -> RegistryError:
        body = await response.content.read(64 << 10)
        try:
            errors = json.loads(body)["errors"]
            words = "; ".join(_error_words(error) for error in errors)
        except (ValueError, KeyError, TypeError):
            words = body.decode("utf-8", "replace").strip()[:200] or (response.reason or "no reason given")
        retryable = response.status >= 500 or response.status == 429
        return RegistryError(f"{self}: {words} (HTTP {response.status})", status=response.status, retryable=retryable)

    def __str__(self) -> str:
        return f"registry {urlsplit(self._base).netloc}"


def _error_words(error: Mapping[str, object]) -> str:
    code, message, detail = error.get("code", ""), error.get("message", ""), error.get("detail")
    words = f"{code}: {message}" if code and message else str(code or message)
    return f"{words}: {json.dumps(detail)}" if detail else words


def _basic(auth: RegistryAuth) -> str:
    return base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Attempt:
    """Swallows a failure that may pass, unless it is the last attempt's."""

    def __init__(self, *, last: bool) -> None:
        self._last = last

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, (aiohttp.ClientError, TimeoutError)):
            if self._last:
                raise RegistryError(_words(error), retryable=True) from error
            return True
        return isinstance(error, RegistryError) and error.retryable and not self._last


async def _attempts() -> AsyncIterator[_Attempt]:
    for number in range(ATTEMPTS):
        if number:
            await asyncio.sleep(BACKOFF_S[number - 1])
        yield _Attempt(last=number == ATTEMPTS - 1)


def pull_failure(reference: Reference, error: RegistryError) -> RuntimeFailure:
    """What a refusal means for the pod."""
    return RuntimeFailure(ERR_IMAGE_PULL, f'failed to pull image "{reference}": {error}')

"""The member's HTTPS port: health, version, metrics; Kubernetes' REST grows here.

Requests show who they are by a client certificate of the cluster's CA, or show nothing: then they are anonymous, and may ask for
health and version only. aiohttp on the member's event loop; TLS refuses certificates of others by itself.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from control import metrics
from control.api.grpc_server import ListenError
from control.ca.files import PkiFolder
from control.identity import ANONYMOUS, Caller, from_certificate
from steersman.clock import Clock
from steersman.errors import ApiError

log = logging.getLogger("control.api")

BODY_LIMIT: Final = 3 << 20  # bytes: Kubernetes' own
SHUTDOWN_S: Final = 2.0  # for requests under way when the member stops

Check = Callable[[], Awaitable[str | None]]  # None: well; else what is wrong
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Checks:
    """What health answers are made of: by name, for being alive and for being ready to serve."""

    live: dict[str, Check]
    ready: dict[str, Check]


def caller_of(request: web.Request) -> Caller:
    """The holder of the connection's certificate."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    if not certificate:
        return Caller(ANONYMOUS)
    names: dict[str, list[str]] = {}
    for part in certificate.get("subject", ()):
        for name, value in part:
            names.setdefault(name, []).append(value)
    return from_certificate(next(iter(names.get("commonName", ())), ""), names.get("organizationName", ()))


class RestServer:
    """One HTTPS port."""

    def __init__(
        self,
        address: str,
        pki: PkiFolder,
        checks: Checks,
        registry: CollectorRegistry,
        clock: Clock,
        *,
        version: str,
        kubernetes_version: str,
    ) -> None:
        self._address = address
        self._pki = pki
        self._checks = checks
        self._registry = registry
        self._clock = clock
        self._version = _version_document(version, kubernetes_version)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._tls.verify_mode = ssl.CERT_OPTIONAL
        self._tls.load_verify_locations(str(pki.ca_certificate))
        self.reload()
        self._runner: web.AppRunner | None = None
        self.port = 0

    def reload(self) -> None:
        """Read the member's certificate again; the next handshake presents it. Raises OSError, ssl.SSLError."""
        self._tls.load_cert_chain(str(self._pki.certificate), str(self._pki.key))

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[self._around])
        app.add_routes(
            [
                web.get("/healthz", self._live),
                web.get("/livez", self._live),
                web.get("/readyz", self._ready),
                web.get("/version", self._tell_version),
                web.get("/metrics", self._metrics),
            ]
        )
        return app

    async def start(self) -> None:
        """Listen. Raises ListenError."""
        host, _, port = self._address.rpartition(":")
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, host.strip("[]") or None, int(port), ssl_context=self._tls, reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            why = "the port is in use" if error.errno == 98 else error.strerror  # EADDRINUSE
            raise ListenError(f"cannot listen on {self._address}: {why}") from None
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Finish what is under way and close."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Errors in Kubernetes' words, and the count of requests."""
        started = self._clock.monotonic()
        try:
            response = await handler(request)
        except ApiError as error:
            response = status_response(error)
        except web.HTTPException as error:
            response = status_response(_of_http(error, request))
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            problem = ApiError("InternalError", "internal error: this member's log has the details")
            response = status_response(problem)
        verb = request.method.lower()
        metrics.observe("rest", verb, str(response.status), self._clock.monotonic() - started)
        return response

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return await _answer("livez" if request.path == "/livez" else "healthz", self._checks.live, request)

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        return await _answer("readyz", self._checks.ready, request)

    async def _tell_version(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._version, content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        caller = caller_of(request)
        if caller.user == ANONYMOUS:
            raise ApiError("Unauthorized", "metrics are told to holders of a certificate of this cluster's CA only")
        body = await asyncio.to_thread(metrics.exposition, self._registry)
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})


async def _answer(name: str, checks: dict[str, Check], request: web.Request) -> web.StreamResponse:
    excluded = set(request.query.getall("exclude", []))
    told, failed = [], []
    for check, ask in checks.items():
        if check in excluded:
            told.append(f"[+]{check} excluded: ok")
            continue
        why = await ask()
        told.append(f"[+]{check} ok" if why is None else f"[-]{check} failed: {why}")
        if why is not None:
            failed.append(check)
    told.append(f"{name} check {'failed' if failed else 'passed'}")
    verbose = "verbose" in request.query or failed
    text = "\n".join(told) + "\n" if verbose else "ok"
    return web.Response(text=text, status=500 if failed else 200)


def status_response(error: ApiError) -> web.Response:
    """An error as Kubernetes' Status document."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    body = msgspec.json.encode(error.to_document())
    return web.Response(body=body, status=error.code, content_type="application/json", headers=headers)


def _of_http(error: web.HTTPException, request: web.Request) -> ApiError:
    match error.status:
        case 404:
            return ApiError("NotFound", "the server could not find the requested resource")
        case 405:
            return ApiError("MethodNotAllowed", f"{request.method} is not supported on {request.path}")
        case 413:
            return ApiError("RequestEntityTooLarge", f"the body is too large: at most {BODY_LIMIT} bytes are accepted")
    return ApiError("BadRequest", error.reason, code=error.status)


def _version_document(version: str, kubernetes_version: str) -> bytes:
    major, minor, *_ = kubernetes_version.removeprefix("v").split(".")
    told: dict[str, Any] = {
        "major": major,
        "minor": minor,
        "gitVersion": f"{kubernetes_version}+steersman-{version}",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_implementation().lower(),
        "platform": f"{platform.system().lower()}/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }",
    }
    return msgspec.json.encode(told)

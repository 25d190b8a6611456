"""Container images made of a few files, without Docker: for the lab, the tests and the benchmarks.

An image is a stack of layers (tar archives), a configuration and a manifest that names them by digest. The same files
give the same digests, always: archives have no times, owners or names from the machine that made them.

    image = build([Layer(BUSYBOX)], command=("sh",))
    push(image, "http://127.0.0.1:5000", "library/busybox", "latest")
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import socket
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
PUSH_TIMEOUT_S = 30.0
BUSYBOX_PATH = Path("/bin/busybox")  # Debian's busybox-static

Connect: TypeAlias = Callable[
    [str, int], socket.socket
]  # dials host, port; for registries in another network namespace


@dataclass(frozen=True, slots=True)
class File:
    """A regular file, a symbolic link (`link` set) or a directory (`directory` set), at an absolute path."""

    path: str
    data: bytes = b""
    mode: int = 0o644
    link: str = ""
    directory: bool = False


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes and what they are called."""

    media_type: str
    data: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image, ready to be pushed."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def digest(self) -> str:
        return self.manifest.digest


def tar(files: Sequence[File]) -> bytes:
    """An archive of files; directories that they need come before them, once."""
    out = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            path = file.path.strip("/")
            parents = path.split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                _add_directory(archive, "/".join(parents[:depth]), 0o755, made)
            if file.directory:
                _add_directory(archive, path, file.mode, made)
                continue
            entry = tarfile.TarInfo(path)
            entry.mode = file.mode
            if file.link:
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, file.link, 0o777
                archive.addfile(entry)
            else:
                entry.size = len(file.data)
                archive.addfile(entry, io.BytesIO(file.data))
    return out.getvalue()


def _add_directory(archive: tarfile.TarFile, path: str, mode: int, made: set[str]) -> None:
    if path in made:
        return
    made.add(path)
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


def build(
    layers: Sequence[Sequence[File]],
    *,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    env: Sequence[str] = (),
    working_dir: str = "",
    user: str = "",
    stop_signal: str = "",
    architecture: str = "amd64",
) -> BuiltImage:
    """Make an image from layers of files, the lowest first."""
    archives = [tar(files) for files in layers]
    run = {
        "Entrypoint": list(entrypoint),
        "Cmd": list(command),
        "Env": list(env),
        "WorkingDir": working_dir,
        "User": user,
        "StopSignal": stop_signal,
    }
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {name: value for name, value in run.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(a).hexdigest()}" for a in archives]},
    }
    config_blob = Blob(CONFIG_TYPE, _json(config))
    layer_blobs = tuple(Blob(LAYER_TYPE, gzip.compress(archive, compresslevel=1, mtime=0)) for archive in archives)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config_blob.descriptor,
        "layers": [layer.descriptor for layer in layer_blobs],
    }
    return BuiltImage(Blob(MANIFEST_TYPE, _json(manifest)), config_blob, layer_blobs)


def index(images: Sequence[tuple[str, BuiltImage]]) -> Blob:
    """An index of one image for each architecture."""
    manifests = [
        {**image.manifest.descriptor, "platform": {"os": "linux", "architecture": architecture}}
        for architecture, image in images
    ]
    return Blob(INDEX_TYPE, _json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}))


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def busybox_files(busybox: Path = BUSYBOX_PATH) -> list[File]:
    """A root file system of the statically linked busybox, a link for each of its applets, and three users.

    Raises:
        FileNotFoundError: busybox-static is not installed.
    """
    if not busybox.exists():
        raise FileNotFoundError(f"{busybox} is missing: install the package busybox-static")
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
    applets = sorted(set(listed.stdout.split()) - {"busybox"})
    return [
        File("/bin/busybox", busybox.read_bytes(), 0o755),
        *(File(f"/bin/{applet}", link="busybox") for applet in applets),
        File(
            "/etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        File("/etc/group", b"root:x:0:\nwheel:x:10:root\nwww-data:x:33:\nnobody:x:65534:\n"),
        *(File(path, directory=True) for path in ("/dev", "/proc", "/sys", "/usr/bin", "/var/www")),
        File("/root", mode=0o700, directory=True),
        File("/tmp", mode=0o1777, directory=True),  # noqa: S108 - inside the image
    ]


def busybox_image(busybox: Path = BUSYBOX_PATH) -> BuiltImage:
    """What `busybox:latest` is to the lab."""
    return build([busybox_files(busybox)], command=("sh",), env=("PATH=/usr/local/bin:/usr/bin:/bin",))


# --- pushing ------------------------------------------------------------------------------------------------------


def push(image: BuiltImage, registry: str, repository: str, tag: str, *, connect: Connect | None = None) -> None:
    """Upload an image to a registry that asks for no credentials, `registry` being "http://host:port".

    Raises:
        OSError: the registry cannot be reached.
        RuntimeError: it refused; with its words.
    """
    with _Registry(registry, connect) as to:
        for blob in (image.config, *image.layers):
            to.put_blob(repository, blob)
        to.put_manifest(repository, tag, image.manifest)


def push_index(
    images: Sequence[tuple[str, BuiltImage]],
    registry: str,
    repository: str,
    tag: str,
    *,
    connect: Connect | None = None,
) -> Blob:
    """Upload one image for each architecture and the index that names them; see `push`."""
    top = index(images)
    with _Registry(registry, connect) as to:
        for _, image in images:
            for blob in (image.config, *image.layers):
                to.put_blob(repository, blob)
            to.put_manifest(repository, image.digest, image.manifest)
        to.put_manifest(repository, tag, top)
    return top


class _Registry:
    def __init__(self, url: str, connect: Connect | None) -> None:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
        self._connection = http.client.HTTPConnection(host, port, timeout=PUSH_TIMEOUT_S)
        if connect is not None:
            self._connection.sock = connect(host, port)

    def __enter__(self) -> _Registry:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def put_blob(self, repository: str, blob: Blob) -> None:
        status, _, _ = self._ask("HEAD", f"/v2/{repository}/blobs/{blob.digest}", ok=(200, 404))
        if status == 200:
            return
        _, headers, _ = self._ask("POST", f"/v2/{repository}/blobs/uploads/", ok=(202,))
        parts = urlsplit(headers["location"])
        query = f"{parts.query}&" if parts.query else ""
        url = f"{parts.path}?{query}digest={blob.digest}"
        self._ask("PUT", url, blob.data, {"Content-Type": "application/octet-stream"}, ok=(201,))

    def put_manifest(self, repository: str, tag: str, manifest: Blob) -> None:
        headers = {"Content-Type": manifest.media_type}
        self._ask("PUT", f"/v2/{repository}/manifests/{tag}", manifest.data, headers, ok=(201,))

    def _ask(
        self, method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None, *, ok: Sequence[int]
    ) -> tuple[int, dict[str, str], bytes]:
        self._connection.request(method, url, body, headers or {})
        response = self._connection.getresponse()
        data = response.read()
        if response.status not in ok:
            raise RuntimeError(f"the registry answers {method} {url}: HTTP {response.status} {data[:500]!r}")
        return response.status, {name.lower(): value for name, value in response.getheaders()}, data

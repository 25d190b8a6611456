"""Images: from a registry into containerd's content store, unpacked into snapshots, and found again.

A pull
------
1. A lease is taken: whatever is made under it is safe from containerd's garbage collection until the end.
2. The manifest (of this platform, if it is an index), the configuration and the layers are fetched into the content
   store, each only if it is not there, several at a time; the store checks every digest.
3. Layers are unpacked in order, each a snapshot named by its chain id (OCI image specification, "Layer ChainID"), so
   that images share what they have in common. The digest of what was unpacked must be the one that the configuration
   names.
4. Labels tie index → manifest → configuration, layers and snapshot together, and the image's name is written: only
   from here on does the image exist. The lease ends.

A pull that is cut off leaves nothing but what the next one finds and uses, or what the lease's expiry gives free.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
from google.protobuf import field_mask_pb2

from node.runtime import metrics, reference, registry
from node.runtime.client import Containerd, failure, ignoring
from node.runtime.containerd import (
    content_pb2,
    diff_pb2,
    images_pb2,
    leases_pb2,
    snapshots_pb2,
    types_pb2,
)
from node.runtime.interface import ERR_IMAGE_PULL, Image, RegistryAuth, RuntimeFailure
from node.runtime.reference import Reference
from steersman.clock import Clock, Entropy, rfc3339
from steersman.logs import fields

log = logging.getLogger("node.runtime.pull")

LAYERS_AT_ONCE = 3  # fetched; more gain little on one connection to one registry
LEASE_LIFE = timedelta(hours=1)  # the longest pull; a crash holds back garbage collection for no longer
UNPACK_S = 600.0  # one layer
PULLS_AT_ONCE = 4
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
GC_CONTENT = "containerd.io/gc.ref.content"
GC_SNAPSHOT = "containerd.io/gc.ref.snapshot"


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The names of the snapshots that a stack of layers makes, from the lowest up."""
    chain: list[str] = []
    for diff_id in diff_ids:
        below = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append(f"sha256:{hashlib.sha256(below.encode()).hexdigest()}" if below else diff_id)
    return chain


def choose(index: Mapping[str, Any], machine: str) -> dict[str, Any]:
    """The manifest of an index that is for Linux on this machine.

    Raises:
        RegistryError: there is none; the message names those that there are.
    """
    architecture = MACHINES.get(machine, machine)
    offered = []
    for entry in index.get("manifests", ()):
        of = entry.get("platform") or {}
        if of.get("os", "linux") == "linux" and of.get("architecture", architecture) == architecture:
            return dict(entry)
        offered.append("/".join(filter(None, (of.get("os"), of.get("architecture"), of.get("variant")))))
    raise registry.RegistryError(f"no match for platform linux/{architecture} in manifest: it has {', '.join(offered)}")


def describe(
    name: str, digest: str, manifest: Mapping[str, Any], config_digest: str, config: Mapping[str, Any]
) -> Image:
    """An Image from the documents that make it up."""
    run = config.get("config") or {}
    chain = chain_ids((config.get("rootfs") or {}).get("diff_ids") or ())
    return Image(
        name=name,
        id=config_digest,
        digest=digest,
        size_bytes=sum(int(part.get("size", 0)) for part in (manifest["config"], *manifest.get("layers", ()))),
        entrypoint=tuple(run.get("Entrypoint") or ()),
        command=tuple(run.get("Cmd") or ()),
        env=tuple(run.get("Env") or ()),
        working_dir=run.get("WorkingDir") or "",
        user=run.get("User") or "",
        stop_signal=run.get("StopSignal") or "",
        chain_id=chain[-1] if chain else "",
    )


class Images:
    """The images of this node, by normalised name. One who removes images behind its back makes starts fail once: see `forget`."""

    def __init__(
        self, client: Containerd, registries: registry.Registries, clock: Clock, entropy: Entropy, machine: str = ""
    ) -> None:
        self._client = client
        self._registries = registries
        self._clock = clock
        self._entropy = entropy
        self._machine = machine or platform.machine()
        self._known: dict[str, Image] = {}
        self._pulling: dict[tuple[str, tuple[RegistryAuth, ...]], asyncio.Task[Image]] = {}
        self._slots = asyncio.Semaphore(PULLS_AT_ONCE)

    # --- what is here ---------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read containerd's images. Those that are not whole, or not unpacked, are left out: a pull mends them."""
        answer = await self._client.images.List(
            images_pb2.ListImagesRequest(), metadata=self._client.metadata, timeout=30
        )
        known = {}
        for record in answer.images:
            try:
                known[record.name] = await self._read(record.name, record.target.digest)
            except (grpc.aio.AioRpcError, registry.RegistryError, ValueError, KeyError, TypeError) as error:
                log.info("image is not whole %s", fields(name=record.name, why=type(error).__name__))
        self._known = known

    async def _read(self, name: str, digest: str) -> Image:
        document = json.loads(await self._content(digest))
        manifest = document
        if "manifests" in document:
            manifest = json.loads(await self._content(choose(document, self._machine)["digest"]))
        config_digest = manifest["config"]["digest"]
        image = describe(name, digest, manifest, config_digest, json.loads(await self._content(config_digest)))
        await self._client.snapshots.Stat(
            snapshots_pb2.StatSnapshotRequest(snapshotter=self._client.snapshotter, key=image.chain_id),
            metadata=self._client.metadata,
            timeout=10,
        )
        return image

    async def _content(self, digest: str) -> bytes:
        request = content_pb2.ReadContentRequest(digest=digest)
        return b"".join(
            [part.data async for part in self._client.content.Read(request, metadata=self._client.metadata)]
        )

    def get(self, name: str) -> Image | None:
        return self._known.get(str(reference.parse(name)))

    def list(self) -> list[Image]:
        return list(self._known.values())

    def forget(self, name: str) -> None:
        """Trust no longer that an image is here."""
        self._known.pop(name, None)

    async def remove(self, name: str) -> None:
        """Remove an image's name; containerd gives its content free unless another image uses it."""
        name = str(reference.parse(name))
        self._known.pop(name, None)
        request = images_pb2.DeleteImageRequest(name=name, sync=True)
        call = self._client.images.Delete(request, metadata=self._client.metadata, timeout=60)
        await ignoring(call, grpc.StatusCode.NOT_FOUND)

    # --- pulling --------------------------------------------------------------------------------------------------

    async def pull(self, name: str, auths: Sequence[RegistryAuth]) -> Image:
        """See Runtime.pull."""
        ref = reference.parse(name)
        key = (str(ref), tuple(auths))
        task = self._pulling.get(key)
        if task is None:
            task = asyncio.create_task(self._pull(ref, auths), name=f"pull {ref}")
            self._pulling[key] = task
            task.add_done_callback(lambda done: self._pull_ended(key, done))
        return await asyncio.shield(task)

    def _pull_ended(self, key: tuple[str, tuple[RegistryAuth, ...]], task: asyncio.Task[Image]) -> None:
        self._pulling.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone

    async def close(self) -> None:
        """Give up pulls that are under way."""
        tasks = list(self._pulling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._registries.close()

    async def _pull(self, ref: Reference, auths: Sequence[RegistryAuth]) -> Image:
        first: registry.RegistryError | None = None
        for auth in (*auths, None):
            try:
                async with self._slots:
                    return await self._pull_with(ref, self._registries.repository(ref, auth))
            except registry.RegistryError as error:
                first = first or error
                if error.status not in (401, 403):
                    break
            except grpc.aio.AioRpcError as error:
                raise failure(error, ERR_IMAGE_PULL, f'failed to pull image "{ref}"') from error
            except (ValueError, KeyError, TypeError) as error:
                raise RuntimeFailure(ERR_IMAGE_PULL, f'failed to pull image "{ref}": malformed: {error!r}') from error
        assert first is not None
        raise registry.pull_failure(ref, first) from first

    async def _pull_with(self, ref: Reference, repository: registry.Repository) -> Image:
        began = self._clock.monotonic()
        top = await repository.manifest(ref.target)
        known = self._known.get(str(ref))
        if known is not None and known.digest == top.digest:
            return known  # imagePullPolicy Always, and nothing new
        lease = f"pull-{self._entropy.token(16)}"
        expires = rfc3339(self._clock.now() + LEASE_LIFE)
        await self._client.leases.Create(
            leases_pb2.CreateRequest(id=lease, labels={"containerd.io/gc.expire": expires}),
            metadata=self._client.metadata,
            timeout=10,
        )
        try:
            image = await _Pull(self._client, repository, lease, self._entropy, self._machine).run(str(ref), top)
        finally:
            release = self._client.leases.Delete(
                leases_pb2.DeleteRequest(id=lease), metadata=self._client.metadata, timeout=10
            )
            await asyncio.shield(ignoring(release, *grpc.StatusCode))
        self._known[image.name] = image
        took = self._clock.monotonic() - began
        metrics.PULL_SECONDS.observe(took)
        log.info("image pulled %s", fields(name=image.name, digest=image.digest, seconds=f"{took:.3f}"))
        return image


class _Pull:
    """One pull, under one lease."""

    def __init__(
        self, client: Containerd, repository: registry.Repository, lease: str, entropy: Entropy, machine: str
    ) -> None:
        self._client = client
        self._repository = repository
        self._metadata = client.leased(lease)
        self._entropy = entropy
        self._machine = machine
        self._slots = asyncio.Semaphore(LAYERS_AT_ONCE)

    async def run(self, name: str, top: registry.Manifest) -> Image:
        own = top
        if top.media_type in registry.INDEX_TYPES:
            chosen = choose(json.loads(top.data), self._machine)
            own = await self._repository.manifest(chosen["digest"])
        manifest = json.loads(own.data)
        config_digest, layers = manifest["config"]["digest"], manifest.get("layers", [])
        config = json.loads(await self._fetch_all(manifest["config"], layers))
        image = describe(name, top.digest, manifest, config_digest, config)
        await self._unpack(layers, config["rootfs"]["diff_ids"])
        await self._label(config_digest, {f"{GC_SNAPSHOT}.{self._client.snapshotter}": image.chain_id})
        parts = {f"{GC_CONTENT}.config": config_digest}
        parts |= {f"{GC_CONTENT}.l.{number}": layer["digest"] for number, layer in enumerate(layers)}
        await self._store(own.digest, own.data, parts)
        if own is not top:
            await self._store(top.digest, top.data, {f"{GC_CONTENT}.m.0": own.digest})
        await self._name(name, top)
        return image

    async def _fetch_all(self, config: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> bytes:
        """Everything that the manifest names; the configuration's bytes. The first failure ends it."""
        tasks = [asyncio.create_task(self._fetch(layer)) for layer in layers]
        try:
            data = await self._config(config)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return data

    async def _config(self, descriptor: Mapping[str, Any]) -> bytes:
        data = b"".join([chunk async for chunk in self._repository.blob(descriptor["digest"])])
        await self._store(descriptor["digest"], data, {})
        return data

    async def _has(self, digest: str) -> bool:
        call = self._client.content.Info(content_pb2.InfoRequest(digest=digest), metadata=self._metadata, timeout=10)
        return await ignoring(call, grpc.StatusCode.NOT_FOUND) is not None

    async def _fetch(self, descriptor: Mapping[str, Any]) -> None:
        """A layer into the content store, going on after a lost connection where it broke off."""
        digest, total = descriptor["digest"], int(descriptor["size"])
        async with self._slots:
            if await self._has(digest):
                return
            ref = f"layer-{self._entropy.token(8)}-{digest}"
            call = self._client.content.Write(metadata=self._metadata)
            offset = 0
            try:
                for attempt in range(registry.ATTEMPTS):
                    try:
                        async for chunk in self._repository.blob(digest, offset):
                            await self._send(call, ref=ref, offset=offset, total=total, data=chunk)
                            offset += len(chunk)
                        break
                    except registry.RegistryError as error:
                        if not error.retryable or attempt == registry.ATTEMPTS - 1:
                            raise
                        await asyncio.sleep(registry.BACKOFF_S[attempt])
                await self._commit(call, ref, digest, total, offset, b"", {})
            finally:
                call.cancel()
            metrics.PULL_BYTES.inc(offset)

    async def _store(self, digest: str, data: bytes, labels: Mapping[str, str]) -> None:
        """Small content in one write."""
        if await self._has(digest):
            if labels:
                await self._label(digest, labels)
            return
        call = self._client.content.Write(metadata=self._metadata)
        try:
            await self._commit(call, f"part-{self._entropy.token(8)}-{digest}", digest, len(data), 0, data, labels)
        finally:
            call.cancel()

    async def _send(self, call: Any, **request: Any) -> None:
        await call.write(content_pb2.WriteContentRequest(action=content_pb2.WRITE, **request))
        if await call.read() is grpc.aio.EOF:
            await self._raise(call)

    async def _commit(
        self, call: Any, ref: str, digest: str, total: int, offset: int, data: bytes, labels: Mapping[str, str]
    ) -> None:
        request = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT, ref=ref, total=total, expected=digest, offset=offset, data=data, labels=labels
        )
        await call.write(request)
        try:
            if await call.read() is grpc.aio.EOF:
                await self._raise(call)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:  # another pull was first
                raise

    @staticmethod
    async def _raise(call: Any) -> None:
        raise grpc.aio.AioRpcError(
            await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )

    async def _label(self, digest: str, labels: Mapping[str, str]) -> None:
        await self._client.content.Update(
            content_pb2.UpdateRequest(
                info=content_pb2.Info(digest=digest, labels=labels),
                update_mask=field_mask_pb2.FieldMask(paths=[f"labels.{name}" for name in labels]),
            ),
            metadata=self._metadata,
            timeout=10,
        )

    async def _unpack(self, layers: Sequence[Mapping[str, Any]], diff_ids: Sequence[str]) -> None:
        if len(layers) != len(diff_ids):
            raise registry.RegistryError(f"the image has {len(layers)} layers and {len(diff_ids)} diff ids")
        snapshotter, parent = self._client.snapshotter, ""
        for layer, diff_id, chain_id in zip(layers, diff_ids, chain_ids(diff_ids), strict=True):
            stat = self._client.snapshots.Stat(
                snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=chain_id),
                metadata=self._metadata,
                timeout=10,
            )
            if await ignoring(stat, grpc.StatusCode.NOT_FOUND) is None:
                await self._unpack_one(layer, diff_id, chain_id, parent)
            parent = chain_id

    async def _unpack_one(self, layer: Mapping[str, Any], diff_id: str, chain_id: str, parent: str) -> None:
        snapshotter = self._client.snapshotter
        key = f"unpack-{self._entropy.token(8)}-{chain_id}"
        prepared = await self._client.snapshots.Prepare(
            snapshots_pb2.PrepareSnapshotRequest(snapshotter=snapshotter, key=key, parent=parent),
            metadata=self._metadata,
            timeout=30,
        )
        try:
            applied = await self._client.diff.Apply(
                diff_pb2.ApplyRequest(
                    diff=types_pb2.Descriptor(
                        media_type=layer["mediaType"], digest=layer["digest"], size=int(layer["size"])
                    ),
                    mounts=prepared.mounts,
                ),
                metadata=self._metadata,
                timeout=UNPACK_S,
            )
            if applied.applied.digest != diff_id:
                raise registry.RegistryError(
                    f"layer {layer['digest']} unpacks to {applied.applied.digest}, the configuration says {diff_id}"
                )
            commit = self._client.snapshots.Commit(
                snapshots_pb2.CommitSnapshotRequest(snapshotter=snapshotter, name=chain_id, key=key),
                metadata=self._metadata,
                timeout=30,
            )
            if await ignoring(commit, grpc.StatusCode.ALREADY_EXISTS) is not None:
                return
        except BaseException:
            await asyncio.shield(self._discard(key))
            raise
        await self._discard(key)

    async def _discard(self, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=self._client.snapshotter, key=key)
        await ignoring(self._client.snapshots.Remove(request, metadata=self._metadata, timeout=30), *grpc.StatusCode)

    async def _name(self, name: str, top: registry.Manifest) -> None:
        target = types_pb2.Descriptor(media_type=top.media_type, digest=top.digest, size=len(top.data))
        record = images_pb2.Image(name=name, target=target)
        create = self._client.images.Create(
            images_pb2.CreateImageRequest(image=record), metadata=self._metadata, timeout=10
        )
        if await ignoring(create, grpc.StatusCode.ALREADY_EXISTS) is None:
            await self._client.images.Update(
                images_pb2.UpdateImageRequest(image=record), metadata=self._metadata, timeout=10
            )

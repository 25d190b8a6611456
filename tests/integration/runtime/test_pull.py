"""Images from registries: a real one, and one of our own making that misbehaves."""

import asyncio
import base64
import hashlib

import pytest
from aiohttp import web

from lab import images
from node.runtime import registry as registries
from node.runtime.interface import ERR_IMAGE_PULL, INVALID_IMAGE_NAME, RegistryAuth, RuntimeFailure


async def test_an_image_is_pulled_once_for_all_who_ask(bench, registry, containerd):
    built = images.build([[images.File("/one", b"1")], [images.File("/two", b"2")]], command=("/one",), env=("A=b",))
    images.push(built, registry, "team/two-layers", "v1")
    pulled = await asyncio.gather(*(bench.runtime.pull("registry.test/team/two-layers:v1") for _ in range(5)))
    assert len(set(pulled)) == 1
    image = pulled[0]
    assert (image.name, image.digest, image.id) == (
        "registry.test/team/two-layers:v1",
        built.digest,
        built.config.digest,
    )
    assert (image.command, image.env) == (("/one",), ("A=b",))
    assert image.repo_digest == f"registry.test/team/two-layers@{built.digest}"
    assert await bench.runtime.image("registry.test/team/two-layers:v1") == image


async def test_a_moved_tag_is_seen_by_the_next_pull(bench, registry):
    for content in (b"old", b"new"):
        built = images.build([[images.File("/file", content)]], command=("x",))
        images.push(built, registry, "library/moving", "latest")
        assert (await bench.runtime.pull("moving")).digest == built.digest
    assert (await bench.runtime.image("moving")).digest == built.digest


async def test_of_an_index_the_image_for_this_machine_is_taken(bench, registry):
    mine = images.build([[images.File("/a", b"amd64")]], command=("a",))
    other = images.build([[images.File("/a", b"arm64")]], command=("b",), architecture="arm64")
    top = images.push_index([("arm64", other), ("amd64", mine)], registry, "library/many", "1")
    image = await bench.runtime.pull("many:1")
    assert (image.digest, image.id) == (top.digest, mine.config.digest)
    images.push_index([("arm64", other)], registry, "library/arm", "1")
    with pytest.raises(RuntimeFailure, match=r"no match for platform linux/amd64 in manifest: it has linux/arm64"):
        await bench.runtime.pull("arm:1")


async def test_images_are_found_again_and_survive_garbage_collection(bench, registry, containerd):
    image = await bench.runtime.pull("busybox")
    await bench.again()
    await bench.runtime.start()
    assert await bench.runtime.image("busybox") == image
    images.push(images.build([[images.File("/gone", b"x" * 1000)]], command=("x",)), registry, "library/gone", "1")
    gone = await bench.runtime.pull("gone:1")
    await bench.runtime.remove_image("gone:1")  # waits for a collection
    assert await bench.runtime.image("gone:1") is None
    assert gone.id not in containerd.ctr("content", "ls", "-q").stdout
    assert await bench.output_of("echo", "still here") == "still here\n"


async def test_an_image_that_was_removed_behind_our_back_is_pulled_again(bench, registry, containerd):
    files = [*images.busybox_files(), images.File("/removed", b"x")]
    images.push(images.build([files], command=("cat", "/removed")), registry, "library/removed", "1")
    image = await bench.runtime.pull("removed:1")
    containerd.ctr("images", "rm", "--sync", "docker.io/library/removed:1")
    with pytest.raises(RuntimeFailure, match="not found"):
        await bench.run(image=image)
    assert await bench.runtime.image("removed:1") is None
    assert await bench.output_of(image=await bench.runtime.pull("removed:1")) == "x"


async def test_the_registrys_words_are_passed_on(bench):
    with pytest.raises(
        RuntimeFailure,
        match=r'failed to pull image "docker.io/library/nosuch:1": registry .*MANIFEST_UNKNOWN: manifest unknown.*404',
    ) as caught:
        await bench.runtime.pull("nosuch:1")
    assert caught.value.reason == ERR_IMAGE_PULL


async def test_a_name_that_is_none_is_refused(bench):
    with pytest.raises(RuntimeFailure, match="must be lower case") as caught:
        await bench.runtime.pull("Busybox")
    assert (caught.value.reason, caught.value.retryable) == (INVALID_IMAGE_NAME, False)


class Registry:
    """A registry that asks for credentials and loses connections."""

    def __init__(self, image):
        self.image = image
        self.blobs = {blob.digest: blob.data for blob in (image.config, *image.layers)}
        self.scheme = ""
        self.unavailable = 0  # requests to refuse with 503
        self.cut = 0  # blobs to break off in the middle
        self.corrupt = False
        self.requests = []

    async def __aenter__(self):
        app = web.Application()
        app.router.add_get("/v2/{name:.+}/manifests/{target}", self.manifest)
        app.router.add_get("/v2/{name:.+}/blobs/{digest}", self.blob)
        app.router.add_get("/token", self.token)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error):
        await self.runner.cleanup()

    def challenge(self, request):
        sent = request.headers.get("Authorization", "")
        basic = "Basic " + base64.b64encode(b"jo:secret").decode()
        if self.scheme == "basic" and sent != basic:
            return 'Basic realm="r"'
        if self.scheme == "bearer" and sent != "Bearer t0ken":
            return f'Bearer realm="http://{self.address}/token",service="s",scope="repository:a/b:pull"'
        return None

    async def token(self, request):
        self.requests.append(str(request.rel_url))
        if request.headers.get("Authorization") != "Basic " + base64.b64encode(b"jo:secret").decode():
            return web.json_response({"errors": [{"code": "DENIED", "message": "who are you"}]}, status=401)
        return web.json_response({"token": "t0ken"})

    def refuse(self, request):
        if self.unavailable:
            self.unavailable -= 1
            return web.Response(status=503, text="busy")
        challenge = self.challenge(request)
        if challenge:
            body = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
            return web.json_response(body, status=401, headers={"WWW-Authenticate": challenge})
        return None

    async def manifest(self, request):
        return self.refuse(request) or web.Response(
            body=self.image.manifest.data, content_type=self.image.manifest.media_type
        )

    async def blob(self, request):
        refused = self.refuse(request)
        if refused:
            return refused
        data = self.blobs[request.match_info["digest"]]
        if self.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.requests.append(start)
        if self.cut and len(data) > 1000:
            self.cut -= 1
            response = web.StreamResponse(
                status=206 if start else 200, headers={"Content-Length": str(len(data) - start)}
            )
            await response.prepare(request)
            await response.write(data[start : start + len(data) // 3])
            request.transport.abort()
            return response
        return web.Response(body=data[start:], status=206 if start else 200)


@pytest.fixture
async def odd():
    noise = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(20_000))
    async with Registry(images.build([[images.File("/noise", noise)]], command=("x",))) as registry:
        yield registry


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(registries, "BACKOFF_S", (0.01, 0.01))


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_credentials_are_given_when_asked_for(bench, odd, scheme):
    odd.scheme = scheme
    name = f"{odd.address}/a/b:{scheme}"
    wrong = RegistryAuth("jo", "guess")
    with pytest.raises(RuntimeFailure, match=r"authentication required|who are you"):
        await bench.runtime.pull(name, [wrong])
    with pytest.raises(RuntimeFailure, match=r"HTTP 401"):
        await bench.runtime.pull(name)
    image = await bench.runtime.pull(name, [wrong, RegistryAuth("jo", "secret")])
    assert image.digest == odd.image.digest
    await bench.runtime.remove_image(name)


async def test_what_may_pass_is_tried_again(bench, odd):
    odd.unavailable = 2
    assert (await bench.runtime.pull(f"{odd.address}/a/b:busy")).digest == odd.image.digest
    await bench.runtime.remove_image(f"{odd.address}/a/b:busy")
    odd.unavailable = 100
    with pytest.raises(RuntimeFailure, match=r"busy \(HTTP 503\)"):
        await bench.runtime.pull(f"{odd.address}/a/b:busy2")


async def test_a_broken_download_goes_on_where_it_broke_off(bench, odd):
    odd.cut = 2
    name = f"{odd.address}/a/b:cut"
    assert (await bench.runtime.pull(name)).digest == odd.image.digest
    starts = [start for start in odd.requests if start]
    assert len(starts) == 2
    assert starts == sorted(starts)
    await bench.runtime.remove_image(name)


async def test_a_wrong_digest_is_refused(bench, odd):
    odd.corrupt = True
    with pytest.raises(RuntimeFailure, match=r"unexpected commit digest"):
        await bench.runtime.pull(f"{odd.address}/a/b:corrupt")


async def test_a_registry_that_is_not_there_is_named(bench):
    with pytest.raises(RuntimeFailure, match=r"registry 127.0.0.1:1: .*Connect"):
        await bench.runtime.pull("127.0.0.1:1/a/b")

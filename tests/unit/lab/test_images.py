"""Images made without Docker."""

import gzip
import hashlib
import io
import json
import tarfile

from lab.images import File, build, index


def test_the_same_files_give_the_same_digest():
    layers = [[File("/bin/tool", b"\x7fELF", 0o755), File("/etc/conf/a", b"x"), File("/bin/t", link="tool")]]
    assert build(layers, command=("tool",)).digest == build(layers, command=("tool",)).digest
    assert build(layers, command=("tool",)).digest != build(layers, command=("other",)).digest


def test_the_configuration_names_what_the_layers_unpack_to():
    image = build([[File("/a/b/c", b"1")], [File("/d", directory=True, mode=0o1777)]], user="5", env=("A=b",))
    config = json.loads(image.config.data)
    unpacked = [gzip.decompress(layer.data) for layer in image.layers]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in unpacked]
    assert config["config"] == {"User": "5", "Env": ["A=b"]}
    with tarfile.open(fileobj=io.BytesIO(unpacked[0])) as archive:
        assert archive.getnames() == ["a", "a/b", "a/b/c"]
    with tarfile.open(fileobj=io.BytesIO(unpacked[1])) as archive:
        assert archive.getmember("d").mode == 0o1777
    manifest = json.loads(image.manifest.data)
    assert manifest["config"]["digest"] == image.config.digest
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.digest for layer in image.layers]


def test_an_index_names_each_image_with_its_platform():
    image = build([[File("/a", b"1")]])
    entries = json.loads(index([("arm64", image)]).data)["manifests"]
    assert entries[0]["digest"] == image.digest
    assert entries[0]["platform"] == {"os": "linux", "architecture": "arm64"}

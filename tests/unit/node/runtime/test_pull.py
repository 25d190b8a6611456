import hashlib

import pytest

from node.runtime.pull import chain_ids, choose, describe
from node.runtime.registry import RegistryError


def test_chain_ids_are_those_of_the_image_specification():
    a, b, c = (f"sha256:{letter * 64}" for letter in "abc")
    second = f"sha256:{hashlib.sha256(f'{a} {b}'.encode()).hexdigest()}"
    third = f"sha256:{hashlib.sha256(f'{second} {c}'.encode()).hexdigest()}"
    assert chain_ids([a, b, c]) == [a, second, third]
    assert chain_ids([]) == []


def test_the_first_manifest_for_linux_on_this_machine_is_chosen():
    index = {
        "manifests": [
            {"digest": "w", "platform": {"os": "windows", "architecture": "amd64"}},
            {"digest": "a", "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            {"digest": "x", "platform": {"os": "linux", "architecture": "amd64"}},
        ]
    }
    assert choose(index, "x86_64")["digest"] == "x"
    assert choose(index, "aarch64")["digest"] == "a"
    with pytest.raises(
        RegistryError, match="linux/riscv64 in manifest: it has windows/amd64, linux/arm64/v8, linux/amd64"
    ):
        choose(index, "riscv64")


def test_a_bare_configuration_is_an_image_too():
    manifest = {"config": {"digest": "c", "size": 10}, "layers": [{"digest": "l", "size": 32}]}
    image = describe("n", "d", manifest, "c", {"config": None, "rootfs": {"diff_ids": ["sha256:1"]}})
    assert (image.size_bytes, image.chain_id, image.entrypoint, image.user) == (42, "sha256:1", (), "")

import pytest

from node.runtime.interface import INVALID_IMAGE_NAME, RuntimeFailure
from node.runtime.reference import parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/tool", "localhost/tool:latest"),
        ("localhost:5000/tool:x", "localhost:5000/tool:x"),
        ("registry.lab/a/b/c:v1", "registry.lab/a/b/c:v1"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b:1@{DIGEST}"),
    ],
)
def test_references_are_normalised_as_docker_does(text, full):
    assert str(parse(text)) == full
    assert str(parse(full)) == full


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a repository name"),
        ("Busybox", "lower case"),
        ("a b", "not a repository name"),
        ("busybox:", "not a tag"),
        ("busybox:-x", "not a tag"),
        ("busybox@sha256:12", "not a digest"),
        ("-bad-.example/x", "not a registry"),
        ("a/" + "b" * 260, "longer than"),
        ("https://registry/x", "not a registry"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(text, why):
    with pytest.raises(RuntimeFailure, match=why) as caught:
        parse(text)
    assert caught.value.reason == INVALID_IMAGE_NAME
    assert not caught.value.retryable


def test_a_digest_is_asked_for_before_a_tag():
    assert parse(f"a/b:1@{DIGEST}").target == DIGEST
    assert parse("a/b:1").target == "1"

import pytest

from steersman.client import manifests, type_of
from steersman.types import Deployment


def test_manifests_are_read_from_yaml_json_and_lists() -> None:
    text = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n---\n{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Secret"}]}\n'
    assert [document["kind"] for document in manifests(text)] == ["ConfigMap", "Secret"]


def test_dates_stay_strings_as_kubernetes_reads_them() -> None:
    assert (
        manifests("apiVersion: v1\nkind: ConfigMap\ndata: {since: 2026-01-02, on: yes}")[0]["data"]["since"]
        == "2026-01-02"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "not YAML"),
        ("- 1", "a manifest is a mapping"),
        ("a: 1\na: 2", "stands twice"),
        ("just words", "a mapping"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        manifests(text)


def test_kinds_are_named_by_class_word_or_version() -> None:
    assert (type_of(Deployment).api_version, type_of(Deployment).kind) == ("apps/v1", "Deployment")
    assert type_of("deploy").resource == "deploy"
    assert (type_of("apps/v1/Deployment").api_version, type_of("apps/v1/Deployment").kind) == ("apps/v1", "Deployment")

from pathlib import Path

import pytest

from steersman import config
from steersman.config import ClusterConfig, ConfigError


def cluster(name: str) -> ClusterConfig:
    return ClusterConfig(name, ("127.0.0.1:7443",), Path("/pki/ca.crt"), Path("/pki/a.crt"), Path("/pki/a.key"))


def test_what_is_saved_is_loaded_and_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    config.save(cluster("one"), path)
    config.save(cluster("two"), path, make_current=False)
    assert config.load(path) == cluster("one")
    config.forget("one", path)
    assert config.load(path).name == "two"


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("current: a\nclusters: {a: {members: ['h:1'], ca: ca.crt, certificate: c.crt, key: c.key}}")
    assert config.load(path).ca == tmp_path / "ca.crt"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no current cluster"),
        ("current: b\nclusters: {a: {}}", "no cluster 'b' \\(it has: a\\)"),
        ("current: a\nclusters: {a: {members: [x]}}", "lacks ca, certificate, key"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "cannot read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_remedy(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        config.load(path)

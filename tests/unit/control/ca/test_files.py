"""Keys lie where only their owner reads them, and commands never overwrite them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from control.ca import files
from control.ca.certificates import CertificateError, ca_hash
from steersman.clock import ManualClock


def test_files_are_for_their_owner_only(tmp_path):
    files.create_ca(tmp_path / "ca", ManualClock())
    files.create_member(tmp_path / "m", tmp_path / "ca", "control-1", ["10.0.0.1"], ManualClock())
    files.create_user(tmp_path / "u", tmp_path / "ca", "admin", ["system:masters"], ManualClock())
    made = sorted(path.name for path in tmp_path.rglob("*.*"))
    keys = ["encryption-keys.json", "encryption-keys.json"]
    assert made == ["admin.crt", "admin.key", "ca.crt", "ca.crt", "ca.key", "ca.key", *keys, "member.crt", "member.key"]
    assert files.PkiFolder(tmp_path / "ca").keys() == files.PkiFolder(tmp_path / "m").keys()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.*")} == {0o600}
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "mu"} == {0o700}


def test_the_chain_shows_the_ca_to_joining_nodes(tmp_path):
    authority = files.create_ca(tmp_path, ManualClock())
    files.create_member(tmp_path, tmp_path, "control-1", [], ManualClock())
    chain = (tmp_path / "member.crt").read_bytes()
    second = chain[chain.index(b"-----BEGIN", 10) :]
    assert ca_hash(second) == authority.hash


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path):
    files.create_ca(tmp_path, ManualClock())
    before = (tmp_path / "ca.key").read_bytes()
    with pytest.raises(CertificateError, match="never overwritten"):
        files.create_ca(tmp_path, ManualClock())
    (tmp_path / "ca.crt").rename(tmp_path / "old.crt")
    with pytest.raises(CertificateError, match="never overwritten"):
        files.create_ca(tmp_path, ManualClock())
    assert not (tmp_path / "ca.crt").exists()
    assert (tmp_path / "ca.key").read_bytes() == before


def test_a_missing_ca_is_told_with_its_remedy(tmp_path):
    with pytest.raises(CertificateError, match="`steer-control pki` makes these files"):
        files.create_user(tmp_path, tmp_path, "admin", [], ManualClock())


@pytest.mark.parametrize("name", ["", "../x", ".hidden"])
def test_a_users_name_cannot_leave_the_folder(tmp_path, name):
    files.create_ca(tmp_path, ManualClock())
    with pytest.raises(CertificateError, match="cannot be a user's name"):
        files.create_user(tmp_path, tmp_path, name, [], ManualClock())


def test_renewal_replaces_the_certificate_and_keeps_the_key(tmp_path):
    clock = ManualClock()
    files.create_ca(tmp_path, clock)
    files.create_member(tmp_path, tmp_path, "control-1", ["10.0.0.1"], clock)
    key, certificate = (tmp_path / "member.key").read_bytes(), (tmp_path / "member.crt").read_bytes()
    clock.advance(200 * 86400)
    files.renew_member(files.PkiFolder(tmp_path), "control-1", ["10.0.0.1"], clock)
    assert (tmp_path / "member.key").read_bytes() == key
    assert (tmp_path / "member.crt").read_bytes() != certificate


def test_a_rotation_adds_a_key_everywhere_and_only_an_old_one_can_be_dropped(tmp_path: Path) -> None:
    files.create_ca(tmp_path / "ca", ManualClock())
    (tmp_path / "m").mkdir()
    (first,) = files.change_keys(tmp_path / "ca", [])
    second, kept = files.change_keys(tmp_path / "ca", [tmp_path / "m"], rotate=True)
    assert kept == first != second
    assert files.PkiFolder(tmp_path / "m").keys() == [second, first]
    assert (tmp_path / "m" / "encryption-keys.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(CertificateError, match="is the key that encrypts"):
        files.change_keys(tmp_path / "ca", [], drop=second.id)
    assert files.change_keys(tmp_path / "ca", [], drop=first.id) == [second]
    damaged = tmp_path / "m" / "encryption-keys.json"
    damaged.write_text(damaged.read_text().replace(first.id, second.id, 1).replace(second.id, first.id, 1))
    with pytest.raises(CertificateError, match="damaged"):
        files.PkiFolder(tmp_path / "m").keys()

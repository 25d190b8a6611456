"""Where keys and certificates lie: a folder of a host, readable by its owner only.

    ca.crt ca.key            the CA; members hold its key too, so that any leader can sign for nodes
    member.crt member.key    of a control-plane member; member.crt is followed by the CA's certificate, so that the chain
                             that TLS presents shows a joining node the CA whose hash it was given
    encryption-keys.json     what secrets are encrypted with in the data folder; every member holds the same
    NAME.crt NAME.key        of a user

Files are never overwritten by commands (but the encryption keys, to which a rotation adds one): a lost key cannot be made again. Renewal keeps the key and replaces the
certificate's file whole, so that a crash leaves a usable pair.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from control.ca import encryption_keys
from control.ca.certificates import CertificateAuthority, CertificateError, Pair
from control.store.encryption import EncryptionKey
from steersman.clock import Clock


@dataclass(frozen=True, slots=True)
class PkiFolder:
    """The paths in one folder."""

    path: Path

    @property
    def ca_certificate(self) -> Path:
        return self.path / "ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.path / "ca.key"

    @property
    def certificate(self) -> Path:
        return self.path / "member.crt"

    @property
    def key(self) -> Path:
        return self.path / "member.key"

    @property
    def encryption_keys(self) -> Path:
        return self.path / encryption_keys.FILE

    def keys(self) -> list[EncryptionKey]:
        """What secrets are encrypted with. Raises CertificateError."""
        return encryption_keys.decode(self.read(self.encryption_keys), str(self.encryption_keys))

    def read(self, path: Path) -> bytes:
        """Raises CertificateError, saying how the file is made."""
        try:
            return path.read_bytes()
        except OSError as error:
            raise CertificateError(
                f"cannot read {path}: {error.strerror}; `steer-control pki` makes these files"
            ) from None

    def authority(self, clock: Clock) -> CertificateAuthority:
        """The CA in this folder. Raises CertificateError."""
        return CertificateAuthority(self.read(self.ca_certificate), self.read(self.ca_key), clock)


def create_ca(folder: Path, clock: Clock) -> CertificateAuthority:
    """Make a CA and the cluster's first encryption key, and write them. Raises CertificateError when there is one."""
    files = PkiFolder(folder)
    authority, pair = CertificateAuthority.create(clock)
    contents = {files.ca_certificate: pair.certificate, files.ca_key: pair.key}
    if not files.encryption_keys.exists():
        contents[files.encryption_keys] = encryption_keys.encode([encryption_keys.new_key()])
    write_new(contents)
    return authority


def create_member(folder: Path, ca_folder: Path, name: str, addresses: Sequence[str], clock: Clock) -> None:
    """Issue a member's certificate and write it with copies of the CA's and of the encryption keys. Raises CertificateError."""
    source, files = PkiFolder(ca_folder), PkiFolder(folder)
    authority = source.authority(clock)
    pair = authority.issue_member(name, addresses)
    contents = {files.certificate: pair.certificate + authority.certificate_pem, files.key: pair.key}
    if folder.resolve() != ca_folder.resolve():
        contents[files.ca_certificate] = authority.certificate_pem
        contents[files.ca_key] = source.read(source.ca_key)
        if source.encryption_keys.exists():
            contents[files.encryption_keys] = source.read(source.encryption_keys)
    write_new(contents)


def create_user(folder: Path, ca_folder: Path, name: str, groups: Sequence[str], clock: Clock) -> Pair:
    """Issue a user's certificate and write it. Raises CertificateError."""
    if not name or "/" in name or name.startswith("."):
        raise CertificateError(f"{name!r} cannot be a user's name: it names the files too")
    pair = PkiFolder(ca_folder).authority(clock).issue_user(name, groups)
    write_new({folder / f"{name}.crt": pair.certificate, folder / f"{name}.key": pair.key})
    return pair


def renew_member(files: PkiFolder, name: str, addresses: Sequence[str], clock: Clock) -> None:
    """Replace a member's certificate by a fresh one for the same key. Raises CertificateError."""
    authority = files.authority(clock)
    pair = authority.issue_member(name, addresses, files.read(files.key))
    replace(files.certificate, pair.certificate + authority.certificate_pem)


def write_new(contents: dict[Path, bytes]) -> None:
    """Write files that must not exist yet, all or none, for the owner's eyes only. Raises CertificateError."""
    present = [str(path) for path in contents if path.exists()]
    if present:
        raise CertificateError(f"{', '.join(present)}: already there, and never overwritten: choose another folder")
    written: list[Path] = []
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                written.append(path)
                file.write(content)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise CertificateError(f"cannot write {error.filename or path}: {error.strerror}") from None


def change_keys(folder: Path, copies: Sequence[Path], *, rotate: bool = False, drop: str = "") -> list[EncryptionKey]:
    """Make the encryption keys if there are none, rotate or drop one, and write the same file to `copies`. Raises CertificateError."""
    files = PkiFolder(folder)
    if not files.encryption_keys.exists():
        write_new({files.encryption_keys: encryption_keys.encode([encryption_keys.new_key()])})
    keys = before = files.keys()
    if rotate:
        keys = encryption_keys.rotated(keys)
    if drop:
        keys = encryption_keys.without(keys, drop)
    content = encryption_keys.encode(keys)
    try:
        for target in (folder, *copies):
            if target != folder or keys != before:
                replace(PkiFolder(target).encryption_keys, content)
    except OSError as error:
        raise CertificateError(f"cannot write {error.filename}: {error.strerror}") from None
    return keys


def replace(path: Path, content: bytes) -> None:
    """Replace a file whole: a reader sees the old content or the new."""
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

"""The cluster's certificate authority: one EC P-256 key that vouches for members, users and nodes.

A certificate is an identity: its common name is the user, its organisations the groups (`control.identity`). So what is
signed for whom is decided here and nowhere else: of a request only the public key is used, never its subject or extensions.

Lives are chosen so that what is stolen ages fast and what is switched off for a while still comes back:
the CA ten years (replacing it touches every host), members and users a year, nodes a week.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.identity import MEMBER_PREFIX, MEMBERS, NODE_PREFIX, NODES
from steersman.clock import Clock

DAY = dt.timedelta(days=1)
CA_LIFE: Final = 3652 * DAY
MEMBER_LIFE: Final = 365 * DAY
USER_LIFE: Final = 365 * DAY
NODE_LIFE: Final = 7 * DAY  # a node that was off for longer must join again; agents renew at half of it
BACKDATED: Final = dt.timedelta(minutes=5)  # clocks of hosts may differ by that much
RSA_MIN_BITS: Final = 2048
CSR_LIMIT: Final = 16 << 10  # bytes of a request: an RSA-4096 one has 2 KiB
NAME_LIMIT: Final = 64  # characters of a common name (X.520 ub-common-name)


class CertificateError(ValueError):
    """A certificate, key or request is not usable; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


class CertificateAuthority:
    """Signs. Holds the CA's private key in memory."""

    def __init__(self, certificate_pem: bytes, key_pem: bytes, clock: Clock) -> None:
        """Raises CertificateError when the two are not a CA's."""
        self._clock = clock
        self.certificate_pem = certificate_pem
        self._certificate = load_certificate(certificate_pem, "the CA's certificate")
        key = _load_key(key_pem, "the CA's key")
        if public_bytes(key.public_key()) != public_bytes(self._certificate.public_key()):
            raise CertificateError("the CA's key does not belong to the CA's certificate")
        self._key = key
        self.hash = ca_hash(certificate_pem)

    @classmethod
    def create(cls, clock: Clock, name: str = "steersman-ca") -> tuple[CertificateAuthority, Pair]:
        """Make a new CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = clock.now()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        pair = Pair(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))
        return cls(pair.certificate, pair.key, clock), pair

    def issue_member(self, name: str, addresses: Sequence[str], key_pem: bytes = b"") -> Pair:
        """A member's certificate: it serves and it calls. `addresses` are the host names and IPs that it is reached by.

        `key_pem` is the key to keep when renewing; empty: a new one.
        """
        key = _load_key(key_pem, "the member's key") if key_pem else ec.generate_private_key(ec.SECP256R1())
        names = ["localhost", "127.0.0.1", "::1", name, *SERVICE_NAMES, *addresses]
        certificate = self._sign(
            key.public_key(), MEMBER_PREFIX + name, (MEMBERS,), MEMBER_LIFE, server_names=list(dict.fromkeys(names))
        )
        return Pair(certificate, _key_pem(key))

    def issue_user(self, name: str, groups: Sequence[str]) -> Pair:
        """A user's certificate. Raises CertificateError for a name that is the control plane's own."""
        if name.startswith((MEMBER_PREFIX, NODE_PREFIX)):
            raise CertificateError(f"{name!r} is not a user's name: members and nodes have their own commands")
        key = ec.generate_private_key(ec.SECP256R1())
        return Pair(self._sign(key.public_key(), name, groups, USER_LIFE), _key_pem(key))

    def sign_node(self, csr_pem: bytes, node: str) -> bytes:
        """A node's certificate for the key in a PKCS#10 request; all else in the request is ignored.

        Raises:
            CertificateError: the request is not one, is not signed by its key, or the key is too weak.
        """
        return self._sign(_requested_key(csr_pem), NODE_PREFIX + node, (NODES,), NODE_LIFE)

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        common_name: str,
        groups: Sequence[str],
        life: dt.timedelta,
        server_names: Sequence[str] = (),
    ) -> bytes:
        if not common_name or len(common_name) > NAME_LIMIT:
            raise CertificateError(f"a certificate's name has 1 to {NAME_LIMIT} characters: {common_name!r}")
        now = self._clock.now()
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if server_names:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([*subject, x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(min(now + life, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._certificate.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
        )
        if server_names:
            names = x509.SubjectAlternativeName([_general_name(name) for name in server_names])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# How pods reach the API: the Service default/kubernetes.
SERVICE_NAMES: Final = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "10.96.0.1",
)


def ca_hash(certificate_pem: bytes) -> str:
    """What joining nodes pin: "sha256:" and the hash of the certificate's DER."""
    der = load_certificate(certificate_pem, "the CA's certificate").public_bytes(serialization.Encoding.DER)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def load_certificate(pem: bytes, what: str) -> x509.Certificate:
    """Parse a PEM certificate. Raises CertificateError, naming `what` it should have been."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CertificateError(f"{what} is not a certificate in PEM form: {error}") from None


def is_past_half(certificate_pem: bytes, clock: Clock) -> bool:
    """Whether half of a certificate's life is over: time to renew it."""
    certificate = load_certificate(certificate_pem, "the certificate")
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return clock.now() >= start + (end - start) / 2


def server_names(certificate_pem: bytes) -> list[str]:
    """The host names and IP addresses that a certificate serves."""
    extensions = load_certificate(certificate_pem, "the certificate").extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def public_bytes(key: object) -> bytes:
    """A public key's DER, to compare keys by."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    if len(csr_pem) > CSR_LIMIT:
        raise CertificateError(f"the certificate request has {len(csr_pem)} bytes: at most {CSR_LIMIT} are accepted")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        valid = request.is_signature_valid
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise CertificateError(f"the certificate request is not PKCS#10 in PEM form: {error}") from None
    if not valid:
        raise CertificateError("the certificate request is not signed by its own key")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_MIN_BITS:
        raise CertificateError(f"the key has {key.key_size} bits: RSA keys need {RSA_MIN_BITS}")
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise CertificateError("the key must be EC or RSA")
    return key


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise CertificateError(f"{name!r} is neither a host name nor an IP address: {error}") from None


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{what} is not a private key in PEM form: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateError(f"{what} must be an EC or RSA key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

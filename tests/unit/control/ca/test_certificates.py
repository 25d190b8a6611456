"""Certificates say who one is, for how long, and nothing that a requester chose."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.ca.certificates import (
    NODE_LIFE,
    CertificateAuthority,
    CertificateError,
    ca_hash,
    is_past_half,
    server_names,
)
from control.identity import NODES, SubjectCache
from steersman.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(dt.datetime(2026, 6, 1, tzinfo=dt.UTC))


@pytest.fixture
def authority(clock) -> CertificateAuthority:
    return CertificateAuthority.create(clock)[0]


def request(key, subject: str = "someone", **kwargs) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, kwargs.get("algorithm", hashes.SHA256())).public_bytes(serialization.Encoding.PEM)


def test_a_node_gets_its_identity_whatever_its_request_says(authority, clock):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = authority.sign_node(request(key, "system:masters"), "node-1")
    caller = SubjectCache().caller(pem)
    assert (caller.user, caller.node) == ("system:node:node-1", "node-1")
    assert NODES in caller.groups
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.not_valid_after_utc == clock.now() + NODE_LIFE
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]  # a node can pose as no server
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate_pem))


def test_a_member_serves_by_all_its_names(authority):
    pair = authority.issue_member("control-1", ["10.0.0.1", "control-1.example"])
    names = server_names(pair.certificate)
    assert {"localhost", "127.0.0.1", "::1", "control-1", "10.0.0.1", "control-1.example"} <= set(names)
    assert {"10.96.0.1", "kubernetes.default.svc"} <= set(names)


def test_renewal_keeps_key_and_names(authority):
    pair = authority.issue_member("control-1", ["10.0.0.1"])
    again = authority.issue_member("control-1", server_names(pair.certificate), pair.key)
    assert again.key == pair.key
    assert server_names(again.certificate) == server_names(pair.certificate)


def test_a_certificate_is_renewed_at_half_its_life(authority, clock):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = authority.sign_node(request(key), "node-1")
    clock.advance(NODE_LIFE.total_seconds() / 2 - 600)
    assert not is_past_half(pem, clock)
    clock.advance(1200)
    assert is_past_half(pem, clock)


def test_a_user_cannot_be_a_member(authority):
    with pytest.raises(CertificateError, match="not a user's name"):
        authority.issue_user("system:member:control-1", [])


@pytest.mark.parametrize(
    ("csr", "why"),
    [
        (b"", "not PKCS#10"),
        (b"nonsense" * 3_000, "at most"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not PKCS#10"),
        (request(rsa.generate_private_key(65537, 1024)), "need 2048"),
        (request(ed25519.Ed25519PrivateKey.generate(), algorithm=None), "EC or RSA"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(authority, csr, why):
    with pytest.raises(CertificateError, match=why):
        authority.sign_node(csr, "node-1")


def test_a_request_must_be_signed_by_its_key(authority):
    csr = bytearray(
        x509.load_pem_x509_csr(request(ec.generate_private_key(ec.SECP256R1()))).public_bytes(
            serialization.Encoding.DER
        )
    )
    csr[-1] ^= 1
    import base64

    pem = (
        b"-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(bytes(csr))
        + b"-----END CERTIFICATE REQUEST-----\n"
    )
    with pytest.raises(CertificateError):
        authority.sign_node(pem, "node-1")


def test_a_name_that_no_certificate_can_hold_is_refused(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(CertificateError, match="64 characters"):
        authority.sign_node(request(key), "n" * 60)


def test_the_hash_is_of_the_der(authority):
    import hashlib

    der = x509.load_pem_x509_certificate(authority.certificate_pem).public_bytes(serialization.Encoding.DER)
    assert ca_hash(authority.certificate_pem) == "sha256:" + hashlib.sha256(der).hexdigest() == authority.hash


def test_another_cas_key_is_noticed(authority, clock):
    _, other = CertificateAuthority.create(clock)
    with pytest.raises(CertificateError, match="does not belong"):
        CertificateAuthority(authority.certificate_pem, other.key, clock)

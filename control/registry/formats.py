"""The forms of names and other strings: each function answers why a value is not of the form, or None when it is.

Sources: RFC 1123 and RFC 1035 labels as narrowed by k8s.io/apimachinery/pkg/util/validation.
"""

from __future__ import annotations

import ipaddress
import re

LABEL_MAX = 63  # bytes of a DNS label
SUBDOMAIN_MAX = 253  # bytes of a DNS name
PORT_NAME_MAX = 15  # characters, by RFC 6335

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_PORT_NAME = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"

_label = re.compile(_LABEL).fullmatch
_label_1035 = re.compile(_LABEL_1035).fullmatch
_subdomain = re.compile(_SUBDOMAIN).fullmatch
_qualified = re.compile(_QUALIFIED).fullmatch
_value = re.compile(_VALUE).fullmatch
_config_key = re.compile(_CONFIG_KEY).fullmatch
_port_name = re.compile(_PORT_NAME).fullmatch
_env_name = re.compile(r"[ -<>-~]+").fullmatch  # printable ASCII but "="
_percentage = re.compile(r"[0-9]+%").fullmatch


def _too_long(limit: int) -> str:
    return f"must have at most {limit} characters"


def dns_label(value: str) -> str | None:
    """RFC 1123 label: names of containers, volumes, namespaces."""
    if len(value) > LABEL_MAX:
        return _too_long(LABEL_MAX)
    if not _label(value):
        return (
            "must be an RFC 1123 label: lower-case letters, digits and '-', with a letter or digit at both ends, "
            "as 'my-name' or '123-abc'"
        )
    return None


def dns_1035_label(value: str) -> str | None:
    """RFC 1035 label: names of Services."""
    if len(value) > LABEL_MAX:
        return _too_long(LABEL_MAX)
    if not _label_1035(value):
        return (
            "must be an RFC 1035 label: lower-case letters, digits and '-', beginning with a letter and ending with a "
            "letter or digit, as 'my-name' or 'abc-123'"
        )
    return None


def dns_subdomain(value: str) -> str | None:
    """RFC 1123 subdomain: most names."""
    if len(value) > SUBDOMAIN_MAX:
        return _too_long(SUBDOMAIN_MAX)
    if not _subdomain(value):
        return (
            "must be an RFC 1123 name: lower-case letters, digits, '-' and '.', with a letter or digit at both ends of "
            "each part, as 'example.com'"
        )
    return None


def qualified_name(value: str) -> str | None:
    """A label or annotation key: a name with an optional DNS prefix."""
    prefix, slash, name = value.rpartition("/")
    if slash:
        if not prefix:
            return "the part before '/' is empty: write a DNS name there, as 'example.com/name'"
        if "/" in prefix:
            return "only one '/' may stand in it, as 'example.com/name'"
        if why := dns_subdomain(prefix):
            return f"the part before '/' {why}"
    if not name:
        return "the name is empty"
    if len(name) > LABEL_MAX:
        return f"the name {_too_long(LABEL_MAX)}"
    if not _qualified(name):
        return (
            "the name must consist of letters, digits, '-', '_' and '.', with a letter or digit at both ends, "
            "as 'MyName' or 'my.name'"
        )
    return None


def label_value(value: str) -> str | None:
    if len(value) > LABEL_MAX:
        return _too_long(LABEL_MAX)
    if not _value(value):
        return (
            "a label's value must be empty or consist of letters, digits, '-', '_' and '.', with a letter or digit at "
            "both ends, as 'MyValue' or '12345'"
        )
    return None


def config_key(value: str) -> str | None:
    """A key of a ConfigMap or Secret: it may become a file's name."""
    if len(value) > SUBDOMAIN_MAX:
        return _too_long(SUBDOMAIN_MAX)
    if not _config_key(value):
        return "a key must consist of letters, digits, '-', '_' and '.', as 'key.name' or 'KEY_NAME'"
    if value == "." or value.startswith(".."):
        return "a key may become a file's name: it must not be '.' nor begin with '..'"
    return None


def env_name(value: str) -> str | None:
    """An environment variable's name (relaxed since Kubernetes 1.34)."""
    if not _env_name(value):
        return "must consist of printable ASCII characters other than '='"
    return None


def port_name(value: str) -> str | None:
    """RFC 6335 service name: a container port's name."""
    if len(value) > PORT_NAME_MAX:
        return _too_long(PORT_NAME_MAX)
    if not _port_name(value) or "--" in value:
        return "must consist of lower-case letters, digits and single '-' between them, as 'http' or 'grpc-web'"
    if not any(character.isalpha() for character in value):
        return "must have at least one letter"
    return None


def port_number(value: int) -> str | None:
    return None if 1 <= value <= 65535 else "must be between 1 and 65535, inclusive"


def ip_address(value: str) -> str | None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return "must be an IP address, as 10.9.8.7 or 2001:db8::ffff"
    return None


def cidr(value: str) -> str | None:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return "must be a range of IP addresses, as 10.9.8.0/24 or 2001:db8::/64"
    return None if "/" in value else "must have a prefix length, as 10.9.8.0/24 or 2001:db8::/64"


def percentage(value: str) -> str | None:
    """A whole number of per cent: an IntOrString's string form in rolling updates."""
    return None if _percentage(value) else "must be a number or a percentage, as 3 or '25%'"


def finalizer(value: str) -> str | None:
    """A finalizer: a qualified name; without a prefix only the three that Kubernetes defines."""
    if why := qualified_name(value):
        return why
    if "/" not in value and value not in ("kubernetes", "orphan", "foregroundDeletion"):
        return "must have a DNS prefix, as 'example.com/cleanup'"
    return None

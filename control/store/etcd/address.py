"""Where the etcd cluster is: `etcd://HOST:PORT,HOST:PORT?prefix=/steersman&compaction=off`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

SCHEME = "etcd"
DEFAULT_PREFIX = "/steersman"


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """One cluster's part of an etcd cluster.

    Attributes:
        endpoints: host:port of etcd's members, tried in this order.
        prefix: what every key begins with; clusters that share an etcd have one each, none the beginning of another.
        compact: whether the leader compacts etcd to the budget of history. Compaction is of the whole etcd: "off"
            leaves it to etcd's own settings, where others use it too.
    """

    endpoints: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    compact: bool = True


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """The CA that signed etcd's certificates, and the certificate that etcd knows this member by."""

    ca: Path
    certificate: Path
    key: Path


def parse(url: str) -> EtcdAddress:
    """Read an address. Raises ValueError, saying what is wrong.

    >>> parse("etcd://10.0.0.1:2379,10.0.0.2:2379").endpoints
    ('10.0.0.1:2379', '10.0.0.2:2379')
    """
    parts = urlsplit(url)
    if parts.scheme != SCHEME or parts.path not in ("", "/") or parts.fragment:
        raise ValueError(f"{url!r} is not etcd://HOST:PORT,HOST:PORT?prefix=/NAME")
    endpoints = tuple(filter(None, parts.netloc.split(",")))
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{endpoint!r} is not HOST:PORT")
    if not endpoints:
        raise ValueError(f"{url!r} names no etcd member: etcd://HOST:PORT,…")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = options.pop("prefix", DEFAULT_PREFIX).rstrip("/")
    if not prefix.startswith("/"):
        raise ValueError(f"prefix {prefix!r} must begin with '/' and name something")
    compaction = options.pop("compaction", "on")
    if compaction not in ("on", "off"):
        raise ValueError(f"compaction={compaction}: use on or off")
    if options:
        raise ValueError(f"unknown option {', '.join(options)}: there are prefix and compaction")
    return EtcdAddress(endpoints, prefix, compaction == "on")

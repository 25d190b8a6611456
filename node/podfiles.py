"""The files that every container of a pod finds: /etc/hostname, /etc/hosts, /etc/resolv.conf. Pure.

Source: k8s.io/kubernetes/pkg/kubelet/kubelet_pods.go and network/dns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steersman.types.core import Pod

MAX_NAMESERVERS = 3  # what glibc reads
MAX_SEARCH_PATHS = 32
HOSTNAME_MAX = 63  # the kernel's limit


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    """The host's own /etc/resolv.conf."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolverConfig:
    nameservers: list[str] = []
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        match words[0]:
            case "nameserver" if len(words) > 1:
                nameservers.append(words[1])
            case "search":
                searches = tuple(words[1:])
            case "options":
                options = tuple(words[1:])
    return ResolverConfig(tuple(nameservers), searches, options)


def hostname(pod: Pod) -> str:
    """The pod's host name: what the spec says, or the pod's name, cut to what the kernel allows."""
    return (pod.spec.hostname or pod.name)[:HOSTNAME_MAX].rstrip("-.")


def fqdn(pod: Pod, cluster_domain: str) -> str:
    """The pod's full name under its subdomain, or "" when it has none."""
    if not pod.spec.subdomain:
        return ""
    return f"{hostname(pod)}.{pod.spec.subdomain}.{pod.namespace}.svc.{cluster_domain}"


def hosts(pod: Pod, ip: str, cluster_domain: str) -> str:
    """/etc/hosts of a pod with its own network."""
    lines = [
        "# Written by the node agent; changes are lost when the pod ends.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
    ]
    full = fqdn(pod, cluster_domain)
    lines.append(f"{ip}\t{full}\t{hostname(pod)}" if full else f"{ip}\t{hostname(pod)}")
    if pod.spec.host_aliases:
        lines.append("\n# Entries added by HostAliases.")
        lines += [f"{alias.ip}\t" + "\t".join(alias.hostnames) for alias in pod.spec.host_aliases]
    return "\n".join(lines) + "\n"


def _unique(words: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(words))


def resolv_conf(pod: Pod, dns_ip: str, cluster_domain: str, host: ResolverConfig) -> str:
    """/etc/resolv.conf by the pod's dnsPolicy and dnsConfig."""
    policy = pod.spec.dns_policy
    if policy == "ClusterFirst" and pod.spec.host_network:
        policy = "Default"
    nameservers: list[str] = []
    searches: list[str] = []
    options: dict[str, str | None] = {}
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        nameservers = [dns_ip]
        searches = [f"{pod.namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain, *host.searches]
        options = {"ndots": "5"}
    elif policy == "Default":
        nameservers, searches = list(host.nameservers), list(host.searches)
        for option in host.options:
            name, _, value = option.partition(":")
            options[name] = value or None
    if pod.spec.dns_config is not None:
        nameservers += pod.spec.dns_config.nameservers
        searches += pod.spec.dns_config.searches
        options |= {option.name: option.value for option in pod.spec.dns_config.options}
    lines = []
    if searches:
        lines.append("search " + " ".join(_unique(searches)[:MAX_SEARCH_PATHS]))
    lines += [f"nameserver {address}" for address in _unique(nameservers)[:MAX_NAMESERVERS]]
    if options:
        lines.append(
            "options " + " ".join(name if value is None else f"{name}:{value}" for name, value in options.items())
        )
    return "\n".join(lines) + "\n"

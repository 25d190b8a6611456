"""One host's pod network: the running thing."""

from __future__ import annotations

from collections.abc import Collection

from steersman.clock import Clock

from net.view import HostNetwork, NetworkView


class NetworkError(Exception):
    """The kernel refused; the message says what was asked and what it answered."""


class PodNetwork:
    """The pod network of one host. All methods are idempotent, and safe to call at the same time from one event loop."""

    def __init__(self, host: HostNetwork, clock: Clock) -> None:
        self.host = host

    async def start(self, pod_cidr: str) -> None:
        """Set up bridge, tunnel, sysctls, service table and DNS, keeping what fits of what is there; watch for drift.

        Again with the same range: nothing happens.

        Raises:
            NetworkError: a step was refused, or this host already serves another range with pods attached.
        """
        raise NotImplementedError

    async def attach(self, pod_uid: str, netns_path: str, ip: str) -> None:
        """Give the network namespace at `netns_path` loopback, `eth0` with `ip`/32 and a default route by the bridge.

        Raises:
            NetworkError: the namespace is gone, or a step was refused; nothing is left half done.
        """
        raise NotImplementedError

    async def detach(self, pod_uid: str) -> None:
        """Remove the pod's link and what the host knows of it; a pod that was never attached is no error."""
        raise NotImplementedError

    async def retain(self, pod_uids: Collection[str]) -> tuple[str, ...]:
        """Detach every pod but these, also those attached before the agent restarted; the names of links removed."""
        raise NotImplementedError

    async def sync(self, view: NetworkView) -> None:
        """Make routes, tunnels, service rules and DNS follow the view; costs in proportion to what changed.

        Before `start`, the view is kept for it.

        Raises:
            NetworkError: the kernel refused; the next sync tries again.
        """
        raise NotImplementedError

    async def stop(self, *, leave_pods: bool = True) -> None:
        """Stop watching and answering.

        `leave_pods` keeps links and rules, as an agent that restarts wants; without, every link, route and rule of ours
        goes, also those of attached pods.
        """
        raise NotImplementedError

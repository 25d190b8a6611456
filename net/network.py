"""One host's pod network: the running thing.

What should be is data on the event loop (peers, attached pods, Services' rules); two threads make it so, one for links
and routes, one for nftables. Each change computes its difference in memory and sends just that. Beside them a watch
looks for drift: on a hint from the kernel, and every `RESCAN_S` without one, what is there is read, compared with what
should be, and put right.

Failure: a step that the kernel refuses raises NetworkError to whoever asked and is tried again by the next sync or
rescan. After a restart of the agent `start` finds what the last run left and keeps what fits; links of pods stay as they
are until `retain` has said which pods are alive, routes and rules until the first view has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress

from net import conntrack, metrics
from net.dns import DnsServer
from net.dns_records import Zone
from net.ipam import gateway
from net.links import Attachment, HostLinks, NetworkError, Surroundings
from net.netns import NamespaceThread
from net.nft import NftError, TableKeeper
from net.plan import (
    BRIDGE,
    BRIDGE_ROLE,
    POD_ROLE,
    TUNNEL,
    Difference,
    Item,
    Items,
    Link,
    Neighbour,
    Peer,
    Port,
    Route,
    Underlay,
    desired,
    difference,
    mac_of,
    peer_of,
    pod_link,
    pod_mtu,
)
from net.service import ServiceRules, ServiceTable, rules_of
from net.topology import Topology
from net.view import HostNetwork, NetworkView
from net.watch import DriftWatch, open_sockets
from steersman.clock import Clock
from steersman.logs import fields
from steersman.types import Node

log = logging.getLogger(__name__)

RESCAN_S = 30.0  # without a hint; reading 250 pods' links takes some 30 ms: 0.1 % of a core
SETTLE_S = 0.2  # after a hint: one look for a burst of changes
REST_S = 1.0  # at least, between two looks, however many hints come
FORGET_S = 0.5  # the kernel's whole table is walked once for all endpoints that leave together; a SYN repeats after 1 s
PASSES = 3  # a repair may undo another (a link set anew loses its neighbours); more never helps


class PodNetwork:
    """The pod network of one host. All methods are idempotent, and safe to call at the same time from one event loop."""

    def __init__(self, host: HostNetwork, clock: Clock) -> None:
        self.host = host
        self._clock = clock
        self._pod_cidr = ""
        self._attachments: dict[str, Attachment] = {}  # by link name
        self._reaping: list[Attachment] = []
        self._retained: set[str] | None = None  # link names given to `retain`; None before
        self._nodes: dict[str, Node] = {}
        self._peers: dict[str, Peer] = {}
        self._routed: dict[str, Peer] = {}  # the peers that the kernel has been told of
        self._topology = Topology()
        self._services = ServiceTable()
        self._rules_doubtful = False
        self._view = NetworkView()
        self._informed = False  # whether a view was ever given
        self._zone = Zone(host.cluster_domain, host.service_cidr, host.cluster_cidr)
        self._life = asyncio.Lock()  # start, stop
        self._syncing = asyncio.Lock()
        self._reap = asyncio.Lock()
        self._running: _Running | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self, pod_cidr: str) -> None:
        """Set up bridge, tunnel, sysctls, service table and DNS, keeping what fits of what is there; watch for drift.

        Again with the same range: nothing happens.

        Raises:
            NetworkError: a step was refused, or this host already serves another range with pods attached.
        """
        async with self._life:
            if self._running and pod_cidr == self._pod_cidr:
                return
            if self._running and self._attachments:
                raise NetworkError(
                    f"this host serves {self._pod_cidr} and has {len(self._attachments)} pods attached: "
                    f"drain it before giving it {pod_cidr}"
                )
            if self._running:
                await self._halt()
            self._pod_cidr = pod_cidr
            running = _Running(self.host)
            try:
                await running.open(self.host, pod_cidr)
                self._running = running
                async with self._syncing:
                    changed = self._take_in(self._view)
                    self._services.apply(self._rules_for(changed | set(self._topology.services)))
                    self._rules_doubtful = True
                await self._look_at_links()
                async with self._syncing:
                    if self._informed or not await running.rules_thread.run(running.keeper.exists):
                        await self._commit(())
                await running.watch(self)
                if self.host.dns_ip:
                    running.dns = DnsServer(self.host.dns_ip, self._zone, self.host.upstream_dns, self._clock)
                    await running.dns.start(running.links_thread)
            except BaseException:
                self._running = None
                await running.close()
                raise
            log.info("pod network started %s", fields(range=pod_cidr, underlay=running.underlay.name))

    async def stop(self, *, leave_pods: bool = True) -> None:
        """Stop watching and answering.

        `leave_pods` keeps links and rules, as an agent that restarts wants; without, every link, route and rule of ours
        goes, also those of attached pods.
        """
        async with self._life:
            running = self._running
            if running is None:
                return
            await running.quiet()
            if not leave_pods:
                async with self._syncing:
                    with suppress(NftError):
                        await running.rules_thread.run(running.keeper.remove)
                    await running.links_thread.run(self._remove_all, running)
                self._attachments.clear()
                metrics.ATTACHED_PODS.set(0)
            await self._halt()

    async def _halt(self) -> None:
        running, self._running = self._running, None
        self._routed = {}
        if running:
            await running.close()

    def _remove_all(self, running: _Running) -> None:
        there = running.links.read({})
        ours = [item for item in there.values() if isinstance(item, Link | Port | Route)]
        running.links.remove(sorted(ours, key=lambda item: isinstance(item, Link)))

    def _the_running(self) -> _Running:
        if self._running is None:
            raise NetworkError("the pod network is not started")
        return self._running

    # --- pods -----------------------------------------------------------------------------------------------------

    async def attach(self, pod_uid: str, netns_path: str, ip: str) -> None:
        """Give the network namespace at `netns_path` loopback, `eth0` with `ip`/32 and a default route by the bridge.

        Raises:
            NetworkError: the namespace is gone, or a step was refused; nothing is left half done.
        """
        running = self._the_running()
        began = self._clock.monotonic()
        attachment = Attachment(pod_uid, netns_path, ip)
        name = pod_link(pod_uid)
        # Known before it is done: a rescan in between then completes it and does not take it for a stale link.
        self._attachments[name] = attachment
        try:
            await running.links_thread.run(running.links.attach, attachment, self._surroundings(running.underlay))
        except NetworkError:
            if self._attachments.get(name) is attachment:
                del self._attachments[name]
            raise
        metrics.ATTACH_SECONDS.observe(self._clock.monotonic() - began)
        metrics.ATTACHED_PODS.set(len(self._attachments))

    async def detach(self, pod_uid: str) -> None:
        """Remove the pod's link and what the host knows of it; a pod that was never attached is no error.

        Calls that wait together are served together: the kernel takes as long to delete one link as twenty.
        """
        running = self._the_running()
        began = self._clock.monotonic()
        name = pod_link(pod_uid)
        known = self._attachments.pop(name, None)
        if self._retained:
            self._retained.discard(name)
        self._reaping.append(known or Attachment(pod_uid, "", ""))
        async with self._reap:
            batch, self._reaping = self._reaping, []
            if batch:
                await running.links_thread.run(running.links.remove, _traces(batch))
        metrics.DETACH_SECONDS.observe(self._clock.monotonic() - began)
        metrics.ATTACHED_PODS.set(len(self._attachments))

    async def retain(self, pod_uids: Collection[str]) -> tuple[str, ...]:
        """Detach every pod but these, also those attached before the agent restarted; the names of links removed.

        Until it is called, links of pods that an earlier run attached are left as they are.
        """
        live = {pod_link(uid) for uid in pod_uids}
        for name in [name for name in self._attachments if name not in live]:
            del self._attachments[name]
        running = self._the_running()
        self._retained = live
        stale = await running.links_thread.run(self._reclaim, running)
        metrics.ATTACHED_PODS.set(len(self._attachments))
        if stale:
            log.info("reclaimed links of pods that are gone %s", fields(links=len(stale)))
        return stale

    def _reclaim(self, running: _Running) -> tuple[str, ...]:
        ports = [item for item in running.links.read({}).values() if isinstance(item, Port)]
        stale = [port for port in ports if not self._may_be_owned(port) and port.name not in self._attachments]
        running.links.remove(stale)
        return tuple(port.name for port in stale)

    def _may_be_owned(self, port: Port) -> bool:
        """Whether a link belongs to a pod of an earlier run that is, or may be, alive and not attached again yet."""
        return self._retained is None or port.name in self._retained

    def _surroundings(self, underlay: Underlay) -> Surroundings:
        address = gateway(self._pod_cidr)
        return Surroundings(address, mac_of(address, BRIDGE_ROLE), pod_mtu(underlay))

    # --- the cluster ------------------------------------------------------------------------------------------------

    async def sync(self, view: NetworkView) -> None:
        """Make routes, tunnels, service rules and DNS follow the view; costs in proportion to what changed.

        Before `start`, the view is kept for it.

        Raises:
            NetworkError: the kernel refused; the next sync tries again.
        """
        self._view, self._informed = view, True
        async with self._syncing:
            if self._running is None:
                return
            began = self._clock.monotonic()
            changed = self._take_in(self._view)
            if changed or self._rules_doubtful:
                change = self._services.apply(self._rules_for(changed))
                if change.commands or self._rules_doubtful:
                    await self._commit(change.commands)
                    metrics.SYNC_SECONDS.observe(self._clock.monotonic() - began)
                if change.dropped:
                    await self._forget(change.dropped)
            if self._peers != self._routed:
                await self._route_to(dict(self._peers))

    def _take_in(self, view: NetworkView) -> set[str]:
        """Update what is known of the cluster; the keys of the Services that changed."""
        for name, node in view.nodes.items():
            if self._nodes.get(name) is not node:
                self._nodes[name] = node
                if peer := peer_of(node):
                    self._peers[name] = peer
                else:
                    self._peers.pop(name, None)
        for name in [name for name in self._nodes if name not in view.nodes]:
            del self._nodes[name]
            self._peers.pop(name, None)
        changed = self._topology.update(view)
        for key in changed:
            self._zone.update(key, self._topology.services.get(key), self._topology.slices(key))
        self._zone.namespaces = view.namespaces
        metrics.SERVICES_CHANGED.inc(len(changed))
        return changed

    def _rules_for(self, keys: Collection[str]) -> dict[str, ServiceRules]:
        return {
            key: rules_of(
                self._topology.services.get(key),
                self._topology.slices(key),
                node_name=self.host.node_name,
                pod_cidr=self._pod_cidr,
                dns_ip=self.host.dns_ip,
            )
            for key in keys
        }

    async def _commit(self, commands: Collection[str]) -> None:
        """Send commands to nftables, or everything when the kernel's state is in doubt."""
        running = self._the_running()
        if not self._rules_doubtful:
            try:
                await running.rules_thread.run(running.keeper.commit, commands)
            except NftError as error:
                metrics.SYNC_FAILURES.inc()
                log.warning("rebuilding the service table: %s", error)
                self._rules_doubtful = True
        if self._rules_doubtful:
            try:
                await running.rules_thread.run(running.keeper.ensure, self._services, trusting=False)
            except NftError:
                metrics.SYNC_FAILURES.inc()
                raise
            self._rules_doubtful = False
        metrics.COMMANDS.inc(len(commands))

    async def _forget(self, targets: Collection[conntrack.Target]) -> None:
        """Let go of connections to endpoints that left: at once, but for TCP, whose clients wait for a second anyway."""
        running = self._the_running()
        running.forget_soon({target for target in targets if target[0] == conntrack.TCP})
        if at_once := {target for target in targets if target[0] != conntrack.TCP}:
            await running.forget(at_once)

    async def _route_to(self, peers: dict[str, Peer]) -> None:
        running = self._the_running()
        change = difference(self._wanted(peers), self._wanted(self._routed))
        await running.links_thread.run(self._apply, running, change)
        self._routed = peers

    # --- drift -----------------------------------------------------------------------------------------------------

    async def repair(self, *, links: bool = True, rules: bool = True) -> int:
        """Compare what is there with what should be and put it right; how many things were wrong.

        Raises:
            NetworkError: the kernel refused a repair.
        """
        repaired = await self._look_at_links() if links else 0
        return repaired + (await self._look_at_rules() if rules else 0)

    async def _look_at_links(self) -> int:
        running = self._the_running()
        async with self._syncing:
            found = await running.links_thread.run(self._mend_links, running)
            self._routed = dict(self._peers)
        return found

    def _mend_links(self, running: _Running) -> int:
        """In the links thread: read, compare, mend, until nothing differs."""
        found = 0
        for _ in range(PASSES):
            wanted = self._wanted(self._peers)
            change = self._ours(difference(wanted, running.links.read(wanted)))
            if not change:
                break
            self._apply(running, change)
            for item in (*change.remove, *change.add):
                metrics.DRIFT_REPAIRED.labels(item.key[0]).inc()
            if running.settled:
                log.info("put right %s", ", ".join(str(item) for item in (*change.remove, *change.add)[:5]))
            found += len(change.remove) + len(change.add)
        running.settled = True
        return found

    def _ours(self, change: Difference) -> Difference:
        """Without the removal of what an earlier run made and this one cannot judge yet.

        Before `retain`, pods' links; before the first view, ways to other nodes.
        """
        waiting = self._retained is None or any(name not in self._attachments for name in self._retained)
        removed = tuple(
            item
            for item in change.remove
            if not (isinstance(item, Port) and self._may_be_owned(item))
            and not (isinstance(item, Neighbour) and item.link == BRIDGE and waiting)
            and not (item.link == TUNNEL and not isinstance(item, Link) and not self._informed)
        )
        return Difference(removed, change.add)

    def _wanted(self, peers: dict[str, Peer]) -> Items:
        pods = {attachment.pod_uid: attachment.address for attachment in list(self._attachments.values())}
        return desired(self.host, self._pod_cidr, self._the_running().underlay, peers, pods)

    def _apply(self, running: _Running, change: Difference) -> None:
        running.links.remove(change.remove)
        surroundings = self._surroundings(running.underlay)
        for item in change.add:
            running.links.add(item, self._attachments, surroundings)

    async def _look_at_rules(self) -> int:
        running = self._the_running()
        if not self._informed:
            return 0
        async with self._syncing:
            repaired = await running.rules_thread.run(running.keeper.ensure, self._services)
        if repaired:
            metrics.DRIFT_REPAIRED.labels("rules").inc()
            log.info("put right the service table, which someone else had changed")
        return int(repaired)


def _traces(attachments: Collection[Attachment]) -> list[Item]:
    """What a pod leaves on the host."""
    items: list[Item] = [
        Neighbour(BRIDGE, gone.address, mac_of(gone.address, POD_ROLE)) for gone in attachments if gone.address
    ]
    return items + [Port(pod_link(gone.pod_uid)) for gone in attachments]


class _Running:
    """What exists between start and stop: threads, sockets, the watch."""

    links: HostLinks
    keeper: TableKeeper
    underlay: Underlay

    def __init__(self, host: HostNetwork) -> None:
        self.links_thread = NamespaceThread("net-links", host.netns)
        self.rules_thread = NamespaceThread("net-rules", host.netns)
        self.dns: DnsServer | None = None
        self.settled = False  # whether the first comparison, which sets everything up, is over
        self._watch: DriftWatch | None = None
        self._task: asyncio.Task[None] | None = None
        self._look_at_links = False
        self._look_at_rules = False
        self._hint = asyncio.Event()
        self._leaving: set[conntrack.Target] = set()
        self._forgetting: asyncio.Task[None] | None = None

    async def open(self, host: HostNetwork, pod_cidr: str) -> None:
        """Open the sockets, each in its thread."""
        self.links = await self.links_thread.run(HostLinks, self.links_thread)
        self.underlay = await self.links_thread.run(self.links.underlay, host.host_ip, host.host_interface)
        self.keeper = await self.rules_thread.run(TableKeeper, host, pod_cidr)

    async def watch(self, network: PodNetwork) -> None:
        """Look for drift from now on."""
        sockets = await self.links_thread.run(open_sockets)
        self._watch = DriftWatch(sockets, self.links.own_indexes, self._links_hint, self._rules_hint)
        self._task = asyncio.create_task(self._follow(network), name="net-drift")

    def _links_hint(self) -> None:
        self._look_at_links = True
        self._hint.set()

    def _rules_hint(self) -> None:
        self._look_at_rules = True
        self._hint.set()

    async def _follow(self, network: PodNetwork) -> None:
        while True:
            try:
                await asyncio.wait_for(self._hint.wait(), RESCAN_S)
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                self._look_at_links = self._look_at_rules = True
            links, rules = self._look_at_links, self._look_at_rules
            self._look_at_links = self._look_at_rules = False
            self._hint.clear()
            try:
                await network.repair(links=links, rules=rules)
            except NetworkError as error:
                log.warning("cannot put the network right, will try again: %s", error)
            except Exception:
                log.exception("looking for drift failed")
            await asyncio.sleep(REST_S)

    def forget_soon(self, targets: Collection[conntrack.Target]) -> None:
        """Let go of connections, together with those of other endpoints that leave within `FORGET_S`."""
        self._leaving.update(targets)
        if self._leaving and self._forgetting is None:
            self._forgetting = asyncio.create_task(self._forget_later(), name="net-conntrack")

    async def _forget_later(self) -> None:
        while self._leaving:
            await asyncio.sleep(FORGET_S)
            leaving, self._leaving = self._leaving, set()
            await self.forget(leaving)
        self._forgetting = None

    async def forget(self, targets: Collection[conntrack.Target]) -> None:
        """Let go of connections now."""
        try:
            await self.rules_thread.run(conntrack.forget, targets)
        except OSError as error:
            log.warning("clients of endpoints that left may keep sending to them: %s", error)

    async def quiet(self) -> None:
        """Stop watching and answering."""
        for task in (self._task, self._forgetting):
            if task:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._task = self._forgetting = None
        if self._watch:
            self._watch.close()
            self._watch = None
        if self.dns:
            await self.dns.stop()
            self.dns = None

    async def close(self) -> None:
        """End everything."""
        await self.quiet()
        if hasattr(self, "links"):
            await self.links_thread.run(self.links.close)
        if hasattr(self, "keeper"):
            await self.rules_thread.run(self.keeper.close)
        self.links_thread.close()
        self.rules_thread.close()

"""One member of the control plane: its parts, put together, and their order of coming and going.

Start: the store reads its disk, the ports open, calls are answered. What only the leader does (the gateway's sessions,
controllers, scheduler) starts when this member gains leadership and is cancelled when it loses it; each part is
supervised: one that fails is logged and started again after a pause, and never takes the others with it.

Stop: health says no, so that balancers turn away; the leader's parts end; leadership is handed over; calls under way get a
moment; then everything closes. `kill -9` loses nothing either: what was acknowledged is in the log of a majority.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry

from control import admission, bootstrap, identity
from control.api.carried import ForwardingServicer
from control.api.cluster import ClusterHandlers
from control.api.context import ApiContext, ClusterNetwork
from control.api.encryption import EncryptionHandlers, KeyKeeper
from control.api.forwarding import LeaderLink
from control.api.grpc_server import GrpcServer
from control.api.handlers import Handlers
from control.api.leadership import Leadership
from control.api.local import LocalTransport
from control.api.members import MemberAddresses, Members
from control.api.membership import MembershipHandlers
from control.api.rest import Checks, RestServer
from control.api.servicers import ClusterServicer, EncryptionServicer, ObjectsServicer
from control.api.snapshots import SnapshotHandlers
from control.ca.certificates import CertificateError, is_past_half, load_certificate, server_names
from control.ca.files import PkiFolder, renew_member
from control.ca.tokens import JoinTokens, TokenError
from control.config import EMBEDDED, KUBERNETES_VERSION, VERSION, ConfigError, MemberConfig
from control.controllers.manager import Controllers, ControllersConfig
from control.gateway.gateway import Gateway
from control.gateway.heartbeats import Heartbeats
from control.gateway.settings import GatewaySettings
from control.identity import Caller
from control.raft.interface import RaftConfig, StateMachine, TlsFiles
from control.raft.metrics import RaftMetrics
from control.raft.node import RaftNode
from control.rpc import Gatekeeper
from control.store.backend import Backend
from control.store.embedded import EmbeddedStore
from control.store.encryption import EncryptionKey, Sealer
from control.store.etcd.store import EtcdStore
from control.store.interface import StoreError
from control.store.mvcc import Budget
from steersman.client import AsyncClient
from steersman.clock import Clock, Entropy
from steersman.errors import ApiError
from steersman.v1 import cluster_pb2, cluster_pb2_grpc, encryption_pb2_grpc, objects_pb2_grpc

log = logging.getLogger("control.member")

STOP_GRACE_S: Final = 1.0  # for calls under way when the member stops; watches are ended by the store
RESTART_PAUSE_S: Final = 1.0  # before a leader's part that failed is started again
ANNOUNCE_EVERY_S: Final = 30.0  # how often a member makes sure that its addresses are known
RENEW_EVERY_S: Final = 3600.0  # how often a member looks at its certificate's age
INITIAL_TOKEN_TTL_S: Final = 365 * 24 * 3600  # the file lies beside the CA's key: who reads one has the other

Part = Callable[[], Awaitable[None]]


class Member:
    """One member. `start`, then `stop` once."""

    def __init__(self, config: MemberConfig, clock: Clock, entropy: Entropy) -> None:
        config.check()
        self.config = config
        self.clock = clock
        self.entropy = entropy
        self.registry = CollectorRegistry()
        self._pki = PkiFolder(config.pki_dir)
        _check_certificate(self._pki, config.name, clock)
        self._authority = self._pki.authority(clock)
        self._tasks: list[asyncio.Task[Any]] = []
        self._prepared_term = 0  # the term that this member began to lead with everything in place

        self._sealer = Sealer(_encryption_keys(self._pki, config), entropy, config.encrypt)
        budget = Budget(age_s=config.history_age_s, bytes=config.history_bytes)
        self.store = self._backend(budget)
        self.leadership = Leadership(config.name)
        network = ClusterNetwork(config.cluster_cidr, config.service_cidr, config.node_cidr_mask)
        tolerations = admission.Config(
            not_ready_seconds=config.unreachable_toleration_s, unreachable_seconds=config.unreachable_toleration_s
        )
        self.context = ApiContext(self.store, self.leadership, clock, entropy, admission=tolerations, network=network)
        self.handlers = Handlers(self.context)
        self.members = Members(self.store, lambda: self.store.raft.addresses, config.grpc_port)
        self._link = LeaderLink(self.leadership, self.members.grpc_address, self._credentials, clock, entropy)
        self._tokens = JoinTokens(self.store, clock, entropy)
        self._cluster = ClusterHandlers(
            self.context,
            self.store.raft,
            self.members,
            self._tokens,
            self._authority,
            version=VERSION,
            kubernetes_version=KUBERNETES_VERSION,
        )
        self._membership = MembershipHandlers(self.context, self.store.raft, self.members)
        self._encryption = EncryptionHandlers(self.context, self.store.raft)
        self._snapshots = SnapshotHandlers(self.context, self.store.raft, clock, version=VERSION)
        self.caller = identity.member(config.name)
        self.client = AsyncClient(LocalTransport(self.handlers, self.caller), entropy=entropy)
        self.heartbeats = Heartbeats(clock)
        self.gateway = Gateway(
            self.client,
            self.heartbeats,
            self._authority,
            self._tokens,
            _ClusterView(self.leadership, self.members, self._link),
            self._authorize,
            clock,
            entropy,
            GatewaySettings(
                lease_s=config.node_lease_s,
                cluster_cidr=config.cluster_cidr,
                service_cidr=config.service_cidr,
                dns_ip=config.dns_ip,
                cluster_domain=config.cluster_domain,
            ),
        )
        self._grpc: GrpcServer | None = None
        self._bootstrap: GrpcServer | None = None
        self._forwarded: ForwardingServicer | None = None
        self._rest: RestServer | None = None

    # --- life ---

    async def start(self) -> None:
        """Open the ports, read the disk, take part.

        Raises:
            ListenError: a port cannot be opened.
            LogDamagedError, OSError: the data folder cannot be used.
        """
        config = self.config
        gatekeeper = Gatekeeper()
        objects = ObjectsServicer(self.handlers, self._link, gatekeeper, self.clock)
        self._forwarded = ForwardingServicer(self.handlers, gatekeeper, self.clock)
        cluster = ClusterServicer(self._cluster, self._membership, self._snapshots, self._link, gatekeeper, self.clock)
        encryption = EncryptionServicer(self._encryption, self._link, gatekeeper, self.clock)
        self._grpc = GrpcServer(
            config.grpc_listen,
            self._pki,
            (
                lambda server: objects_pb2_grpc.add_ObjectsServicer_to_server(objects, server),
                lambda server: cluster_pb2_grpc.add_ClusterServicer_to_server(cluster, server),
                self._forwarded.add_to,
                lambda server: encryption_pb2_grpc.add_EncryptionServicer_to_server(encryption, server),
                self.gateway.add_to,
            ),
        )
        self._bootstrap = GrpcServer(
            config.bootstrap_address, self._pki, (self.gateway.add_bootstrap_to,), client_certificates=False
        )
        self._rest = RestServer(
            config.rest_listen,
            self._pki,
            self._checks(),
            self.registry,
            self.clock,
            version=VERSION,
            kubernetes_version=KUBERNETES_VERSION,
        )
        await self.store.start()
        await self._rest.start()
        await self._bootstrap.start()
        await self._grpc.start()
        await self._grpc.serving(True)
        for name, part in (
            ("leadership", lambda: self.leadership.follow(self.store.leadership())),
            ("members", self.members.follow),
            ("announcement", self._announce),
            ("leader", self._lead_when_leading),
            ("certificate", self._renew_certificate),
            ("encryption", self._keep_keys),
        ):
            self._tasks.append(asyncio.create_task(self._supervise(name, part), name=name))
        log.info(
            "member %s serves gRPC on %s, joins on %s, REST on %s",
            config.name,
            config.grpc_listen,
            config.bootstrap_address,
            config.rest_listen,
        )

    async def stop(self) -> None:
        """Leave in order."""
        if self._grpc is not None:
            await self._grpc.serving(False)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._forwarded is not None:
            self._forwarded.close()
        servers = [server for server in (self._grpc, self._bootstrap) if server is not None]
        stopping: list[Awaitable[None]] = [server.stop(STOP_GRACE_S) for server in servers]
        await asyncio.gather(self.store.stop(), *stopping, return_exceptions=True)
        if self._rest is not None:
            await self._rest.stop()
        await self._link.close()
        log.info("member %s stopped", self.config.name)

    async def _supervise(self, name: str, part: Part) -> None:
        """Run a part until cancelled; start it again when it fails."""
        while True:
            try:
                await part()
                log.warning("%s ended: it is started again", name)
            except asyncio.CancelledError:
                raise
            except (ApiError, StoreError) as error:
                log.info("%s: %s: trying again", name, error)
            except Exception:
                log.exception("%s failed: it is started again", name)
            await asyncio.sleep(RESTART_PAUSE_S)

    # --- leading ---

    async def _lead_when_leading(self) -> None:
        term, leading = 0, None
        try:
            while True:
                changed = self.leadership.changed
                wanted = self.leadership.term if self.leadership.is_self else 0
                if wanted != term:
                    if leading is not None:
                        log.info("member %s no longer leads", self.config.name)
                        await _cancelled(leading)
                        leading = None
                    if wanted:
                        log.info("member %s leads term %d", self.config.name, wanted)
                        leading = asyncio.create_task(self._supervise("the leader's work", self._lead), name="leading")
                    term = wanted
                await changed.wait()
        finally:
            if leading is not None:
                await _cancelled(leading)

    async def _lead(self) -> None:
        """What the leader does, until cancelled."""
        config = self.config
        await self._note_addresses()
        await bootstrap.ensure(self.client, config.service_cidr, config.dns_ip)
        await self._adopt_token()
        self._prepared_term = self.leadership.term
        parts: dict[str, Part] = {
            "gateway": self.gateway.lead,
            "controllers": self._run_controllers,
            "api endpoints": self._publish_api,
        }
        tasks = [asyncio.create_task(self._supervise(name, part), name=name) for name, part in parts.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_controllers(self) -> None:
        """Controllers and scheduler, made anew: how long nodes were silent counts from now."""
        settings = ControllersConfig(node_lease=self.config.node_lease_s)
        await Controllers(self.client, self.heartbeats, self.clock, self.entropy, settings).run()

    async def _adopt_token(self) -> None:
        """Accept the join token that the installer left in a file."""
        path = self.config.initial_join_token_file
        await self._tokens.forget_ended()
        if path is None:
            return
        try:
            if await self._tokens.adopt(path.read_text().strip(), INITIAL_TOKEN_TTL_S, f"from {path.name}"):
                log.info("the join token in %s is accepted", path)
        except (OSError, TokenError) as error:
            log.warning("no initial join token: %s: %s", path, error)

    async def _publish_api(self) -> None:
        """Keep the endpoints of default/kubernetes equal to the announced members."""
        told: Sequence[str] | None = None
        while True:
            changed = self.members.changed
            present = sorted(addresses.rest for addresses in self.members.announced.values())
            if present != told:
                await bootstrap.publish_api(self.client, present)
                told = present
            await changed.wait()

    # --- every member ---

    async def _announce(self) -> None:
        """Make sure that this member's addresses are in the store."""
        mine = self._addresses()
        request = cluster_pb2.AnnounceRequest(name=self.config.name, grpc_address=mine.grpc, rest_address=mine.rest)
        while True:
            if self.members.announced.get(self.config.name) != mine:
                await self._link.call(
                    "Cluster", "Announce", request, self.caller, self._cluster.announce, ANNOUNCE_EVERY_S
                )
            await asyncio.sleep(ANNOUNCE_EVERY_S)

    async def _note_addresses(self) -> None:
        await self.members.write(self.config.name, self._addresses(), self.caller.user)

    def _addresses(self) -> MemberAddresses:
        return MemberAddresses(self.config.advertised_grpc, self.config.advertised_rest)

    async def _keep_keys(self) -> None:
        """Follow the file of encryption keys, and rotations.

        On etcd the file is read at the start only: no member can tell which keys etcd's disks still need.
        """
        if self.config.store != EMBEDDED:
            await asyncio.get_running_loop().create_future()

        async def tell(request: Any) -> Any:
            report = self._encryption.report
            return await self._link.call(
                "Encryption", "ReportEncryption", request, self.caller, report, ANNOUNCE_EVERY_S
            )

        await KeyKeeper(
            self.config.name,
            self.store,
            self.store.raft,
            self.config.data_dir,
            lambda: _encryption_keys(self._pki, self.config),
            tell,
            self.clock,
        ).run()

    async def _renew_certificate(self) -> None:
        """Renew this member's certificate at half of its life; servers present the new one at the next handshake."""
        while True:
            present = self._pki.read(self._pki.certificate)
            if is_past_half(present, self.clock):
                renew_member(self._pki, self.config.name, server_names(present), self.clock)
                if self._rest is not None:
                    self._rest.reload()
                log.info("the certificate of member %s is renewed", self.config.name)
            await asyncio.sleep(RENEW_EVERY_S)

    # --- what the parts need of each other ---

    def _backend(self, budget: Budget) -> Backend:
        config = self.config
        if config.store == EMBEDDED:
            return EmbeddedStore(
                self._raft_node, self.clock, budget=budget, registry=self.registry, sealer=self._sealer
            )
        address, tls = config.etcd()
        return EtcdStore(
            address,
            tls,
            config.name,
            self.clock,
            self.entropy,
            advertise=config.advertised_grpc,
            members=tuple(config.initial_cluster),
            budget=budget,
            registry=self.registry,
            sealer=self._sealer,
        )

    def _raft_node(self, machine: StateMachine) -> RaftNode:
        config = self.config
        # Who joins learns the members from the log; until then it listens to nobody but members of that cluster.
        members = {} if config.join else dict(config.initial_cluster) or {config.name: config.raft_listen}
        raft = RaftConfig(
            name=config.name,
            data_dir=config.data_dir,
            listen=config.raft_listen,
            members=members,
            cluster_id=config.cluster_id,
            tls=TlsFiles(self._pki.ca_certificate, self._pki.certificate, self._pki.key),
        )
        return RaftNode(raft, machine, self.clock, self.entropy, metrics=RaftMetrics(self.registry))

    def _credentials(self) -> grpc.ChannelCredentials:
        pki = self._pki
        return grpc.ssl_channel_credentials(pki.read(pki.ca_certificate), pki.read(pki.key), pki.read(pki.certificate))

    def _authorize(self, caller: Caller, verb: str, resource: str, namespace: str, name: str, subresource: str) -> None:
        found = self.context.registry.find(name=resource)
        self.context.require(caller, verb, found, namespace, name, subresource)

    def _checks(self) -> Checks:
        async def ping() -> str | None:
            return None

        async def raft() -> str | None:
            return self.store.raft.status().problem or None

        async def leader() -> str | None:
            return None if self.leadership.leader else "no leader is known"

        async def begun() -> str | None:
            if self.leadership.is_self and self._prepared_term != self.leadership.term:
                return "this member has only just begun to lead"
            namespaces = self.context.registry.find(kind="Namespace")
            if await self.store.get(namespaces.key("", "default")) is None:
                return "the cluster's first leader has not made its namespaces yet"
            return None

        async def linearizable() -> str | None:
            try:
                async with asyncio.timeout(1.0):
                    await self.context.barrier.wait()
            except (StoreError, TimeoutError) as error:
                return str(error) or "no leader confirmed a read within a second"
            return None

        return Checks(
            live={"ping": ping, "raft": raft},
            ready={"ping": ping, "raft": raft, "leader": leader, "bootstrap": begun, "reads": linearizable},
        )


class _ClusterView:
    """What the gateway asks about the other members."""

    def __init__(self, leadership: Leadership, members: Members, link: LeaderLink) -> None:
        self._leadership = leadership
        self._members = members
        self._link = link

    def leader_address(self) -> str:
        leader = self._leadership.leader
        return "" if not leader or self._leadership.is_self else self._members.grpc_address(leader)

    def member_addresses(self) -> Sequence[str]:
        return self._members.grpc_addresses()

    def leader_channel(self) -> grpc.aio.Channel | None:
        return self._link.channel()


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _encryption_keys(pki: PkiFolder, config: MemberConfig) -> Sequence[EncryptionKey]:
    """What is to be encrypted needs keys; what was encrypted once, is read with them also when nothing is any more. Raises CertificateError."""
    if not config.encrypt and not pki.encryption_keys.exists():
        return ()
    try:
        return pki.keys()
    except CertificateError as error:
        raise CertificateError(
            f"{error}: every member needs the same keys; `steer-control pki encryption-key --dir P` makes the first, "
            "--encrypt none does without"
        ) from None


def _check_certificate(pki: PkiFolder, name: str, clock: Clock) -> None:
    """Raises ConfigError when this member's certificate cannot be used."""
    try:
        pki.read(pki.key)
        pem = pki.read(pki.certificate)
        certificate = load_certificate(pem, str(pki.certificate))
    except CertificateError as error:
        raise ConfigError(str(error)) from None
    if certificate.not_valid_after_utc <= clock.now():
        raise ConfigError(
            f"{pki.certificate} ended at {certificate.not_valid_after_utc:%Y-%m-%d}: remove it and its key, and make them "
            "again with `steer-control pki member`"
        )
    held = identity.SubjectCache().caller(pem).user
    if held != identity.member(name).user:
        raise ConfigError(f"{pki.certificate} is of {held!r}, not of member {name}: give this member its own --pki-dir")

"""Typed views of the core group (v1).

It is long because the group is: one struct for each part of a Pod, a Node and a Service that code reads.
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType, field

from steersman.types.meta import Condition, KubeObject, View

IntOrString = int | str


class Namespace(KubeObject, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Namespace"
    PLURAL: ClassVar[str] = "namespaces"
    NAMESPACED: ClassVar[bool] = False

    spec: NamespaceSpec = field(default_factory=lambda: NamespaceSpec())
    status: NamespaceStatus = field(default_factory=lambda: NamespaceStatus())


class NamespaceSpec(View, frozen=True):
    finalizers: tuple[str, ...] = ()


class NamespaceStatus(View, frozen=True):
    phase: str = "Active"
    conditions: tuple[Condition, ...] = ()


# --- Node -----------------------------------------------------------------------------------------------------


class Taint(View, frozen=True):
    """effect is NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    effect: str
    value: str = ""
    time_added: str | None = None


class Toleration(View, frozen=True):
    """An empty key with operator Exists tolerates everything; an empty effect, every effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class NodeSpec(View, frozen=True):
    pod_cidr: str = field(default="", name="podCIDR")
    pod_cidrs: tuple[str, ...] = field(default=(), name="podCIDRs")
    provider_id: str = field(default="", name="providerID")
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeAddress(View, frozen=True):
    """type is InternalIP, Hostname, ExternalIP, …"""

    type: str
    address: str


class NodeSystemInfo(View, frozen=True):
    machine_id: str = field(default="", name="machineID")
    system_uuid: str = field(default="", name="systemUUID")
    boot_id: str = field(default="", name="bootID")
    kernel_version: str = ""
    os_image: str = field(default="", name="osImage")
    container_runtime_version: str = ""
    kubelet_version: str = ""
    kube_proxy_version: str = ""
    operating_system: str = ""
    architecture: str = ""


class ContainerImage(View, frozen=True):
    names: tuple[str, ...] = ()
    size_bytes: int = 0


class NodeStatus(View, frozen=True):
    capacity: dict[str, str] = field(default_factory=dict)
    allocatable: dict[str, str] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    addresses: tuple[NodeAddress, ...] = ()
    node_info: NodeSystemInfo = field(default_factory=NodeSystemInfo)
    images: tuple[ContainerImage, ...] = ()


class Node(KubeObject, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Node"
    PLURAL: ClassVar[str] = "nodes"
    NAMESPACED: ClassVar[bool] = False

    spec: NodeSpec = field(default_factory=NodeSpec)
    status: NodeStatus = field(default_factory=NodeStatus)

    @property
    def internal_ip(self) -> str:
        """The address that other hosts reach this node at, or ""."""
        return next((a.address for a in self.status.addresses if a.type == "InternalIP"), "")

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.status.conditions if c.type == kind), None)

    @property
    def ready(self) -> bool:
        condition = self.condition("Ready")
        return condition is not None and condition.status == "True"


# --- Pod: what it should be -------------------------------------------------------------------------------------


class KeyToPath(View, frozen=True):
    key: str
    path: str
    mode: int | None = None


class ConfigMapVolumeSource(View, frozen=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = 0o644
    optional: bool = False


class SecretVolumeSource(View, frozen=True):
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = 0o644
    optional: bool = False


class EmptyDirVolumeSource(View, frozen=True):
    medium: str = ""
    size_limit: str | None = None


class HostPathVolumeSource(View, frozen=True):
    path: str
    type: str = ""


class ObjectFieldSelector(View, frozen=True):
    field_path: str
    api_version: str = "v1"


class ResourceFieldSelector(View, frozen=True):
    resource: str
    container_name: str = ""
    divisor: str = "0"


class DownwardAPIVolumeFile(View, frozen=True):
    path: str
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolumeSource(View, frozen=True):
    items: tuple[DownwardAPIVolumeFile, ...] = ()
    default_mode: int = 0o644


class Volume(View, frozen=True):
    """One of the sources is set; a source that no field stands for here is kept by the store and refused by the agent."""

    name: str
    empty_dir: EmptyDirVolumeSource | None = None
    config_map: ConfigMapVolumeSource | None = None
    secret: SecretVolumeSource | None = None
    host_path: HostPathVolumeSource | None = None
    downward_api: DownwardAPIVolumeSource | None = field(default=None, name="downwardAPI")
    projected: dict[str, Any] | None = None
    persistent_volume_claim: dict[str, Any] | None = None


class VolumeMount(View, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""


class KeySelector(View, frozen=True):
    """A key of a ConfigMap or Secret."""

    key: str
    name: str = ""
    optional: bool = False


class EnvVarSource(View, frozen=True):
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None


class EnvVar(View, frozen=True):
    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvFromRef(View, frozen=True):
    name: str = ""
    optional: bool = False


class EnvFromSource(View, frozen=True):
    prefix: str = ""
    config_map_ref: EnvFromRef | None = None
    secret_ref: EnvFromRef | None = None


class ContainerPort(View, frozen=True):
    container_port: int
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0
    host_ip: str = field(default="", name="hostIP")


class ResourceRequirements(View, frozen=True):
    """Quantities by resource name ("cpu", "memory", …); `steersman.quantity` reads them."""

    limits: dict[str, IntOrString] = field(default_factory=dict)
    requests: dict[str, IntOrString] = field(default_factory=dict)


class ExecAction(View, frozen=True):
    command: tuple[str, ...] = ()


class HTTPHeader(View, frozen=True):
    name: str
    value: str


class HTTPGetAction(View, frozen=True):
    port: IntOrString
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPSocketAction(View, frozen=True):
    port: IntOrString
    host: str = ""


class GRPCAction(View, frozen=True):
    port: int
    service: str = ""


class Probe(View, frozen=True):
    """Seconds throughout; defaults as published."""

    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class LifecycleHandler(View, frozen=True):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    sleep: dict[str, int] | None = None


class Lifecycle(View, frozen=True):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None


class Capabilities(View, frozen=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(View, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    privileged: bool = False
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities | None = None


class PodSecurityContext(View, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    sysctls: tuple[dict[str, str], ...] = ()


class Container(View, frozen=True):
    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    resources: ResourceRequirements = field(default_factory=ResourceRequirements)
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    image_pull_policy: str = ""
    security_context: SecurityContext | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    restart_policy: str | None = None  # "Always" on an init container makes it a sidecar (KEP-753)


class NodeSelectorRequirement(View, frozen=True):
    """operator is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class NodeSelectorTerm(View, frozen=True):
    match_expressions: tuple[NodeSelectorRequirement, ...] = ()
    match_fields: tuple[NodeSelectorRequirement, ...] = ()


class NodeSelector(View, frozen=True):
    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class PreferredSchedulingTerm(View, frozen=True):
    weight: int
    preference: NodeSelectorTerm


class NodeAffinity(View, frozen=True):
    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: tuple[PreferredSchedulingTerm, ...] = ()


class Affinity(View, frozen=True):
    node_affinity: NodeAffinity | None = None
    pod_affinity: dict[str, Any] | None = None
    pod_anti_affinity: dict[str, Any] | None = None


class TopologySpreadConstraint(View, frozen=True):
    max_skew: int
    topology_key: str
    when_unsatisfiable: str
    label_selector: dict[str, Any] | None = None
    min_domains: int | None = None


class LocalObjectReference(View, frozen=True):
    name: str = ""


class PodDNSConfigOption(View, frozen=True):
    name: str = ""
    value: str | None = None


class PodDNSConfig(View, frozen=True):
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[PodDNSConfigOption, ...] = ()


class HostAlias(View, frozen=True):
    ip: str
    hostnames: tuple[str, ...] = ()


class PodReadinessGate(View, frozen=True):
    condition_type: str


class PodSpec(View, frozen=True):
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    node_name: str = ""
    node_selector: dict[str, str] = field(default_factory=dict)
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] = ()
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = ()
    scheduler_name: str = "default-scheduler"
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    enable_service_links: bool = True
    dns_policy: str = "ClusterFirst"
    dns_config: PodDNSConfig | None = None
    hostname: str = ""
    subdomain: str = ""
    host_aliases: tuple[HostAlias, ...] = ()
    host_network: bool = False
    host_pid: bool = field(default=False, name="hostPID")
    host_ipc: bool = field(default=False, name="hostIPC")
    share_process_namespace: bool = False
    set_hostname_as_fqdn: bool = field(default=False, name="setHostnameAsFQDN")
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    security_context: PodSecurityContext | None = None
    priority: int = 0
    priority_class_name: str = ""
    preemption_policy: str = "PreemptLowerPriority"
    readiness_gates: tuple[PodReadinessGate, ...] = ()
    overhead: dict[str, IntOrString] = field(default_factory=dict)


# --- Pod: what it is --------------------------------------------------------------------------------------------


class ContainerStateWaiting(View, frozen=True):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(View, frozen=True):
    started_at: str = ""


class ContainerStateTerminated(View, frozen=True, omit_defaults=False):
    """`signal`, `message` and `container_id` are left out of the document when unset."""

    exit_code: int
    reason: str = ""
    message: str | UnsetType = UNSET
    signal: int | UnsetType = UNSET
    started_at: str | None = None
    finished_at: str | None = None
    container_id: str | UnsetType = field(default=UNSET, name="containerID")


class ContainerState(View, frozen=True):
    """At most one is set."""

    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(View, frozen=True, omit_defaults=False):
    name: str
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = field(default="", name="imageID")
    container_id: str | UnsetType = field(default=UNSET, name="containerID")
    state: ContainerState = field(default_factory=ContainerState)
    last_state: ContainerState = field(default_factory=ContainerState)
    started: bool | UnsetType = UNSET


class PodIP(View, frozen=True):
    ip: str = ""


class HostIP(View, frozen=True):
    ip: str = ""


class PodStatus(View, frozen=True):
    """Written by the node's agent alone, but for PodScheduled (scheduler) and DisruptionTarget (who disrupts)."""

    phase: str = "Pending"
    conditions: tuple[Condition, ...] = ()
    message: str = ""
    reason: str = ""
    host_ip: str = field(default="", name="hostIP")
    host_ips: tuple[HostIP, ...] = field(default=(), name="hostIPs")
    pod_ip: str = field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = field(default=(), name="podIPs")
    start_time: str | None = None
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    qos_class: str = ""
    nominated_node_name: str = ""
    observed_generation: int = 0


class Pod(KubeObject, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Pod"
    PLURAL: ClassVar[str] = "pods"

    spec: PodSpec = field(default_factory=PodSpec)
    status: PodStatus = field(default_factory=PodStatus)

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.status.conditions if c.type == kind), None)

    @property
    def ready(self) -> bool:
        condition = self.condition("Ready")
        return condition is not None and condition.status == "True"

    @property
    def finished(self) -> bool:
        """Whether the pod ran to its end and will never run again."""
        return self.status.phase in ("Succeeded", "Failed")


class PodTemplateSpec(View, frozen=True):
    """A pod to be: metadata (labels, annotations) and spec."""

    metadata: TemplateMeta = field(default_factory=lambda: TemplateMeta())
    spec: PodSpec = field(default_factory=PodSpec)


class TemplateMeta(View, frozen=True):
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


# --- Service, ConfigMap, Secret, Event --------------------------------------------------------------------------


class ServicePort(View, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: IntOrString = 0  # 0 or absent: the same as `port`; a string names a container port
    node_port: int = 0
    app_protocol: str | None = None


class ClientIPConfig(View, frozen=True):
    timeout_seconds: int = 10800


class SessionAffinityConfig(View, frozen=True):
    client_ip: ClientIPConfig | None = field(default=None, name="clientIP")


class ServiceSpec(View, frozen=True):
    type: str = "ClusterIP"
    selector: dict[str, str] = field(default_factory=dict)
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = field(default="", name="clusterIP")  # "None": headless
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    external_ips: tuple[str, ...] = field(default=(), name="externalIPs")
    external_name: str = ""
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    publish_not_ready_addresses: bool = False
    internal_traffic_policy: str = "Cluster"
    external_traffic_policy: str = ""
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str = ""


class Service(KubeObject, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Service"
    PLURAL: ClassVar[str] = "services"

    spec: ServiceSpec = field(default_factory=ServiceSpec)

    @property
    def headless(self) -> bool:
        return self.spec.cluster_ip == "None"


class ConfigMap(KubeObject, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "ConfigMap"
    PLURAL: ClassVar[str] = "configmaps"

    data: dict[str, str] = field(default_factory=dict)
    binary_data: dict[str, str] = field(default_factory=dict)  # base64
    immutable: bool = False


class Secret(KubeObject, frozen=True):
    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Secret"
    PLURAL: ClassVar[str] = "secrets"

    data: dict[str, str] = field(default_factory=dict)  # base64
    type: str = "Opaque"
    immutable: bool = False


class ObjectReference(View, frozen=True):
    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""


class EventSource(View, frozen=True):
    component: str = ""
    host: str = ""


class Event(KubeObject, frozen=True):
    """type is Normal or Warning. The same event seen again raises `count` and `last_timestamp`."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Event"
    PLURAL: ClassVar[str] = "events"

    involved_object: ObjectReference = field(default_factory=ObjectReference)
    reason: str = ""
    message: str = ""
    type: str = "Normal"
    source: EventSource = field(default_factory=EventSource)
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    count: int = 0
    reporting_component: str = ""
    reporting_instance: str = ""
    action: str = ""

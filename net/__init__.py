"""The pod network of one host, as the node agent uses it.

The agent makes one `PodNetwork`, starts it when the gateway has told it the node's pod range, attaches a pod's network
namespace before the pod's containers start, and hands over its view of the cluster after every change. Everything acts
in the network namespace that the process is in. The cluster's DNS server is part of it: `start` runs it on
`HostNetwork.dns_ip` and `sync` feeds it, the agent need not.

    network = PodNetwork(HostNetwork(node_name="node-1", host_ip="172.29.0.101"), clock)
    await network.start("10.244.1.0/24")
    allocation = Ipam("10.244.1.0/24").allocate(pod.uid, used)        # used: {uid: address} of the pods held here
    await network.attach(pod.uid, "/…/netns/…", allocation.address)   # once more after a restart: harmless
    await network.retain(live_uids)                                   # after a restart: reclaims what nobody owns
    await network.sync(NetworkView(nodes, services, endpoint_slices, namespaces))
    await network.detach(pod.uid)
    await network.stop()                                              # leave_pods=True (default): pods keep their network

`service_environment` gives a pod's environment variables for discovery (docker-link and SERVICE_HOST forms).
"""

from __future__ import annotations

from net.environment import service_environment
from net.ipam import Allocation, Ipam
from net.links import NetworkError
from net.network import PodNetwork
from net.view import HostNetwork, NetworkView

__all__ = [
    "Allocation",
    "HostNetwork",
    "Ipam",
    "NetworkError",
    "NetworkView",
    "PodNetwork",
    "service_environment",
]

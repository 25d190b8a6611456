from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from net.service import NO_RULES, ServiceTable, fingerprint, rules_of, targets_of
from steersman.types import EndpointSlice, Service

DNS_IP = "10.96.0.10"


def make_service(name="web", cluster_ip="10.96.0.7", **spec):
    ports = spec.pop("ports", [{"name": "http", "port": 80}])
    return Service.from_dict(
        {"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": cluster_ip, "ports": ports, **spec}}
    )


def make_slice(endpoints, port=8080, name="http", protocol="TCP"):
    """Endpoints are addresses, or dictionaries."""
    written = [{"addresses": [e], "conditions": {"ready": True}} if isinstance(e, str) else e for e in endpoints]
    return EndpointSlice.from_dict(
        {
            "metadata": {"name": "x", "namespace": "default"},
            "addressType": "IPv4",
            "ports": [{"name": name, "port": port, "protocol": protocol}],
            "endpoints": written,
        }
    )


def rules(service, *slices):
    return rules_of(service, slices, node_name="node-1", pod_cidr="10.244.1.0/24", dns_ip=DNS_IP)


def only_chain(found):
    ((_, lines),) = found.chains.items()
    return lines


def test_a_port_leads_to_its_endpoints_at_random():
    found = rules(make_service(), make_slice(["10.244.2.9", "10.244.1.5"]))
    assert only_chain(found) == (
        "meta l4proto 6 dnat ip to numgen random mod 2 map { 0 : 10.244.1.5 . 8080, 1 : 10.244.2.9 . 8080 }",
    )
    assert found.claims["services", "10.96.0.7 . 6 . 80"].startswith("goto service-default/web/6/80-")
    assert ("hairpin", "10.244.1.5 . 10.244.1.5") in found.claims
    assert ("hairpin", "10.244.2.9 . 10.244.2.9") not in found.claims


def test_each_port_has_its_own_endpoints_by_name_and_protocol():
    ports = [{"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53}]
    found = rules(
        make_service(ports=ports),
        make_slice(["10.244.1.5"], 5353, "a", "UDP"),
        make_slice(["10.244.1.6"], 5354, "b"),
    )
    assert found.targets == {(17, "10.244.1.5", 5353), (6, "10.244.1.6", 5354)}


def test_endpoints_that_are_not_ready_get_nothing_unless_they_are_the_last_that_serve():
    unready = {"addresses": ["10.244.1.6"], "conditions": {"ready": False}}
    leaving = {"addresses": ["10.244.1.7"], "conditions": {"ready": False, "serving": True, "terminating": True}}
    unknown = {"addresses": ["10.244.1.8"]}
    port = make_service().spec.ports[0]

    def chosen(*endpoints):
        return [target.address for target in targets_of(port, [make_slice(endpoints)], "node-1")]

    assert chosen(unready, leaving, unknown) == ["10.244.1.8"]
    assert chosen(unready, leaving) == ["10.244.1.7"]
    assert chosen(unready) == []


def test_no_endpoints_no_rules_but_external_addresses_are_refused():
    found = rules(make_service(externalIPs=["192.0.2.1"]))
    assert found.chains == {}
    assert found.claims == {("refused", "192.0.2.1 . 6 . 80"): ""}


def test_services_that_no_packet_is_sent_to_have_no_rules():
    endpoints = make_slice(["10.244.1.5"])
    assert rules(None, endpoints) == NO_RULES
    assert rules(make_service(cluster_ip="None"), endpoints) == NO_RULES
    assert rules(make_service(cluster_ip="", type="ExternalName", externalName="example.org"), endpoints) == NO_RULES
    assert not rules(make_service(cluster_ip=DNS_IP), endpoints).claims.keys() & {("services", f"{DNS_IP} . 6 . 80")}


def test_local_traffic_policies_keep_to_this_node():
    here = {"addresses": ["10.244.1.5"], "nodeName": "node-1"}
    there = {"addresses": ["10.244.2.5"], "nodeName": "node-2"}
    inside = rules(make_service(internalTrafficPolicy="Local"), make_slice([here, there]))
    assert inside.targets == {(6, "10.244.1.5", 8080)}
    outside = rules(
        make_service(externalTrafficPolicy="Local", ports=[{"name": "http", "port": 80, "nodePort": 30080}]),
        make_slice([here, there]),
    )
    chain = outside.claims["nodeports", "6 . 30080"].removeprefix("goto ")
    assert outside.chains[chain][0].startswith("meta mark set")
    assert "10.244.2.5" not in "".join(outside.chains[chain])
    assert outside.targets == {(6, "10.244.1.5", 8080), (6, "10.244.2.5", 8080)}


def test_affinity_remembers_clients_by_endpoint():
    config = {"clientIP": {"timeoutSeconds": 600}}
    service = make_service(sessionAffinity="ClientIP", sessionAffinityConfig=config)
    both = rules(service, make_slice(["10.244.1.5", "10.244.1.6"]))
    one = rules(service, make_slice(["10.244.1.6"]))
    assert set(both.sets.values()) == {600}
    assert one.sets.items() < both.sets.items(), "an endpoint that stays keeps its clients"


def test_nonsense_in_objects_reaches_no_rule():
    bad = make_slice([{"addresses": ["10.244.1.5 ; flush ruleset"]}, {"addresses": []}, "10.244.1.6"])
    assert rules(make_service(), bad).targets == {(6, "10.244.1.6", 8080)}
    assert rules(make_service(), make_slice(["10.244.1.6"], port=70000)) == NO_RULES
    assert rules(make_service(ports=[{"name": "http", "port": 80, "protocol": "GOSSIP"}])) == NO_RULES
    strange = rules(make_service(name="a b{};"), make_slice(["10.244.1.6"]))
    assert not set(" {};") & set(next(iter(strange.chains)))


class Kernel:
    """As much of nftables as the commands use, with its rules about what may be deleted when."""

    def __init__(self):
        self.chains, self.sets, self.elements = {}, set(), {}

    def run(self, commands):
        for command in commands:
            verb, kind, _, _, rest = command.split(" ", 4)
            getattr(self, f"{verb}_{kind}")(rest)
        for name, lines in self.chains.items():
            for line in lines:
                for word in line.replace(",", " ").split():
                    assert not word.startswith("@") or word[1:] in self.sets, f"{name} uses {word}"
        used = {word for lines in self.chains.values() for line in lines for word in line.replace(",", " ").split()}
        targets = {value.removeprefix("goto ") for value in self.elements.values() if value}
        assert targets <= set(self.chains)
        assert {word for word in used if word.startswith("endpoint-")} <= set(self.chains)

    def add_chain(self, name):
        self.chains.setdefault(name, [])

    def flush_chain(self, name):
        self.chains[name] = []

    def delete_chain(self, name):
        assert not self.chains.pop(name)
        assert f"goto {name}" not in self.elements.values()
        assert not any(f"goto {name} " in f"{line} " for lines in self.chains.values() for line in lines)

    def add_set(self, rest):
        name = rest.split()[0]
        assert name not in self.sets
        self.sets.add(name)

    def delete_set(self, name):
        assert not any(f"@{name} " in f"{line} " for lines in self.chains.values() for line in lines)
        self.sets.remove(name)

    def add_rule(self, rest):
        name, rule = rest.split(" ", 1)
        rule, comment = rule.rsplit(' comment "', 1)
        assert comment == f'{fingerprint(rule)}"'
        self.chains[name].append(rule)

    def _elements(self, rest):
        container, inner = rest.split(" ", 1)
        for element in inner.strip("{} ").split(", "):
            key, _, value = element.partition(" : ")
            yield (container, key), value

    def add_element(self, rest):
        for claim, value in self._elements(rest):
            assert claim not in self.elements, f"{claim} is there already"
            self.elements[claim] = value

    def delete_element(self, rest):
        for claim, _ in self._elements(rest):
            del self.elements[claim]

    def content(self):
        return {name: tuple(lines) for name, lines in self.chains.items()}, self.sets, self.elements


addresses = st.lists(st.integers(2, 6).map("10.244.1.{}".format), max_size=4, unique=True)
some_service = st.one_of(
    st.none(),
    st.builds(
        lambda ip, sticky, seconds, node_port, external, endpoints: (
            ip,
            sticky,
            seconds,
            node_port,
            external,
            endpoints,
        ),
        st.sampled_from(["10.96.0.7", "10.96.0.8"]),
        st.booleans(),
        st.sampled_from([60, 90]),
        st.sampled_from([0, 30080]),
        st.sampled_from([[], ["192.0.2.1"]]),
        addresses,
    ),
)


def drawn_rules(name, drawn):
    if drawn is None:
        return NO_RULES
    cluster_ip, sticky, seconds, node_port, external, endpoints = drawn
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}
    service = make_service(
        name,
        cluster_ip,
        ports=[{"name": "http", "port": 80, "nodePort": node_port}],
        externalIPs=external,
        **(affinity if sticky else {}),
    )
    return rules(service, make_slice(endpoints))


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), some_service, min_size=1), max_size=6))
def test_any_course_of_changes_leaves_the_kernel_as_if_all_were_written_at_once(course):
    kernel, table = Kernel(), ServiceTable()
    for step in course:
        kernel.run(table.apply({key: drawn_rules(key, drawn) for key, drawn in step.items()}).commands)
    whole = Kernel()
    whole.run(table.everything())
    assert kernel.content() == whole.content()
    assert kernel.elements == table.elements


def test_a_change_of_endpoints_writes_only_its_own_chain():
    table = ServiceTable()
    table.apply(
        {f"default/s{n}": rules(make_service(f"s{n}", f"10.96.1.{n}"), make_slice(["10.244.1.5"])) for n in range(9)}
    )
    change = table.apply({"default/s3": rules(make_service("s3", "10.96.1.3"), make_slice(["10.244.2.5"]))})
    assert all("default/s3" in command for command in change.commands)
    assert len(change.commands) == 3
    assert change.dropped == frozenset(), "eight others still send to 10.244.1.5"
    assert table.apply({"default/s3": NO_RULES}).dropped == {(6, "10.244.2.5", 8080)}

"""One lab of three members and three nodes for all end-to-end tests, under its own name and ports; gone afterwards.

Files run in the order of `ORDER`: what only looks first, what destroys last. With STEERSMAN_E2E_STORE=etcd the lab's control
plane is on etcd; what is about the embedded store's own disk is left out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cgroups, segment
from steersman.clock import SystemEntropy
from tests.e2e.raised import Lab, own_topology

ORDER = (
    "test_main_job",
    "test_containers",
    "test_network",
    "test_sdk_readme",
    "test_refusals",
    "test_history",
    "test_faults",
    "test_etcd_store",
    "test_lab_command",
)
HERE = Path(__file__).parent
STORE = os.environ.get("STEERSMAN_E2E_STORE", "embedded")
EMBEDDED_ONLY = (  # about the members' own disks and logs
    "test_secrets_are_on_no_disk_and_their_key_can_be_changed",
    "test_a_member_without_disk_space_steps_down_says_so_and_comes_back",
)

if os.geteuid() != 0:
    collect_ignore_glob = ["test_*"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if item.path.parent == HERE]
    own.sort(key=lambda item: ORDER.index(item.path.stem))
    for item in own:
        if STORE != "embedded" and item.name in EMBEDDED_ONLY:
            item.add_marker(pytest.mark.skip(reason="this is about the embedded store"))
    ordered = iter(own)
    items[:] = [next(ordered) if item.path.parent == HERE else item for item in items]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab, raised once; taking it down must leave nothing, whatever the tests did to it."""
    kept = tmp_path_factory.mktemp("steersman")
    raised = Lab(own_topology("e", 3, 3, STORE), kept / "config.yaml")
    try:
        raised.up()
        yield raised
    finally:
        for log in raised.topology.directory.glob("hosts/*/log"):  # for whoever looks into a failure
            shutil.copytree(log, kept / log.parent.name)
        raised.down()
    name = raised.topology.name
    assert segment.namespaces(name) == []
    assert cgroups.processes(raised.topology.cgroup) == []
    assert not raised.topology.directory.exists()


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace of the test's own; what is in it goes with it."""
    name = f"test-{SystemEntropy().token(6)}"
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    lab.client.delete("namespaces", name)

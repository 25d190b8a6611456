from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from node.pods import termination
from node.pods.credentials import pull_auths
from node.pods.spec import key_of, log_file, message_file, security
from node.runtime.interface import Exit
from steersman.types import Pod, Secret


def docker_config(**entries: dict[str, str]) -> dict[str, str]:
    return {".dockerconfigjson": base64.b64encode(msgspec.json.encode({"auths": entries})).decode()}


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("registry.lab/app:1", "registry.lab"),
        ("localhost:5000/app", "http://localhost:5000"),
        ("busybox", "https://index.docker.io/v1/"),
        ("library/busybox", "docker.io"),
    ],
)
def test_credentials_are_those_of_the_images_registry(pod: Any, image: str, registry: str) -> None:
    encoded = base64.b64encode(b"me:secret").decode()
    data = docker_config(**{registry: {"auth": encoded}, "other.example": {"username": "x", "password": "y"}})
    secret = Secret.from_dict({"metadata": {"name": "pull", "namespace": "default"}, "data": data})
    found = Pod.from_dict(pod(imagePullSecrets=[{"name": "pull"}, {"name": "absent"}]))
    (auth,) = pull_auths(found, image, {secret.key: secret})
    assert (auth.username, auth.password) == ("me", "secret")


def test_a_secret_that_is_none_gives_nothing(pod: Any) -> None:
    data = {".dockerconfigjson": "bm90IGpzb24="}
    secret = Secret.from_dict({"metadata": {"name": "pull", "namespace": "default"}, "data": data})
    found = Pod.from_dict(pod(imagePullSecrets=[{"name": "pull"}]))
    assert pull_auths(found, "busybox", {secret.key: secret}) == []


def test_the_containers_security_goes_over_the_pods(pod: Any) -> None:
    own = {"runAsUser": 1, "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False}
    whole = {"runAsUser": 2, "runAsGroup": 3, "fsGroup": 4, "supplementalGroups": [5], "runAsNonRoot": True}
    found = Pod.from_dict(pod(securityContext=whole, containers=[{"name": "c", "securityContext": own}]))
    merged = security(found, found.spec.containers[0])
    assert (merged.run_as_user, merged.run_as_group, merged.run_as_non_root) == (1, 3, True)
    assert merged.supplemental_groups == (5, 4)
    assert merged.drop_capabilities == ("ALL",)
    assert not merged.allow_privilege_escalation


async def test_a_termination_message_comes_from_the_file_else_from_the_log_of_a_failure(node: Any, pod: Any) -> None:
    policy = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    found = Pod.from_dict(pod(containers=[{"name": "c", **policy}]))
    container, now = found.spec.containers[0], node.time.clock.now()
    key = key_of(found, "c", 2)
    log = log_file(node.host, key)
    log.parent.mkdir(parents=True)
    log.write_bytes(b"2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P two\n")
    assert termination.message(node.host, container, key, Exit(0, "Completed", now)) == ""
    assert termination.message(node.host, container, key, Exit(1, "Error", now)) == "one\ntwo"
    path = message_file(node.host, key)
    path.parent.mkdir(parents=True)
    path.write_text("because" + "." * 5000)
    assert termination.message(node.host, container, key, Exit(1, "Error", now)).startswith("because")
    assert len(termination.message(node.host, container, key, Exit(1, "Error", now))) == 4096
    for attempt in (0, 1):
        (log.parent / f"{attempt}.log").touch()
    termination.forget_old_logs(node.host, key)
    assert sorted(p.name for p in log.parent.iterdir()) == ["1.log", "2.log"]

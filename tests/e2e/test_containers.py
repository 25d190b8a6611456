"""One pod at a time: what its containers see, how they end, and what is said when they cannot start."""

from __future__ import annotations

import base64
import json
import re

from steersman.types import Event, Pod
from tests.e2e.raised import BUSYBOX, Lab, eventually, pod

MIB = 1 << 20


def only_status(found: Pod):
    (status,) = found.status.container_statuses
    return status


def test_config_and_secret_reach_env_and_files_and_files_follow_changes(lab: Lab, namespace: str) -> None:
    secret = base64.b64encode(b"hush").decode()
    container = {
        "env": [
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
            {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "word"}}},
            {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "GREETING", "value": "$(ME) likes $(COLOUR)"},
        ],
        "volumeMounts": [
            {"name": "settings", "mountPath": "/settings"},
            {"name": "hidden", "mountPath": "/hidden", "readOnly": True},
        ],
        "workingDir": "/settings",
    }
    volumes = [
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "hidden", "secret": {"secretName": "hidden"}},
    ]
    lab.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"colour": "green"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "data": {"word": secret}},
        pod("reader", volumes=volumes, container=container),
        namespace=namespace,
    )
    lab.wait_ready(namespace, "reader")
    told = lab.in_pod(
        namespace, "reader", "echo $GREETING $WORD; pwd; cat colour /hidden/word; df -T /hidden | tail -n 1"
    )
    assert told.startswith("reader likes green hush\n/settings\ngreenhush")
    assert "tmpfs" in told, "secrets are kept in memory"
    assert "Read-only" in lab.run("exec", "-n", namespace, "reader", "--", "touch", "/hidden/mine").stderr

    lab.client.patch("configmaps", "settings", {"data": {"colour": "blue", "shape": "round"}}, namespace)
    lab.client.patch("secrets", "hidden", {"data": {"word": base64.b64encode(b"louder").decode()}}, namespace)
    now = "cat /settings/colour /settings/shape /hidden/word"
    eventually(
        lambda: lab.in_pod(namespace, "reader", now) == "blueroundlouder", "the files follow the objects", 20, every=0.3
    )
    assert only_status(lab.client.get(Pod, "reader", namespace)).restart_count == 0


def test_containers_of_a_pod_share_network_and_empty_dir(lab: Lab, namespace: str) -> None:
    shared = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    writer = {
        "name": "writer",
        "image": BUSYBOX,
        "command": ["sh", "-c", "echo from writer > /scratch/page; httpd -f -p 8080 -h /scratch"],
        **shared,
    }
    reader = {"name": "reader", "image": BUSYBOX, "command": ["sleep", "3600"], **shared}
    spec = {
        "terminationGracePeriodSeconds": 1,
        "containers": [writer, reader],
        "volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory"}}],
    }
    lab.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "two"}, "spec": spec}, namespace=namespace)
    lab.wait_ready(namespace, "two")
    script = "until timeout 2 wget -q -O - http://localhost:8080/page; do sleep 0.1; done; cat /scratch/page; df -T /scratch | tail -n 1"
    told = lab.steer("exec", "-n", namespace, "two", "-c", "reader", "--", "sh", "-c", script)
    assert told.startswith("from writer\nfrom writer\n")
    assert "tmpfs" in told


def test_limits_are_the_cgroups(lab: Lab, namespace: str) -> None:
    resources = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "250m", "memory": "48Mi"}}
    lab.apply(pod("limited", node="node-1", container={"resources": resources}), namespace=namespace)
    (limited,) = lab.wait_ready(namespace, "limited")
    assert limited.status.qos_class == "Burstable"
    container_id = str(only_status(limited).container_id).rpartition("/")[2]
    script = f"""
        for file in memory.limit_in_bytes memory.max cpu.cfs_quota_us cpu.max cpu.shares; do
            for found in $(find /sys/fs/cgroup -path '*{container_id}*' -name $file); do echo $file $(cat $found); done
        done"""
    values = dict(line.split(" ", 1) for line in lab.on("node-1", script).splitlines())
    assert values.get("memory.limit_in_bytes", values.get("memory.max")) == str(48 * MIB), values
    assert values.get("cpu.cfs_quota_us", values.get("cpu.max", "").split(" ")[0]) == "25000", values


def test_a_container_over_its_memory_limit_is_reported_oom_killed(lab: Lab, namespace: str) -> None:
    lab.apply(
        pod(
            "glutton",
            "exec tail /dev/zero",
            restartPolicy="Never",
            container={"resources": {"limits": {"memory": "16Mi"}}},
        ),
        namespace=namespace,
    )
    ended = lab.client.wait(Pod, "glutton", lambda found: found.finished, namespace, timeout=60)
    terminated = only_status(ended).state.terminated
    assert ended.status.phase == "Failed"
    assert (terminated.reason, terminated.exit_code) == ("OOMKilled", 137)
    assert "OOMKilled" in lab.steer("get", "pods", "-n", namespace)


def test_restart_policies_and_the_cause_of_a_crash_loop(lab: Lab, namespace: str) -> None:
    crash = "echo about to fail; echo out of ink > /dev/termination-log; exit 3"
    lab.apply(
        pod("once", "exit 0", restartPolicy="Never"),
        pod("patient", "[ -e /scratch/tried ] && exit 0; touch /scratch/tried; exit 1", restartPolicy="OnFailure",
            volumes=[{"name": "scratch", "emptyDir": {}}], container={"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}),
        pod("crasher", crash),
        namespace=namespace,
    )  # fmt: skip
    once = lab.client.wait(Pod, "once", lambda found: found.finished, namespace, timeout=30)
    assert (once.status.phase, only_status(once).state.terminated.reason) == ("Succeeded", "Completed")
    patient = lab.client.wait(Pod, "patient", lambda found: found.finished, namespace, timeout=60)
    assert (patient.status.phase, only_status(patient).restart_count) == ("Succeeded", 1)

    def backing_off(found: Pod) -> bool:
        waiting = found.status.container_statuses and only_status(found).state.waiting
        return bool(waiting) and waiting.reason == "CrashLoopBackOff" and only_status(found).restart_count >= 1

    crasher = lab.client.wait(Pod, "crasher", backing_off, namespace, timeout=60)
    status = only_status(crasher)
    last = status.last_state.terminated
    assert (last.exit_code, last.reason, last.message) == (3, "Error", "out of ink\n")
    assert last.started_at
    assert last.finished_at
    assert "back-off" in status.state.waiting.message
    row = next(line for line in lab.steer("get", "pods", "-n", namespace).splitlines() if line.startswith("crasher"))
    assert "CrashLoopBackOff" in row
    assert lab.steer("logs", "-n", namespace, "-p", "crasher") == "about to fail\n"
    told = lab.steer("describe", "-n", namespace, "pod", "crasher")
    assert "out of ink" in told
    assert re.search(r"Exit Code:\s+3", told)


def test_an_image_that_cannot_be_pulled_is_explained_in_the_registrys_words(lab: Lab, namespace: str) -> None:
    lab.apply(
        pod("absent", container={"image": "registry.lab/nobody/nothing:v9"}),
        pod("misspelt", container={"image": "Not A Name"}),
        namespace=namespace,
    )
    reasons: list[str] = []

    def told(found: Pod) -> bool:
        waiting = found.status.container_statuses and only_status(found).state.waiting
        if waiting and waiting.reason not in (*reasons[-1:], "ContainerCreating"):
            reasons.append(waiting.reason)
        return reasons[-1:] == ["ImagePullBackOff"]

    absent = lab.client.wait(Pod, "absent", told, namespace, timeout=60)
    assert reasons == ["ErrImagePull", "ImagePullBackOff"]
    assert "registry.lab/nobody/nothing:v9" in only_status(absent).state.waiting.message
    message = " ".join(
        event.message for event in lab.client.list(Event, namespace) if event.involved_object.name == "absent"
    )
    assert re.search(r"manifest unknown|name unknown|repository name not known|not found", message, re.IGNORECASE), (
        message
    )
    lab.client.wait(
        Pod,
        "misspelt",
        lambda found: (
            bool(found.status.container_statuses) and only_status(found).state.waiting.reason == "InvalidImageName"
        ),
        namespace,
        timeout=30,
    )
    assert "ImagePullBackOff" in lab.steer("get", "pods", "-n", namespace)


def test_a_pod_that_fits_nowhere_says_why_with_numbers(lab: Lab, namespace: str) -> None:
    lab.apply(
        pod("huge", container={"resources": {"requests": {"cpu": "1000"}}}),
        pod("lost", nodeSelector={"disk": "golden"}),
        namespace=namespace,
    )

    def refused(name: str) -> str:
        def told(found: Pod) -> bool:
            condition = found.condition("PodScheduled")
            return condition is not None and condition.reason == "Unschedulable"

        found = lab.client.wait(Pod, name, told, namespace, timeout=20)
        assert found.status.phase == "Pending"
        condition = found.condition("PodScheduled")
        assert condition is not None
        return condition.message

    assert re.match(r"0/3 nodes are available: 3 Insufficient cpu", refused("huge")), refused("huge")
    assert "0/3 nodes are available: 3 node(s) didn't match" in refused("lost")
    assert "FailedScheduling" in lab.steer("describe", "-n", namespace, "pod", "huge")
    lab.steer("label", "node", "node-2", "disk=golden")
    (found,) = lab.wait_ready(namespace, "lost", within=30)
    assert found.spec.node_name == "node-2"
    lab.steer("label", "node", "node-2", "disk-")
    assert "disk" not in json.loads(lab.steer("get", "node", "node-2", "-o", "json"))["metadata"]["labels"]

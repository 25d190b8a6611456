"""Objects are stored as Kubernetes would store them: compared with what a real API server answered."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from control.admission import Config, Request, View, admit
from control.registry import prepare_create
from control.registry.pods.defaults import pull_policy

# Each entry: a manifest, and what `kubectl create -o yaml` showed of it on Kubernetes 1.36 (up to the status, which
# controllers and agents fill in). White space is squeezed and quotes are made equal on both sides.
ANSWERS = {
    "ReplicaSet": (
        """
        apiVersion: apps/v1
        kind: ReplicaSet
        metadata: {name: frontend, labels: {app: guestbook, tier: frontend}}
        spec:
          replicas: 3
          selector: {matchLabels: {tier: frontend}}
          template:
            metadata: {labels: {tier: frontend}}
            spec:
              terminationGracePeriodSeconds: 1
              containers: [{name: php-redis, image: "localhost/busybox:1", command: [sleep, "3600"]}]
        """,
        """
        apiVersion: apps/v1
        kind: ReplicaSet
        metadata:
          creationTimestamp: "TIME"
          generation: 1
          labels:
            app: guestbook
            tier: frontend
          name: frontend
          namespace: ka
          uid: UID
        spec:
          replicas: 3
          selector:
            matchLabels:
              tier: frontend
          template:
            metadata:
              labels:
                tier: frontend
            spec:
              containers:
              - command:
                - sleep
                - "3600"
                image: localhost/busybox:1
                imagePullPolicy: IfNotPresent
                name: php-redis
                resources: {}
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              dnsPolicy: ClusterFirst
              restartPolicy: Always
              schedulerName: default-scheduler
              securityContext: {}
              terminationGracePeriodSeconds: 1
        """,
    ),
    "Deployment": (
        """
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: nginx-deployment, labels: {app: nginx}}
        spec:
          replicas: 3
          selector: {matchLabels: {app: nginx}}
          template:
            metadata: {labels: {app: nginx}}
            spec:
              terminationGracePeriodSeconds: 1
              containers:
              - {name: nginx, image: "localhost/busybox:1", command: [sleep, "3600"], ports: [{containerPort: 80}]}
        """,
        """
        apiVersion: apps/v1
        kind: Deployment
        metadata:
          creationTimestamp: "TIME"
          generation: 1
          labels:
            app: nginx
          name: nginx-deployment
          namespace: ka
          uid: UID
        spec:
          progressDeadlineSeconds: 600
          replicas: 3
          revisionHistoryLimit: 10
          selector:
            matchLabels:
              app: nginx
          strategy:
            rollingUpdate:
              maxSurge: 25%
              maxUnavailable: 25%
            type: RollingUpdate
          template:
            metadata:
              labels:
                app: nginx
            spec:
              containers:
              - command:
                - sleep
                - "3600"
                image: localhost/busybox:1
                imagePullPolicy: IfNotPresent
                name: nginx
                ports:
                - containerPort: 80
                  protocol: TCP
                resources: {}
                terminationMessagePath: /dev/termination-log
                terminationMessagePolicy: File
              dnsPolicy: ClusterFirst
              restartPolicy: Always
              schedulerName: default-scheduler
              securityContext: {}
              terminationGracePeriodSeconds: 1
        """,
    ),
    "Service with its address": (
        """
        apiVersion: v1
        kind: Service
        metadata: {name: my-service}
        spec:
          clusterIP: 10.96.0.7
          clusterIPs: [10.96.0.7]
          ipFamilies: [IPv4]
          ipFamilyPolicy: SingleStack
          selector: {app: MyApp}
          ports: [{protocol: TCP, port: 80, targetPort: 9376}]
        """,
        """
        apiVersion: v1
        kind: Service
        metadata:
          creationTimestamp: "TIME"
          name: my-service
          namespace: ka
          uid: UID
        spec:
          clusterIP: 10.96.0.7
          clusterIPs:
          - 10.96.0.7
          internalTrafficPolicy: Cluster
          ipFamilies:
          - IPv4
          ipFamilyPolicy: SingleStack
          ports:
          - port: 80
            protocol: TCP
            targetPort: 9376
          selector:
            app: MyApp
          sessionAffinity: None
          type: ClusterIP
        """,
    ),
    "Service on node ports": (
        """
        apiVersion: v1
        kind: Service
        metadata: {name: my-np-service}
        spec:
          type: NodePort
          clusterIP: 10.96.0.7
          clusterIPs: [10.96.0.7]
          ipFamilies: [IPv4]
          ipFamilyPolicy: SingleStack
          selector: {app: products, department: sales}
          ports: [{protocol: TCP, port: 80, targetPort: 8080, nodePort: 31000}]
        """,
        """
        apiVersion: v1
        kind: Service
        metadata:
          creationTimestamp: "TIME"
          name: my-np-service
          namespace: ka
          uid: UID
        spec:
          clusterIP: 10.96.0.7
          clusterIPs:
          - 10.96.0.7
          externalTrafficPolicy: Cluster
          internalTrafficPolicy: Cluster
          ipFamilies:
          - IPv4
          ipFamilyPolicy: SingleStack
          ports:
          - nodePort: 31000
            port: 80
            protocol: TCP
            targetPort: 8080
          selector:
            app: products
            department: sales
          sessionAffinity: None
          type: NodePort
        """,
    ),
    "ConfigMap": (
        """
        apiVersion: v1
        kind: ConfigMap
        metadata: {name: database-config}
        data:
          database_URL: "192.168.100.1/database"
          database_port: "3306"
        """,
        """
        apiVersion: v1
        data:
          database_URL: 192.168.100.1/database
          database_port: "3306"
        kind: ConfigMap
        metadata:
          creationTimestamp: "TIME"
          name: database-config
          namespace: ka
          uid: UID
        """,
    ),
    "Namespace": (
        """
        apiVersion: v1
        kind: Namespace
        metadata: {name: ka-x}
        """,
        """
        apiVersion: v1
        kind: Namespace
        metadata:
          creationTimestamp: "TIME"
          labels:
            kubernetes.io/metadata.name: ka-x
          name: ka-x
          uid: UID
        spec:
          finalizers:
          - kubernetes
        """,
    ),
}


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("'", '"')).strip()


@pytest.mark.parametrize("name", ANSWERS)
def test_defaults_are_kubernetes(client: Any, name: str) -> None:
    manifest, answer = ANSWERS[name]
    document = client.create(yaml.safe_load(manifest))
    document.pop("status", None)
    document["metadata"].pop("resourceVersion")
    document["metadata"].update(creationTimestamp="TIME", uid="UID")
    assert squeezed(yaml.safe_dump(document).replace("TIME", '"TIME"')) == squeezed(answer)


def test_a_pod_gets_what_kubernetes_gives_it(client: Any) -> None:
    """What the API server answered for the two-container pod of the lecture notes, but for its token volume."""
    container = {
        "command": ["sleep", "3600"],
        "image": "localhost/busybox:1",
        "imagePullPolicy": "IfNotPresent",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    resource, document, _ = client.decode(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "test-tomcat-pod"},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "t",
                        "image": "localhost/busybox:1",
                        "command": ["sleep", "3600"],
                        "ports": [{"containerPort": 8080}],
                    },
                    {
                        "name": "m",
                        "image": "localhost/busybox:1",
                        "command": ["sleep", "3600"],
                        "ports": [{"containerPort": 3306}],
                    },
                ],
            },
        }
    )
    view = View({"metadata": {"name": "ka"}}, Config(not_ready_seconds=300, unreachable_seconds=300))
    admit(Request("CREATE", resource, document), view)
    prepare_create(resource, document, client.context)
    assert document["spec"] == {
        "containers": [
            {**container, "name": "t", "ports": [{"containerPort": 8080, "protocol": "TCP"}]},
            {**container, "name": "m", "ports": [{"containerPort": 3306, "protocol": "TCP"}]},
        ],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "serviceAccount": "default",
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 1,
        "tolerations": [
            {"effect": "NoExecute", "key": f"node.kubernetes.io/{why}", "operator": "Exists", "tolerationSeconds": 300}
            for why in ("not-ready", "unreachable")
        ],
    }
    assert document["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


def test_every_source_of_a_pods_volumes_gets_its_defaults(client: Any, pod: Any) -> None:
    pod["spec"]["volumes"] = [
        {"name": "a", "configMap": {"name": "x"}},
        {"name": "b", "secret": {"secretName": "x"}},
        {"name": "c", "hostPath": {"path": "/x"}},
        {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "e", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        {"name": "f", "emptyDir": {}},
        {"name": "g"},
    ]
    pod["spec"]["containers"][0] |= {
        "readinessProbe": {"exec": {"command": ["a"]}, "periodSeconds": 3},
        "livenessProbe": {"httpGet": {"port": 80}},
        "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
        "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"limits": {"cpu": 1, "memory": "1G"}},
    }
    spec = client.create(pod)["spec"]
    assert spec["volumes"] == [
        {"name": "a", "configMap": {"name": "x", "defaultMode": 420}},
        {"name": "b", "secret": {"secretName": "x", "defaultMode": 420}},
        {"name": "c", "hostPath": {"path": "/x", "type": ""}},
        {
            "name": "d",
            "downwardAPI": {
                "defaultMode": 420,
                "items": [{"path": "l", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}}],
            },
        },
        {
            "name": "e",
            "projected": {
                "defaultMode": 420,
                "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}],
            },
        },
        {"name": "f", "emptyDir": {}},
        {"name": "g", "emptyDir": {}},
    ]
    (container,) = spec["containers"]
    assert container["readinessProbe"] == {
        "exec": {"command": ["a"]},
        "periodSeconds": 3,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["livenessProbe"]["httpGet"] == {"port": 80, "path": "/", "scheme": "HTTP"}
    assert container["lifecycle"]["preStop"]["httpGet"] == {"port": 80, "path": "/", "scheme": "HTTP"}
    assert container["env"][0]["valueFrom"]["fieldRef"] == {"fieldPath": "spec.nodeName", "apiVersion": "v1"}
    assert container["resources"] == {"limits": {"cpu": "1", "memory": "1G"}, "requests": {"cpu": "1", "memory": "1G"}}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("x", "Always"),
        ("x:latest", "Always"),
        ("x:1", "IfNotPresent"),
        ("registry:5000/x", "Always"),
        ("registry:5000/x:1", "IfNotPresent"),
        ("x@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)
def test_only_latest_is_always_pulled(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_host_network_publishes_the_ports_of_containers(client: Any, pod: Any) -> None:
    pod["spec"]["hostNetwork"] = True
    assert client.create(pod)["spec"]["containers"][0]["ports"] == [
        {"containerPort": 80, "hostPort": 80, "protocol": "TCP"}
    ]


def test_secret_text_is_kept_as_base64_and_wins(client: Any) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "data": {"a": "eA=="},
        "stringData": {"a": "y"},
    }
    document = client.create(secret)
    assert (document["data"], document["type"]) == ({"a": "eQ=="}, "Opaque")
    assert "stringData" not in document


def test_defaulting_twice_changes_nothing(client: Any, manifest: Any) -> None:
    document = client.create(manifest)
    before = yaml.safe_dump(document)
    assert client.resource(manifest).conform(document) == []
    assert yaml.safe_dump(document) == before

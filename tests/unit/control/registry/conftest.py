"""Objects as clients write them."""

from __future__ import annotations

import copy
import datetime as dt
from typing import Any

import msgspec
import pytest

from control.registry import REGISTRY, STRICT, Context, Document, Resource, prepare_create

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)

POD: Document = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"containers": [{"name": "main", "image": "nginx:1.27", "ports": [{"containerPort": 80}]}]},
}
DEPLOYMENT: Document = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "nginx:1.27"}]},
        },
    },
}
SERVICE: Document = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
}
CONFIG_MAP: Document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"}, "data": {"a": "1"}}


class Client:
    """Sends documents the way the API does."""

    now = NOW
    context = Context(NOW, "uid-1", "abcde")

    def decode(self, document: Document, mode: str = STRICT) -> tuple[Resource, Document, list[str]]:
        resource, decoded, warnings = REGISTRY.decode(msgspec.json.encode(document), mode)
        resource.place(decoded, "ka")
        return resource, decoded, warnings

    def create(self, document: Document, mode: str = STRICT) -> Document:
        """The document as it would be stored, at revision 7."""
        resource, decoded, _ = self.decode(document, mode)
        prepare_create(resource, decoded, self.context)
        decoded["metadata"]["resourceVersion"] = "7"
        return decoded

    def resource(self, document: Document) -> Resource:
        return REGISTRY.find(api_version=document["apiVersion"], kind=document["kind"])


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def pod() -> Document:
    return copy.deepcopy(POD)


@pytest.fixture
def deployment() -> Document:
    return copy.deepcopy(DEPLOYMENT)


@pytest.fixture
def service() -> Document:
    return copy.deepcopy(SERVICE)


@pytest.fixture
def config_map() -> Document:
    return copy.deepcopy(CONFIG_MAP)


@pytest.fixture(params=["Pod", "Deployment", "Service", "ConfigMap"])
def manifest(request: pytest.FixtureRequest) -> Any:
    found = {"Pod": POD, "Deployment": DEPLOYMENT, "Service": SERVICE, "ConfigMap": CONFIG_MAP}
    return copy.deepcopy(found[request.param])

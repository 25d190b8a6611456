"""Bad input gets a clear refusal with the field's path and a remedy, and changes nothing."""

from __future__ import annotations

import msgspec
import pytest

from steersman import ApiError
from steersman.v1 import objects_pb2 as pb

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a"},
    "spec": {"containers": [{"name": "c", "image": "i"}]},
}


def pod(**changes):
    return {**POD, **changes}


CREATES = [
    ("unknown kind", {"apiVersion": "v1", "kind": "Pot", "metadata": {"name": "a"}}, 404, 'no matches for kind "Pot"'),
    ("unknown version", {**POD, "apiVersion": "v9"}, 404, 'in version "v9"'),
    ("no kind", {"apiVersion": "v1", "metadata": {"name": "a"}}, 400, "'kind' is missing"),
    ("kind of a wrong type", {"apiVersion": "v1", "kind": 7}, 400, "'kind' is missing"),
    ("unknown field", pod(spec={**POD["spec"], "replicsa": 3}), 400, 'unknown field "spec.replicsa"'),
    ("wrong type", pod(spec={"containers": "many"}), 400, "spec.containers"),
    ("null metadata", pod(metadata=None), 422, "metadata.name"),
    ("metadata of a wrong type", pod(metadata=[]), 400, "metadata"),
    ("no name", pod(metadata={}), 422, "metadata.name: Required value"),
    ("bad name", pod(metadata={"name": "No_Name"}), 422, 'metadata.name: Invalid value: "No_Name"'),
    ("over-long name", pod(metadata={"name": "a" * 300}), 422, "metadata.name"),
    ("bad label key", pod(metadata={"name": "a", "labels": {"-x": "y"}}), 422, "metadata.labels"),
    ("bad label value", pod(metadata={"name": "a", "labels": {"x": "a b"}}), 422, "metadata.labels"),
    ("over-long label", pod(metadata={"name": "a", "labels": {"x": "y" * 64}}), 422, "63"),
    ("no containers", pod(spec={"containers": []}), 422, "spec.containers: Required value"),
    (
        "bad quantity",
        pod(spec={"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "many"}}}]}),
        400,
        "resources.limits",
    ),
    (
        "namespace that is not there",
        pod(metadata={"name": "a", "namespace": "lost"}),
        404,
        'namespaces "lost" not found',
    ),
    ("5 MB object", pod(metadata={"name": "a", "annotations": {"x": "y" * (5 << 20)}}), 413, "at most"),
    (
        "2 MB object",
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y" * (2 << 20)}},
        422,
        "data: Too long",
    ),
]


@pytest.mark.parametrize(("body", "code", "told"), [case[1:] for case in CREATES], ids=[case[0] for case in CREATES])
@pytest.mark.parametrize("verb", ["create", "apply"])
async def test_bad_documents(api, verb, body, code, told):
    before = api.store.revision
    json = msgspec.json.encode(body)
    request_type = pb.CreateRequest if verb == "create" else pb.ApplyRequest
    with pytest.raises(ApiError) as refused:
        await getattr(api.handlers, verb)(request_type(object=pb.Object(json=json)), api.admin)
    error = refused.value
    if verb == "apply" and "metadata" in told:
        assert error.code in (400, 422)  # apply looks for the name before anything else
    else:
        assert (error.code, told in error.message) == (code, True), error.message
    assert "Traceback" not in error.message
    assert len(error.message) < 2_000
    assert api.store.revision == before


BODIES = [
    b"",
    b"nonsense",
    b"\xff\xfe\x00",
    b"[]",
    b"7",
    b'{"a":' * 50_000,
    b"[" * 100_000,
    b'{"kind":"Pod","kind":"Pod"}',
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("verb", ["create", "update", "apply"])
async def test_garbage_instead_of_a_document(api, verb, body):
    request = {"create": pb.CreateRequest, "update": pb.UpdateRequest, "apply": pb.ApplyRequest}[verb](
        object=pb.Object(json=body)
    )
    with pytest.raises(ApiError) as refused:
        await getattr(api.handlers, verb)(request, api.admin)
    assert refused.value.code == 400


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"name": 7}},
        {"metadata": {"name": "a", "namespace": 7}},
        {"metadata": "a"},
        {"metadata": {}},
        {"metadata": {"name": "a", "resourceVersion": "seven"}},
    ],
)
@pytest.mark.parametrize("subresource", ["", "status", "scale", "nonsense"])
async def test_bad_updates(api, body, subresource):
    json = msgspec.json.encode({"apiVersion": "apps/v1", "kind": "Deployment", **body})
    request = pb.UpdateRequest(
        object=pb.Object(json=json, kind="Deployment", api_version="apps/v1"), subresource=subresource
    )
    with pytest.raises(ApiError) as refused:
        await api.handlers.update(request, api.admin)
    assert refused.value.code in (400, 404)


@pytest.mark.parametrize("format", [0, pb.PatchRequest.JSON, pb.PatchRequest.MERGE, pb.PatchRequest.STRATEGIC])
@pytest.mark.parametrize(
    "patch",
    [b"", b"7", b"[7]", b'[{"op":"nonsense"}]', b'{"metadata":[]}', b'{"spec":7}', b'[{"op":"remove","path":"/x/y"}]'],
)
@pytest.mark.parametrize("subresource", ["", "status", "scale"])
async def test_bad_patches(api, format, patch, subresource):  # noqa: A002
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": POD["spec"]},
        },
    }
    await api.client.create(deployment)
    before = api.store.revision
    request = pb.PatchRequest(
        type=pb.Type(kind="Deployment"),
        namespace="default",
        name="web",
        format=format,
        patch=patch,
        subresource=subresource,
    )
    try:
        answer = await api.handlers.patch(request, api.admin)
    except ApiError as error:
        assert error.code in (400, 422)
    else:
        assert answer.outcome == pb.WriteResponse.UNCHANGED  # a status patch that touches the spec, for instance
    assert api.store.revision == before


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.GetRequest(type=pb.Type(kind="Pod"), namespace="default"), 400),
        (pb.GetRequest(type=pb.Type(kind="Pod"), name="a"), 400),
        (pb.GetRequest(type=pb.Type(), name="a"), 400),
        (pb.GetRequest(type=pb.Type(kind="Pod"), namespace="default", name="a", subresource="x"), 404),
        (pb.GetRequest(type=pb.Type(kind="Pod"), namespace="default", name="a", revision=10_000), 504),
        (pb.ListRequest(type=pb.Type(kind="Pod"), limit=-1), 400),
        (pb.ListRequest(type=pb.Type(kind="Pod"), label_selector="a in b"), 400),
        (pb.ListRequest(type=pb.Type(kind="Pod"), field_selector="spec.wrong=1"), 400),
        (pb.DeleteRequest(type=pb.Type(kind="Pod"), namespace="default"), 400),
        (pb.DeleteRequest(type=pb.Type(kind="Pod"), namespace="default", name="a", grace_period_seconds=-1), 400),
        (pb.CreateRequest(subresource="nonsense", name="a"), 404),
        (pb.CreateRequest(subresource="binding", object=pb.Object(json=b"{}")), 400),
        (pb.CreateRequest(subresource="eviction", object=pb.Object(json=b'{"metadata":7}')), 400),
    ],
)
async def test_bad_requests(api, request_, code):
    method = type(request_).__name__.removesuffix("Request").lower()
    with pytest.raises(ApiError) as refused:
        await getattr(api.handlers, method)(request_, api.admin)
    assert refused.value.code == code


async def test_too_many_writes_in_a_batch(api):
    with pytest.raises(ApiError) as refused:
        await api.client.batch([pb.DeleteRequest()] * 1_001)
    assert "at most 1000 writes" in refused.value.message


async def test_one_bad_write_of_a_batch_leaves_the_others_alone(api):
    requests = [
        api.client.create_request({"apiVersion": "v1", "kind": "Pot", "metadata": {"name": "a"}}),
        api.client.create_request({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
        api.client.patch_request("pots", "a", {}),
    ]
    results = await api.client.batch(requests)
    assert [result.outcome for result in results] == ["", "CREATED", ""]
    answer = await api.handlers.batch(pb.BatchRequest(writes=[pb.BatchRequest.Write()]), api.admin)
    assert answer.results[0].error.code == 400
    assert {result.error.code for result in results if result.error} == {404}


async def test_warnings_reach_the_client_where_it_wants_no_refusal(api):
    (result,) = await api.client.apply(pod(spec={**POD["spec"], "wrong": 1}), validation="WARN")
    assert result.outcome == "CREATED"
    assert any("spec.wrong" in warning for warning in result.warnings)

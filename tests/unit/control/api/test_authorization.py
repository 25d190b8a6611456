"""Who may do what, and in which words others are refused."""

from __future__ import annotations

import pytest

from control.identity import AUTHENTICATED, MASTERS, Caller, forwarded_metadata, member, speaking_for
from steersman import ApiError
from steersman.v1 import objects_pb2 as pb

ALICE = Caller("alice", frozenset(("dev", AUTHENTICATED)))
NODE = Caller("system:node:n1", frozenset(("system:nodes", AUTHENTICATED)))


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (
            pb.ListRequest(type=pb.Type(kind="Node")),
            'nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" at the cluster scope',
        ),
        (
            pb.GetRequest(type=pb.Type(kind="Pod"), namespace="default", name="a"),
            'pods "a" is forbidden: User "alice" cannot get resource "pods" in API group "" in the namespace "default"',
        ),
        (
            pb.ListRequest(type=pb.Type(kind="Deployment"), namespace="x"),
            (
                'deployments.apps is forbidden: User "alice" cannot list resource "deployments" in API group "apps" '
                'in the namespace "x"'
            ),
        ),
        (
            pb.DeleteRequest(type=pb.Type(kind="Namespace"), name="x"),
            'namespaces "x" is forbidden: User "alice" cannot delete resource "namespaces" in API group "" at the cluster scope',
        ),
        (
            pb.CreateRequest(object=pb.Object(json=b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}')),
            (
                'configmaps is forbidden: User "alice" cannot create resource "configmaps" in API group "" '
                'in the namespace "default"'
            ),
        ),
    ],
)
async def test_a_user_without_rights_is_told_what_is_missing(api, request_, told):
    method = type(request_).__name__.removesuffix("Request").lower()
    with pytest.raises(ApiError) as refused:
        await getattr(api.handlers, method)(request_, ALICE)
    assert (refused.value.code, refused.value.message) == (403, told)


async def test_existence_is_not_told_to_those_who_may_not_read(api):
    await api.config_map("a")
    messages = set()
    for name in ("a", "b"):
        with pytest.raises(ApiError) as refused:
            await api.client_of(ALICE).delete("configmaps", name)
        assert refused.value.code == 403
        messages.add(refused.value.message.replace(f'"{name}"', "NAME"))
    assert len(messages) == 1


async def test_agents_use_the_gateway(api):
    with pytest.raises(ApiError) as refused:
        await api.client_of(NODE).list("secrets")
    assert "agents use the node gateway only" in refused.value.message


async def test_anyone_may_ask_which_kinds_there_are(api):
    assert {kind.kind for kind in await api.client_of(ALICE).kinds()} >= {"Pod", "Deployment"}


def test_a_member_forwards_for_anyone_and_nobody_else_does():
    caller = Caller("müller", frozenset((MASTERS, AUTHENTICATED)))
    metadata = forwarded_metadata(caller, "some-uid")
    assert all(value.isascii() for _, value in metadata)
    heard = speaking_for(member("control-1"), metadata)
    assert (heard.user, heard.groups, heard.request_id) == (caller.user, caller.groups, "some-uid")
    assert heard.via == "system:member:control-1"
    with pytest.raises(PermissionError):
        speaking_for(ALICE, metadata)


def test_a_forwarded_caller_has_not_the_members_rights():
    heard = speaking_for(member("control-1"), forwarded_metadata(ALICE))
    assert not heard.is_member
    assert heard.groups == ALICE.groups

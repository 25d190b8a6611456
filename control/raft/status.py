"""What a member tells about itself and its cluster, and about what went wrong."""

from __future__ import annotations

import errno

from control.raft.core import Core, Role
from control.raft.interface import MemberStatus, RaftStatus
from control.raft.transport import Transport


def describe(core: Core, transport: Transport, applied: int, problem: str) -> RaftStatus:
    """The status of a member that takes part."""
    members = tuple(_member(core, transport, name, problem) for name in core.membership.names)
    return RaftStatus(
        name=core.name,
        cluster_id=core.membership.cluster_id,
        role=_role(core, core.name),
        term=core.term,
        leader=core.leader,
        commit=core.log.commit,
        applied=applied,
        first_index=core.log.offset + 1,
        last_index=core.log.last_index,
        snapshot_index=core.snapshot.index,
        members=members,
        problem=problem,
        settled=core.history.index <= core.log.commit,
    )


def explain(error: Exception, where: str, segment_bytes: int) -> str:
    """Say why a member stopped taking part, and what to expect."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = max(1, segment_bytes >> 20)
        return f"disk full: the log in {where} needs {need} MiB more; this member takes part again when there is room"
    if isinstance(error, OSError):
        return f"the disk failed writing the log in {where}: {error}; this member takes part again when it works"
    return f"stopped for good: {type(error).__name__}: {error}"


def _member(core: Core, transport: Transport, name: str, own_problem: str) -> MemberStatus:
    address = core.membership.addresses.get(name, "")
    role = _role(core, name)
    if name == core.name:
        return MemberStatus(name, address, role, core.log.stable, reachable=True, problem=own_problem)
    peer = core.progress.get(name)
    reachable = transport.reachable(name)
    problem = transport.problem(name) if reachable else ""  # what it said before it went away is no news
    return MemberStatus(name, address, role, peer.match if peer else 0, reachable=reachable, problem=problem)


def _role(core: Core, name: str) -> str:
    """A member's role as far as `core` knows it."""
    if name in core.membership.learners:
        return "learner"
    if name == core.leader:
        return "leader"
    if name == core.name and core.role in (Role.CANDIDATE, Role.PRE_CANDIDATE):
        return "candidate"
    return "follower"

"""Raft messages to protobuf and back. One line per message and direction; no decisions."""

from __future__ import annotations

from collections.abc import Iterable

from control.raft import messages as m
from control.raft import transport_pb2 as pb


class UnknownMessageError(ValueError):
    """A newer member said something that this one does not know."""


def encode(message: m.Message) -> pb.Message:
    """Write a message. An InstallSnapshot does not travel so: it is a stream of its own."""
    match message:
        case m.Append(term=term):
            entries = [pb.Entry(index=e.index, term=e.term, kind=e.kind, data=e.data) for e in message.entries]
            append = pb.Append(
                prev_index=message.prev_index, prev_term=message.prev_term, entries=entries, commit=message.commit
            )
            return pb.Message(term=term, append=append)
        case m.AppendResponse(term=term):
            accepted = pb.AppendResponse(
                index=message.index,
                rejected=message.rejected,
                hint_index=message.hint_index,
                hint_term=message.hint_term,
            )
            return pb.Message(term=term, append_response=accepted)
        case m.Heartbeat(term=term):
            return pb.Message(term=term, heartbeat=pb.Heartbeat(commit=message.commit, round=message.round))
        case m.HeartbeatResponse(term=term):
            return pb.Message(term=term, heartbeat_response=pb.HeartbeatResponse(round=message.round))
        case m.VoteRequest(term=term):
            request = pb.VoteRequest(
                last_index=message.last_index,
                last_term=message.last_term,
                pre=message.pre,
                transfer=message.transfer,
            )
            return pb.Message(term=term, vote_request=request)
        case m.VoteResponse(term=term):
            return pb.Message(term=term, vote_response=pb.VoteResponse(granted=message.granted, pre=message.pre))
        case m.ReadIndex(term=term):
            return pb.Message(term=term, read_index=pb.ReadIndex(context=message.context))
        case m.ReadIndexResponse(term=term):
            answer = pb.ReadIndexResponse(context=message.context, index=message.index)
            return pb.Message(term=term, read_index_response=answer)
        case m.TimeoutNow(term=term):
            return pb.Message(term=term, timeout_now=pb.TimeoutNow())
        case _:
            raise UnknownMessageError(type(message).__name__)


def decode(message: pb.Message, sender: str, to: str) -> m.Message:
    """Read a message that came from `sender`.

    Raises:
        UnknownMessageError: it is of a kind that this version does not know.
    """
    term = message.term
    match message.WhichOneof("kind"):
        case "append":
            a = message.append
            return m.Append(sender, to, term, a.prev_index, a.prev_term, tuple(_entries(a.entries)), a.commit)
        case "append_response":
            r = message.append_response
            return m.AppendResponse(sender, to, term, r.index, r.rejected, r.hint_index, r.hint_term)
        case "heartbeat":
            return m.Heartbeat(sender, to, term, message.heartbeat.commit, message.heartbeat.round)
        case "heartbeat_response":
            return m.HeartbeatResponse(sender, to, term, message.heartbeat_response.round)
        case "vote_request":
            v = message.vote_request
            return m.VoteRequest(sender, to, term, v.last_index, v.last_term, v.pre, v.transfer)
        case "vote_response":
            return m.VoteResponse(sender, to, term, message.vote_response.granted, message.vote_response.pre)
        case "read_index":
            return m.ReadIndex(sender, to, term, message.read_index.context)
        case "read_index_response":
            answer = message.read_index_response
            return m.ReadIndexResponse(sender, to, term, answer.context, answer.index)
        case "timeout_now":
            return m.TimeoutNow(sender, to, term)
        case unknown:
            raise UnknownMessageError(f"a message of kind {unknown} from {sender}")


def _entries(entries: Iterable[pb.Entry]) -> Iterable[m.Entry]:
    return (m.Entry(e.index, e.term, e.data, m.EntryKind(e.kind)) for e in entries)


def encode_header(message: m.InstallSnapshot, cluster_id: str) -> pb.SnapshotHeader:
    """Announce a snapshot."""
    meta = message.meta
    return pb.SnapshotHeader(
        sender=message.sender,
        cluster_id=cluster_id,
        term=message.term,
        index=meta.index,
        index_term=meta.term,
        membership=meta.membership.encode(),
    )


def decode_header(header: pb.SnapshotHeader, to: str) -> m.InstallSnapshot:
    """Read a snapshot's announcement."""
    meta = m.SnapshotMeta(header.index, header.index_term, m.Membership.decode(header.membership))
    return m.InstallSnapshot(header.sender, to, header.term, meta)

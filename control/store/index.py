"""Secondary indexes: which objects have a label, an owner, a node, without reading them all.

Mechanism. A write only notes its key as *stale*, one set insertion. The first lookup in a resource afterwards decodes
the stale documents of that resource (a partial decode of the few members below, about 3 µs each), so resources that
nobody looks up cost nothing however often they are written, and ten writes between two lookups cost one decode.
`refresh` lets an idle moment do that work in slices, for instance after a restart.

Invariant: `lookup` answers as of the state that `read` reads. Keys whose value is not a JSON document with metadata
are in no index. The index only needs `read`, `mark` and `mark_all`: a mirror of an external store, fed by a watch, can
drive it as well as the embedded state machine does.

Indexes (name: value):
    label   "app=web": one per label; and "app": has the label at all
    owner   uid of an owner reference
    uid     metadata.uid
    node    spec.nodeName (pods)
    phase   status.phase (pods, namespaces)
    ip      status.podIP (pods)
    involved  involvedObject.uid (events)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

import msgspec

from control.store.interface import KeyValue

IndexName = Literal["label", "owner", "uid", "node", "phase", "ip", "involved"]
Term = tuple[str, str]  # index name, value


class _Part(msgspec.Struct, gc=False, rename="camel"):
    """A JSON object of which only some members are read."""


class _Owner(_Part):
    uid: str = ""


class _Metadata(_Part):
    uid: str = ""
    labels: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None


class _Spec(_Part):
    node_name: str | None = None


class _Status(_Part):
    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")


class _Plain(_Part):
    metadata: _Metadata


class _Pod(_Plain):
    spec: _Spec | None = None
    status: _Status | None = None


class _Namespace(_Plain):
    status: _Status | None = None


class _Event(_Plain):
    involved_object: _Owner | None = None


_plain = msgspec.json.Decoder(_Plain)
_decoders: dict[str, msgspec.json.Decoder[_Plain]] = {
    "/core/pods/": msgspec.json.Decoder(_Pod),
    "/core/namespaces/": msgspec.json.Decoder(_Namespace),
    "/core/events/": msgspec.json.Decoder(_Event),
    "/events.k8s.io/events/": msgspec.json.Decoder(_Event),
}


class _Shelf:
    """The index of one resource."""

    __slots__ = ("keys", "stale", "terms")

    def __init__(self) -> None:
        self.stale: set[str] = set()
        self.terms: dict[str, tuple[Term, ...]] = {}  # by key, to find them again when it changes
        self.keys: dict[Term, str | set[str]] = {}  # most terms (uids, addresses) have one key: no set for those


class Index:
    """All indexes of a store. `read` gives a key's newest state."""

    def __init__(self, read: Callable[[str], KeyValue | None]) -> None:
        self._read = read
        self._shelves: dict[str, _Shelf] = {}
        self._wanted = {"/core/pods/"}  # resources that are looked up; pods always are, by node

    def mark(self, key: str) -> None:
        """Note that `key` was written or removed."""
        resource = resource_of(key)
        shelf = self._shelves.get(resource)
        if shelf is None:
            shelf = self._shelves[resource] = _Shelf()
        shelf.stale.add(key)

    def mark_all(self, keys: Iterable[str]) -> None:
        """Start again: the state was replaced and now has `keys`."""
        self._shelves.clear()
        for key in keys:
            self.mark(key)

    def lookup(self, resource: str, index: IndexName, value: str) -> list[str]:
        """The keys under a resource prefix ("/core/pods/") that have `value` in `index`, in key order.

        Raises:
            ValueError: there is no such index.
        """
        if index not in get_args(IndexName):
            raise ValueError(f"there is no index {index!r}: choose one of {', '.join(get_args(IndexName))}")
        self._wanted.add(resource)
        shelf = self._shelves.get(resource)
        if shelf is None:
            return []
        self._freshen(resource, shelf, len(shelf.stale))
        found = shelf.keys.get((index, value))
        if found is None:
            return []
        return [found] if isinstance(found, str) else sorted(found)

    def refresh(self, limit: int) -> int:
        """Bring up to `limit` stale keys of resources that are looked up into their indexes; answer how many stay stale."""
        left = 0
        for resource, shelf in self._shelves.items():
            if resource in self._wanted:
                limit -= self._freshen(resource, shelf, max(limit, 0))
                left += len(shelf.stale)
        return left

    def _freshen(self, resource: str, shelf: _Shelf, limit: int) -> int:
        done = 0
        decoder = _decoders.get(resource, _plain)
        while done < limit and shelf.stale:
            key = shelf.stale.pop()
            kv = self._read(key)
            _replace(shelf, key, () if kv is None else _terms(decoder, kv.value))
            done += 1
        return done


def resource_of(key: str) -> str:
    """The prefix of a key's resource: "/core/pods/" of "/core/pods/default/web"."""
    second = key.find("/", key.find("/", 1) + 1)
    return key[: second + 1] if second > 0 else key


def _terms(decoder: msgspec.json.Decoder[_Plain], value: bytes) -> tuple[Term, ...]:
    try:
        document = decoder.decode(value)
    except msgspec.MsgspecError:
        return ()  # an allocation, a token: not a document
    metadata = document.metadata
    terms: list[Term] = []
    if metadata.uid:
        terms.append(("uid", metadata.uid))
    for name, text in (metadata.labels or {}).items():
        terms += (("label", name), ("label", f"{name}={text}"))
    terms += (("owner", owner.uid) for owner in metadata.owner_references or ())
    if isinstance(document, _Pod):
        if document.spec and document.spec.node_name:
            terms.append(("node", document.spec.node_name))
        if document.status and document.status.pod_ip:
            terms.append(("ip", document.status.pod_ip))
    if isinstance(document, _Pod | _Namespace) and document.status and document.status.phase:
        terms.append(("phase", document.status.phase))
    if isinstance(document, _Event) and document.involved_object and document.involved_object.uid:
        terms.append(("involved", document.involved_object.uid))
    return tuple(terms)


def _replace(shelf: _Shelf, key: str, terms: tuple[Term, ...]) -> None:
    before = shelf.terms.get(key, ())
    if before == terms:
        return
    keys = shelf.keys
    for term in set(before).difference(terms):
        found = keys[term]
        if isinstance(found, str):
            del keys[term]
        else:
            found.remove(key)
            if len(found) == 1:
                keys[term] = found.pop()
    for term in set(terms).difference(before):
        others = keys.get(term)
        if others is None:
            keys[term] = key
        elif isinstance(others, str):
            keys[term] = {others, key}
        else:
            others.add(key)
    if terms:
        shelf.terms[key] = terms
    else:
        shelf.terms.pop(key, None)

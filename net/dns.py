"""The cluster's DNS server on one host: UDP and TCP on the cluster's DNS address, answers out of a `Zone`.

It runs on the agent's event loop, and answers a question that it has answered before, about a zone that has not changed
since, by copying bytes. Names outside the zone go to the configured resolvers; without any they are refused, which says
at once that nobody here knows, where silence would cost the client its timeout.

Failure: nothing that a client sends raises. What cannot be read at all is dropped (there is nobody to answer), what can
be read in part gets FORMERR, and an error of ours SERVFAIL.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

from dnslib import CNAME, EDNS0, NS, PTR, QTYPE, RD, RR, SOA, SRV, TXT, A, DNSError, DNSRecord

from net import dns_records, metrics
from net.dns_records import FORMERR, NOTIMP, REFUSED, SERVFAIL, Answer, Record, Zone
from net.links import NetworkError
from net.netns import NamespaceThread
from steersman.clock import Clock

log = logging.getLogger(__name__)

PORT = 53
HEADER = 12
PLAIN_LIMIT = 512  # bytes in a UDP answer to a client that says nothing else (RFC 1035, 4.2.1)
EDNS_LIMIT = 1232  # at most, whatever it says: fits every path unfragmented
REMEMBERED = 4096  # answers kept; at some 200 bytes each, under 1 MB
UPSTREAM_TIMEOUT_S = 2.0  # a stub resolver gives up after 5
UPSTREAM_AT_ONCE = 256  # questions under way; more are refused, so that a dead resolver cannot use up the sockets
TCP_IDLE_S = 10.0
TCP_AT_ONCE = 256
IP_FREEBIND = 15  # listen though the address may come back only with the next repair


class DnsServer:
    """Answers on `address`; make it once for a host."""

    def __init__(self, address: str, zone: Zone, upstream: Sequence[str], clock: Clock, *, port: int = PORT) -> None:
        self.address = address
        self.port = port
        self._zone = zone
        self._upstream = tuple(upstream)
        self._clock = clock
        self._known: dict[bytes, tuple[bytes, str]] = {}
        self._known_serial = 0
        self._asking = asyncio.Semaphore(UPSTREAM_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self, thread: NamespaceThread) -> None:
        """Listen, with sockets made in the thread's network namespace.

        Raises:
            NetworkError: the address or the port is taken or not ours.
        """
        try:
            udp, tcp = await thread.run(self._sockets)
        except OSError as error:
            raise NetworkError(f"cannot answer DNS on {self.address}:{self.port}: {error.strerror}") from error
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._server = await asyncio.start_server(self._serve_stream, sock=tcp)

    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        made: list[socket.socket] = []
        try:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                channel = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
                made.append(channel)
                channel.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
                if kind == socket.SOCK_STREAM:
                    channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                channel.bind((self.address, self.port))
        except OSError:
            for channel in made:
                channel.close()
            raise
        return made[0], made[1]

    async def stop(self) -> None:
        """Stop listening; questions under way go unanswered."""
        if self._transport:
            self._transport.close()
            self._transport = None
        if self._server:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- answering --------------------------------------------------------------------------------------------------

    def respond(self, query: bytes, *, stream: bool) -> bytes | DNSRecord | None:
        """The answer's bytes; the parsed query when it must be asked elsewhere; None when there is nobody to answer.

        Args:
            query: a message as it came.
            stream: whether it came by TCP, where answers need not be cut.
        """
        if len(query) < HEADER or query[2] & 0x80:  # too short to have a sender's number, or itself an answer
            return None
        if self._known_serial != self._zone.serial:
            self._known.clear()
            self._known_serial = self._zone.serial
        known = None if stream else self._known.get(query[2:])
        if known:
            remembered, rcode = known
            metrics.DNS_QUERIES.labels(rcode).inc()
            return query[:2] + remembered
        try:
            record = DNSRecord.parse(query)
            name = str(record.q.qname).lower().rstrip(".") if record.questions else ""
        except (DNSError, ValueError, UnicodeError, IndexError, struct.error):
            return _bare(query, FORMERR)
        if (query[2] >> 3) & 0xF:
            return _bare(query, NOTIMP)
        if len(record.questions) != 1 or record.q.qclass not in (1, 255):
            return _bare(query, FORMERR if len(record.questions) != 1 else REFUSED)
        try:
            answer = self._zone.answer(name, int(record.q.qtype))
            if answer.outside and self._upstream:
                return record
            answer = self._complete(answer, int(record.q.qtype))
            reply = self._pack(record, answer, stream)
        except Exception:
            log.exception("cannot answer a question about %r", name)
            return _bare(query, SERVFAIL)
        if not stream and len(answer.records) <= 1:  # several records are turned at each answer, to spread clients
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[bytes(query[2:])] = (reply[2:], _name_of(answer.rcode))
        metrics.DNS_QUERIES.labels(_name_of(answer.rcode)).inc()
        return reply

    def _complete(self, answer: Answer, kind: int) -> Answer:
        """Follow a CNAME that stays inside the zone."""
        seen = list(answer.records)
        while seen and seen[-1].type == dns_records.CNAME and len(seen) < 8:
            further = self._zone.answer(str(seen[-1].data), kind)
            if further.outside or not further.records:
                break
            seen += further.records
        return Answer(answer.rcode, tuple(seen), answer.additional, answer.outside)

    def _pack(self, record: DNSRecord, answer: Answer, stream: bool) -> bytes:
        reply = record.reply(ra=1 if self._upstream else 0, aa=0 if answer.outside else 1)
        reply.header.rcode = answer.rcode
        records = answer.records
        if len(records) > 1 and records[0].type == dns_records.A:
            turn = record.header.id % len(records)
            records = records[turn:] + records[:turn]
        for found in records:
            reply.add_answer(_rr(found))
        for found in answer.additional:
            reply.add_ar(_rr(found))
        if answer.negative and not answer.outside:
            reply.add_auth(_rr(self._zone.soa()))
        limit = 65535
        edns = next((extra for extra in record.ar if extra.rtype == QTYPE.OPT), None)
        if not stream:
            limit = min(max(int(edns.rclass), PLAIN_LIMIT), EDNS_LIMIT) if edns else PLAIN_LIMIT
        if edns:
            reply.add_ar(EDNS0(udp_len=EDNS_LIMIT))
        packed = reply.pack()
        if len(packed) > limit and answer.additional:  # a help that the client can do without
            reply.ar = [extra for extra in reply.ar if extra.rtype == QTYPE.OPT]
            packed = reply.pack()
        if len(packed) > limit:
            reply.rr, reply.auth, reply.ar = [], [], [extra for extra in reply.ar if extra.rtype == QTYPE.OPT]
            reply.header.tc = 1
            packed = reply.pack()
        return bytes(packed)

    # --- transports ------------------------------------------------------------------------------------------------

    def datagram(self, query: bytes, client: tuple[str, int]) -> None:
        """Answer one datagram, at once or when an upstream resolver has answered."""
        began = self._clock.monotonic()
        answer = self.respond(query, stream=False)
        if isinstance(answer, bytes):
            if self._transport:
                self._transport.sendto(answer, client)
            metrics.DNS_SECONDS.observe(self._clock.monotonic() - began)
        elif answer is not None:
            if self._asking.locked():
                if self._transport:
                    self._transport.sendto(_bare(query, REFUSED), client)
                return
            task = asyncio.get_running_loop().create_task(self._relay(query, client, began))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, query: bytes, client: tuple[str, int], began: float) -> None:
        answer = await self._ask_upstream(query, stream=False)
        if self._transport:
            self._transport.sendto(answer, client)
        metrics.DNS_SECONDS.observe(self._clock.monotonic() - began)

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= TCP_AT_ONCE + UPSTREAM_AT_ONCE:
            writer.close()
            return
        self._tasks.add(task)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_S):
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    query = await reader.readexactly(length)
                answer = self.respond(query, stream=True)
                if answer is None:
                    break
                if not isinstance(answer, bytes):
                    answer = await self._ask_upstream(query, stream=True)
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(TCP_IDLE_S):
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    # --- names outside the cluster ------------------------------------------------------------------------------------

    async def _ask_upstream(self, query: bytes, *, stream: bool) -> bytes:
        """The first answer that one of the resolvers gives, in the order configured; SERVFAIL when none does."""
        ask = self._ask_by_stream if stream else self._ask_by_datagram
        async with self._asking:
            for resolver in self._upstream:
                with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                    async with asyncio.timeout(UPSTREAM_TIMEOUT_S):
                        answer = await ask(query, resolver)
                        metrics.DNS_QUERIES.labels(_name_of(answer[3] & 0xF)).inc()
                        return answer
        metrics.DNS_QUERIES.labels(_name_of(SERVFAIL)).inc()
        return _bare(query, SERVFAIL)

    async def _ask_by_datagram(self, query: bytes, resolver: str) -> bytes:
        """A socket of its own for each question: the source port is the guard against forged answers."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
            channel.connect((resolver, PORT))
            await loop.sock_sendall(channel, query)
            while True:
                answer = await loop.sock_recv(channel, 65535)
                if len(answer) >= HEADER and answer[:2] == query[:2] and answer[2] & 0x80:
                    return answer

    async def _ask_by_stream(self, query: bytes, resolver: str) -> bytes:
        reader, writer = await asyncio.open_connection(resolver, PORT)
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            length = int.from_bytes(await reader.readexactly(2), "big")
            if length < HEADER:
                raise OSError(f"{resolver} sent a DNS message of {length} bytes")
            return await reader.readexactly(length)
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.datagram(data, addr)


# --- messages -------------------------------------------------------------------------------------------------------------

RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


def _name_of(rcode: int) -> str:
    return RCODES.get(rcode, "OTHER")


def _bare(query: bytes, rcode: int) -> bytes:
    """A header that says no more than what went wrong."""
    metrics.DNS_QUERIES.labels(_name_of(rcode)).inc()
    flags = 0x80 | (query[2] & 0x79)  # an answer; the client's opcode and wish for recursion
    return query[:2] + bytes([flags, rcode]) + bytes(8)


def _rr(record: Record) -> RR:
    return RR(record.name, record.type, ttl=record.ttl, rdata=_rdata(record))


def _rdata(record: Record) -> RD:
    data = record.data
    if record.type == dns_records.SRV:
        assert isinstance(data, tuple)
        priority, weight, port, target = data
        return SRV(priority, weight, port, target)
    if record.type == dns_records.SOA:
        master, mailbox, *times = str(data).split()
        return SOA(master, mailbox, tuple(int(number) for number in times))
    simple = {
        dns_records.A: A,
        dns_records.CNAME: CNAME,
        dns_records.PTR: PTR,
        dns_records.TXT: TXT,
        dns_records.NS: NS,
    }
    return simple[record.type](data)

"""How a host becomes a node: a join token against a certificate. And how a node stays one: renewal."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from control.ca.certificates import CertificateAuthority, CertificateError
from control.ca.tokens import JoinTokens, TokenError
from control.gateway.heartbeats import Heartbeats
from control.identity import NODE_PREFIX
from control.rpc import unary
from control.store.interface import NoLeaderError, StoreError
from steersman.clock import Clock
from steersman.errors import ApiError, bad_request, unavailable
from steersman.v1 import node_pb2, node_pb2_grpc

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
MAX_NAME = 64 - len(NODE_PREFIX)  # an X.509 common name holds 64 characters


class Bootstrap(node_pb2_grpc.NodeBootstrapServicer):
    """Serves `NodeBootstrap` on its own port, without client certificates.

    Tokens are counted in the log, so a member that does not lead refuses with Unavailable and the agent asks the next.
    A name whose node is alive is refused: whoever holds a token must not take over a running node.
    """

    def __init__(
        self,
        authority: CertificateAuthority,
        tokens: JoinTokens,
        heartbeats: Heartbeats,
        members: Callable[[], Sequence[str]],
        clock: Clock,
        lease_s: float,
        serving: Callable[[], object],
    ) -> None:
        self._authority = authority
        self._tokens = tokens
        self._heartbeats = heartbeats
        self._members = members
        self._clock = clock
        self._lease_s = lease_s
        self._serving = serving  # raises ApiError while this member serves no sessions

    async def Join(self, request: node_pb2.JoinRequest, context: Any) -> node_pb2.JoinResponse:  # noqa: N802 - the rpc's name
        """Trade a token for a certificate."""
        return cast(node_pb2.JoinResponse, await unary("Join", context, self._clock, lambda: self._join(request)))

    async def _join(self, request: node_pb2.JoinRequest) -> node_pb2.JoinResponse:
        self._serving()  # elsewhere, or before the cluster is set up, a good token may not be known yet
        name = request.node_name
        if len(name) > MAX_NAME or _NAME.fullmatch(name) is None:
            raise bad_request(
                f"{name!r} cannot be a node's name: at most {MAX_NAME} lower-case letters, digits, '-' and '.', "
                "beginning and ending with a letter or digit"
            )
        try:
            await self._tokens.check(request.token)  # first: who has none is told nothing and gets nothing signed
            heard = self._heartbeats.last(name)
            if heard is not None and self._clock.monotonic() - heard < self._lease_s:
                raise unavailable(f'node "{name}" is connected: choose another name, or stop that agent and try again')
            certificate = self._authority.sign_node(request.csr_pem, name)
            await self._tokens.use(request.token, f"{NODE_PREFIX}{name}")
        except CertificateError as error:
            raise bad_request(str(error)) from None
        except TokenError as error:
            raise ApiError("Unauthorized", str(error)) from None
        except NoLeaderError as error:
            raise unavailable(f"this member does not lead at the moment: ask another ({error})") from None
        except StoreError as error:
            raise unavailable(f"the token could not be counted: {error}") from None
        log.info("node %s joined", name)
        return self._response(certificate)

    def renew(self, node: str, request: node_pb2.RenewRequest) -> node_pb2.JoinResponse:
        """A new certificate for a node that shows its old one. Raises ApiError."""
        try:
            certificate = self._authority.sign_node(request.csr_pem, node)
        except CertificateError as error:
            raise bad_request(str(error)) from None
        log.info("the certificate of node %s is renewed", node)
        return self._response(certificate)

    def _response(self, certificate: bytes) -> node_pb2.JoinResponse:
        return node_pb2.JoinResponse(
            certificate_pem=certificate, ca_pem=self._authority.certificate_pem, members=list(self._members())
        )

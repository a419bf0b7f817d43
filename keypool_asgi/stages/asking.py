"""Asking upstream on our own account: small safe reads that a stage needs, on a key of a given project."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keypool_asgi.core.headers import Framing
from keypool_asgi.core.messages import Headers, RequestHead
from keypool_asgi.core.operations import Operation
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.requests import upstream_request
from keypool_asgi.core.selection import Need
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import ProtocolViolation
from keypool_asgi.ports import Lease, LeasingPool, UpstreamCall, UpstreamClient

__all__ = ["Asker", "Reply"]

_HEADERS: Headers = [(b"accept", b"application/json"), (b"accept-encoding", b"identity")]
_NO_BODY = Framing(0, chunked=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What upstream answered: status, header fields and body."""

    status: int
    headers: Headers
    body: bytes


class Asker:
    """Sends GET requests of the operations table.

    Args:
        pool: where keys are leased.
        client: connections to upstream.
        provider: where services are, and what answers say about keys.
        via: see ``Forwarder``.
        max_bytes: longest answer, in bytes.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        pool: LeasingPool,
        client: UpstreamClient,
        provider: Provider,
        via: bytes | None = b"keypool-asgi",
        max_bytes: int = 8 * 1024**2,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pool = pool
        self.client = client
        self.provider = provider
        self.via = via
        self.max_bytes = max_bytes
        self.clock = clock

    async def ask(
        self, operation: str, project: str | None, ids: Mapping[str, str] | None = None, query: bytes = b""
    ) -> Reply:
        """Send one request; a key that upstream refuses is left for another one of the same project.

        Args:
            operation: name of a GET operation.
            project: on whose key, None for any.
            ids: the operation's path parameters.
            query: raw query string.

        Raises:
            NoAvailableKeys: no key of the project can serve.
            UpstreamError: upstream failed.
        """
        row = self.provider.table.named(operation)
        tried: frozenset[str] = frozenset()
        while True:
            lease = await self.pool.lease(Need(row.service, project=project, tried=tried))
            verdict = Verdict(Fault.UNRELATED)
            try:
                reply = await self._send(self._request(row, lease, query, ids or {}))
                verdict = self.provider.judge(row, reply.status, reply.headers, reply.body, self.clock())
            finally:
                await self.pool.give_back(lease, verdict if verdict.certain else Verdict(Fault.UNRELATED))
            if not verdict.blames_key or not verdict.certain:
                return reply
            tried |= {lease.key.id}

    def _request(self, row: Operation, lease: Lease, query: bytes, ids: Mapping[str, str]) -> RequestHead:
        return upstream_request(
            "GET",
            row.path.format(**ids),
            query,
            _HEADERS,
            operation=row,
            framing=_NO_BODY,
            origin=self.provider.origins[lease.key.region][row.service],
            key=lease.key,
            token="",
            via=self.via,
        )

    async def _send(self, request: RequestHead) -> Reply:
        call = await self.client.open(request)
        try:
            await call.finish()
            head = await call.head()
            return Reply(head.status, head.headers, await read_limited(call, self.max_bytes))
        finally:
            call.close()


async def read_limited(call: UpstreamCall, limit: int) -> bytes:
    """Return the body of an answer.

    Raises:
        ProtocolViolation: it is longer than ``limit`` bytes.
        UpstreamError: it broke off.
    """
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        data, more = await call.read()
        pieces.append(data)
        size += len(data)
        if size > limit:
            raise ProtocolViolation(f"the answer is longer than the {limit} bytes that can be read", sent=True)
    return b"".join(pieces)

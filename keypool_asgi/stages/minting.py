"""Minting: temporary tokens get no more than their team may use, and are made here where the operator wants that.

A token of AssemblyAI's opens AssemblyAI's own endpoint, past every quota of ours, so what its sessions may last is
capped before it is asked for. A token of our own opens sessions here and nowhere else.
"""

from __future__ import annotations

import inspect
import json
import secrets
import time
from collections.abc import Awaitable, Callable

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.headers import Framing
from keypool_asgi.core.minting import MintRules
from keypool_asgi.core.teams import Team
from keypool_asgi.core.temporary_tokens import NONCE_BYTES, Grant, TokenIssuer
from keypool_asgi.errors import BadRequest, ConfigurationError, QuotaExceeded
from keypool_asgi.exchange import Exchange

from .json_body import read_whole, replayed
from .stage import Stage

__all__ = ["Allowance", "Minting"]

Allowance = Callable[[Team], Awaitable[float | None] | float | None]
"""How many seconds of sessions a team may still use, sync (and then quick) or async. None: as many as it likes."""


class Minting(Stage):
    """Caps requests for temporary tokens, and answers them itself when it has an issuer.

    Args:
        app: the next stage.
        rules: how such requests say what they ask for.
        max_session_seconds: how long a session may last that a temporary token opens.
        allowance: what a team may still use, see ``Allowance``.
        issuer: makes our own tokens; None leaves that to AssemblyAI.
        max_json_bytes: longest request body, in bytes.
        clock: Unix time in seconds.
        randomness: number of bytes to as many random ones.

    Raises:
        ConfigurationError: ``max_session_seconds`` is outside of what a token can be made for.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rules: MintRules,
        max_session_seconds: int = 10_800,
        allowance: Allowance | None = None,
        issuer: TokenIssuer | None = None,
        max_json_bytes: int = 64 * 1024,
        clock: Callable[[], float] = time.time,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        super().__init__(app)
        least, most = rules.sessions
        if not least <= max_session_seconds <= most:
            raise ConfigurationError(f"max_session_seconds must be {least} to {most}, not {max_session_seconds!r}")
        self.rules = rules
        self.max_session_seconds = max_session_seconds
        self.allowance = allowance
        self.issuer = issuer
        self.max_json_bytes = max_json_bytes
        self.clock = clock
        self.randomness = randomness

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what asks for no token; cap, or answer, what does."""
        creates = exchange.operation.creates
        if scope["type"] != "http" or creates is None or creates.kind != self.rules.kind:
            await self.app(scope, receive, send)
            return
        body = None
        if exchange.operation.method == "POST":
            body = await self._body(scope, receive)
            if body is None:
                return
        most = await self._most_seconds(exchange.team)
        if self.issuer is not None:
            await _send_json(send, self._made(self.issuer, exchange, scope["query_string"], body, most))
        elif body is None:
            capped = self.rules.capped_query(scope["query_string"], most)
            await self.app({**scope, "query_string": capped}, receive, send)
        else:
            body = self.rules.capped_body(body, most)
            exchange.framing = Framing(len(body), chunked=False)
            await self.app(scope, replayed(body, receive), send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        if any(name == b"content-encoding" for name, _ in scope["headers"]):
            raise BadRequest("The request body must not be compressed here: what it asks for is checked.")
        return await read_whole(receive, self.max_json_bytes)

    async def _most_seconds(self, team: Team) -> int:
        """How long a session may last that a token for this team opens.

        Raises:
            QuotaExceeded: it has less left than the shortest token is for.
        """
        left = None if self.allowance is None else self.allowance(team)
        if inspect.isawaitable(left):
            left = await left
        if left is None or left >= self.max_session_seconds:
            return self.max_session_seconds
        least = self.rules.sessions[0]
        if left < least:
            raise QuotaExceeded(f"A temporary token is for at least {least} seconds, and the team has fewer left.")
        return int(left)

    def _made(
        self, issuer: TokenIssuer, exchange: Exchange, query: bytes, body: bytes | None, most: int
    ) -> dict[str, object]:
        """Make a token ourselves, and the answer that AssemblyAI would give."""
        terms = self.rules.checked_terms(exchange.operation.service, query, body)
        expires = self.clock() + terms.window
        grant = Grant(exchange.token, terms.service, expires, min(terms.session, most))
        return {"token": issuer.issue(grant, self.randomness(NONCE_BYTES)), self.rules.window: terms.window}


async def _send_json(send: Send, answer: dict[str, object]) -> None:
    body = json.dumps(answer).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Resources that are named in the messages of a session: voice agents, and sessions to resume (invariant I3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

from keypool_asgi.asgi import Message, Receive, Send
from keypool_asgi.core.close_codes import refusal_code, shortened
from keypool_asgi.core.ownership import ResourceRules, named_values, owner_project
from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.core.sessions import Close
from keypool_asgi.errors import BadRequest, BodyTooLarge, Refusal
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import ResourceStore

from .stage import SessionMoves

__all__ = ["SessionNames"]

# White space, byte order marks, and the zeros of UTF-16 and UTF-32.
_BEFORE_OBJECTS = b" \t\r\n\0\xef\xbb\xbf\xfe\xff"

OwnerOf = Callable[[Ref, Exchange], Awaitable[Resource | None]]
"""Finds the owner of a reference, or raises NotFound; None for what need not be anybody's."""


class SessionNames:
    """A ``receive`` and a ``send`` that check what the caller's messages name, and record what upstream's create.

    Such a name comes when the session runs on a key already. So the project is guessed beforehand from what the team
    made last; when the first message names another one, the session moves there before anything has gone upstream.

    Args:
        exchange: the session's.
        resources: who owns what.
        rules: how resources are named.
        owner_of: finds an owner.
        max_bytes: longest message that is looked through.
        receive: the caller's receive.
        send: the caller's send.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        resources: ResourceStore,
        rules: ResourceRules,
        owner_of: OwnerOf,
        now: float,
        max_bytes: int,
        receive: Receive,
        send: Send,
    ) -> None:
        self.exchange = exchange
        self.resources = resources
        self.rules = rules
        self.owner_of = owner_of
        self.now = now
        self.max_bytes = max_bytes
        self._receive = receive
        self._send = send
        self._held: Message | None = None
        self._kinds = {name.field: name.kind for name in exchange.operation.names if name.in_body}
        self._created = exchange.operation.creates

    async def pin(self) -> None:
        """Choose the project of what the team made last, if it has made anything that such a session may name."""
        if self.exchange.project is not None:
            return
        for kind in dict.fromkeys(self._kinds.values()):
            found = await self.resources.page(Page(kind, 1, team=self.exchange.team.id))
            if found:
                self.exchange.project = found[0].project
                return

    async def receive(self) -> Message:
        """Return the caller's next message, once what it names is known to be the team's."""
        if self._held is not None:
            message, self._held = self._held, None
            return message
        message = await self._receive()
        if named := _readable(message):
            try:
                if await self._moves(named):
                    self._held = message
                    raise SessionMoves
            except Refusal as refusal:
                self.exchange.refused = refusal.code
                self.exchange.stop(Close(refusal_code(refusal.status), shortened(refusal.sentence)))
                await asyncio.Event().wait()  # the relay stops reading
        return message

    async def send(self, message: Message) -> None:
        """Pass a message on to the caller, once what it creates is recorded."""
        text = message.get("text")
        if text is not None and self._created is not None and self._created.field in text:
            await self._record(text, self._created.kind, self._created.field)
        await self._send(message)

    async def _moves(self, body: bytes) -> bool:
        """Check what a message names. Returns whether the session has to move to another project for it.

        Raises:
            NotFound: it is not the team's.
            BadRequest: it cannot be reached by this session any more, or is no JSON.
        """
        if len(body) > self.max_bytes:
            raise BodyTooLarge(f"A message has at most {self.max_bytes} bytes here: what it names is checked.")
        named = named_values(body, self._kinds)
        refs = dict.fromkeys(self.rules.refer(self._kinds[field], value) for field, value in named)
        owners = [owner for ref in refs if (owner := await self.owner_of(ref, self.exchange)) is not None]
        project = owner_project(owners)
        if project is None or project == self.exchange.attempt.key.project:
            return False
        if self.exchange.session is None or self.exchange.session.messages_up:
            raise BadRequest("What this message names belongs to another project: name it in the first message.")
        self.exchange.project = project
        return True

    async def _record(self, text: str, kind: str, field: str) -> None:
        """Record a session once, by upstream's first message that names it."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return
        created = found.get(field) if isinstance(found, dict) else None
        if isinstance(created, str):
            self._created = None
            ref = self.rules.refer(kind, created)
            # The store has logged it; then the session cannot be resumed, and goes on.
            with suppress(Refusal):
                await self.resources.record(
                    Resource(ref, self.exchange.team.id, self.exchange.attempt.key.project, self.now)
                )


def _readable(message: Message) -> bytes:
    """What of a message may name anything: a text, or bytes that somebody could read as a JSON object."""
    data = message.get("bytes")
    if data is None:
        return str(message.get("text") or "").encode("utf-8", "surrogatepass")
    return data if data.lstrip(_BEFORE_OBJECTS).startswith(b"{") else b""

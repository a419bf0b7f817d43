"""The exchange that a session begins with: an upgrade request, which is refused or answered with a 101."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import unquote

import h11

from keypool_asgi.testing.simulator import conduct, routes
from keypool_asgi.testing.simulator.exchange import Exchange
from keypool_asgi.testing.simulator.values import Reply, json_reply
from keypool_asgi.testing.simulator.world import Key

from . import admission, handshake
from .dialogue import Call, Denied, Dialogue
from .echo import Echo
from .faults import SocketFault
from .frames import Frames
from .sessions import Session
from .socket import Socket
from .speaking import Speaking
from .streaming import Streaming
from .voices import Voices

__all__ = ["SOCKETS", "Upgrade", "is_socket"]

SOCKETS: dict[tuple[str, str], type[Dialogue]] = {
    ("streaming", "/v3/ws"): Streaming,
    ("agents", "/v1/ws"): Voices,
    ("tts", "/v1/ws"): Speaking,
}
"""Which service speaks at which path."""

LONGEST = {"streaming": 10_800, "agents": 10_800, "tts": 3600}
"""After so many seconds a session is ended."""

_SWITCH = Reply(101)


def is_socket(target: bytes) -> bool:
    """Tell whether sessions begin at a request target."""
    _, service, path = routes.locate(unquote(target.decode("latin-1").partition("?")[0]))
    return (service, path) in SOCKETS


class Upgrade(Exchange):
    """One upgrade request, and the session that follows. Its messages are the body of its record."""

    _upgrades = True
    _admission: Key | Denied | None = None
    _switched = False

    def _conduct(self) -> Iterable[str]:
        head, request = self._head, self._request
        yield from handshake.violations(head.method, head.http_version, request.headers)
        yield from conduct.violations(head.target, request.headers, self._server.authority, upgrade=True)
        token = request.query.get("token")
        if token is None:
            return
        with self._server.lock:
            if token not in self._server.world.tokens:
                yield "query parameter token is not a temporary token that was minted here"
        if request.header(b"authorization") is not None:
            yield "both a token in the query and an Authorization"

    def _identity(self) -> tuple[str | None, Key | None]:
        presented = admission.credential(self._server.world, self._request)
        return presented.text, presented.key

    def _working_size(self) -> int:
        return self._server.settings.keep_body

    def _end_of_request(self, event: h11.EndOfMessage) -> None:
        super()._end_of_request(event)
        self._record.sha256 = None

    def _act(self) -> Reply:
        if self._wrong:
            refused = super()._act()
            if self._request.header(b"sec-websocket-version") not in (None, handshake.VERSION.decode()):
                return replace(refused, status=426, headers=[*refused.headers, (b"Sec-WebSocket-Version", b"13")])
            return refused
        self._admission = self._admit()
        if isinstance(self._admission, Denied) and not self._server.settings.refuse_in_band:
            return json_reply({"error": self._admission.text}, self._admission.status)
        return _SWITCH

    def _admit(self) -> Key | Denied:
        server = self._server
        try:
            with server.lock:
                return admission.admit(
                    server.world, server.ledger, self._request, tokens_once=server.settings.tokens_once
                )
        except Denied as denied:
            return denied

    async def _respond(self, reply: Reply) -> None:
        if reply is _SWITCH:
            await self._switch()
        else:
            await super()._respond(reply)

    async def _after(self) -> bool:
        return False if self._switched else await super()._after()

    async def _switch(self) -> None:
        server, fault = self._server, self._record.fault
        script = fault if isinstance(fault, SocketFault) else SocketFault()
        extensions, field = handshake.agree(self._request.headers, deflate=server.settings.deflate)
        dialogue = self._open()
        self._switched, self._record.status, self._record.session = True, 101, dialogue.session.id
        socket = Socket(
            server,
            self._wire,
            frames=Frames(extensions, dialogue.most),
            dialogue=dialogue,
            record=self._record,
            script=script,
            note=self._note,
        )
        now = server.settings.clock()
        head = handshake.accept(self._request.headers, extensions=field, others=script.headers, now=now)
        await socket.run(head, self._connection.detach())

    def _open(self) -> Dialogue:
        server, denied = self._server, self._admission if isinstance(self._admission, Denied) else None
        with server.lock:
            now = server.settings.clock()
            presented = admission.credential(server.world, self._request)
            session = self._new_session(now, presented)
            server.ledger.open(session)
            key = self._admission if isinstance(self._admission, Key) else None
            query, headers = self._request.query, self._request.headers
            call = Call(server.world, server.ledger, session, key, query, headers, server.settings.audio_ahead)
            dialogue = SOCKETS[session.service, self._request.path](call)
            if server.settings.echo:
                dialogue = Echo(call, dialogue)
            if denied is None:
                dialogue.begin(now)
            else:
                dialogue.deny(denied, now)
        return dialogue

    def _new_session(self, now: float, presented: admission.Credential) -> Session:
        request = self._request
        longest = LONGEST[request.service]
        if presented.token is not None:
            longest = min(longest, presented.token.max_session_seconds)
        return Session(
            id=str(uuid.uuid4()),
            number=request.number,
            service=request.service,
            region=request.region,
            key=None if presented.key is None else presented.key.secret,
            project=None if presented.key is None else presented.key.project.name,
            token=None if presented.token is None else presented.token.value,
            query=dict(request.query),
            extensions=handshake.listed(request.headers, b"sec-websocket-extensions"),
            opened=now,
            expires=now + longest,
        )

    def _note(self, data: str | bytes) -> None:
        """Have the record search and keep what the client sent."""
        self._body.feed(data.encode() if isinstance(data, str) else data)
        self._note_body()

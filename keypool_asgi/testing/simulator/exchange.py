"""One exchange: a request is received, answered and recorded, and its fault is played at the place it names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

import h11

from . import conduct, messages, routes
from .bodies import BodySummary
from .faults import Fault
from .records import Recorded
from .values import Body, Refused, Reply, Request, json_reply
from .wire import WireLost
from .world import Key

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Ended", "Exchange"]

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_FAULT = Fault()
_NO_BODY = Body(0, "", b"")
_WORKING = 4_194_304  # of a body that a product reads itself; JSON may not be longer


class Ended(Exception):
    """A fault has ended the connection."""


class Exchange:
    """One request and its response."""

    _upgrades = False

    def __init__(self, connection: Connection, head: h11.Request) -> None:
        self._connection, self._server, self._wire = connection, connection.server, connection.wire
        self._head = head
        self._complete = self._closing = False
        self._request = self._look(head)
        self._record = self._open_record()
        self._fault = self._record.fault if isinstance(self._record.fault, Fault) else _NO_FAULT
        content_type = next((value for name, value in head.headers if name == b"content-type"), b"")
        self._body = BodySummary(content_type, keep=self._working_size(), needles=self._record.watched)
        self._wrong = list(self._conduct())

    async def run(self) -> bool:
        """Play the exchange; returns whether the connection may be used again."""
        recorder = self._server.recorder
        for sentence in self._wrong:
            recorder.violation(f"request {self._record.number}: {sentence}")
        try:
            again = await self._play()
        except Ended:
            recorder.close(self._record, "cut")
            raise
        except h11.RemoteProtocolError as error:
            recorder.violation(f"request {self._record.number}: malformed body: {error}")
            recorder.close(self._record, "malformed")
            return False
        except (WireLost, asyncio.CancelledError):
            recorder.close(self._record, "abandoned")
            raise
        return again

    async def _play(self) -> bool:
        await self._place("request head", 0)
        refused = await self._expectation()
        if refused is None:
            await self._receive()
        reply = refused or self._answer()
        await self._place("response head", 0)
        if self._fault.raw is not None:
            await self._send(self._fault.raw, last=True)
        else:
            await self._respond(reply)
        return await self._after()

    async def _expectation(self) -> Reply | None:
        if not self._connection.waits_for_continue or self._fault.early_after == 0:
            return None
        with self._server.lock:
            try:
                if not self._fault.answer:
                    routes.check(self._server.world, self._request)
            except Refused as refused:
                return routes.refuse(self._request, refused)
        await self._wire.write(_CONTINUE)
        return None

    async def _receive(self) -> None:
        fault = self._fault
        most = 65_536 if fault.read_rate is None else max(1, int(fault.read_rate / 10))
        await self._place("request body", 0)
        while fault.early_after is None or self._body.size < fault.early_after:
            event = await self._connection.event(most)
            if isinstance(event, h11.EndOfMessage):
                self._end_of_request(event)
                return
            if isinstance(event, h11.Data):
                await self._data(bytes(event.data))

    async def _data(self, data: bytes) -> None:
        before = self._body.size
        self._body.feed(data)
        self._note_body()
        await self._place("request body", self._body.size, before)
        if self._fault.read_rate is not None:
            await self._wire.pause(len(data) / self._fault.read_rate)

    def _end_of_request(self, event: h11.EndOfMessage) -> None:
        self._complete = self._record.complete = True
        self._record.trailers = event.headers.raw_items()
        self._record.sha256 = self._body.body().sha256
        if self._connection.leftover:
            self._server.recorder.violation(f"request {self._record.number}: bytes after its end, before its answer")

    def _answer(self) -> Reply:
        fault = self._fault
        lost = fault.raw is not None or (fault.breaks is not None and fault.breaks.where == "response head")
        replaced = fault.answer is not None or lost
        if self._complete and (fault.acts or not replaced):
            acted = self._act()
            return fault.answer or acted
        return fault.answer or json_reply({"error": "Bad request"}, 400)

    def _act(self) -> Reply:
        if self._wrong:
            return json_reply({"error": f"The simulator refuses: {'; '.join(self._wrong)}"}, 400)
        if self._body.size > _WORKING and self._request.header(b"content-type") == "application/json":
            return json_reply({"error": "Request body too large"}, 413)
        request = replace(self._request, body=self._body.body(), now=self._server.settings.clock())
        with self._server.lock:
            return routes.answer(self._server.world, request)

    async def _respond(self, reply: Reply) -> None:
        fault, settings = self._fault, self._server.settings
        for status in fault.informational:
            await self._send(messages.head_bytes(status, [(b"Link", b"</style.css>; rel=preload")]))
        self._closing = self._closes()
        accepts = self._request.header(b"accept-encoding") or ""
        plan = messages.plan(
            reply,
            fault,
            method=self._request.method,
            now=settings.clock(),
            close=self._closing and fault.then != "hang up",
            gzipped=settings.compress and "gzip" in accepts,
            chunked=settings.chunked,
        )
        self._closing = self._closing or plan.framing == "close"
        self._record.status = reply.status
        await self._send_body(plan, reply.pause)

    async def _send_body(self, plan: messages.Plan, pause: float) -> None:
        planned = (self._fault.breaks, self._fault.stall)
        places = [place.after for place in planned if place is not None and place.where == "response body"]
        out, before = plan.head, 0
        if 0 in places:
            await self._send(out)
            out = b""
            await self._place("response body", 0)
        for offset, piece in messages.split_at(plan.pieces, *places):
            if out and (pause or len(out) >= 16_384):
                await self._send(out)
                out = b""
            if pause and before:
                await self._wire.pause(pause)
            out += plan.frame(piece)
            if any(before < place <= offset for place in places):
                await self._send(out)
                out = b""
                await self._place("response body", offset, before)
            before = offset
        await self._finish_body(plan, out)

    async def _finish_body(self, plan: messages.Plan, out: bytes) -> None:
        # A break that lies behind the end still has to break something.
        breaks = self._fault.breaks
        if breaks is not None and breaks.where == "response body" and plan.framing != "none":
            await self._send(out[:-1] if plan.framing == "length" else out)
            await self._break()
        await self._send(out + plan.end, last=True)

    async def _send(self, data: bytes, *, last: bool = False) -> None:
        size, interval = self._fault.trickle or (len(data) or 1, 0.0)
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        for number, piece in enumerate(pieces, 1):
            if last and number == len(pieces):
                # Before the last byte goes out, so that whoever has it finds the exchange closed.
                self._server.recorder.close(self._record, "answered")
            await self._wire.write(piece)
            if interval and number < len(pieces):
                await self._wire.pause(interval)
        if last and not pieces:
            self._server.recorder.close(self._record, "answered")

    async def _place(self, where: str, offset: int, before: int = -1) -> None:
        """Play the break or the stall of this place, if ``before < after <= offset``."""
        stall, breaks = self._fault.stall, self._fault.breaks
        if stall is not None and stall.where == where and before < stall.after <= offset:
            await self._wire.pause(stall.seconds, self._server.gate.event())
        if breaks is not None and breaks.where == where and before < breaks.after <= offset:
            await self._break()

    async def _break(self) -> None:
        breaks = self._fault.breaks
        self._server.recorder.close(self._record, "cut")
        if breaks is not None and breaks.how == "fin":
            await self._wire.close()
        else:
            await self._wire.reset()
        raise Ended

    async def _after(self) -> bool:
        fault = self._fault
        if fault.then == "reset":
            await self._wire.reset()
            raise Ended
        if fault.then != "keep" or self._closing:
            return False
        while not self._complete:
            event = await self._connection.event()
            if isinstance(event, h11.EndOfMessage):
                self._end_of_request(event)
            elif isinstance(event, h11.Data):
                self._body.feed(bytes(event.data))
                self._note_body()
        return True

    def _closes(self) -> bool:
        asked = any(name == b"connection" and b"close" in value.lower() for name, value in self._head.headers)
        # A client that still waits for its 100 would send its body after the answer, or not: nobody can tell.
        unclear = not self._complete and self._connection.waits_for_continue
        return asked or unclear or self._head.http_version < b"1.1" or self._fault.then in ("close", "hang up")

    def _note_body(self) -> None:
        record = self._record
        record.body_size = self._body.size
        record.found = frozenset(self._body.scanner.found)
        if len(record.body) < min(self._body.size, self._server.settings.keep_body):
            record.body = self._body.start(self._server.settings.keep_body)

    def _working_size(self) -> int:
        # An upload needs the head of its WAV file only.
        return max(65_536, self._server.settings.keep_body) if self._request.path == "/v2/upload" else _WORKING

    def _look(self, head: h11.Request) -> Request:
        path, _, query = head.target.decode("latin-1").partition("?")
        # An encoded slash does not separate segments; no route has one.
        region, service, rest = routes.locate(path if "%2f" in path.lower() else unquote(path))
        return Request(
            number=self._server.recorder.next_number(),
            service=service,
            region=region,
            method=head.method.decode("latin-1"),
            path=rest,
            query=dict(parse_qsl(query, keep_blank_values=True)),
            headers=list(head.headers),
            body=_NO_BODY,
            base=self._server.base(service, region),
            now=self._server.settings.clock(),
        )

    def _conduct(self) -> Iterable[str]:
        return conduct.violations(self._head.target, self._request.headers, self._server.authority)

    def _identity(self) -> tuple[str | None, Key | None]:
        """Tell what the request presents, and the key that it is or stands for."""
        secret = routes.presented_key(self._request)
        return secret, self._server.world.keys.get(secret or "")

    def _open_record(self) -> Recorded:
        request, recorder = self._request, self._server.recorder
        with self._server.lock:
            secret, key = self._identity()
        record = Recorded(
            number=request.number,
            connection=self._connection.number,
            service=request.service,
            region=request.region,
            method=request.method,
            target=self._head.target.decode("latin-1"),
            path=request.path,
            headers=self._head.headers.raw_items(),
            key=secret,
            project=None if key is None else key.project.name,
            started=request.now,
            fault=self._server.rules.pick(
                key=secret if key is None else key.secret,
                service=request.service,
                method=request.method,
                path=request.path,
                upgrade=self._upgrades,
            ),
            watched=recorder.watched,
        )
        recorder.add(record)
        return record

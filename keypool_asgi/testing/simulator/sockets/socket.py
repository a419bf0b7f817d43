"""The shell around a session: reads its frames, does what its service and its fault say, and tells how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from keypool_asgi.testing.simulator.records import Outcome, Recorded
from keypool_asgi.testing.simulator.wire import Wire, WireLost

from .acts import Act, Close, Drop, Fail, Hold, Ping, Raw, Say
from .dialogue import Dialogue
from .faults import SocketFault
from .frames import Broken, Closed, Frames, Pinged, Ponged, Received, TooBig, close_frame, frame

if TYPE_CHECKING:
    from keypool_asgi.testing.simulator.server import Server

__all__ = ["Socket"]

_TICK = 0.05
"""How often a clock that is not the machine's is looked at."""

_POLL = 0.01
"""How often a stalled session looks whether it may go on."""

_FOREVER = float("inf")
_FAREWELL = 1.0
"""For how long a close frame is waited for."""


class Socket:
    """One session from its 101 to its end.

    Args:
        server: that it belongs to.
        wire: its connection.
        frames: its protocol.
        dialogue: its service.
        record: of its upgrade request.
        script: what goes wrong with it.
        note: is given everything that the client sends.
    """

    def __init__(
        self,
        server: Server,
        wire: Wire,
        *,
        frames: Frames,
        dialogue: Dialogue,
        record: Recorded,
        script: SocketFault,
        note: Callable[[str | bytes], None],
    ) -> None:
        self._server, self._wire, self._frames, self._dialogue = server, wire, frames, dialogue
        self._record, self._script, self._note = record, script, note
        self._session = dialogue.session
        self._over = False
        self._waiting = script.before_begin and script.after > 0
        self._timed: tuple[Act, float] | None = None
        self._held: dict[str, tuple[float, asyncio.Event]] = {}

    async def run(self, head: bytes, data: bytes) -> None:
        """Play the session; ``head`` is sent first, ``data`` came with the request."""
        try:
            await self._wire.write(head)
            self._follow_script()
            await self._take(data)
            while not self._over:
                await self._go_on()
                if not self._over:
                    await self._take(await self._listen())
        except WireLost:
            self._lost("abandoned")
        except asyncio.CancelledError:
            self._end("abandoned")
            raise

    # What comes

    async def _listen(self) -> bytes:
        """Wait for bytes, or until something is to be done."""
        patience = self._patience()
        try:
            async with asyncio.timeout(patience):
                data = await self._wire.read()
        except TimeoutError:
            return b""
        if not data:
            raise WireLost
        return data

    def _patience(self) -> float | None:
        patience, clock = _FOREVER, self._server.settings.clock
        if self._lives:
            left = max(0.0, self._dialogue.deadline - clock())
            patience = left if clock is time.time else min(left, _TICK)
        if self._timed is not None:
            patience = min(patience, max(0.0, self._timed[1] - self._server.loop.time()))
        patience = min(patience, _POLL) if self._is_held("sending") else patience
        return None if patience == _FOREVER else patience

    @property
    def _lives(self) -> bool:
        """Whether the service still listens, and looks at the clock."""
        return self._session.ended is None and self._session.refusal is None

    async def _take(self, data: bytes) -> None:
        if data:
            for event in self._frames.feed(data):
                await self._happened(event)
                await self._go_on()
                if self._over:
                    return
        with self._server.lock:
            now = self._server.settings.clock()
            if self._lives and now >= self._dialogue.deadline:
                self._dialogue.tick(now)

    async def _happened(self, event: Received | TooBig | Pinged | Ponged | Closed | Broken) -> None:
        match event:
            case Received():
                self._received(event)
            case TooBig():
                with self._server.lock:
                    text = f"Message is over {self._dialogue.most} bytes"
                    self._dialogue.fail(1009, text, self._server.settings.clock())
            case Pinged():
                self._session.pings += 1
                self._note(event.payload)
                if not self._is_held("sending"):
                    await self._wire.write(frame(10, event.payload))
            case Ponged():
                self._session.pongs += 1
            case Closed():
                await self._client_closes(event)
            case Broken():
                await self._broken(event)

    def _received(self, message: Received) -> None:
        self._keep(message)
        with self._server.lock:
            if not self._lives:
                return
            self._dialogue.receive(message, self._server.settings.clock())
            if self._session.received == self._script.after:
                self._play()

    def _keep(self, message: Received) -> None:
        self._note(message.data)
        with self._server.lock:
            self._session.note(message.data, self._server.settings.keep_messages)
            if isinstance(message.data, bytes):
                self._session.audio_bytes += len(message.data)

    # What is done

    async def _go_on(self) -> None:
        """Do what is due, and stay until reading goes on."""
        await self._do()
        while not self._over and self._is_held("reading"):
            if self._wire.gone.is_set() and self._held["reading"][0] == _FOREVER:
                raise WireLost
            await asyncio.sleep(_POLL)
            await self._do()

    async def _do(self) -> None:
        """Do what is due."""
        while self._dialogue.outbox and not (self._over or self._waiting or self._is_held("sending")):
            act = self._dialogue.outbox[0]
            if not self._is_due(act):
                return
            self._dialogue.outbox.popleft()
            await self._perform(act)

    def _is_held(self, what: str) -> bool:
        end, released = self._held.get(what, (0.0, None))
        if released is not None and not released.is_set() and self._server.loop.time() < end:
            return True
        self._held.pop(what, None)
        return False

    def _is_due(self, act: Act) -> bool:
        if not isinstance(act, Say) or not act.pause:
            self._timed = None
            return True
        if self._timed is None or self._timed[0] is not act:
            self._timed = (act, self._server.loop.time() + act.pause)
        if self._server.loop.time() < self._timed[1]:
            return False
        self._timed = None
        return True

    async def _perform(self, act: Act) -> None:
        match act:
            case Say():
                await self._say(act)
            case Fail():
                with self._server.lock:
                    self._dialogue.fail(act.code, act.text, self._server.settings.clock())
            case Close():
                await self._close(act)
            case Drop():
                self._end("cut")
                await (self._wire.reset() if act.how == "reset" else self._wire.close())
            case Hold():
                self._hold(act)
            case Raw():
                await self._wire.write(act.data)
            case Ping():
                for start in range(0, act.count, 1000):
                    await self._wire.write(frame(9, act.payload) * min(1000, act.count - start))

    async def _say(self, say: Say) -> None:
        self._session.begun = self._session.begun or say.begins
        self._session.sent += 1
        for number, data in enumerate(self._frames.message(say.data, say.fragments)):
            pings = frame(9, b"between") * say.pings if number else b""
            await self._wire.write(pings + data)

    def _hold(self, hold: Hold) -> None:
        end = _FOREVER if hold.seconds is None else self._server.loop.time() + hold.seconds
        for what in ("reading", "sending") if hold.what == "both" else (hold.what,):
            self._held[what] = (end, self._server.gate.event())

    # How it begins and ends

    def _follow_script(self) -> None:
        """Put what the fault does before or after ``Begin``."""
        script, outbox = self._script, self._dialogue.outbox
        if script.begin is None:
            outbox.clear()
        elif outbox and isinstance(outbox[0], Say):
            outbox[0] = replace(outbox[0], pause=script.begin)
        if script.after == 0:
            self._play()

    def _play(self) -> None:
        """Put what the fault does before what is to be said, or after it."""
        outbox = self._dialogue.outbox
        if self._script.before_begin:
            outbox.extendleft(reversed(self._script.does))
        else:
            outbox.extend(self._script.does)
        self._waiting = False

    async def _client_closes(self, event: Closed) -> None:
        self._note(event.reason)
        with self._server.lock:
            self._session.client_close = (event.code, event.reason)
            self._dialogue.gone(self._server.settings.clock())
            answer = self._dialogue.farewell(event.code, event.reason)
        if self._is_held("sending"):
            end, released = self._held["sending"]
            left = None if end == _FOREVER else end - self._server.loop.time()
            await self._wire.pause(left, released)
        await self._close(answer, answered=True)

    async def _broken(self, event: Broken) -> None:
        self._server.recorder.violation(f"request {self._record.number}: broken WebSocket: {event.why}")
        self._end("malformed")
        await self._close(Close(event.code, event.why[:60]), answered=True)

    async def _close(self, close: Close, *, answered: bool = False) -> None:
        """Send a close frame, wait for the client's, and end the connection."""
        with self._server.lock:
            self._session.server_close = (close.code, close.reason)
        self._end("answered")
        await self._wire.write(close_frame(close.code, close.reason))
        if not answered:
            await self._wait_for_close()
        await self._wire.close()

    async def _wait_for_close(self) -> None:
        data = b""  # the close frame may have come together with what is answered
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                while not self._is_answered(data):
                    data = await self._wire.read()
                    if not data:
                        return

    def _is_answered(self, data: bytes) -> bool:
        for event in self._frames.feed(data):
            match event:
                case Received():
                    self._keep(event)
                case Closed():
                    self._note(event.reason)
                    self._session.client_close = (event.code, event.reason)
                    return True
                case Broken():
                    return True
        return False

    def _lost(self, outcome: Outcome) -> None:
        with self._server.lock:
            self._dialogue.gone(self._server.settings.clock())
        self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        """Note that it is over; before the client can know, so that whoever has been told finds it ended."""
        self._over = True
        with self._server.lock:
            if self._session.state == "open":
                self._server.ledger.end(self._session, "closed", self._server.settings.clock())
        self._server.recorder.close(self._record, outcome)

"""One session on one attempt's key: opened, relayed both ways, and ended.

One task reads the caller, one reads upstream, and the exchange's own waits for what ends the session. What follows from
what they read is decided in ``core.relaying``; here it is carried out. Whatever ends the session, upstream is told by
the product's own end message, and has a bounded time for its closing figures (invariant I8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from keypool_asgi.asgi import Receive, Scope, Send
from keypool_asgi.core.close_codes import IDLE, TOO_LONG
from keypool_asgi.core.messages import RequestHead
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.relaying import (
    Accept,
    CallerLeft,
    CloseCaller,
    Command,
    EndUpstream,
    Event,
    FromCaller,
    GiveUp,
    Judge,
    NoteFigures,
    Overdue,
    Phase,
    StopAsked,
    ToCaller,
    Upgraded,
    begin,
    is_notable,
    step,
)
from keypool_asgi.core.sessions import Close, SessionLimits, SessionMeter, SessionRules
from keypool_asgi.errors import BadRequest, ConnectionBroken, Draining, UpgradeRefused, UpstreamError, UpstreamTimeout
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import UpstreamSocket, UpstreamSockets

from .leaving import retrieved
from .session_messages import close_of, event_of, is_longer, left, to_caller
from .stage import KeyRefused, SessionMoves

__all__ = ["RelayedSession"]

# For the end of a session that was left before it had begun: nothing is to be learnt of it any more, and the SDKs,
# which give up after a second, come back after another half.
_ABANDONED_SECONDS = 0.4

_VANISHED = CallerLeft(Close(1006))


class Relaying(Protocol):
    """What a session needs of the stage that relays it."""

    sockets: UpstreamSockets
    provider: Provider
    limits: SessionLimits
    clock: Callable[[], float]

    def upgrade_request(self, exchange: Exchange, scope: Scope) -> RequestHead:
        """Return what asks upstream for the session, on the attempt's key."""


class RelayedSession:
    """One attempt's session.

    Attributes:
        socket: the upstream connection, once it is open.
        moved_on: whether another key may be tried meanwhile, so that nobody waits for this one's end.
    """

    __slots__ = (
        "exchange",
        "heard",
        "judge",
        "left",
        "limits",
        "loop",
        "meter",
        "moved_on",
        "opening",
        "relay",
        "send",
        "socket",
        "state",
        "subprotocol",
        "woken",
    )

    def __init__(
        self, relay: Relaying, exchange: Exchange, rules: SessionRules, subprotocol: str | None, send: Send
    ) -> None:
        self.relay = relay
        self.limits = relay.limits
        self.exchange = exchange
        self.judge = exchange.attempt.judge  # of this attempt: another one may be going on when this one ends
        self.subprotocol = subprotocol
        self.send = send
        self.loop = asyncio.get_running_loop()
        self.state = begin(rules)
        self.left = _VANISHED
        self.woken: asyncio.Future[None] = self.loop.create_future()
        self.opening: asyncio.Task[tuple[Command, ...]] | None = None
        self.socket: UpstreamSocket | None = None
        self.moved_on = False
        self.meter = SessionMeter()
        self.heard = 0.0

    async def run(self, scope: Scope, receive: Receive) -> None:
        """Open upstream's side, accept the caller, and relay until the session is over or the caller has left."""
        stopped = self.exchange.stopped
        self.exchange.on_stop = self._wake
        try:
            await self._carry_out(
                await self._opened(scope, receive) if stopped is None else self._stopped_early(stopped)
            )
            if self.state.phase is Phase.LIVE:
                await self._relay(receive)
        except OSError:
            # Upstream's errors are UpstreamErrors: this is the server's way to say that the caller has left.
            self.left = _VANISHED
        except SessionMoves:
            self.moved_on = True
            self.exchange.opens_by = None  # the time until its first message was the caller's own
            raise
        finally:
            self.exchange.on_stop = None

    @property
    def is_closed(self) -> bool:
        """Whether there is nothing to end upstream."""
        return self.socket is None and (self.opening is None or self.opening.done())

    async def part(self) -> None:
        """End upstream's side in order, within the time for that.

        An upgrade that is under way is let come to its end: upstream may have begun a session already, which would run
        on, and cost, for hours if nobody told it that it is over.
        """
        if self.opening is not None:
            await asyncio.wait([self.opening])
        if self.socket is not None:
            await self._end(self.socket)

    async def _end(self, socket: UpstreamSocket) -> None:
        begun = self.state.phase is not Phase.OPENING
        try:
            async with asyncio.timeout(self.limits.closing_seconds if begun else _ABANDONED_SECONDS):
                commands = self._decide(self.left)
                while self.state.phase is not Phase.OVER:
                    await self._carry_out(commands)
                    commands = self._decide(event_of(await socket.receive()))
                await self._carry_out(commands)
        except (TimeoutError, UpstreamError):
            self._decide(Overdue())
        if begun:
            await socket.close(self.state.leaving)
        else:
            socket.abort()
        self.meter.closed = self.loop.time()

    # Opening

    async def _opened(self, scope: Scope, receive: Receive) -> tuple[Command, ...]:
        """Open upstream's side unless the caller leaves meanwhile. Returns what follows; nothing when it has left.

        Raises:
            KeyRefused: the key is not accepted.
            UpstreamError: upstream does not serve.
            Draining: the process is about to end.
        """
        head = self.relay.upgrade_request(self.exchange, scope)
        self.opening = opening = self.loop.create_task(self._open(head))
        opening.add_done_callback(retrieved)
        # Who has been accepted already may be sending, which is for later.
        leaving = [] if self.exchange.accepted else [self.loop.create_task(left(receive))]
        for task in (opening, *leaving):
            task.add_done_callback(self._wake)
        try:
            await self.woken
        finally:
            if self.socket is not None:
                opening.cancel()  # upstream has upgraded, and only its first message is waited for
            await _ended(*leaving)
        if opening.done() and not opening.cancelled():
            self.opening = None  # nobody needs what it holds, for as long as the session lasts
            return opening.result()
        if self.exchange.stopped is not None:
            self.moved_on = True
            return self._stopped_early(self.exchange.stopped)
        for task in leaving:
            self.left = task.result()
        return ()

    def _stopped_early(self, close: Close) -> tuple[Command, ...]:
        """What becomes of a session that is to end before it has begun.

        Raises:
            Draining: the caller has not been accepted yet.
        """
        if self.exchange.accepted:  # it has moved
            return (CloseCaller(close),)
        raise Draining("This server is shutting down; connect again, to another one.", retry_after=1.0)

    async def _open(self, head: RequestHead) -> tuple[Command, ...]:
        """Connect, and wait for what shows that the key is good, if upstream is the one to speak first."""
        limits, now = self.limits, self.loop.time()
        exchange = self.exchange
        exchange.opens_by = exchange.opens_by or now + limits.opening_seconds
        try:
            async with asyncio.timeout_at(min(exchange.opens_by, now + limits.attempt_seconds)):
                self.socket = await self.relay.sockets.open(head, last_words=self.state.rules.end_message)
                self.meter.opened = self.loop.time()
                commands = self._decide(Upgraded())
                while not commands:
                    commands = self._decide(event_of(await self.socket.receive()))
        except TimeoutError:
            self.moved_on = True
            raise UpstreamTimeout("upstream did not serve the session in time", sent=True) from None
        except UpgradeRefused as refused:
            raise self._judged(refused) from None
        except ValueError:
            raise BadRequest("The upgrade's query or header fields have characters that HTTP does not allow.") from None
        return commands

    def _judged(self, refused: UpgradeRefused) -> Exception:
        """What an ordinary answer to the upgrade says: about the key, about the request, or that upstream failed."""
        provider = self.relay.provider
        verdict = provider.judge(
            self.exchange.operation, refused.status, refused.headers, refused.body, self.relay.clock()
        )
        if verdict.blames_key:
            return KeyRefused(verdict)
        if 400 <= refused.status < 500:
            return BadRequest(f"AssemblyAI refuses this upgrade: HTTP {refused.status}.")
        return refused

    # Live

    async def _relay(self, receive: Receive) -> None:
        """Pass messages on, both ways, until the session is over or the caller has left."""
        self.exchange.session = self.meter
        self.exchange.reached_upstream = True
        self.heard = self.loop.time()
        speaking = self.loop.create_task(self._speak())
        hearing = self.loop.create_task(self._hear(receive))
        speaking.add_done_callback(self._wake)
        hearing.add_done_callback(self._wake)
        try:
            event = await self._ending(speaking, hearing)
            # No two tasks send to one side; and Granian closes no socket that somebody is still reading.
            await _ended(hearing)
            if isinstance(event, StopAsked):
                await self._stop(event, speaking)
            elif isinstance(event, CallerLeft):
                self.left = event
            else:
                await self._end_with(speaking.result())
        finally:
            await _ended(speaking, hearing)

    async def _ending(self, speaking: asyncio.Task[tuple[Command, ...]], hearing: asyncio.Task[Event]) -> Event | None:
        """Wait for what ends the session: the caller, ourselves, or None when upstream has ended it."""
        lasts = self.limits.session_seconds
        if self.exchange.max_session_seconds is not None:
            lasts = min(lasts, self.exchange.max_session_seconds)
        ends = (self.meter.opened or self.heard) + lasts
        while True:
            if speaking.done():
                return None
            if hearing.done():
                return hearing.result()
            if self.exchange.stopped is not None:
                return StopAsked(self.exchange.stopped)
            idle = self.heard + self.limits.idle_seconds
            if self.loop.time() >= min(idle, ends):
                return StopAsked(IDLE if idle < ends else TOO_LONG)
            # asyncio.wait would hold a kilobyte more, of every session and for hours.
            self.woken = self.loop.create_future()
            timer = self.loop.call_at(min(idle, ends), self._wake)
            try:
                await self.woken
            finally:
                timer.cancel()

    async def _stop(self, event: StopAsked, speaking: asyncio.Task[tuple[Command, ...]]) -> None:
        """Tell upstream to end; pass on what it still has to say; then close the caller's side."""
        commands = self._decide(event)
        try:
            async with asyncio.timeout(self.limits.closing_seconds):
                await self._carry_out(commands)
                commands = await speaking
        except (TimeoutError, UpstreamError):
            commands = self._decide(Overdue())
        await self._end_with(commands)

    async def _end_with(self, commands: tuple[Command, ...]) -> None:
        """Carry out what is left when the session is over. A caller that takes nothing any more is left behind."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.closing_seconds):
                await self._carry_out(commands)

    async def _speak(self) -> tuple[Command, ...]:
        """Pass upstream's messages on until the session is over. Returns what is left to be done then.

        Raises:
            OSError: the caller has left.
        """
        commands = await self._pass_on()
        if self.state.phase is not Phase.OVER:
            # Upstream has sent its closing figures; its close frame comes at once, or is not worth waiting for.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.closing_seconds):
                    commands = await self._pass_on()
        if self.state.phase is not Phase.OVER:
            commands = self._decide(Overdue())
        return commands

    async def _pass_on(self) -> tuple[Command, ...]:
        """Pass messages on until closing figures come, or the session is over. Returns what is left to be done."""
        socket, send, meter = self._open_socket(), self.send, self.meter
        closing = self.state.rules.closing
        while True:
            message = await socket.receive()
            if not isinstance(message, Close) and not is_notable(self.state, message, closing):
                meter.messages_down += 1
                await send(to_caller(message))
                continue
            commands = self._decide(event_of(message))
            if self.state.phase is Phase.OVER:
                return commands
            await self._carry_out(commands)
            if any(isinstance(command, NoteFigures) for command in commands):
                return ()

    async def _hear(self, receive: Receive) -> Event:
        """Pass the caller's messages on until it leaves, or must be stopped. Returns which."""
        socket, meter, limit = self._open_socket(), self.meter, self.limits.message_bytes
        now, ends = self.loop.time, self.state.rules.ends
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return CallerLeft(close_of(message))
            self.heard = now()
            data = message.get("bytes")
            if data is None:
                data = message["text"]
            size = len(data)
            if size > limit or (type(data) is str and is_longer(data, limit)):
                return StopAsked(Close(1009, f"A message has at most {limit} bytes."))
            if type(data) is bytes:
                meter.bytes_up += size
            elif is_notable(self.state, data, ends):
                self._decide(FromCaller(data))
            meter.messages_up += 1
            try:
                await socket.send(data)
            except UpstreamError:
                # How the connection has ended is told by its reading side, which must not wait any longer.
                socket.abort()
                await asyncio.Event().wait()
            del message, data  # else who is silent now would hold what it said last

    # Carrying out

    def _decide(self, event: Event) -> tuple[Command, ...]:
        self.state, commands = step(self.state, event)
        return commands

    async def _carry_out(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            await self._do(command)

    async def _do(self, command: Command) -> None:
        if isinstance(command, ToCaller):
            self.meter.messages_down += 1
            await self.send(to_caller(command.message))
        elif isinstance(command, EndUpstream):
            if command.message is not None:
                await self._open_socket().send(command.message)
        elif isinstance(command, NoteFigures):
            self.meter.figures = command.figures
        elif isinstance(command, Judge):
            self.judge(command.verdict)
        elif isinstance(command, Accept):
            await self._accept()
        elif isinstance(command, CloseCaller):
            close = command.close
            await self.send({"type": "websocket.close", "code": close.code, "reason": close.reason})
        elif isinstance(command, GiveUp):
            self.moved_on = True
            if command.verdict.blames_key:
                raise KeyRefused(command.verdict, command.said)
            raise ConnectionBroken("upstream ended the session before serving it", sent=True)

    async def _accept(self) -> None:
        if not self.exchange.accepted:
            self.exchange.accepted = True
            await self.send({"type": "websocket.accept", "subprotocol": self.subprotocol})

    def _wake(self, _cause: object = None) -> None:
        """Have whoever waits look at what has changed."""
        if not self.woken.done():
            self.woken.set_result(None)

    def _open_socket(self) -> UpstreamSocket:
        if self.socket is None:
            raise RuntimeError("the upstream connection is not open yet")
        return self.socket


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and wait until they have ended. What they raised is their readers' affair."""
    for task in tasks:
        task.cancel()  # all before any wait, which may be cut short itself
    if running := [task for task in tasks if not task.done()]:
        await asyncio.wait(running)

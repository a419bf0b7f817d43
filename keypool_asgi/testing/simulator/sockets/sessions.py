"""Sessions as they are told of, and the ledger that knows which of them still run and what they cost."""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Literal

from keypool_asgi.testing.simulator.world import Account, World

__all__ = ["Ledger", "Session", "State"]

State = Literal["open", "terminated", "dropped", "closed"]

METERED = frozenset({"streaming", "agents"})
"""Services that are paid by the time for which a session is open."""

KEEP_BYTES = 1_048_576


@dataclass(slots=True)
class Session:
    """One session over a WebSocket.

    Attributes:
        id: as ``Begin`` or ``session.ready`` tells it.
        number: of the record of its upgrade request.
        service: ``streaming``, ``agents`` or ``tts``.
        region: ``us`` or ``eu``.
        key: the secret of the key that it runs on, that is, of the key that minted its token; None if that is unknown.
        project: of the key.
        token: the temporary token that it was opened with.
        query: parameters of the upgrade request, one value per name.
        extensions: that were offered.
        opened: Unix time in seconds of the upgrade.
        expires: when the service ends it at the latest.
        state: ``open``; ``terminated``: the client said that it was to end; ``dropped``: the client went without
            saying so; ``closed``: the service ended it (a refusal, an error, a limit, a fault, or ``stop()``).
        ended: when it stopped to run (and to cost); a *dropped* session runs on until then.
        until: when a dropped session ends.
        seconds: for how long it has run.
        begun: whether it was admitted and said so.
        refusal: the text of the error that the service ended it with.
        messages: the last that the client sent, as ``("text", str)`` or ``("binary", bytes)``.
        received: how many messages the client sent.
        sent: how many messages it was sent.
        audio_bytes: of binary messages.
        audio_seconds: of the audio that came.
        pings: how many the client sent.
        pongs: how many the client sent.
        client_close: code and reason of the client's close frame; the code is None if it was empty.
        server_close: code and reason of the service's close frame.
    """

    id: str
    number: int
    service: str
    region: str
    key: str | None = field(repr=False)
    project: str | None
    token: str | None = field(repr=False)
    query: dict[str, str] = field(repr=False)
    extensions: tuple[str, ...]
    opened: float
    expires: float
    state: State = "open"
    ended: float | None = None
    until: float | None = None
    seconds: float = 0.0
    begun: bool = False
    refusal: str | None = None
    messages: list[tuple[Literal["text", "binary"], str | bytes]] = field(default_factory=list, repr=False)
    received: int = 0
    sent: int = 0
    audio_bytes: int = 0
    audio_seconds: float = 0.0
    pings: int = 0
    pongs: int = 0
    client_close: tuple[int | None, str] | None = None
    server_close: tuple[int | None, str] | None = None
    _last: deque[str | bytes] = field(default_factory=deque, repr=False)
    _kept: int = field(default=0, repr=False)

    @property
    def running(self) -> bool:
        """Whether it runs, and costs: it is open, or it was dropped and nobody ended it."""
        return self.ended is None

    def note(self, data: str | bytes, keep: int) -> None:
        """Count a message, and keep it among the last ``keep``, which hold a megabyte at most."""
        self.received += 1
        self._last.append(data)
        self._kept += len(data)
        while len(self._last) > keep or (self._kept > KEEP_BYTES and len(self._last) > 1):
            self._kept -= len(self._last.popleft())

    def told(self, now: float) -> Session:
        """Return a copy that is complete and stays as it is."""
        told = copy.copy(self)
        told.messages = [("text" if isinstance(each, str) else "binary", each) for each in self._last]
        told.seconds = (now if self.ended is None else self.ended) - self.opened
        return told


class Ledger:
    """Every session there is or was. The caller holds the lock; time is an argument.

    Args:
        world: whose bill is written.
        keep: how many sessions are kept; None keeps all.
    """

    def __init__(self, world: World, keep: int | None) -> None:
        self._world = world
        self._sessions: deque[Session] = deque(maxlen=keep)
        self._running: dict[int, Session] = {}
        self._starts: defaultdict[str, deque[float]] = defaultdict(deque)

    def open(self, session: Session) -> None:
        """Enter a new session."""
        self._sessions.append(session)
        self._running[session.number] = session

    def end(self, session: Session, state: State, now: float) -> None:
        """End a session that runs. What the service ended before it began costs nothing."""
        if session.ended is not None:
            return
        session.state, session.ended = state, now
        self._running.pop(session.number, None)
        if session.begun or state != "closed":
            self._charge(session)

    def drop(self, session: Session, until: float, now: float) -> None:
        """The client has left an open session without ending it: it runs until ``until``."""
        if session.state == "open":
            session.state, session.until = "dropped", until
            self.settle(now)

    def settle(self, now: float) -> None:
        """End what was dropped and is over by now."""
        for session in [each for each in self._running.values() if each.until is not None and each.until <= now]:
            self.end(session, "dropped", session.until or now)

    def running(self, now: float, account: Account | None = None) -> list[Session]:
        """Return the sessions that run, of an account or of all; those that are being refused do not."""
        self.settle(now)
        running = [each for each in self._running.values() if each.refusal is None]
        return [each for each in running if account is None or self._account(each) is account]

    def starts(self, account: Account, now: float) -> deque[float]:
        """Return when the account's sessions of the last minute began."""
        starts = self._starts[account.name]
        while starts and starts[0] <= now - 60:
            starts.popleft()
        return starts

    def find(self, ident: str) -> Session | None:
        """Return the newest session of an id."""
        return next((each for each in reversed(self._sessions) if each.id == ident), None)

    def spent(self, token: str) -> bool:
        """Tell whether a token has opened a session."""
        return any(each.token == token and each.begun for each in self._sessions)

    def told(self, now: float) -> list[Session]:
        """Return copies of the sessions, oldest first."""
        self.settle(now)
        return [session.told(now) for session in self._sessions]

    def forget(self) -> None:
        """Drop what is not open."""
        self._sessions = deque((each for each in self._sessions if each.state == "open"), self._sessions.maxlen)
        self._running = {number: each for number, each in self._running.items() if each.state == "open"}

    def _account(self, session: Session) -> Account | None:
        key = self._world.keys.get(session.key or "")
        return None if key is None else key.account

    def _charge(self, session: Session) -> None:
        key = self._world.keys.get(session.key or "")
        if key is not None and session.ended is not None and session.service in METERED:
            seconds = session.ended - session.opened
            self._world.charge(key, session.service, "stream_seconds", seconds, session.id)

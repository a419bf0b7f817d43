"""The exchange: what the stages of the stack know of one request, and hand on to each other.

It travels in a *copied* scope under one key. What auth writes is written once; reading it too early names the stage
that is missing from the composition.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .asgi import Scope
from .core.headers import Framing
from .core.keys import Secret, UpstreamKey
from .core.operations import Operation
from .core.sessions import Close, SessionMeter
from .core.teams import Team
from .core.verdicts import Verdict
from .errors import MissingStage, UpstreamError

__all__ = ["SCOPE_KEY", "Attempt", "Exchange", "Passed", "exchange_of"]

SCOPE_KEY = "keypool_asgi.exchange"
"""Where a scope holds its exchange."""


def _no_judge(verdict: Verdict) -> None:
    """Stand for a key selector that needs no word before the attempt is over."""


@dataclass(slots=True)
class Attempt:
    """One try at serving an exchange, on one key.

    Attributes:
        key: the key that is leased for it.
        failure: how the upstream connection failed, or None.
        judge: tells the pool what a WebSocket session says about the key while it goes on.
    """

    key: UpstreamKey
    failure: UpstreamError | None = None
    judge: Callable[[Verdict], None] = _no_judge


class Passed(Protocol):
    """What has passed at the border to the server.

    Attributes:
        status: of the answer, 101 for a session that was accepted, None while there is none.
        close_code: of a session, whichever side sent it.
        request_bytes: from the caller so far.
        response_bytes: to the caller so far.
    """

    status: int | None
    close_code: int | None
    request_bytes: int
    response_bytes: int


@dataclass(eq=False, slots=True)
class Exchange:
    """One HTTP request and its response, or one WebSocket session.

    Attributes:
        request_id: printable id, in every refusal and record.
        operation: what is asked for.
        path: upstream path, rebuilt from the operations table.
        ids: identifiers that the path names.
        framing: how the request body is delimited.
        own_base: returns the absolute URL of the pool as the caller sees it, without a trailing slash.
        began: when it came, in monotonic seconds.
        attempt: the try that is going on. Set by the key selector, anew for each.
        project: the project that owns what the request names; its keys alone can serve. None: any. Set by ownership.
        temporary: whether a temporary token was presented, which opens sockets only. Set by auth.
        max_session_seconds: how long a session may last by its temporary token. Set by auth.
        opens_by: loop time by which a WebSocket session must be served. Set by the relay.
        accepted: whether the caller's side of a WebSocket session is open. Set by the relay.
        passed: what has passed of a WebSocket session at the border. Set by intercept.
        session: what a WebSocket session has used so far. Set by the relay when upstream has upgraded.
        stopped: how the session shall end, once that was asked for.
        on_stop: what the relay does when it is asked for.
        refused: code of our own refusal, when there was one.
        reached_upstream: whether upstream was asked for the team; what was not costs it nothing. Set by the key
            selector, and by stages that ask themselves.
    """

    request_id: str
    operation: Operation
    path: str
    ids: Mapping[str, str]
    framing: Framing
    own_base: Callable[[], str]
    began: float = field(default_factory=time.monotonic, init=False)
    project: str | None = field(default=None, init=False)
    temporary: bool = field(default=False, init=False)
    max_session_seconds: float | None = field(default=None, init=False)
    opens_by: float | None = field(default=None, init=False)
    accepted: bool = field(default=False, init=False)
    passed: Passed | None = field(default=None, init=False, repr=False)
    session: SessionMeter | None = field(default=None, init=False)
    stopped: Close | None = field(default=None, init=False)
    on_stop: Callable[[Close], None] | None = field(default=None, init=False)
    refused: str | None = field(default=None, init=False)
    reached_upstream: bool = field(default=False, init=False)
    attempts: list[Attempt] = field(default_factory=list, init=False)
    _team: Team | None = field(default=None, init=False, repr=False)
    _token: Secret | None = field(default=None, init=False, repr=False)

    @property
    def team(self) -> Team:
        """Who asks. Written once, by auth."""
        if self._team is None:
            raise _read_early("team", "auth")
        return self._team

    @team.setter
    def team(self, team: Team) -> None:
        if self._team is not None:
            raise _written_twice("team", "auth")
        self._team = team

    @property
    def token(self) -> Secret:
        """What the team presented. Written once, by auth."""
        if self._token is None:
            raise _read_early("token", "auth")
        return self._token

    @token.setter
    def token(self, token: Secret) -> None:
        if self._token is not None:
            raise _written_twice("token", "auth")
        self._token = token

    @property
    def known_team(self) -> str | None:
        """Id of the team, or None while nobody is authenticated."""
        return None if self._team is None else self._team.id

    def stop(self, close: Close) -> None:
        """Ask for the end of a WebSocket session, in order: its quota has run out, or the process is draining.

        The relay ends it upstream, passes the closing figures on, and closes the caller's side with ``close``. Only
        the first call counts. HTTP exchanges are short and take no notice.
        """
        if self.stopped is None:
            self.stopped = close
            if self.on_stop is not None:
                self.on_stop(close)

    @property
    def attempt(self) -> Attempt:
        """The try that is going on."""
        if not self.attempts:
            raise _read_early("attempt", "key selector")
        return self.attempts[-1]


def _read_early(name: str, stage: str) -> MissingStage:
    return MissingStage(f"exchange.{name} is read before the {stage} stage has run")


def _written_twice(name: str, stage: str) -> MissingStage:
    return MissingStage(f"exchange.{name} is written twice: the {stage} stage stands twice in the stack")


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange of a scope.

    Raises:
        MissingStage: the intercept stage does not stand before.
    """
    exchange = scope.get(SCOPE_KEY)
    if not isinstance(exchange, Exchange):
        raise MissingStage("there is no exchange in the scope: the intercept stage must stand before this one")
    return exchange

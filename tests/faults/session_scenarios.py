"""Sessions that pass every await of the relay: each is made anew, with a pool of its own, as often as it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from faults.rig import Rig
from faults.session_rig import AUDIO, TERMINATE, SessionCaller, session_rig, socket_scope
from harness import secret

from keypool_asgi import SessionLimits
from keypool_asgi.testing import Simulator, SocketFault

__all__ = ["KEYS", "SESSIONS", "SessionScenario"]

KEYS = ("dead-1", "dead-2", "good")


@dataclass
class SessionScenario:
    """One session that is about to begin.

    Attributes:
        rig: its pool.
        caller: makes the caller that plays it.
        is_over: whether the caller has come to see its end, if nothing went wrong.
        scope: of its upgrade.
    """

    rig: Rig
    caller: Callable[..., SessionCaller]
    is_over: Callable[[SessionCaller], bool]
    scope: dict[str, Any] = field(default_factory=socket_scope)


Build = Callable[[Simulator], SessionScenario]
SESSIONS: dict[str, Build] = {}


def session(build: Build) -> Build:
    SESSIONS[build.__name__.replace("_", " ")] = build
    return build


def _talks(**more: Any) -> SessionCaller:
    """Sends audio, waits for what is heard in it, and ends the session."""
    return SessionCaller([AUDIO, AUDIO, AUDIO, AUDIO, TERMINATE], after=[1, 1, 1, 1, 2], **more)


def _waits(**more: Any) -> SessionCaller:
    return SessionCaller([AUDIO], after=[1], **more)


def _is_terminated(caller: SessionCaller) -> bool:
    return caller.closed == (1000, "") and caller.kinds[0] == "Begin" and caller.kinds[-1] == "Termination"


def _is_closed(code: int) -> Callable[[SessionCaller], bool]:
    return lambda caller: caller.closed is not None and caller.closed[0] == code


@session
def from_begin_to_termination(simulator: Simulator) -> SessionScenario:
    return SessionScenario(session_rig(simulator, "good"), _talks, _is_terminated)


@session
def a_walk_over_dead_keys(simulator: Simulator) -> SessionScenario:
    return SessionScenario(session_rig(simulator, *KEYS), _talks, _is_terminated)


@session
def a_walk_to_nowhere(simulator: Simulator) -> SessionScenario:
    is_over = lambda caller: caller.refused == (503, "NO_AVAILABLE_KEYS")  # noqa: E731
    return SessionScenario(session_rig(simulator, *KEYS[:2]), _talks, is_over)


@session
def a_refusal_in_band(simulator: Simulator) -> SessionScenario:
    pool = session_rig(simulator, *KEYS[:2], socket_refusals="in_band")
    return SessionScenario(pool, _talks, _is_closed(1013))


@session
def an_upstream_that_ends_it(simulator: Simulator) -> SessionScenario:
    simulator.fail(SocketFault.errored(3007, "Audio Transmission Rate Exceeded", after=1))
    return SessionScenario(session_rig(simulator, "good"), _waits, _is_closed(3007))


@session
def an_upstream_that_breaks_off(simulator: Simulator) -> SessionScenario:
    simulator.fail(SocketFault.dropped("reset", after=1))
    return SessionScenario(session_rig(simulator, "good"), _waits, _is_closed(1011))


@session
def an_idle_limit(simulator: Simulator) -> SessionScenario:
    limits = SessionLimits(idle_seconds=0.03, closing_seconds=0.5)
    return SessionScenario(session_rig(simulator, "good", sessions=limits), _waits, _is_closed(4408))


@session
def a_message_that_is_too_long(simulator: Simulator) -> SessionScenario:
    limits = SessionLimits(message_bytes=3199, closing_seconds=0.5)
    return SessionScenario(session_rig(simulator, "good", sessions=limits), _waits, _is_closed(1009))


@session
def a_caller_who_speaks_first(simulator: Simulator) -> SessionScenario:
    def caller(**more: Any) -> SessionCaller:
        return SessionCaller(['{"type": "session.update", "session": {}}', '{"type": "session.end"}'], [0, 1], **more)

    scope = socket_scope("/v1/ws", (b"authorization", b""))
    scope["headers"] = [field for field in scope["headers"] if field[1]]
    return SessionScenario(
        session_rig(simulator, "good"), caller, lambda caller: "session.ended" in caller.kinds, scope
    )


@session
def a_region_that_is_dead(simulator: Simulator) -> SessionScenario:
    simulator.fail(SocketFault.dropped("fin", before_begin=True), times=1)
    return SessionScenario(session_rig(simulator, "good"), _talks, _is_terminated)


def revoke(simulator: Simulator) -> None:
    """Make the first keys the dead ones that they are named."""
    for name in KEYS[:2]:
        simulator.revoke_key(secret(name))

"""The relay's decisions: what follows from what either side of a session says. Pure.

::

    OPENING ──served──> LIVE ──caller leaves, or we stop──> ENDING ──closing figures, or time is up──> OVER
       └── refused, or not needed any more ──> OVER            upstream ends ──────────────────────────> OVER

``step`` maps a state and an event to the next state and commands, in the order in which they are to be carried out.
A message that is not ``notable`` in a LIVE session changes nothing: it may be passed on without asking (a property
test holds this rule to that).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum
from sys import float_info
from typing import TypeGuard

from .close_codes import for_caller, for_upstream
from .sessions import Close, SessionRules
from .verdicts import Fault, Verdict

__all__ = [
    "Accept",
    "CallerLeft",
    "CloseCaller",
    "CloseUpstream",
    "Command",
    "EndUpstream",
    "Event",
    "FromCaller",
    "FromUpstream",
    "GiveUp",
    "Judge",
    "NoteFigures",
    "Overdue",
    "Phase",
    "Session",
    "StopAsked",
    "ToCaller",
    "ToUpstream",
    "Upgraded",
    "UpstreamEnded",
    "begin",
    "closing_figures",
    "is_notable",
    "step",
]


_NORMAL = Close(1000)

# Of upstream's words, what is shown.
_SHOWN = 500


class Phase(Enum):
    """Where a session stands."""

    #: Upstream has not served it yet: another key may still take its place, unseen by the caller.
    OPENING = "opening"
    #: Both sides talk.
    LIVE = "live"
    #: The end message has gone upstream, which sends its closing figures now.
    ENDING = "ending"
    #: Nothing more is to be done than to end the connections.
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Session:
    """The state of a session.

    Attributes:
        rules: what the provider knows about its kind.
        phase: where it stands.
        caller_open: whether the caller is still there.
        ended: whether an end message has gone upstream, the caller's own or ours.
        proved: whether upstream has shown that it serves the key.
        parting: how the caller's side is closed when the session is over, if we end it.
        leaving: how upstream's side is closed then.
    """

    rules: SessionRules
    phase: Phase = Phase.OPENING
    caller_open: bool = True
    ended: bool = False
    proved: bool = False
    parting: Close = _NORMAL
    leaving: Close = _NORMAL


# Events


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The upstream connection is open."""


@dataclass(frozen=True, slots=True)
class FromUpstream:
    """Upstream has sent a message."""

    message: str | bytes


@dataclass(frozen=True, slots=True)
class FromCaller:
    """The caller has sent a message."""

    message: str | bytes


@dataclass(frozen=True, slots=True)
class UpstreamEnded:
    """The upstream connection has ended."""

    close: Close


@dataclass(frozen=True, slots=True)
class CallerLeft:
    """The caller has closed its side, or vanished."""

    close: Close


@dataclass(frozen=True, slots=True)
class StopAsked:
    """We want the session to end: a limit, a quota, a drain."""

    close: Close


@dataclass(frozen=True, slots=True)
class Overdue:
    """What upstream should have sent by now has not come."""


Event = Upgraded | FromUpstream | FromCaller | UpstreamEnded | CallerLeft | StopAsked | Overdue

# Commands


@dataclass(frozen=True, slots=True)
class Accept:
    """Accept the caller's upgrade."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Say what the session tells about its key."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class GiveUp:
    """This key will not serve the session: end the connection, and say why.

    Attributes:
        verdict: what that says about the key.
        said: upstream's own words, if it has said any.
    """

    verdict: Verdict
    said: str = ""


@dataclass(frozen=True, slots=True)
class ToCaller:
    """Pass a message on to the caller."""

    message: str | bytes


@dataclass(frozen=True, slots=True)
class ToUpstream:
    """Pass a message on to upstream."""

    message: str | bytes


@dataclass(frozen=True, slots=True)
class EndUpstream:
    """Send the end message (None: it has been sent), and expect the closing figures within the time for that."""

    message: str | None


@dataclass(frozen=True, slots=True)
class NoteFigures:
    """Write down upstream's closing figures, and expect the end of the connection within the time for that."""

    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class CloseCaller:
    """Close the caller's side."""

    close: Close


@dataclass(frozen=True, slots=True)
class CloseUpstream:
    """Close upstream's side; whoever carries out the commands may do so when everything else is done."""

    close: Close


Command = Accept | Judge | GiveUp | ToCaller | ToUpstream | EndUpstream | NoteFigures | CloseCaller | CloseUpstream
Step = tuple[Session, tuple[Command, ...]]

_SERVED = Verdict(Fault.NONE)
_UNRELATED = Verdict(Fault.UNRELATED)

NO_KEY = Close(1013, "No key can serve this session now. Try again.")
"""What the caller is told when upstream refuses the key after the caller's side had to be accepted."""


def begin(rules: SessionRules) -> Session:
    """The state of a session whose upstream connection is being opened."""
    return Session(rules)


def is_notable(session: Session, message: str | bytes, kinds: frozenset[str]) -> bool:
    """Whether a message must be decided about; any other one of a LIVE session is simply passed on.

    Args:
        session: the state.
        message: what has come. It becomes an event only if it is notable, as nearly none is.
        kinds: what matters from this side: ``rules.closing`` from upstream, ``rules.ends`` from the caller.
    """
    if session.phase is not Phase.LIVE or not session.proved:
        return True
    return isinstance(message, str) and _mentions(message, kinds)


def step(session: Session, event: Event) -> Step:  # noqa: PLR0911 - one for each event
    """Decide what follows from an event."""
    if session.phase is Phase.OVER:
        return session, ()
    match event:
        case FromUpstream(message):
            return _from_upstream(session, message)
        case FromCaller(message):
            return _from_caller(session, message)
        case UpstreamEnded(close):
            return _upstream_ended(session, close)
        case CallerLeft(close):
            return _caller_left(session, close)
        case StopAsked(close):
            return _stop_asked(session, close)
        case Overdue():
            return _overdue(session)
        case Upgraded():
            return _upgraded(session)


def closing_figures(message: str, rules: SessionRules) -> dict[str, float] | None:
    """The figures of upstream's closing message, or None when it is another message."""
    found = _object_of(message, rules.closing)
    if found is None:
        return None
    names = [name for name in (rules.session_figure, rules.audio_figure) if name]
    return {name: float(value) for name in names if _is_figure(value := found.get(name))}


def _upgraded(session: Session) -> Step:
    if session.phase is not Phase.OPENING or session.rules.speaks_first:
        return session, ()
    return replace(session, phase=Phase.LIVE), (Accept(),)


def _from_upstream(session: Session, message: str | bytes) -> Step:
    if not session.proved:
        verdict = session.rules.judge(message)
        if verdict is None:
            return _served(session, message)
        if _is_refused(session, verdict):
            return _refused(session, verdict, _error_text(message))
    forward: tuple[Command, ...] = (ToCaller(message),) if session.caller_open else ()
    figures = closing_figures(message, session.rules) if isinstance(message, str) else None
    if figures is None:
        return session, forward
    if session.phase is Phase.LIVE:
        # Upstream ends the session by itself, or at the caller's word; the close frame is on its way.
        return replace(session, ended=True), (*forward, NoteFigures(figures))
    return _over(session, (*forward, NoteFigures(figures), CloseUpstream(session.leaving)))


def _served(session: Session, message: str | bytes) -> Step:
    """The first message that is no refusal: the key is good, and there is no way back."""
    opening = session.phase is Phase.OPENING
    session = replace(session, proved=True, phase=Phase.LIVE if opening else session.phase)
    first: tuple[Command, ...] = (Judge(_SERVED), Accept()) if opening else (Judge(_SERVED),)
    session, rest = _from_upstream(session, message)
    return session, first + rest


def _is_refused(session: Session, verdict: Verdict) -> bool:
    """Whether the session ends here. A caller that was accepted already is told of upstream's failures, not of keys."""
    return session.phase is Phase.OPENING or (verdict.blames_key and verdict.certain)


def _refused(session: Session, verdict: Verdict, said: str) -> Step:
    if session.phase is Phase.OPENING:
        return replace(session, phase=Phase.OVER), (GiveUp(verdict, said),)
    if session.phase is Phase.LIVE:
        session = replace(session, parting=NO_KEY)
    return _over(session, (Judge(verdict), CloseUpstream(session.leaving)))


def _from_caller(session: Session, message: str | bytes) -> Step:
    if session.phase is not Phase.LIVE:
        return session, ()
    ended = session.ended or (isinstance(message, str) and _object_of(message, session.rules.ends) is not None)
    return replace(session, ended=ended), (ToUpstream(message),)


def _upstream_ended(session: Session, close: Close) -> Step:
    if not session.proved:
        verdict = session.rules.judge(close)
        if verdict is not None and _is_refused(session, verdict):
            return _refused(session, verdict, close.reason)
    if session.phase is Phase.OPENING:
        return replace(session, phase=Phase.OVER), (Accept(), CloseCaller(for_caller(close)))
    blamed = session.rules.judge(close) if session.proved else None
    if blamed is not None and blamed.blames_key and blamed.certain:
        # Its funds have run out, or the like: the next session is not to begin with this key.
        parting = NO_KEY if session.phase is Phase.LIVE else session.parting
        return _over(replace(session, parting=parting), (Judge(blamed),))
    if session.phase is Phase.LIVE:
        session = replace(session, parting=for_caller(close))
    return _over(session, ())


def _caller_left(session: Session, close: Close) -> Step:
    commands = _end(session)
    return replace(session, phase=Phase.ENDING, caller_open=False, leaving=for_upstream(close)), commands


def _stop_asked(session: Session, close: Close) -> Step:
    if session.phase is Phase.ENDING:
        return session, ()
    if session.phase is Phase.OPENING:
        return replace(session, phase=Phase.OVER), (GiveUp(_UNRELATED),)
    return replace(session, phase=Phase.ENDING, parting=close), _end(session)


def _end(session: Session) -> tuple[Command, ...]:
    """Commands that make upstream stop charging, unless it was told already."""
    if session.phase is Phase.ENDING:
        return ()
    return (EndUpstream(None if session.ended else session.rules.end_message),)


def _overdue(session: Session) -> Step:
    if session.phase is Phase.OPENING:
        return replace(session, phase=Phase.OVER), (GiveUp(_UNRELATED),)
    return _over(session, (CloseUpstream(session.leaving),))


def _over(session: Session, commands: tuple[Command, ...]) -> Step:
    if session.caller_open:
        commands = (*commands, CloseCaller(session.parting))
    return replace(session, phase=Phase.OVER), commands


def _error_text(message: str | bytes) -> str:
    """What an error message says, for people."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return ""
    text = found.get("error", found.get("message")) if isinstance(found, dict) else None
    return " ".join(text[:_SHOWN].split()) if isinstance(text, str) else ""


def _mentions(message: str, kinds: frozenset[str]) -> bool:
    return any(kind in message for kind in kinds)


def _object_of(message: str, kinds: frozenset[str]) -> dict[str, object] | None:
    """The JSON object of a message of one of these types, or None. A type in escaped letters is nobody's."""
    if not _mentions(message, kinds):
        return None
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return None
    kind = found.get("type") if isinstance(found, dict) else None
    return found if isinstance(kind, str) and kind in kinds else None


def _is_figure(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number from 0 on; JSON readers also take NaN, Infinity and longer integers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= float_info.max

"""Health that one process found out, told to others. Pure.

Each process keeps the health of its keys by itself (``core.health``) and goes on doing so when nobody can be reached.
What it finds out, that a subject went down or has healed, is *news* for the others:

1.  News counts only if it was found out after what this process has found out itself. Moments are told as ages, because
    each process has a clock of its own.
2.  A subject that is down elsewhere goes down here, for as long, and a little longer (``HEARSAY_SECONDS``): so usually
    the process that found it out sends the probe, and the others hear how it ended. If it died, they probe themselves.
3.  A subject that has healed elsewhere ramps up here, if it was down. Each process has a ramp of its own.
4.  News is heard once. What was known before it, leases that are out included, says nothing about the subject any more
    (``core.health``, rule 2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from keypool_asgi.core.health import Health, HealthPolicy, Scope, State
from keypool_asgi.core.keys import UpstreamKey

__all__ = ["HEARSAY_SECONDS", "Bulletin", "News", "Report", "board_name", "hear", "is_down"]

HEARSAY_SECONDS = 1.0
"""How much longer a subject stays down that is down by hearsay: half to one and a half times this."""

_DOWN = (State.COOLING, State.EXHAUSTED, State.REJECTED)


@dataclass(frozen=True, slots=True)
class News:
    """What one process found out about a subject.

    Attributes:
        id: names the news; no other has it.
        process: who found it out.
        scope: what kind of subject it is.
        name: the account or project, or for a key its ``board_name``.
        service: at which service.
        state: a state that is down, or ``RAMP`` when it has healed.
        age: seconds since it was found out.
        opens_in: seconds until a probe may go, 0 or less from then on.
        strikes: throttlings, or refusals, since it was last active.
    """

    id: str
    process: str
    scope: Scope
    name: str
    service: str
    state: State
    age: float
    opens_in: float
    strikes: int

    def later(self, seconds: float) -> News:
        """The same news, some seconds later."""
        return replace(self, age=self.age + seconds, opens_in=self.opens_in - seconds)


@dataclass(frozen=True, slots=True)
class Report:
    """What one process tells the others.

    Attributes:
        process: who tells it.
        news: what it has found out since its last report.
        in_flight: leases that it has out now, by the ``board_name`` of their keys.
    """

    process: str
    news: Sequence[News]
    in_flight: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Bulletin:
    """What a process hears of all the others.

    Attributes:
        news: the last news of every subject that there is any of.
        in_flight: leases that the others have out, by the ``board_name`` of their keys.
    """

    news: Sequence[News]
    in_flight: Mapping[str, int]


def board_name(key: UpstreamKey) -> str:
    """Name a key among processes: its id, and a digest of its entry.

    Whatever the operator changes in an entry may be what upstream refused, so another entry is another subject. The
    secret is a part of what is digested: 128 random bits cannot be found out from 48 bits of SHA-256.
    """
    entry = (key.secret.reveal(), key.project, key.account, key.region, key.weight, key.priority, key.max_in_flight)
    return f"{key.id}#{hashlib.sha256(repr(entry).encode()).hexdigest()[:12]}"


def is_down(state: State) -> bool:
    """Whether a state takes no work but a probe."""
    return state in _DOWN


def hear(health: Health, since: float, news: News, *, now: float, policy: HealthPolicy, jitter: float) -> Health | None:
    """Health after news of another process, or None when that changes nothing.

    Args:
        health: the subject's health here.
        since: the moment at which it last went down or healed, as far as is known here.
        news: what another process has found out.
        now: this moment.
        policy: durations.
        jitter: between 0 and 1; spreads the first probes of those who only heard.
    """
    if now - news.age <= since:
        return None
    if is_down(news.state):
        return _down(health, news, now, policy, jitter)
    return _healed(health, now, policy) if is_down(health.state) else None


def _down(health: Health, news: News, now: float, policy: HealthPolicy, jitter: float) -> Health | None:
    until = now + news.opens_in
    if is_down(health.state) and health.until >= until:
        return None
    until += HEARSAY_SECONDS * (0.5 + jitter)
    strikes = max(health.strikes, news.strikes)
    return Health(news.state, health.epoch + 1, until, strikes, doubtful_until=until + policy.unproven_seconds)


def _healed(health: Health, now: float, policy: HealthPolicy) -> Health:
    return Health(State.RAMP, health.epoch + 1, now + policy.ramp_seconds, health.strikes, limit=policy.ramp_start)

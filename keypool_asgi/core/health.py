"""Health of the keys and of what they belong to, as a state machine over frozen values. Pure.

Health is kept per *subject*: a key, a project or an account, at one AssemblyAI service. Services have limits of
their own (documented: REST 20,000 per 5 minutes, LLM gateway 30 per minute and model), so an account that the LLM
gateway throttles goes on transcribing. A key can serve when its key, its project and its account all can.

Rules
-----
1.  A fault counts against one scope (``BLAMED``): throttling and missing funds against the account, a refused
    credential against the key. For the other scopes of the lease the verdict is ``UNRELATED``. No fault that
    AssemblyAI tells today is the project's.
2.  A verdict counts only when its lease was taken in the subject's present *epoch*. A new epoch starts when a subject
    goes down and when it heals; so the 64 answers to one burst are one step of backoff, and a success that left before
    the throttling does not end it.
3.  A subject that is down takes no work until its time is over. Then it takes one lease, the *probe*, and that lease
    decides. A probe that says nothing (caller gone, 5xx) frees its place. A probe that is not back within
    ``probe_seconds`` does not keep the next one away, because a stream may last for hours.
4.  A healed subject ramps up: ``ramp_start`` leases at a time, doubled by every success. Only leases of this epoch
    count: streams that were open all the while are no reason to wait. The ramp ends at ``ramp_end`` leases, or after
    ``ramp_seconds`` without complaint.
5.  Backoff doubles with every throttling, or refusal of the credential, until the subject is active again.
    ``Retry-After`` replaces it.
6.  Nothing is down for ever: every state that is down has a time at which it takes a probe.
7.  A subject is *doubtful* until its first success in this epoch, but not longer than ``unproven_seconds`` after it
    could serve: a request that cannot be repeated avoids it for that time, and not for ever.
8.  A subject is *sound* when it is active and has had its success. It has no limit, and within its epoch it changes by
    nothing but a fault. So the leases that are taken of it need no count, and their good ends no judgement.

Table
-----
==========  ========  ==========  ==========  ==========  ==========
state       good      throttled   exhausted   rejected    unrelated
==========  ========  ==========  ==========  ==========  ==========
active      prove     cool        exhaust     reject      stay
ramp        grow      cool        exhaust     reject      stay
cooling     heal      cool        exhaust     reject      free
exhausted   heal      cool        exhaust     reject      free
rejected    heal      cool        exhaust     reject      free
==========  ========  ==========  ==========  ==========  ==========
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import Enum
from math import inf
from typing import NamedTuple

from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import ConfigurationError

__all__ = [
    "BLAMED",
    "TABLE",
    "Health",
    "HealthPolicy",
    "Scope",
    "State",
    "blame",
    "doubtful",
    "fresh",
    "judge",
    "occupied",
    "opens_at",
    "sound",
    "take",
]


class Scope(Enum):
    """What a health record is about."""

    KEY = "key"
    PROJECT = "project"
    ACCOUNT = "account"


class State(Enum):
    """Where a subject stands."""

    ACTIVE = "active"
    #: Healed a moment ago: takes a few leases at a time.
    RAMP = "ramp"
    #: Throttled.
    COOLING = "cooling"
    #: Out of funds.
    EXHAUSTED = "exhausted"
    #: The credential was refused.
    REJECTED = "rejected"


BLAMED = {Fault.THROTTLED: Scope.ACCOUNT, Fault.EXHAUSTED: Scope.ACCOUNT, Fault.REJECTED: Scope.KEY}
"""Which scope a fault counts against."""


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How long a subject stays down, and how it comes back.

    Args:
        cooling_first_seconds: first cooling of a throttled account without ``Retry-After``; doubled each time. Also
            the shortest ``Retry-After`` that is believed.
        cooling_max_seconds: longest cooling without ``Retry-After``.
        retry_after_max_seconds: longest ``Retry-After`` that is believed.
        exhausted_seconds: time until an account without funds is tried again.
        rejected_first_seconds: time until a key that upstream refused is tried again, unless its entry changes before;
            doubled each time, so that a moment of upstream's own trouble does not cost the pool its keys.
        rejected_seconds: longest such time.
        probe_seconds: time after which a probe without an outcome does not keep the next one away.
        ramp_start: leases at the same time after a successful probe.
        ramp_end: leases at the same time at which the ramp is over and the subject has no limit any more.
        ramp_seconds: time after which the ramp is over if nothing complains.
        unproven_seconds: time for which requests that cannot be repeated avoid a subject that is new or was down.

    Raises:
        ConfigurationError: a setting is not greater than 0, or an end lies before its start.
    """

    cooling_first_seconds: float = 1.0
    cooling_max_seconds: float = 60.0
    retry_after_max_seconds: float = 600.0
    exhausted_seconds: float = 300.0
    rejected_first_seconds: float = 5.0
    rejected_seconds: float = 300.0
    probe_seconds: float = 60.0
    ramp_start: int = 1
    ramp_end: int = 64
    ramp_seconds: float = 30.0
    unproven_seconds: float = 60.0

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if not 0 < value < inf:
                raise ConfigurationError(
                    f"HealthPolicy: {setting.name} must be a finite number greater than 0, not {value!r}"
                )
        for low, high in (
            ("cooling_first_seconds", "cooling_max_seconds"),
            ("cooling_first_seconds", "retry_after_max_seconds"),
            ("ramp_start", "ramp_end"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ConfigurationError(f"HealthPolicy: {low} must not be greater than {high}")


@dataclass(frozen=True, slots=True)
class Health:
    """Health of one subject. Moments are seconds of the caller's monotonic clock.

    Attributes:
        state: where the subject stands.
        epoch: counts the times it went down or healed (rule 2).
        until: down: the moment from which a probe may go. Ramp: the moment at which the ramp is over.
        strikes: throttlings, or refusals, since it was last active (rule 5).
        probe: the moment at which the running probe lapses, None without one.
        limit: ramp: leases at the same time.
        doubtful_until: the moment from which a request that cannot be repeated may use it unproven (rule 7).
    """

    state: State = State.ACTIVE
    epoch: int = 0
    until: float = -inf
    strikes: int = 0
    probe: float | None = None
    limit: int = 0
    doubtful_until: float = -inf


def fresh(now: float, policy: HealthPolicy) -> Health:
    """Health of a subject that nothing is known about."""
    return Health(doubtful_until=now + policy.unproven_seconds)


def blame(scope: Scope, verdict: Verdict) -> Fault:
    """What a verdict says about one scope of its lease (rule 1): nothing, when it is uncertain or passing."""
    fault = verdict.fault
    if fault is Fault.NONE or (verdict.certain and verdict.lasting and BLAMED.get(fault) is scope):
        return fault
    return Fault.UNRELATED


def opens_at(health: Health, in_flight: int) -> float:
    """The moment from which the subject takes a lease for certain, whether or not any lease comes back before.

    Args:
        health: the subject's health.
        in_flight: leases of its present epoch that are out.
    """
    state = health.state
    if state is State.ACTIVE:
        return -inf
    if state is State.RAMP:
        return -inf if in_flight < health.limit else health.until
    return health.until if health.probe is None else max(health.until, health.probe)


def occupied(health: Health, in_flight: int, now: float) -> bool:
    """Whether only a lease that is out keeps the subject closed: its return may open it at any moment."""
    if opens_at(health, in_flight) <= now:
        return False
    return health.state is State.RAMP or (health.probe is not None and health.until <= now)


def doubtful(health: Health, now: float) -> bool:
    """Whether a request that cannot be repeated should rather go elsewhere (rule 7)."""
    return now < health.doubtful_until


def sound(health: Health) -> bool:
    """Whether a lease need not be counted, and an end that blames nothing changes nothing (rule 8)."""
    return health.state is State.ACTIVE and health.doubtful_until == -inf


def take(health: Health, now: float, policy: HealthPolicy) -> Health:
    """Health after a lease was taken at a moment at which the subject was open; remember it for ``judge``."""
    state = health.state
    if state is State.ACTIVE:
        return health
    if state is State.RAMP:
        return _active(health) if health.until <= now else health
    return replace(health, probe=now + policy.probe_seconds)


def judge(
    health: Health,
    taken: Health,
    fault: Fault,
    *,
    now: float,
    policy: HealthPolicy,
    retry_after: float | None = None,
    jitter: float = 1.0,
) -> Health:
    """Health after a verdict.

    Args:
        health: the subject's health now.
        taken: what ``take`` returned for the lease.
        fault: what the verdict says about this subject (see ``blame``).
        now: this moment.
        policy: durations.
        retry_after: seconds that upstream asks us to stay away, if it said so.
        jitter: between 0 and 1; spreads the backoff over the upper half of its step.
    """
    if taken.epoch != health.epoch:
        return health
    return TABLE[health.state][fault](health, _Event(taken, now, policy, retry_after, jitter))


class _Event(NamedTuple):
    """What a row of the table needs to know of the verdict."""

    taken: Health
    now: float
    policy: HealthPolicy
    retry_after: float | None
    jitter: float


def _stay(health: Health, _event: _Event) -> Health:
    return health


def _prove(health: Health, _event: _Event) -> Health:
    return health if health.doubtful_until == -inf else replace(health, doubtful_until=-inf)


def _active(health: Health) -> Health:
    # The same epoch: what the ramp's leases say is about the active subject too.
    return Health(epoch=health.epoch, doubtful_until=health.doubtful_until)


def _grow(health: Health, event: _Event) -> Health:
    limit = health.limit * 2
    if limit >= event.policy.ramp_end or health.until <= event.now:
        return _prove(_active(health), event)
    return replace(health, limit=limit, doubtful_until=-inf)


def _heal(health: Health, event: _Event) -> Health:
    policy = event.policy
    return Health(
        State.RAMP,
        health.epoch + 1,
        until=event.now + policy.ramp_seconds,
        strikes=health.strikes,
        limit=policy.ramp_start,
    )


def _free(health: Health, event: _Event) -> Health:
    # The place may have been given to another probe, after this one lapsed.
    return replace(health, probe=None) if health.probe == event.taken.probe else health


def _down(health: Health, state: State, seconds: float, event: _Event) -> Health:
    until = event.now + seconds
    strikes = health.strikes + (state is not State.EXHAUSTED)
    return Health(state, health.epoch + 1, until, strikes, doubtful_until=until + event.policy.unproven_seconds)


def _cool(health: Health, event: _Event) -> Health:
    return _down(health, State.COOLING, _cooling_seconds(health.strikes, event), event)


def _cooling_seconds(strikes: int, event: _Event) -> float:
    policy, asked = event.policy, event.retry_after
    if asked is not None:
        # This order of arguments turns a NaN into the first cooling.
        return min(policy.retry_after_max_seconds, max(policy.cooling_first_seconds, asked))
    step = min(policy.cooling_max_seconds, policy.cooling_first_seconds * 2.0 ** min(strikes, 64))
    return step * (0.5 + 0.5 * event.jitter)


def _exhaust(health: Health, event: _Event) -> Health:
    return _down(health, State.EXHAUSTED, event.policy.exhausted_seconds, event)


def _reject(health: Health, event: _Event) -> Health:
    policy = event.policy
    seconds = min(policy.rejected_seconds, policy.rejected_first_seconds * 2.0 ** min(health.strikes, 64))
    return _down(health, State.REJECTED, seconds, event)


_BLAME: dict[Fault, Callable[[Health, _Event], Health]] = {
    Fault.THROTTLED: _cool,
    Fault.EXHAUSTED: _exhaust,
    Fault.REJECTED: _reject,
}
_DOWN = {Fault.NONE: _heal, **_BLAME, Fault.UNRELATED: _free}

TABLE: dict[State, dict[Fault, Callable[[Health, _Event], Health]]] = {
    State.ACTIVE: {Fault.NONE: _prove, **_BLAME, Fault.UNRELATED: _stay},
    State.RAMP: {Fault.NONE: _grow, **_BLAME, Fault.UNRELATED: _stay},
    State.COOLING: _DOWN,
    State.EXHAUSTED: _DOWN,
    State.REJECTED: _DOWN,
}
"""The transition for every state and fault."""

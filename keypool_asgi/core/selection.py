"""Choosing a key: what a request needs, and which key of the pool serves it. Pure.

A key can serve a request when it has not been tried by it, its region and project fit, it has room
(``max_in_flight``), and its key, project and account are all open (``core.health``). Among those, in this order:

1.  For a request that cannot be repeated (``Need.proven``): keys that have proven themselves at this service before
    doubtful ones. This stands above priority, because a wrong guess costs the caller the whole upload, and a cautious
    one costs the operator a while on the overflow keys: any repeatable request proves the key, and without one the
    doubt ends by itself (``HealthPolicy.unproven_seconds``).
2.  The lowest ``priority`` number.
3.  The least work by weight: ``(in_flight + 1) / weight``.
4.  Any, by the given randomness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Protocol, TypeVar

from keypool_asgi.core.health import Health, State, doubtful, occupied, opens_at
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.errors import ConfigurationError

__all__ = ["Candidate", "Need", "Offer", "Select", "Subject", "Unavailable", "choose"]


@dataclass(frozen=True, slots=True)
class Need:
    """What an attempt needs of a key.

    Attributes:
        service: AssemblyAI service that the request goes to (``"api"``, ``"llm_gateway"``, ...).
        regions: regions whose keys may serve, None for all.
        project: the project that owns what the request names, None when any will do.
        tried: ids of the keys that this exchange has tried already; none of them is chosen again.
        proven: prefer keys that have served lately, because this request's body cannot be sent twice.
    """

    service: str
    regions: frozenset[str] | None = None
    project: str | None = None
    tried: frozenset[str] = frozenset()
    proven: bool = False


class Subject(Protocol):
    """A key, project or account at one service."""

    @property
    def health(self) -> Health:
        """Its health."""

    @property
    def in_flight(self) -> int:
        """Leases of its present epoch that are out."""


class Candidate(Protocol):
    """A key of the pool, as seen from one service."""

    @property
    def key(self) -> UpstreamKey:
        """The key."""

    @property
    def in_flight(self) -> int:
        """Leases of the key that are out, over all services."""

    @property
    def elsewhere(self) -> int:
        """Leases of the key that other processes have out, as of a moment ago.

        They count against ``max_in_flight``, but not in the balance: by the same old figures, every process would go
        for the same key.
        """

    @property
    def subjects(self) -> Sequence[Subject]:
        """The key, its project and its account."""

    @property
    def sound(self) -> bool:
        """Whether all of these are sound (``core.health``, rule 8)."""


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why no key can serve now.

    Attributes:
        fits: whether any key has the region and the project; no patience helps otherwise.
        busy: whether a lease that comes back may let this very request be served.
        wait: seconds until this very request can be served for certain, None when nobody knows.
        retry_after: seconds until a repeat of the request can be served, which may use the tried keys again. None when
            nobody knows: a busy key may be free at any moment.
    """

    fits: bool
    busy: bool = False
    wait: float | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A key that can serve now, as it is shown to a ``Select``; see ``UpstreamKey`` for the first six.

    Attributes:
        id: printable name of the key.
        project: what its data belongs to.
        account: what its limits belong to.
        region: data zone.
        weight: share of the work.
        priority: lowest first.
        in_flight: exchanges that it serves now.
        proven: whether it is not in doubt at this service (``core.health``, rule 7).
        probing: whether this request would be the one that finds out if it is healthy again.
    """

    id: str
    project: str
    account: str
    region: str
    weight: float
    priority: int
    in_flight: int
    proven: bool
    probing: bool


class Select(Protocol):
    """An operator's own choice of key. It runs on every request, must not block, and must not call the pool."""

    def __call__(self, offers: Sequence[Offer], need: Need, /) -> str | None:
        """Return the id of one of the offers, or None to leave the choice to the pool.

        The offers are not empty, and every one of them can serve now. An exception refuses the request.
        """


def choose(
    candidates: Sequence[C], need: Need, now: float, random: Random, select: Select | None = None
) -> C | Unavailable:
    """Choose the key that serves ``need``, or say why there is none.

    Args:
        candidates: every key of the pool, as seen from ``need.service``.
        need: what the request needs.
        now: this moment, in seconds of the clock of the health records.
        random: breaks ties.
        select: the operator's own choice, asked first.

    Raises:
        ConfigurationError: ``select`` named a key that was not among its offers.
    """
    able = _able(candidates, need, now)
    if not able:
        return _why_not(candidates, need, now)
    chosen = None if select is None else _ask(select, able, need, now)
    return _best(able, need, now, random) if chosen is None else chosen


def _able(candidates: Sequence[C], need: Need, now: float) -> list[C]:
    """Those that can serve now."""
    fitting = _fitting(candidates, need)
    if need.tried:
        fitting = _untried(fitting, need)
    return [
        candidate
        for candidate in fitting
        if (candidate.sound or _is_open(candidate, now))
        and (candidate.key.max_in_flight is None or not _is_full(candidate))
    ]


def _fitting(candidates: Sequence[C], need: Need) -> Sequence[C]:
    """Those that have the region and the project."""
    regions, project = need.regions, need.project
    if regions is not None:
        candidates = [candidate for candidate in candidates if candidate.key.region in regions]
    if project is not None:
        candidates = [candidate for candidate in candidates if candidate.key.project == project]
    return candidates


def _untried(candidates: Sequence[C], need: Need) -> Sequence[C]:
    return [candidate for candidate in candidates if candidate.key.id not in need.tried]


def _best(able: Sequence[C], need: Need, now: float, random: Random) -> C:
    """The first by doubt, priority and work; any of those that are equal."""
    if len(able) == 1:
        return able[0]
    first: tuple[bool, int, float] | None = None
    equals: list[C] = []
    for candidate in able:
        key = candidate.key
        in_doubt = need.proven and not candidate.sound and _doubtful(candidate, now)
        rank = (in_doubt, key.priority, (candidate.in_flight + 1) / key.weight)
        if rank == first:
            equals.append(candidate)
        elif first is None or rank < first:
            first, equals = rank, [candidate]
    return equals[int(random.random() * len(equals))]


def _is_open(candidate: Candidate, now: float) -> bool:
    return all(opens_at(subject.health, subject.in_flight) <= now for subject in candidate.subjects)


def _doubtful(candidate: Candidate, now: float) -> bool:
    return any(doubtful(subject.health, now) for subject in candidate.subjects)


def _why_not(candidates: Sequence[Candidate], need: Need, now: float) -> Unavailable:
    fitting = _fitting(candidates, need)
    untried = _untried(fitting, need)
    busy = any(_is_busy(candidate, now) for candidate in untried)
    anyone_busy = busy or any(_is_busy(candidate, now) for candidate in fitting)
    return Unavailable(
        fits=bool(fitting),
        busy=busy,
        wait=_first_opening(untried, now),
        retry_after=None if anyone_busy else _first_opening(fitting, now),
    )


def _is_full(candidate: Candidate) -> bool:
    limit = candidate.key.max_in_flight
    return limit is not None and candidate.in_flight + candidate.elsewhere >= limit


def _is_busy(candidate: Candidate, now: float) -> bool:
    """Whether leases that are out are all that keeps this key from serving."""
    closed = list(_closed(candidate, now))
    return all(occupied(s.health, s.in_flight, now) for s in closed) and bool(closed or _is_full(candidate))


def _closed(candidate: Candidate, now: float) -> Iterator[Subject]:
    return (s for s in candidate.subjects if opens_at(s.health, s.in_flight) > now)


def _first_opening(candidates: Sequence[Candidate], now: float) -> float | None:
    """Seconds until the first key can serve by time alone: over keys the earliest, over a key's subjects the latest."""
    openings = (
        max(opens_at(s.health, s.in_flight) for s in candidate.subjects)
        for candidate in candidates
        if not _is_full(candidate)
    )
    first = min(openings, default=inf)
    return None if first == inf else max(0.0, first - now)


def _ask(select: Select, able: Sequence[C], need: Need, now: float) -> C | None:
    wanted = select([_offer(candidate, now) for candidate in able], need)
    if wanted is None:
        return None
    for candidate in able:
        if candidate.key.id == wanted:
            return candidate
    raise ConfigurationError("select: must return the id of one of its offers, or None")


def _offer(candidate: Candidate, now: float) -> Offer:
    key = candidate.key
    return Offer(
        key.id,
        key.project,
        key.account,
        key.region,
        key.weight,
        key.priority,
        candidate.in_flight,
        proven=not _doubtful(candidate, now),
        probing=any(s.health.state not in (State.ACTIVE, State.RAMP) for s in candidate.subjects),
    )

"""Resources: upstream objects, and the team and project that own them (invariant I3). Values only.

What AssemblyAI makes belongs to the *project* of the key that made it, and within our walls to the *team* that asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["CURSOR_SECONDS", "MEMORY_ENTRIES", "RETENTION_SECONDS", "Page", "Ref", "Resource"]

_HOUR = 3600.0
_DAY = 24 * _HOUR

RETENTION_SECONDS: dict[str, float] = {
    # An unused upload is dropped after a day; a used one goes with its transcript.
    "upload": 7 * _DAY,
    # AssemblyAI lists the last 90 days.
    "transcript": 90 * _DAY,
    # A token opens sessions for 10 minutes at most, and a session lasts 3 hours at most.
    "token": 4 * _HOUR,
    # An agent's session can be resumed for 30 seconds after it broke off.
    "session": 4 * _HOUR,
}
"""How long the owner of a kind of resource is remembered, in seconds. Kinds that are not named are kept until they are
deleted upstream."""

CURSOR_SECONDS = 1 * _HOUR
"""How long a deleted resource still marks a place in a list, so that paging goes on over what was just deleted."""

MEMORY_ENTRIES = 100_000
"""How many owners the store in memory remembers; the oldest go first."""


class Ref(NamedTuple):
    """Names one upstream object: its kind (``"transcript"``, ``"upload"``, ``"agent"``, ...) and its id there."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Resource:
    """An upstream object and its owners.

    Attributes:
        ref: which object.
        team: id of the team that owns it.
        project: project of the key that made it; every request about it goes out on a key of this project.
        created: Unix time in seconds; with the id, its place in lists.
        status: last known state of a job (``"queued"``, ``"processing"``, ``"completed"``, ``"error"``), None where
            there is no such thing.
        summary: what a list shows of it beside id, status and time, as a JSON object in text.
    """

    ref: Ref
    team: str
    project: str
    created: float
    status: str | None = None
    summary: str = "{}"

    @property
    def place(self) -> tuple[float, str]:
        """Its place in a list: time, then id."""
        return (self.created, self.ref.id)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted.

    Attributes:
        kind: of which resources.
        limit: how many at most.
        team: whose; None for everybody's.
        before: only those at places older than this one.
        after: only those at places newer than this one; the nearest ones are meant. Not together with ``before``.
        since: only those created at or after this Unix time.
        until: only those created before this Unix time.
        statuses: only those whose last known status is among these; None for all.
    """

    kind: str
    limit: int
    team: str | None = None
    before: tuple[float, str] | None = None
    after: tuple[float, str] | None = None
    since: float | None = None
    until: float | None = None
    statuses: frozenset[str] | None = field(default=None)

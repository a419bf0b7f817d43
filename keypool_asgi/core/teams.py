"""Teams: who the caller is, and what it may do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import lru_cache

from keypool_asgi.errors import ConfigurationError

from .limits import Limit

__all__ = ["Team", "permits"]


@dataclass(frozen=True, slots=True, init=False)
class Team:
    """One team behind a team token.

    Args:
        id: printable name, used in logs, events and usage records.
        operations: names or globs of the operations table (``"transcripts.*"``) that the team may use. None is all,
            empty is none.
        regions: regions whose keys may serve the team. None is all.
        limits: what the team may use up; several hold all at once. Two that would share a counter are refused.
        expires_at: when the team's token stops being accepted (an aware ``datetime``), or None for never.

    Raises:
        ConfigurationError: the id is empty, two limits count the same, or ``expires_at`` has no time zone.
    """

    id: str
    operations: frozenset[str] | None
    regions: frozenset[str] | None
    limits: tuple[Limit, ...]
    expires_at: datetime | None

    def __init__(
        self,
        id: str,  # noqa: A002 - the public name of the field
        *,
        operations: Iterable[str] | None = None,
        regions: Iterable[str] | None = None,
        limits: Iterable[Limit] = (),
        expires_at: datetime | None = None,
    ) -> None:
        if not id:
            raise ConfigurationError("Team: id must not be empty")
        for name, given in (("operations", operations), ("regions", regions)):
            if isinstance(given, str):
                raise ConfigurationError(f"Team {id!r}: {name} must be a collection of strings, not one string")
        if expires_at is not None and expires_at.tzinfo is None:
            raise ConfigurationError(f"Team {id!r}: expires_at must have a time zone")
        limits = tuple(limits)
        for number, limit in enumerate(limits):
            if any(limit.name == other.name for other in limits[:number]):
                raise ConfigurationError(f"Team {id!r}: two limits count the same ({limit.name}): keep the smaller one")
        values = (
            id,
            None if operations is None else frozenset(operations),
            None if regions is None else frozenset(regions),
            limits,
            expires_at,
        )
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)


@lru_cache(maxsize=4096)
def permits(operations: frozenset[str] | None, operation: str) -> bool:
    """Whether ``operation`` is among the names and globs of ``operations`` (None: all of them)."""
    if operations is None:
        return True
    return any(fnmatchcase(operation, pattern) for pattern in operations)

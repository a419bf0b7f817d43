"""The account as values: one record of what each exchange has used, corrections, and sums of them. Pure.

What has been written is never changed. What becomes known later, such as how long the audio of a job was, is another
record, which names the one that it corrects; sums add up both. A record counts at the time of its end, so that the
sums of an hour that is over stay as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from keypool_asgi.errors import ConfigurationError

from .metering import Metering

__all__ = [
    "DIMENSIONS",
    "HOUR",
    "REMEMBERED_SECONDS",
    "Group",
    "Place",
    "Selection",
    "Slice",
    "UsageRecord",
    "UsageSum",
    "amounts_of",
    "check_dimensions",
    "correction_of",
    "group_of",
    "picked",
    "record_of",
    "session_used",
    "slices",
    "summed",
    "text_of",
]

HOUR = 3600
"""Seconds in the spans that sums are made of: Unix time in whole hours, so hours of UTC."""

REMEMBERED_SECONDS = 100 * 86400.0
"""How long it is remembered that a job was settled: longer than AssemblyAI lists it (90 days), so that whoever polls it
last does not settle it again."""

DIMENSIONS = ("team", "operation", "key", "account", "project", "day", "hour")
"""What sums may be made by."""

Place = tuple[float, str]
"""Where a record stands: by the time of its end, then by its id."""


class UsageRecord(NamedTuple):
    """What one exchange has used, or what became known of it later.

    There is one for each exchange, so it is a tuple: that is made in a third of the time of a frozen dataclass.

    Attributes:
        id: unique. The name of the job that the exchange began; for the settlement of a job, the id that
            ``correction_of`` makes of that; else the id of the request.
        request_id: of the exchange; of a correction, of the exchange or errand that brought it to light.
        team: id of the team.
        operation: name in the operations table; of a correction, the one that began the job.
        started: Unix time in seconds.
        ended: Unix time in seconds; sums go by it.
        key: id of the key that served, None where none did, or that is not known any more.
        account: of that key.
        project: of that key.
        status: HTTP status that the caller got (101 for a WebSocket session), None when none was sent.
        close_code: close code of a WebSocket session, whichever side sent it.
        used: what was used up, by unit: ``requests``, ``upload_bytes``, ``audio_seconds``, ``stream_seconds``,
            ``llm_tokens``, ``tts_characters``, ``cost`` (in millionths of the price table's money).
        estimated: whether some of it is not upstream's own figure, or is still to come.
        request_bytes: bytes of request body, or of messages, that came from the caller.
        response_bytes: bytes of response body, or of messages, that went to the caller.
        clocked_seconds: how long a WebSocket session was open upstream by our own clock, whatever upstream says.
        corrects: id of the record that this one adds to.
    """

    id: str
    request_id: str
    team: str
    operation: str
    started: float
    ended: float
    key: str | None = None
    account: str | None = None
    project: str | None = None
    status: int | None = None
    close_code: int | None = None
    used: Mapping[str, int] = MappingProxyType({})
    estimated: bool = False
    request_bytes: int = 0
    response_bytes: int = 0
    clocked_seconds: float | None = None
    corrects: str | None = None

    @property
    def place(self) -> Place:
        """Where it stands among others."""
        return self.ended, self.id


def correction_of(job: str) -> str:
    """Id of the record that settles a job: always the same, so that it is kept once, whoever polls."""
    return f"{job}/settled"


def text_of(record: UsageRecord) -> str:
    """Return a record as JSON, always the same for equal ones."""
    facts = record._asdict() | {"used": dict(record.used)}
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def record_of(text: str | bytes) -> UsageRecord:
    """Return the record that ``text_of`` wrote; what a later version has added to it is left out."""
    found = json.loads(text)
    return UsageRecord(**{name: value for name, value in found.items() if name in UsageRecord._fields})


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records, or sums, are wanted. None leaves a condition out.

    Attributes:
        team: id of the team.
        operation: name of the operation.
        key: id of the key.
        since: only what ended at or after this Unix time.
        until: only what ended before this Unix time.
    """

    team: str | None = None
    operation: str | None = None
    key: str | None = None
    since: float | None = None
    until: float | None = None

    def has(self, record: UsageRecord) -> bool:
        """Whether a record is wanted."""
        return self.has_time(record.ended) and self.has_names(record.team, record.operation, record.key)

    def has_time(self, ended: float) -> bool:
        """Whether what ended then is wanted."""
        return (self.since is None or ended >= self.since) and (self.until is None or ended < self.until)

    def has_names(self, team: str, operation: str, key: str | None) -> bool:
        """Whether what these have used is wanted."""
        return self.team in (None, team) and self.operation in (None, operation) and self.key in (None, key)

    def hours(self) -> tuple[int | None, int | None]:
        """Return the first hour that is wanted and the first one after that is not, as Unix times.

        Raises:
            ConfigurationError: a bound is not a whole hour; there are no sums of less.
        """
        for name, bound in (("since", self.since), ("until", self.until)):
            if bound is not None and bound % HOUR:
                raise ConfigurationError(f"usage: sums are of whole hours (UTC), so {name} cannot be {bound!r}")
        return (
            None if self.since is None else int(self.since),
            None if self.until is None else int(self.until),
        )


class Slice(NamedTuple):
    """What one combination of names has used in one hour: what stores add up, and never forget the amount of.

    Attributes:
        hour: Unix time at which the hour begins.
        team: id of the team.
        operation: name of the operation.
        key: id of the key, empty where there is none.
        account: likewise.
        project: likewise.
        unit: what was used.
    """

    hour: int
    team: str
    operation: str
    key: str
    account: str
    project: str
    unit: str

    def part(self, dimension: str) -> str:
        """Its value of one of ``DIMENSIONS``; days and hours as Unix times."""
        if dimension == "day":
            return str(self.hour - self.hour % 86400)
        return str(getattr(self, dimension))


Group = tuple[int, str, str, str, str, str]
"""A slice without its unit: all that one record adds to."""


def group_of(record: UsageRecord) -> Group:
    """Return the hour and the names that a record counts for."""
    hour = int(record.ended // HOUR) * HOUR
    return hour, record.team, record.operation, record.key or "", record.account or "", record.project or ""


def amounts_of(record: UsageRecord) -> dict[str, int]:
    """Return what a record adds to the sums, by unit. Bytes are summed too, by the names of their attributes."""
    amounts = {unit: amount for unit, amount in record.used.items() if amount}
    if record.request_bytes:
        amounts["request_bytes"] = record.request_bytes
    if record.response_bytes:
        amounts["response_bytes"] = record.response_bytes
    return amounts


def slices(record: UsageRecord) -> dict[Slice, int]:
    """Return what a record adds to the sums, by slice."""
    group = group_of(record)
    return {Slice(*group, unit): amount for unit, amount in amounts_of(record).items()}


@dataclass(frozen=True, slots=True)
class UsageSum:
    """What was used in all by one group.

    Attributes:
        group: the group's values of the dimensions that were asked for, in their order; days and hours as the Unix
            time of their beginning.
        used: totals by unit.
    """

    group: tuple[str, ...]
    used: Mapping[str, int]


def summed(amounts: Iterable[tuple[Slice, int]], by: Sequence[str]) -> list[UsageSum]:
    """Add slices up by these dimensions, in the order of the groups.

    Raises:
        ConfigurationError: a dimension that there is not.
    """
    check_dimensions(by)
    groups: dict[tuple[str, ...], dict[str, int]] = {}
    for one, amount in amounts:
        used = groups.setdefault(tuple([one.part(dimension) for dimension in by]), {})
        used[one.unit] = used.get(one.unit, 0) + amount
    return [UsageSum(group, groups[group]) for group in sorted(groups)]


def check_dimensions(by: Collection[str]) -> None:
    """Raise ConfigurationError for a dimension that there is not."""
    for dimension in by:
        if dimension not in DIMENSIONS:
            raise ConfigurationError(f"usage: there is no {dimension!r} to sum by; there are {', '.join(DIMENSIONS)}")


def session_used(metering: Metering, figures: Mapping[str, float], seconds: float) -> tuple[dict[str, int], bool]:
    """Return what a session has used by unit, and whether that is upstream's own word.

    Args:
        metering: what the operation uses up.
        figures: upstream's closing figures, by member.
        seconds: how long it was open by our own clock; what counts where upstream has said nothing, rounded up.
    """
    used = {unit: math.ceil(figures[member]) for member, unit in (metering.closing or {}).items() if member in figures}
    wanted = {*(metering.closing or {}).values(), *((metering.session,) if metering.session else ())}
    settled = wanted <= used.keys()
    if metering.session is not None:
        used.setdefault(metering.session, math.ceil(max(0.0, seconds)))
    return used, settled


def picked(found: Mapping[str, Any], paths: Iterable[str]) -> dict[str, int | float | str | bool | None]:
    """Return the members of a JSON object by their paths, as a ``core.metering.Scanner`` would have found them."""
    values: dict[str, int | float | str | bool | None] = {}
    for path in paths:
        value: Any = found
        for name in path.split("."):
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is None or isinstance(value, int | float | str | bool):
            values[path] = value
    return values


_MISSING = object()

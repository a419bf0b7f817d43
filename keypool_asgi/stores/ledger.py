"""Where the account is kept: in memory, or behind an object that the user gave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from keypool_asgi.core.usage import (
    Group,
    Place,
    Selection,
    Slice,
    UsageRecord,
    UsageSum,
    amounts_of,
    check_dimensions,
    group_of,
    summed,
)
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.ports import Ledger

from .callables import call_store
from .resources import BuiltIn

__all__ = ["KEEP_SECONDS", "GuardedLedger", "MemoryLedger", "check_keeping", "ledger_store"]

T = TypeVar("T")

_VERBS = ("append", "find", "knows", "page", "sums", "claim")

KEEP_SECONDS = 400 * 86400.0
"""How long a ledger that outlives the process keeps records and sums: a year, and a month to compare."""


def check_keeping(keep_seconds: float) -> None:
    """Raise ConfigurationError when it is no time."""
    if not keep_seconds > 0:
        raise ConfigurationError(f"ledger: keep_seconds must be greater than 0, not {keep_seconds!r}")


class MemoryLedger(BuiltIn):
    """The account in this process's memory: bounded, and gone with it.

    Every verb runs without an await inside, so that it is atomic among the tasks of one event loop.

    Args:
        most_records: how many records are kept; those that came first go first. Each takes about 1 KB.
        most_sums: how many amounts of one hour, team, operation, key and unit are kept; those of the oldest hours go
            first.
        most_corrections: of how many jobs it is remembered that they are settled.

    Raises:
        ConfigurationError: a number is less than 1.
    """

    def __init__(
        self, *, most_records: int = 10_000, most_sums: int = 100_000, most_corrections: int = 100_000
    ) -> None:
        for name, value in (("most_records", most_records), ("most_sums", most_sums)):
            if value < 1:
                raise ConfigurationError(f"ledger: {name} must be at least 1, not {value!r}")
        self._most_records = most_records
        self._most_sums = most_sums
        self._records: OrderedDict[str, UsageRecord] = OrderedDict()
        self._hours: dict[int, dict[Group, dict[str, int]]] = {}
        self._sums = 0
        self._most_corrections = most_corrections
        self._corrections: OrderedDict[str, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<MemoryLedger: {len(self._records)} records, {len(self._hours)} hours>"

    async def append(self, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
        """Keep records that are not known yet. Returns those that are kept as they were given."""
        kept = [record for record in records if self._append(record)]
        self._forget()
        return kept

    async def find(self, record_id: str) -> UsageRecord | None:
        """Return a record, or None when there is none any more."""
        return self._records.get(record_id)

    async def knows(self, record_id: str) -> bool:
        """Whether a record of this id has been kept."""
        return record_id in self._records or record_id in self._corrections

    async def page(self, selection: Selection, limit: int, before: Place | None = None) -> Sequence[UsageRecord]:
        """Return the newest records of a selection."""
        wanted = [
            record
            for record in self._records.values()
            if selection.has(record) and (before is None or record.place < before)
        ]
        return sorted(wanted, key=lambda record: record.place, reverse=True)[: max(0, limit)]

    async def sums(self, selection: Selection, by: Sequence[str] = ()) -> Sequence[UsageSum]:
        """Return what was used in all."""
        check_dimensions(by)
        selection.hours()
        found = (
            (group, amounts)
            for hour, groups in self._hours.items()
            if selection.has_time(hour)
            for group, amounts in groups.items()
            if selection.has_names(*group[1:4])
        )
        return summed(
            ((Slice(*group, unit), amount) for group, amounts in found for unit, amount in amounts.items()), by
        )

    async def claim(self, duty: str, holder: str, seconds: float) -> bool:  # noqa: ARG002 - nobody else is there
        """Take on a duty: nobody shares this memory."""
        return True

    def _append(self, record: UsageRecord) -> bool:
        known = self._records.get(record.id)
        if known is not None or record.id in self._corrections:
            return known == record
        self._records[record.id] = record
        if record.corrects is not None:
            self._corrections[record.id] = None
        self._add_up(record)
        return True

    def _add_up(self, record: UsageRecord) -> None:
        group = group_of(record)
        totals = self._hours.setdefault(group[0], {}).setdefault(group, {})
        self._sums -= len(totals)
        for unit, amount in amounts_of(record).items():
            totals[unit] = totals.get(unit, 0) + amount
        self._sums += len(totals)

    def _forget(self) -> None:
        while len(self._records) > self._most_records:
            self._records.popitem(last=False)
        while len(self._corrections) > self._most_corrections:
            self._corrections.popitem(last=False)
        while self._sums > self._most_sums and len(self._hours) > 1:
            self._sums -= sum(map(len, self._hours.pop(min(self._hours)).values()))


class GuardedLedger:
    """A user's ledger whose failures become ``StoreUnavailable``.

    Args:
        ledger: an object with the verbs of ``Ledger``.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __repr__(self) -> str:
        return f"<GuardedLedger of {self._ledger!r}>"

    async def append(self, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
        """Keep records that are not known yet. Returns those that are kept as they were given."""
        return await _call("append", self._ledger.append, records)

    async def find(self, record_id: str) -> UsageRecord | None:
        """Return a record, or None when there is none any more."""
        return await _call("find", self._ledger.find, record_id)

    async def knows(self, record_id: str) -> bool:
        """Whether a record of this id has been kept."""
        return await _call("knows", self._ledger.knows, record_id)

    async def page(self, selection: Selection, limit: int, before: Place | None = None) -> Sequence[UsageRecord]:
        """Return the newest records of a selection."""
        return await _call("page", self._ledger.page, selection, limit, before)

    async def sums(self, selection: Selection, by: Sequence[str] = ()) -> Sequence[UsageSum]:
        """Return what was used in all."""
        check_dimensions(by)
        selection.hours()
        return await _call("sums", self._ledger.sums, selection, by)

    async def claim(self, duty: str, holder: str, seconds: float) -> bool:
        """Take on a duty, or keep it. Returns whether it is the holder's."""
        return await _call("claim", self._ledger.claim, duty, holder, seconds)


async def _call(verb: str, function: Callable[..., Awaitable[T]], *args: Any) -> T:
    return await call_store("ledger", verb, function, *args)


def ledger_store(ledger: Ledger | None) -> Ledger:
    """Return what keeps the account: this process's memory for None.

    Raises:
        ConfigurationError: it has not every verb.
    """
    if ledger is None:
        return MemoryLedger()
    missing = [verb for verb in _VERBS if not callable(getattr(ledger, verb, None))]
    if missing:
        raise ConfigurationError(f"ledger: {type(ledger).__name__} has no {', '.join(missing)}")
    return ledger if isinstance(ledger, BuiltIn | GuardedLedger) else GuardedLedger(ledger)

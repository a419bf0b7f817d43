"""Where the account is kept: the port, and this process's memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cachetools import LRUCache

from keypool_asgi.core.usage import Place, Selection, Slice, UsageRecord, UsageSum, check_dimensions, slices, summed
from keypool_asgi.errors import ConfigurationError

__all__ = ["KEEP_SECONDS", "Ledger", "MemoryLedger", "check_keeping"]

KEEP_SECONDS = 400 * 86400.0
"""How long a ledger that outlives the process keeps records and sums: a year, and a month to compare."""


@runtime_checkable
class Ledger(Protocol):
    """Keeps usage records and adds them up. What is in it is never changed.

    Records may go after a time, or beyond a number; sums stay longer. A verb that cannot be carried out raises
    ``StoreUnavailable``. ``testing.ledger_contract.LedgerContract`` checks an implementation.
    """

    async def append(self, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
        """Keep records. One whose id is known already changes nothing; a correction's is known for 100 days at least.

        Each record is kept whole, in the sums too, or not at all. After a failure the same records may be given again.

        Returns:
            Those that are in the ledger as they were given, in their order: without those of which another one of the
            same id had come before.
        """

    async def find(self, record_id: str) -> UsageRecord | None:
        """Return a record, or None when there is none (any more)."""

    async def page(self, selection: Selection, limit: int, before: Place | None = None) -> Sequence[UsageRecord]:
        """Return the newest records of a selection, the newest first, at most ``limit``.

        Args:
            selection: which.
            limit: how many at most.
            before: only those that stand before this place: where the page before ended.
        """

    async def sums(self, selection: Selection, by: Sequence[str] = ()) -> Sequence[UsageSum]:
        """Return what was used in all, by these of ``DIMENSIONS``; in the order of the groups, without empty ones.

        Raises:
            ConfigurationError: a bound of the selection is not a whole hour, or there is no such dimension.
        """

    async def claim(self, duty: str, holder: str, seconds: float) -> bool:
        """Take on a duty that only one of those who share the ledger shall do, or keep it, for so many seconds.

        Returns:
            Whether it is the holder's. Nobody gives it back; it is free when the time is over.
        """


def check_keeping(keep_seconds: float) -> None:
    """Raise ConfigurationError when it is no time."""
    if not keep_seconds > 0:
        raise ConfigurationError(f"ledger: keep_seconds must be greater than 0, not {keep_seconds!r}")


class MemoryLedger:
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
        self._hours: dict[int, dict[Slice, int]] = {}
        self._sums = 0
        self._corrections: LRUCache[str, None] = LRUCache(most_corrections)

    def __repr__(self) -> str:
        return f"<MemoryLedger: {len(self._records)} records, {len(self._hours)} hours>"

    async def append(self, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
        """Keep records that are not known yet. Returns those that are kept as they were given."""
        return [record for record in records if self._append(record)]

    async def find(self, record_id: str) -> UsageRecord | None:
        """Return a record, or None when there is none any more."""
        return self._records.get(record_id)

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
        wanted = (
            (one, amount)
            for hour, amounts in self._hours.items()
            if selection.has_time(hour)
            for one, amount in amounts.items()
            if selection.has_names(one.team, one.operation, one.key)
        )
        return summed(wanted, by)

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
        for one, amount in slices(record).items():
            amounts = self._hours.setdefault(one.hour, {})
            self._sums += one not in amounts
            amounts[one] = amounts.get(one, 0) + amount
        self._forget()
        return True

    def _forget(self) -> None:
        while len(self._records) > self._most_records:
            self._records.popitem(last=False)
        while self._sums > self._most_sums and len(self._hours) > 1:
            self._sums -= len(self._hours.pop(min(self._hours)))

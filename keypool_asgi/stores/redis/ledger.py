"""The account in a Redis server: several machines share it."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping, Sequence

from keypool_asgi.core.usage import (
    HOUR,
    REMEMBERED_SECONDS,
    Place,
    Selection,
    Slice,
    UsageRecord,
    UsageSum,
    check_dimensions,
    record_of,
    slices,
    summed,
    text_of,
)
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.stores.ledger import KEEP_SECONDS, check_keeping
from keypool_asgi.stores.resources import BuiltIn

from .line import Argument
from .scripts import Script, key_names
from .server import RedisServer

__all__ = ["RedisLedger"]

_APPEND, _PAGE, _CLAIM = (Script.load("ledger", verb) for verb in ("append", "page", "claim"))

_DAY = 24 * HOUR

# How many records are looked at in one round trip, of a page of which not every record is wanted.
_STEP = 200


class RedisLedger(BuiltIn):
    """The account in a Redis server.

    Single records take much room there (about 1 KB each), so the last ones only are kept; sums, which are an hour's of
    one team, operation and key, are kept for long. What has been kept is as durable as the server is set up to be, see
    ``RedisResources``.

    Args:
        server: a URL, or a ``RedisServer`` that others use too; it is then theirs to close.
        most_records: how many single records are kept; the oldest go first. A job's own is looked up when it is
            settled, to say on which key it was made.
        keep_seconds: how long records at most, and sums, are kept. That a job was settled is remembered for 100 days.

    Raises:
        ConfigurationError: a number is out of its range, or the server's settings are wrong.
    """

    def __init__(
        self, server: str | RedisServer, *, most_records: int = 100_000, keep_seconds: float = KEEP_SECONDS
    ) -> None:
        check_keeping(keep_seconds)
        if most_records < 1:
            raise ConfigurationError(f"ledger: most_records must be at least 1, not {most_records!r}")
        self.keep_seconds = keep_seconds
        self._most_records = most_records
        self._shared = isinstance(server, RedisServer)
        self._server = server if isinstance(server, RedisServer) else RedisServer(server)

    def __repr__(self) -> str:
        return f"<RedisLedger in {self._server!r}>"

    async def open(self) -> None:
        """Connect now; the first use does it otherwise. See ``RedisServer.open``."""
        await self._server.open()

    async def aclose(self) -> None:
        """Finish what has begun and disconnect; the next use connects again."""
        if not self._shared:
            await self._server.aclose()

    async def append(self, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
        """Keep records that are not known yet, each by itself. Returns those that are kept as they were given."""
        # They share round trips, in their order.
        kept = await asyncio.gather(*map(self._append, records), return_exceptions=True)
        for answer in kept:
            if isinstance(answer, BaseException):
                raise answer
        return [record for record, answer in zip(records, kept, strict=True) if answer]

    async def find(self, record_id: str) -> UsageRecord | None:
        """Return a record, or None when there is none any more."""
        (records,) = self._keys("records")
        text = await self._server.command("HGET", records, record_id)
        return None if text is None else record_of(text)

    async def knows(self, record_id: str) -> bool:
        """Whether a record of this id has been kept."""
        records, corrections = self._keys("records", "corrections")
        remembered = await self._server.command("ZSCORE", corrections, record_id)
        return remembered is not None or bool(await self._server.command("HEXISTS", records, record_id))

    async def page(self, selection: Selection, limit: int, before: Place | None = None) -> Sequence[UsageRecord]:
        """Return the newest records of a selection."""
        low = b"" if selection.since is None else _encoded((selection.since, ""))
        high = b"" if selection.until is None else _encoded((selection.until, ""))
        if before is not None:
            high = min(high, _encoded(before)) if high else _encoded(before)
        found: list[UsageRecord] = []
        while len(found) < limit:
            step = max(limit - len(found), _STEP)
            answer = await self._server.call(
                _PAGE, self._keys("records", "lists"), (step, selection.team or "", low, high)
            )
            found += [record for record in map(record_of, answer[1::2]) if selection.has(record)]
            if len(answer) < 2 * step:
                break
            high = answer[-2]
        return found[: max(0, limit)]

    async def sums(self, selection: Selection, by: Sequence[str] = ()) -> Sequence[UsageSum]:
        """Return what was used in all."""
        check_dimensions(by)
        since, until = selection.hours()
        (days,) = self._keys("days")
        low = "-inf" if since is None else since - since % _DAY
        high = "+inf" if until is None else f"({until}"
        wanted = await self._server.command("ZRANGEBYSCORE", days, low, high)
        totals = await asyncio.gather(
            *(self._server.command("HGETALL", *self._keys(f"totals:{int(day)}")) for day in wanted)
        )
        return summed(((one, amount) for day in totals for one, amount in _slices(day, selection)), by)

    async def claim(self, duty: str, holder: str, seconds: float) -> bool:
        """Take on a duty, or keep it. Returns whether it is the holder's."""
        return bool(await self._server.call(_CLAIM, self._keys(f"duty:{duty}"), (holder, int(seconds * 1000))))

    async def _append(self, record: UsageRecord) -> bool:
        day = int(record.ended // _DAY) * _DAY
        keys = self._keys("records", "lists", "corrections", "days", f"totals:{day}")
        bounds = (self._most_records, int(self.keep_seconds), int(REMEMBERED_SECONDS))
        corrects = "1" if record.corrects is not None else "0"
        names = (record.id, _encoded(record.place), record.team, corrects, repr(record.ended), day, text_of(record))
        words: list[Argument] = [*bounds, *names]
        for one, amount in slices(record).items():
            words += (_field(one), amount)
        return bool(await self._server.call(_APPEND, keys, words))

    def _keys(self, *parts: str) -> tuple[str, ...]:
        return key_names(self._server.prefix, "usage", parts)


def _encoded(place: Place) -> bytes:
    """Make bytes of a place that stand in the same order; times are not negative, so IEEE 754 does."""
    ended, record_id = place
    return struct.pack(">d", ended).hex().encode() + record_id.encode()


def _field(one: Slice) -> str:
    return json.dumps(one, separators=(",", ":"))


def _slices(totals: Mapping[bytes, bytes], selection: Selection) -> list[tuple[Slice, int]]:
    found = ((Slice(*json.loads(text)), int(amount)) for text, amount in totals.items())
    return [
        (one, amount)
        for one, amount in found
        if selection.has_time(one.hour) and selection.has_names(one.team, one.operation, one.key)
    ]

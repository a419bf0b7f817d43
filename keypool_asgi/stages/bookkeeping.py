"""Keeping the account off the path of the requests: records wait in memory for a moment, and are written together.

What waits is lost when the process is killed: ``write_seconds`` of records, and the sessions that were open. It is not
lost at an orderly shutdown, nor while the ledger is away, up to ``most_waiting``. That a job was begun is not known by
the account alone: the resource store has it, so what the job has used is found by the reconciler even then.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keypool_asgi.core.usage import UsageRecord, correction_of
from keypool_asgi.errors import ConfigurationError, Refusal
from keypool_asgi.ports import Ledger
from keypool_asgi.stores.callables import as_async

__all__ = ["Bookkeeper", "OnUsage", "Settlement"]

logger = logging.getLogger("keypool_asgi")

OnUsage = Callable[[UsageRecord], Awaitable[Any] | Any]
"""Called with each usage record once it is kept, sync (then in a thread) or async. It holds no request up."""

_BATCH = 256
_SETTLED_JOBS = 8192

# How long the record of a job's beginning, which another process may be about to write, is waited for.
_PATIENCE_SECONDS = 5.0

# Seconds from one try to the next while the ledger is away.
_PAUSE_SECONDS = 2.0
_CLOSING_PAUSE_SECONDS = 0.1

# The same while the record of a job's beginning is waited for.
_SETTLING_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What became known of a job.

    Attributes:
        job: its name, which is the id of the record of its beginning.
        operation: the one that began it.
        used: what it has used, by unit.
        request_id: of the exchange or errand that found it out.
        team: whose it is, should the record of its beginning be missing.
        project: likewise.
        at: when it was found out, Unix time in seconds.
        estimated: whether nobody can say for certain.
    """

    job: str
    operation: str
    used: Mapping[str, int]
    request_id: str
    team: str
    project: str | None
    at: float
    estimated: bool = False


class Bookkeeper:
    """Takes records, writes them into the ledger, and tells ``on_usage`` of them.

    Nothing here waits but ``flush`` and ``aclose``. While nothing is to be written there is neither a task nor a timer.

    Args:
        ledger: where records are kept. Whatever it fails of is logged, and tried again.
        on_usage: called with each record that is kept. What it raises is logged.
        write_seconds: how long a record may wait for others to be written with.
        most_waiting: how many records may wait for a ledger that is away; then the oldest are dropped, and counted in
            the log.
        closing_seconds: how long ``aclose`` may take to write what waits.
        clock: Unix time in seconds.

    Attributes:
        ledger: as above.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        on_usage: OnUsage | None = None,
        write_seconds: float = 0.5,
        most_waiting: int = 100_000,
        closing_seconds: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value in (("write_seconds", write_seconds), ("most_waiting", most_waiting)):
            if not 0 < value < math.inf:
                raise ConfigurationError(f"usage: {name} must be greater than 0, not {value!r}")
        self.ledger = ledger
        self.clock = clock
        self._tell = None if on_usage is None else as_async(on_usage)
        self._write_seconds = write_seconds
        self._most_waiting = most_waiting
        self._closing_seconds = closing_seconds
        self._records: deque[UsageRecord] = deque()
        self._settlements: deque[Settlement] = deque()
        self._settled: OrderedDict[str, None] = OrderedDict()  # the last ones
        self._in_hand = 0
        self._dropped = 0
        self._away = False
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many records have not been written yet."""
        return len(self._records) + len(self._settlements) + self._in_hand

    def add(self, record: UsageRecord) -> None:
        """Take a record."""
        if self.waiting >= self._most_waiting:
            self._drop()
        self._records.append(record)
        self._wake()

    def settle(self, settlement: Settlement) -> None:
        """Take what became known of a job, unless it is settled as far as this process knows."""
        if self.knows(settlement.job):
            return
        if self.waiting >= self._most_waiting:
            self._drop()
        self._settled[settlement.job] = None
        if len(self._settled) > _SETTLED_JOBS:
            self._settled.popitem(last=False)
        self._settlements.append(settlement)
        self._wake()

    def knows(self, job: str) -> bool:
        """Whether this process knows that a job is settled."""
        return job in self._settled

    async def is_settled(self, job: str) -> bool:
        """Whether a job is settled, in the ledger or in what waits for it.

        Raises:
            StoreUnavailable: nobody can say.
        """
        return self.knows(job) or await self.is_written(job)

    async def is_written(self, job: str) -> bool:
        """Whether the settlement of a job is in the ledger.

        Raises:
            StoreUnavailable: nobody can say.
        """
        return await self.ledger.knows(correction_of(job))

    async def flush(self) -> None:
        """Write what waits now. What cannot be written goes on waiting."""
        self._enter_loop()
        await asyncio.shield(self._begin())

    async def aclose(self) -> None:
        """Write what waits, within ``closing_seconds``. More may come after it."""
        self._closing = True
        try:
            async with asyncio.timeout(self._closing_seconds):
                await self.flush()
                while self.waiting:
                    await asyncio.sleep(_CLOSING_PAUSE_SECONDS)
                    await self.flush()
        except TimeoutError:
            await self._stop_writing()
        finally:
            if self.waiting:
                logger.error("usage: %d records could not be written in time", self.waiting)
            self._closing = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _enter_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Another event loop has begun, so neither timer nor task of the last one is going on any more.
            self._loop, self._timer, self._writing = loop, None, None
        return loop

    def _wake(self) -> None:
        """See to it that what waits is written before long."""
        if self._timer is not None and asyncio.get_running_loop() is self._loop:
            return  # mostly, others wait already
        self._enter_loop()
        if self._timer is None and (self._writing is None or self._writing.done()):
            self._schedule(self._write_seconds)

    def _schedule(self, seconds: float) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(seconds, self._begin)

    def _begin(self) -> asyncio.Task[None]:
        """Begin to write, or go on with it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write(), name="keypool_asgi: usage")
        return self._writing

    async def _stop_writing(self) -> None:
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        try:
            while self._records:
                await self._write_records()
            # Records first: a settlement looks for the one of its job's beginning.
            await self._write_settlements()
        except Exception as error:  # noqa: BLE001 - whatever a ledger fails of must not stop the account
            self._fail(error)
            self._schedule(_PAUSE_SECONDS)
            return
        self._recover()
        if self._records:
            self._schedule(self._write_seconds)
        elif self._settlements:
            self._schedule(_SETTLING_PAUSE_SECONDS)

    async def _write_records(self) -> None:
        batch = [self._records.popleft() for _ in range(min(_BATCH, len(self._records)))]
        self._in_hand = len(batch)
        try:
            await self.ledger.append(batch)
        except BaseException:
            self._records.extendleft(reversed(batch))
            raise
        finally:
            self._in_hand = 0
        await self._tell_of(batch)

    async def _write_settlements(self) -> None:
        """Write what became known of jobs, each as a correction of the record of its beginning."""
        for _ in range(-(-len(self._settlements) // _BATCH)):
            batch = [self._settlements.popleft() for _ in range(min(_BATCH, len(self._settlements)))]
            self._in_hand = len(batch)
            try:
                kept, late = await self._settle(batch)
            except BaseException:
                self._settlements.extendleft(reversed(batch))
                raise
            finally:
                self._in_hand = 0
            self._settlements.extend(late)
            await self._tell_of(kept)

    async def _settle(self, settlements: Sequence[Settlement]) -> tuple[Sequence[UsageRecord], Sequence[Settlement]]:
        """Write corrections. Returns those that are kept, and the settlements for which it is too early."""
        begun = await asyncio.gather(*(self.ledger.find(one.job) for one in settlements))
        pairs = list(zip(settlements, begun, strict=True))
        late = [one for one, first in pairs if first is None and self._is_early(one)]
        records = [_correction(one, first) for one, first in pairs if one not in late]
        return (await self.ledger.append(records) if records else ()), late

    def _is_early(self, settlement: Settlement) -> bool:
        """Whether the record of the job's beginning may still be on its way, from another process."""
        return not self._closing and self.clock() < settlement.at + _PATIENCE_SECONDS

    async def _tell_of(self, records: Sequence[UsageRecord]) -> None:
        if self._tell is None:
            return
        for record in records:
            try:
                await self._tell(record)
            except Exception:
                logger.exception("on_usage failed for record %s", record.id)

    def _drop(self) -> None:
        """Make room, and say so once for all that is dropped until the ledger is back."""
        if self._records:
            self._records.popleft()
        else:
            self._settled.pop(self._settlements.popleft().job, None)
        self._dropped += 1

    def _fail(self, error: Exception) -> None:
        if not self._away:
            logger.error("usage: the ledger failed, records wait: %s", error, exc_info=not isinstance(error, Refusal))
        self._away = True

    def _recover(self) -> None:
        if self._dropped:
            logger.error("usage: %d records were dropped, because too many waited for the ledger", self._dropped)
        elif self._away:
            logger.warning("usage: the ledger is back; what waited is written")
        self._away, self._dropped = False, 0


def _correction(settlement: Settlement, begun: UsageRecord | None) -> UsageRecord:
    """Make the record that settles a job. It counts for whom, and on the key with which, the job was begun."""
    return UsageRecord(
        id=correction_of(settlement.job),
        request_id=settlement.request_id,
        team=settlement.team if begun is None else begun.team,
        operation=settlement.operation,
        key=None if begun is None else begun.key,
        account=None if begun is None else begun.account,
        project=settlement.project if begun is None else begun.project,
        started=settlement.at if begun is None else begun.started,
        ended=settlement.at,
        used=settlement.used,
        estimated=settlement.estimated,
        corrects=settlement.job,
    )

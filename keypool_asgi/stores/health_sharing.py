"""What the pool's keys are found to be, shared with other processes: told and heard in the background.

No request waits for it. A board that fails costs the others' knowledge for as long, and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from random import Random
from typing import Protocol, runtime_checkable

from keypool_asgi.core.health import HealthPolicy, Scope, State
from keypool_asgi.core.shared_health import Bulletin, News, Report, board_name, hear, is_down
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.stores.roster import Roster, Subject

__all__ = ["SHARE_SECONDS", "HealthBoard", "HealthSharing"]

_LOG = logging.getLogger("keypool_asgi.pool")

SHARE_SECONDS = 0.5
"""How often a process tells and hears, unless it has news: that is told at once."""

# How long a board may take. What it told before is believed for as long.
_PATIENCE_SECONDS = 5.0


@runtime_checkable
class HealthBoard(Protocol):
    """Where processes leave word for each other. It need not be durable."""

    async def exchange(self, report: Report) -> Bulletin:
        """Leave a report, which replaces this process's last one but for its news, and return what there is.

        News is kept until well after its subject opens. Of several about one subject the youngest stays. Leases of a
        process that does not report any more are forgotten after some seconds.

        Raises:
            StoreUnavailable: the board cannot be reached.
        """


class HealthSharing:
    """Tells a board what this process finds out, and its roster what others do.

    Args:
        board: where it is left.
        roster: the records that are told of, and changed.
        changed: called after others' news may have changed who can serve.
        policy: durations.
        clock: seconds, monotonic.
        random: spreads probes.
        share_seconds: how often, at least.

    Raises:
        ConfigurationError: ``share_seconds`` is not above 0.
    """

    def __init__(
        self,
        board: HealthBoard,
        roster: Roster,
        changed: Callable[[], None],
        *,
        policy: HealthPolicy,
        clock: Callable[[], float],
        random: Random,
        share_seconds: float = SHARE_SECONDS,
    ) -> None:
        if not share_seconds > 0:
            raise ConfigurationError(f"share_seconds must be greater than 0, not {share_seconds!r}")
        self._board = board
        self._roster = roster
        self._changed = changed
        self._policy = policy
        self._clock = clock
        self._random = random
        self._share_seconds = share_seconds
        self._process = uuid.uuid4().hex
        self._numbers = itertools.count()
        # Whom there is news of that was not told yet, with the id of that news: what it is, is read when it is told.
        self._untold: dict[Subject, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._failing = False
        # What others have found out, as of a moment.
        self._others: dict[tuple[Scope, str, str], News] = {}
        self._heard_at = 0.0
        roster.met = self._meet

    def ensure(self) -> None:
        """Have it running in this event loop. Cheap, for every lease calls it."""
        if self._task is None or self._task.done():
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="keypool_asgi: share health")

    def tell(self, subject: Subject) -> None:
        """Leave word, soon, that a subject has gone down or healed."""
        self._untold[subject] = f"{self._process}:{next(self._numbers)}"
        if self._wake is not None:
            self._wake.set()

    async def aclose(self) -> None:
        """Stop, and leave word that this process has nothing in flight any more."""
        task, self._task = self._task, None
        if task is None or task.done():
            return
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await self._exchange({})

    async def _run(self) -> None:
        assert self._wake is not None  # noqa: S101 - for the type checker
        while True:
            await self._exchange({board_name(slot.key): slot.in_flight for slot in self._roster.slots()})
            with suppress(TimeoutError):
                async with asyncio.timeout(self._share_seconds):
                    await self._wake.wait()
            self._wake.clear()

    async def _exchange(self, in_flight: Mapping[str, int]) -> None:
        untold, self._untold = self._untold, {}
        try:
            report = Report(self._process, list(self._news(untold)), _counted(in_flight))
            async with asyncio.timeout(_PATIENCE_SECONDS):
                bulletin = await self._board.exchange(report)
        except Exception as error:  # noqa: BLE001 - a board may be anybody's; health is kept without it
            self._untold = untold | self._untold
            self._fail(error)
            # What others had in flight is not known any more, and must not keep a key closed for ever.
            bulletin = Bulletin((), {})
        else:
            self._recover()
        self._hear(bulletin)

    def _news(self, untold: Mapping[Subject, str]) -> Iterator[News]:
        now = self._clock()
        for subject, news_id in untold.items():
            name = self._name(subject)
            if name is None:
                continue
            health = subject.health
            state = health.state if is_down(health.state) else State.RAMP
            yield News(
                news_id,
                self._process,
                subject.scope,
                name,
                subject.service,
                state,
                age=now - subject.since,
                opens_in=max(0.0, health.until - now) if is_down(state) else 0.0,
                strikes=health.strikes,
            )

    def _hear(self, bulletin: Bulletin) -> None:
        self._heard_at = self._clock()
        self._others = {_subject_of(one): one for one in bulletin.news if one.process != self._process}
        if self._others:
            for subject in self._roster.subjects():
                self._meet(subject)
        for slot in self._roster.slots():
            slot.elsewhere = bulletin.in_flight.get(board_name(slot.key), 0) if bulletin.in_flight else 0
        self._changed()

    def _meet(self, subject: Subject) -> None:
        """Apply what others have found out about a subject, once."""
        name = self._name(subject) if self._others else None
        news = self._others.get((subject.scope, name or "", subject.service))
        if news is None or news.id == subject.heard:
            return
        subject.heard = news.id
        now, jitter = self._clock(), self._random.random()
        news = news.later(now - self._heard_at)
        health = hear(subject.health, subject.since, news, now=now, policy=self._policy, jitter=jitter)
        if health is not None:
            subject.become(health, now, since=now - news.age)

    def _name(self, subject: Subject) -> str | None:
        """What the others call a subject; None for a key that is not listed any more."""
        if subject.scope is not Scope.KEY:
            return subject.name
        key = self._roster.key(subject.name)
        return None if key is None else board_name(key)

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            _LOG.warning("the health of keys is not shared with other processes now: %s", type(error).__name__)

    def _recover(self) -> None:
        if self._failing:
            self._failing = False
            _LOG.warning("the health of keys is shared with other processes again")


def _subject_of(news: News) -> tuple[Scope, str, str]:
    return news.scope, news.name, news.service


def _counted(in_flight: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in in_flight.items() if number}

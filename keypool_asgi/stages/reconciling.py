"""Reconciling: jobs that nobody polls, because their callers were told by webhooks or have left, are settled too.

What is still open is in the resource store: jobs whose last known status is one that may change. A job keeps such a
status until what it has used is in the account; so a restart, or another process, goes on where this one was.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

from keypool_asgi.core.ownership import decoded_json
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.errors import ConfigurationError, NoAvailableKeys, Refusal, UpstreamError
from keypool_asgi.ports import ResourceStore

from .asking import Reply
from .settling import JobDesk

__all__ = ["Reconciler", "SettledFirst"]

logger = logging.getLogger("keypool_asgi")

_DUTY = "reconcile"
_MOST_SOON = 1000
_PAGE = 100

Item = Mapping[str, Any]
"""What upstream's list says about a job."""

Noted = tuple[str, str]
"""The status and the summary of a job that is done."""


class Reconciler:
    """Asks upstream, every so often, for jobs without an end, and settles those that are done.

    One list request for each project tells which of its newest jobs are done; each of them that is not settled yet
    costs one more request, for its figure. Of several processes that share a ledger, one does it at a time. While it
    rests there is a timer and no task.

    Args:
        desk: settles jobs.
        resources: which jobs there are, and how they stood.
        provider: how jobs are listed and described.
        every_seconds: from the beginning of one round to that of the next.
        after_seconds: how old a job is before it is asked about: by then its caller has mostly polled it.
        jobs_per_round: how many jobs are looked at in a round; the next round goes on after them.
        requests_per_second: how many requests are made at most; upstream counts them as the account's.
        clock: Unix time in seconds.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    def __init__(
        self,
        *,
        desk: JobDesk,
        resources: ResourceStore,
        provider: Provider,
        every_seconds: float = 60.0,
        after_seconds: float = 300.0,
        jobs_per_round: int = 500,
        requests_per_second: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check(reconcile_seconds=every_seconds, jobs_per_round=jobs_per_round, requests_per_second=requests_per_second)
        self.desk = desk
        self.resources = resources
        self.provider = provider
        self._every_seconds = every_seconds
        self._after_seconds = after_seconds
        self._jobs_per_round = jobs_per_round
        self._pause = 1 / requests_per_second
        self._clock = clock
        self._holder = token_hex(8)
        self._cursors: dict[str, tuple[float, str] | None] = {}
        self._soon: dict[Ref, Noted] = {}
        self._due = 0.0
        self._next_request = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if that has not been done in this event loop. Costs next to nothing otherwise."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._timer, self._task = loop, None, None
            self._due = loop.time() + self._every_seconds
            self._schedule()

    async def aclose(self) -> None:
        """Stop; what has begun is left where it is, for the next start."""
        if self._timer is not None:
            self._timer.cancel()
        task, self._loop, self._timer, self._task = self._task, None, None, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    def settle_soon(self, ref: Ref, noted: Noted) -> None:
        """Settle a job of which somebody has just seen that it is done, and note that then.

        When too many wait for that, a later round finds it.
        """
        if len(self._soon) < _MOST_SOON:
            self._soon[ref] = noted
            self.start()
            self._begin()

    def seen_done(self, row: Resource) -> Resource:
        """Return a job as it was seen when it was done, if it is one that waits for being settled."""
        noted = self._soon.get(row.ref)
        return row if noted is None else replace(row, status=noted[0], summary=noted[1])

    async def round(self) -> int:
        """Look at as many open jobs as one round may. Returns how many of them were found to be done.

        Raises:
            StoreUnavailable: nobody can say which jobs are open.
        """
        done = 0
        for kind in self.desk.kinds:
            rows = await self._open_jobs(kind)
            for project in dict.fromkeys(row.project for row in rows):
                listed = await self._listed(kind, project)
                theirs = [row for row in rows if row.project == project]
                found = [(row.ref, await self._settled(row, listed.get(row.ref.id))) for row in theirs]
                done += await self._note([(ref, noted) for ref, noted in found if noted is not None])
        return done

    # The timer

    def _schedule(self) -> None:
        if self._loop is not None and self._timer is None:
            self._timer = self._loop.call_at(self._due, self._begin)

    def _begin(self) -> None:
        if self._loop is not None and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._work(), name="keypool_asgi: reconcile")

    async def _work(self) -> None:
        try:
            await self._work_off()
        except Refusal as error:
            logger.warning("reconcile: broken off, to go on later: %s", error)
        except Exception:
            logger.exception("reconcile: broken off by an error, to go on later")

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._due:
            self._due, self._timer = loop.time() + self._every_seconds, None
            self._schedule()
            if await self.desk.books.ledger.claim(_DUTY, self._holder, 2 * self._every_seconds):
                await self.round()
        while self._soon:
            ref, noted = next(iter(self._soon.items()))
            try:
                row = await self.resources.find(ref)
                if row is not None and await self._settled(row, None) is not None:
                    await self._note([(ref, noted)])
            finally:
                del self._soon[ref]  # settled, or left to a later round

    # A round

    async def _open_jobs(self, kind: str) -> list[Resource]:
        """The next jobs that are not known to be done, from the newest to the oldest and then anew."""
        found: list[Resource] = []
        cursor = self._cursors.get(kind)
        while len(found) < self._jobs_per_round:
            limit = min(_PAGE, self._jobs_per_round - len(found))
            page = Page(
                kind,
                limit,
                before=cursor,
                until=self._clock() - self._after_seconds,
                statuses=self.provider.lists.unfinished,
            )
            rows: Sequence[Resource] = await self.resources.page(page)
            found += rows
            cursor = rows[-1].place if len(rows) == limit else None
            if cursor is None:
                break
        self._cursors[kind] = cursor
        return found

    async def _listed(self, kind: str, project: str) -> dict[str, Item]:
        """The project's newest jobs by id: one request that tells of most."""
        lists = self.provider.lists
        operation = next((name for name, listed in lists.composed.items() if listed == kind), None)
        reply = None if operation is None else await self._ask(operation, project, query=lists.batch(None))
        found = {} if reply is None or reply.status != 200 else decoded_json(reply.headers, reply.body) or {}
        return {str(item.get("id")): item for item in lists.items(found)}

    async def _settled(self, row: Resource, item: Item | None) -> Noted | None:
        """Settle a job if it is done. Returns what is to be noted of it then; None when it is not, or nobody can say.

        Args:
            row: the job.
            item: what upstream's list says of it, if it is in there.
        """
        if item is not None and item.get("status") in self.provider.lists.unfinished:
            return None
        if item is not None and await self.desk.books.is_settled(self.desk.name(row.ref)):
            return self._described(row, item)
        kind = self.desk.kinds[row.ref.kind]
        reply = await self._ask(kind.read, row.project, {kind.parameter: row.ref.id})
        if reply is None:
            return None
        if self.provider.resources.says_gone(reply.status, reply.body):
            await self._bury(row)
            return None
        found = await self.desk.settle_by(row, reply, f"reconcile-{self._holder}")
        return None if found is None else self._described(row, item or found)

    async def _bury(self, row: Resource) -> None:
        """Give up a job that was deleted upstream behind our back: nobody will ever say what it has used."""
        logger.warning("reconcile: %s %s is gone upstream; what it has used is not known", row.ref.kind, row.ref.id)
        nothing = self.desk.nothing(row.ref.kind)
        await self.desk.settle(row, nothing, f"reconcile-{self._holder}", estimated=True, ends_permit=False)
        await self.resources.forget(row.ref)

    async def _note(self, jobs: Sequence[tuple[Ref, Noted]]) -> int:
        """Note that jobs are done, of those whose settlement is in the ledger by now. Returns how many those are.

        The others are found again in a later round.
        """
        if not jobs:
            return 0
        books, done = self.desk.books, 0
        await books.flush()
        for ref, noted in jobs:
            if await books.is_written(self.desk.name(ref)):
                await self.resources.note(ref, *noted)
                done += 1
        return done

    def _described(self, row: Resource, item: Item) -> Noted:
        status, summary = self.provider.resources.describe(row.ref.kind, dict(item))
        return status or "", summary

    async def _ask(
        self, operation: str, project: str, ids: Mapping[str, str] | None = None, query: bytes = b""
    ) -> Reply | None:
        """Ask upstream, no faster than is allowed. None when it could not be asked."""
        loop = asyncio.get_running_loop()
        self._next_request = max(self._next_request, loop.time()) + self._pause
        await asyncio.sleep(self._next_request - self._pause - loop.time())
        try:
            return await self.desk.asker.ask(operation, project, ids, query)
        except (NoAvailableKeys, UpstreamError) as error:
            logger.warning("reconcile: project %s could not be asked: %s", project, error)
            return None


class SettledFirst:
    """A resource store in which a job keeps its status until what it has used is in the account.

    For those who see in passing that jobs are done, and would note it: the lists. They see it as done from then on.

    Args:
        resources: the store.
        reconciler: settles jobs, and notes their status then.
    """

    def __init__(self, resources: ResourceStore, reconciler: Reconciler) -> None:
        self._resources = resources
        self._reconciler = reconciler
        self.record = resources.record
        self.find = resources.find
        self.forget = resources.forget
        self.place = resources.place

    async def page(self, page: Page) -> Sequence[Resource]:
        """Return a part of a list, with those jobs done that were seen so."""
        return [self._reconciler.seen_done(row) for row in await self._resources.page(page)]

    async def note(self, ref: Ref, status: str, summary: str) -> None:
        """Write down a job's status and summary, now or once the job is settled."""
        desk, unfinished = self._reconciler.desk, self._reconciler.provider.lists.unfinished
        done = ref.kind in desk.kinds and status not in unfinished
        if done and not await desk.books.is_written(desk.name(ref)):
            self._reconciler.settle_soon(ref, (status, summary))
        else:
            await self._resources.note(ref, status, summary)


def _check(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ConfigurationError(f"{name} must be greater than 0, not {value!r}")

"""Accounting: one usage record of each exchange that reached upstream, when it is over.

It stands before the quota stage, so that it sees the answer as the caller gets it. What upstream was not asked for has
used nothing, and is not in the account: ``on_exchange`` tells of that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from keypool_asgi.asgi import ASGIApp, Message, Receive, Scope, Send
from keypool_asgi.core.charging import NOTHING_METERED, Tariff
from keypool_asgi.core.metering import Figures, Found, Metering, Scanning, job_in, scanner_for
from keypool_asgi.core.resources import Ref, Resource
from keypool_asgi.core.usage import UsageRecord, session_used
from keypool_asgi.errors import MissingStage, NoAvailableKeys, Refusal, UpstreamError
from keypool_asgi.exchange import Exchange, Passed
from keypool_asgi.ports import ResourceStore

from .bookkeeping import Bookkeeper
from .quota_account import job_permit
from .settling import JobDesk
from .stage import Stage

__all__ = ["Accounting"]

logger = logging.getLogger("keypool_asgi")

# How long a session whose caller's task has ended may take to end upstream, before it counts as it stands.
_PARTING_SECONDS = 15.0
_LOOK_SECONDS = 0.05


class Accounting(Stage):
    """Makes the usage records.

    Args:
        app: the next stage.
        books: takes the records.
        desk: settles jobs.
        tariff: what operations use up, and what that costs.
        resources: who owns the jobs that polls are about.
        shared: whether teams may reach each other's jobs.
        on_use: called with each exchange, for what begins to work at the first use.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        books: Bookkeeper,
        desk: JobDesk,
        tariff: Tariff,
        resources: ResourceStore,
        shared: bool = False,
        on_use: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(app)
        self.books = books
        self.desk = desk
        self.tariff = tariff
        self.resources = resources
        self.shared = shared
        self.on_use = on_use
        self.clock = clock
        self._wanted = {name: _looked_for(metering) for name, metering in tariff.metering.items()}
        self._parting: set[asyncio.Task[None]] = set()

    def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Go on, and make a record of what has come of it, whatever that is."""
        if self.on_use is not None:
            self.on_use()
        serve = self._serve_session if scope["type"] == "websocket" else self._serve_request
        return serve(exchange, scope, receive, send)

    async def aclose(self) -> None:
        """Wait for the records of sessions that are being ended upstream. The relay must be closed before."""
        while self._parting:
            await asyncio.wait(self._parting)

    # HTTP

    async def _serve_request(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        operation = exchange.operation
        metering = self.tariff.metering.get(operation.name, NOTHING_METERED)
        doomed = await self._doomed(exchange) if operation.deletes else None
        wanted = self._wanted.get(operation.name)
        if doomed is not None:
            wanted = self.desk.kinds[doomed.ref.kind].metering.figures
        elif metering.ends is not None and self._knows_polled(metering, exchange):
            wanted = None
        entry = _Entry(exchange, receive, send, metering=metering, wanted=wanted, started=self.clock())
        if exchange.framing.chunked or exchange.framing.length:
            receive = entry.receive
        try:
            await self.app(scope, receive, entry.send)
        finally:
            succeeded = entry.succeeded
            if exchange.reached_upstream:
                self._enter_request(entry, exchange, succeeded=succeeded)
            # Also for a caller that has left: upstream has done it all the same.
            if succeeded and doomed is not None:
                await self._bury(doomed, entry, exchange.request_id)
            elif succeeded and wanted is not None and metering.ends is not None:
                await self._settle_polled(entry, exchange)

    def _knows_polled(self, metering: Metering, exchange: Exchange) -> bool:
        """Whether the job that is asked about is known to be settled: the answer has nothing new then."""
        job_id = exchange.ids.get(metering.ends or "")
        return job_id is not None and self.books.knows(job_permit(metering.begun_by, job_id))

    def _enter_request(self, entry: _Entry, exchange: Exchange, *, succeeded: bool) -> None:
        metering, used, estimated = entry.metering, {"requests": 1}, False
        record_id = None
        if succeeded or entry.status is None:
            if metering.body is not None:
                used[metering.body] = entry.request_bytes
            if metering.begins is not None:
                job = entry.found.get(metering.begins)
                estimated = True  # what the job uses is still to come
                if isinstance(job, str):
                    record_id = job_permit(exchange.operation.name, job)
            elif metering.ends is None:
                estimated = self._add_figures(used, entry, exchange.operation.name)
        estimated |= entry.status is None
        self._add(exchange, entry, entry.started, used, estimated=estimated, record_id=record_id)

    def _add_figures(self, used: dict[str, int], entry: _Entry, operation: str) -> bool:
        """Add what the answer says was used, and what that costs. Returns whether it had to be estimated.

        What a session of a minted token will use is not known here; one that comes to us has a record of its own.
        """
        metering, estimated = entry.metering, False
        figures, model = entry.figures()
        if figures is None and metering.units and metering.lasts is None:
            figures, estimated = {unit: self.tariff.estimate(operation, unit) for unit in metering.units}, True
        used |= figures or {}
        cost = self.tariff.prices.cost(operation, used, model)
        if cost:
            used["cost"] = cost
        return estimated

    async def _settle_polled(self, entry: _Entry, exchange: Exchange) -> None:
        """Settle the job that was asked about, if the answer says that it is done. The quota stage ends its permit."""
        figures, model = entry.figures()
        if figures is None or self._knows_polled(entry.metering, exchange):
            return
        kind, job_id = self._job_named(exchange)
        if kind is None:
            return
        job = await self._owned(exchange, Ref(kind, job_id))
        if job is not None:
            await self.desk.settle(job, figures, exchange.request_id, model=model, ends_permit=False)

    def _job_named(self, exchange: Exchange) -> tuple[str | None, str]:
        """Kind and id of the job that the path names."""
        for name in exchange.operation.names:
            if name.kind in self.desk.kinds and name.field in exchange.ids:
                return name.kind, exchange.ids[name.field]
        return None, ""

    async def _owned(self, exchange: Exchange, ref: Ref) -> Resource | None:
        """Return a job that the team may reach, None for any other, or when nobody can say."""
        try:
            found = await self.resources.find(ref)
        except Refusal:
            return None  # the store has logged it; the next one who asks, or the reconciler, settles it
        return found if found is not None and (self.shared or found.team == exchange.team.id) else None

    # Jobs that are deleted

    async def _doomed(self, exchange: Exchange) -> Resource | None:
        """Return the job that is about to be deleted, if its figure is not known: it is asked for while it is there.

        A caller that was told by a webhook may delete a job that it has never polled.
        """
        kind, job_id = self._job_named(exchange)
        job = None if kind is None else await self._owned(exchange, Ref(kind, job_id))
        if job is None:
            return None
        try:
            if await self.books.is_settled(self.desk.name(job.ref)):
                return None
            done = await self.desk.settle_by(job, await self.desk.ask(job), exchange.request_id)
        except (Refusal, NoAvailableKeys, UpstreamError) as error:
            logger.warning("request %s: a job is deleted whose figure is not known: %s", exchange.request_id, error)
            return job
        return None if done is not None else job

    async def _bury(self, job: Resource, entry: _Entry, request_id: str) -> None:
        """Settle a job that was deleted before it was known to be done. What was not done costs nothing."""
        figures = entry.figures()[0]
        certain = figures is not None or entry.found.get("status") in self.desk.provider.lists.unfinished
        await self.desk.settle(job, figures or self.desk.nothing(job.ref.kind), request_id, estimated=not certain)

    # WebSocket

    async def _serve_session(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        started = self.clock()
        try:
            await self.app(scope, receive, send)
        finally:
            if exchange.session is not None:
                self._enter_session(exchange, started)
            elif exchange.reached_upstream:
                self._add(exchange, _passed(exchange), started, {"requests": 1}, estimated=True)

    def _enter_session(self, exchange: Exchange, started: float) -> None:
        """Make the record of a session, once it is over upstream too: the relay may still be ending it."""
        meter = exchange.session
        if meter is None or meter.opened is None or meter.closed is not None:
            self._add_session(exchange, started)
            return
        task = asyncio.get_running_loop().create_task(self._part(exchange, started), name="keypool_asgi: usage")
        self._parting.add(task)
        task.add_done_callback(self._parting.discard)

    async def _part(self, exchange: Exchange, started: float) -> None:
        loop, meter = asyncio.get_running_loop(), exchange.session
        end = loop.time() + _PARTING_SECONDS
        with suppress(asyncio.CancelledError):  # the event loop is ending: it counts as it stands
            while meter is not None and meter.closed is None and loop.time() < end:  # noqa: ASYNC110 - the relay sets no event
                await asyncio.sleep(_LOOK_SECONDS)
        self._add_session(exchange, started)

    def _add_session(self, exchange: Exchange, started: float) -> None:
        meter, operation = exchange.session, exchange.operation.name
        if meter is None or meter.opened is None:
            return
        closed = asyncio.get_running_loop().time() if meter.closed is None else meter.closed
        seconds = max(0.0, closed - meter.opened)
        metering = self.tariff.metering.get(operation, NOTHING_METERED)
        used, settled = session_used(metering, meter.figures, seconds)
        used = {"requests": 1, **used}
        cost = self.tariff.prices.cost(operation, used)
        if cost:
            used["cost"] = cost
        self._add(exchange, _passed(exchange), started, used, estimated=not settled, clocked_seconds=seconds)

    # Both

    def _add(
        self,
        exchange: Exchange,
        passed: Passed,
        started: float,
        used: Mapping[str, int],
        *,
        estimated: bool,
        record_id: str | None = None,
        clocked_seconds: float | None = None,
    ) -> None:
        key = exchange.attempts[-1].key if exchange.attempts else None
        self.books.add(
            UsageRecord(
                id=record_id or exchange.request_id,
                request_id=exchange.request_id,
                team=exchange.team.id,
                operation=exchange.operation.name,
                key=None if key is None else key.id,
                account=None if key is None else key.account,
                project=None if key is None else key.project,
                started=started,
                ended=self.clock(),
                status=passed.status,
                close_code=passed.close_code,
                used=used,
                estimated=estimated,
                request_bytes=passed.request_bytes,
                response_bytes=passed.response_bytes,
                clocked_seconds=clocked_seconds,
            )
        )


def _passed(exchange: Exchange) -> Passed:
    """What the border has seen of a session."""
    if exchange.passed is None:
        raise MissingStage("exchange.passed is read, and no intercept stage has written it")
    return exchange.passed


class _Entry:
    """A ``receive`` and a ``send`` that note what the record of a request needs, without holding anything.

    Attributes:
        metering: what the operation uses up.
        started: Unix time in seconds.
        status: of the answer, None while there is none.
        close_code: None, for this is no session.
        request_bytes: of the body, from the caller so far.
        response_bytes: of the body, to the caller so far.
    """

    __slots__ = (
        "_exchange",
        "_field",
        "_receive",
        "_scanner",
        "_send",
        "_wanted",
        "close_code",
        "metering",
        "request_bytes",
        "response_bytes",
        "started",
        "status",
    )

    def __init__(
        self,
        exchange: Exchange,
        receive: Receive,
        send: Send,
        *,
        metering: Metering,
        wanted: Figures | None,
        started: float,
    ) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._wanted = wanted
        self._scanner: Scanning | None = None
        self._field: str | None = None
        self.metering = metering
        self.started = started
        self.status: int | None = None
        self.close_code: int | None = None
        self.request_bytes = 0
        self.response_bytes = 0

    @property
    def succeeded(self) -> bool:
        """Whether upstream did what was asked."""
        return self.status is not None and 200 <= self.status < 300 and self._exchange.refused is None

    @property
    def found(self) -> Found:
        """Members of the answer that were looked for."""
        return {} if self._scanner is None else self._scanner.found

    def figures(self) -> tuple[Mapping[str, int] | None, str | None]:
        """What the answer says was used, by unit, and the model; None where it does not say so."""
        if self.metering.field is not None:
            text = self._field or ""
            known = text.isascii() and text.isdigit() and len(text) < 16
            return ({self.metering.units[0]: int(text)} if known else None), None
        if self._wanted is None:
            return None, None
        return self._wanted.used(self.found), self._wanted.model(self.found)

    async def receive(self) -> Message:
        """Return the caller's next message."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.request_bytes += len(message.get("body", b""))
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Note what a message says, and pass it on: what is awaited is the next one's own ``send``."""
        kind = message["type"]
        if kind == "http.response.body":
            data = message.get("body", b"")
            self.response_bytes += len(data)
            if self._scanner is not None:
                self._scanner.feed(data)
        elif kind == "http.response.start":
            self._start(message)
        return self._send(message)

    def _start(self, message: Message) -> None:
        self.status = message["status"]
        if not self.succeeded:
            return
        if self._wanted is not None:
            self._scanner = scanner_for(self._wanted, message["headers"])
        if self.metering.field is not None:
            named = (value.decode("latin-1") for name, value in message["headers"] if name == self.metering.field)
            self._field = next(named, None)


def _looked_for(metering: Metering) -> Figures | None:
    """What a request's answer is searched for: the job that it begins, or what was used."""
    return metering.figures if metering.begins is None else job_in(metering.begins)

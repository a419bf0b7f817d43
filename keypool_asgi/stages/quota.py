"""Quota: hold what the exchange may use up, and settle or release it exactly once (invariant I5)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from cachetools import LRUCache

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.charging import Plan, Tariff, subject_of
from keypool_asgi.core.limits import Charge, Denial, quota_exceeded
from keypool_asgi.core.messages import Headers
from keypool_asgi.core.metering import readable_codings
from keypool_asgi.core.operations import Operation
from keypool_asgi.core.reservations import remaining
from keypool_asgi.core.teams import Team
from keypool_asgi.errors import ConfigurationError, QuotaExceeded, Refusal
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import QuotaKeeper
from keypool_asgi.stores.quotas import MemoryQuotas

from .quota_account import Account, Parts, job_permit
from .quota_answer import MeteredAnswer, ToldAnswer
from .quota_body import CountedBody
from .quota_session import SessionQuota
from .stage import Stage
from .ticker import Ticker, renewing

__all__ = ["Quota"]

# Plans that are kept; beyond it they are made anew, which costs less than to remember who was here last.
_PLANS = 8192

_SETTLED_JOBS = 8192

# How often sessions are looked at.
_VISIT_SECONDS = 1.0


class Quota(Stage):
    """Reserves against the team's limits before the exchange, and settles after it.

    Args:
        app: the next stage.
        quotas: the store that counts.
        tariff: what operations use up, and what that costs. None: requests, concurrency and streams only.
        renew_seconds: how often open permits are prolonged; well below the store's time to live for permits.
        window_seconds: seconds of a session that are admitted at once.
        stop_seconds: how long before the end of what was admitted a session is ended: what upstream may still charge
            while it ends.
        upload_step_bytes: bytes of a body without a declared length that are held at once.
        job_seconds: for how long a job's figure is waited for. Then it counts as it was estimated.
        rate_limit_fields: whether answers say what is left, in ``RateLimit`` and ``X-RateLimit-*``. Upstream's fields
            of these names, which are about the operator's account, pass only where the team has no limit.
        max_token_seconds: how long a session may last that a temporary token of AssemblyAI's opens; that much is held
            when one is minted, or what is left. None: nothing is held, because tokens are made here and their
            sessions are counted when they come.
        shared: whether a team may fetch other teams' jobs, so that every fetched job is looked at.
        clock: Unix time in seconds.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        quotas: QuotaKeeper,
        tariff: Tariff | None = None,
        renew_seconds: float = 20.0,
        window_seconds: int = 30,
        stop_seconds: float = 3.0,
        upload_step_bytes: int = 8 * 1024**2,
        job_seconds: float = 7 * 86400.0,
        rate_limit_fields: bool = True,
        max_token_seconds: int | None = 10_800,
        shared: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(app)
        _check(
            renew_seconds=renew_seconds,
            window_seconds=window_seconds,
            stop_seconds=stop_seconds,
            upload_step_bytes=upload_step_bytes,
            job_seconds=job_seconds,
        )
        self.quotas = quotas
        self.tariff = tariff or Tariff()
        self.window_seconds = window_seconds
        self.stop_seconds = stop_seconds
        self.upload_step_bytes = upload_step_bytes
        self.job_seconds = job_seconds
        self.rate_limit_fields = rate_limit_fields
        self.max_token_seconds = max_token_seconds
        self.shared = shared
        self.clock = clock
        self._plans: dict[tuple[str, str], Plan] = {}
        self._settled: LRUCache[str, None] = LRUCache(_SETTLED_JOBS)
        self._renewing = renewing(quotas, renew_seconds)
        self._sessions: Ticker[SessionQuota] = Ticker(_VISIT_SECONDS, _visit)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._in_memory = isinstance(quotas, MemoryQuotas)

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Reserve, go on, and settle or release whatever happened."""
        plan = self._plan(exchange.team, exchange.operation)
        finishes = plan.finishes and self._job(exchange, plan) not in self._settled
        if not plan.limits and not finishes:
            await self.app(scope, receive, send)
            return
        account = Account(self.quotas, self.tariff, plan, exchange.request_id, self._renewing)
        if scope["type"] == "websocket":
            await self._serve_session(exchange, account, scope, receive, send)
        elif plan.fixed and not finishes:
            await self._serve_fixed(exchange, account, scope, receive, send)
        else:
            await self._serve_request(exchange, account, scope, receive, send)

    async def remaining(self, team: Team, operation: Operation, unit: str) -> int | None:
        """How many of a unit a team may still use up in an operation; None when no limit counts that.

        Advisory: what is reserved counts, what is asked does not. For capping what is handed out, such as the longest
        session by a temporary token.

        Raises:
            StoreUnavailable: nobody can say.
        """
        charges = [charge for charge in self._plan(team, operation).limits if charge.limit.unit == unit]
        if not charges:
            return None
        return remaining(await self.quotas.levels(charges), charges, unit, self._now())

    # HTTP

    async def _serve_fixed(
        self, exchange: Exchange, account: Account, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a request that costs what is held of it, whatever its answer says."""
        plan = account.plan
        try:
            if not await account.reserve(plan.held):
                raise self._exceeded(account)
            await self.app(scope, receive, ToldAnswer(send, plan, self._fields))
        finally:
            await self._end(account.settle(account.permit_id, {}) if exchange.reached_upstream else account.release())

    async def _serve_request(
        self, exchange: Exchange, account: Account, scope: Scope, receive: Receive, send: Send
    ) -> None:
        plan, body = account.plan, None
        answer = MeteredAnswer(send, account, self._fields, self._began)
        try:
            scope = await self._admit_request(exchange, account, scope)
            if plan.body or (plan.metering.body and "cost" in plan.settles):
                receive = body = CountedBody(receive, account, self.upload_step_bytes)
            await self.app(scope, receive, answer)
        finally:
            await self._end(self._end_request(exchange, account, answer, body))
        if body is not None and body.broken_off and answer.status is None:
            raise self._exceeded(account)

    async def _admit_request(self, exchange: Exchange, account: Account, scope: Scope) -> Scope:
        """Hold what the request may use up. Returns the scope to go on with.

        Raises:
            QuotaExceeded: it does not fit.
        """
        plan = account.plan
        if plan.metering.lasts is not None:
            return await self._admit_minting(account, scope, plan.metering.lasts.encode())
        charges: Sequence[Charge] = plan.held
        if plan.body:
            length = exchange.framing.length or 0
            charges = [*charges, *(Charge(one.subject, one.limit, length) for one in plan.body)]
            account.parts = Parts(plan.body[0].limit.unit, length)
        await self._admit(account, charges)
        if plan.job:
            await self._admit(account, plan.job, account.job)
        if plan.wanted is not None and plan.metering.figures is not None:
            return {**scope, "headers": readable_codings(scope["headers"])}
        return scope

    async def _admit_minting(self, account: Account, scope: Scope, name: bytes) -> Scope:
        """Hold the longest session that a temporary token can open, or shorten that to what is left.

        Nobody will see what such a session really uses: it is the caller's own with AssemblyAI.
        """
        metering, held = account.plan.metering, account.plan.held
        unit = metering.units[0]
        long = [one for one in held if one.limit.unit in (unit, "cost")]
        if not long or self.max_token_seconds is None:
            await self._admit(account, [one for one in held if one not in long])
            return scope
        given = parse_qs(scope["query_string"]).get(name, [b""])
        longest = min(metering.longest, self.max_token_seconds)
        wanted = int(given[0]) if given[0].isdigit() and len(given[0]) < 10 else longest
        seconds = wanted = min(max(wanted, metering.shortest), longest)
        if not await account.reserve(self._lasting(account, seconds)):
            left = remaining(await self.quotas.levels(held), held, unit, self._now())
            seconds = wanted if left is None else min(left, wanted)
            if not metering.shortest <= seconds < wanted:
                raise self._exceeded(account)
            await self._admit(account, self._lasting(account, seconds))
        if given == [b"%d" % seconds]:
            return scope
        return {**scope, "query_string": _with_parameter(scope["query_string"], name, seconds)}

    def _lasting(self, account: Account, seconds: int) -> list[Charge]:
        """What is held for a token that opens a session of this length."""
        metered = (account.plan.metering.units[0], "cost")
        others = [one for one in account.plan.held if one.limit.unit not in metered]
        long = [one for one in account.plan.held if one.limit.unit in metered]
        return others + account.of_amount(long, metered[0], seconds)

    async def _admit(self, account: Account, charges: Sequence[Charge], permit_id: str | None = None) -> None:
        if charges and not await account.reserve(charges, permit_id):
            raise self._exceeded(account)

    async def _end_request(
        self, exchange: Exchange, account: Account, answer: MeteredAnswer, body: CountedBody | None
    ) -> None:
        if not exchange.reached_upstream:
            await account.release()
            return
        plan, total = account.plan, body.total if body is not None else 0
        if answer.succeeded:
            used = self._used(plan, answer, total)
        else:
            # What failed is free. An answer that never came may have been made: it counts as it was reserved.
            used = {} if answer.status is None else dict.fromkeys(plan.settles, 0)
            await account.settle(account.job, {} if answer.status is None else _none_of(plan.job))
        if plan.metering.ends is not None:
            await self._settle_job(exchange, plan, used)
            used = {}
        await account.settle_all(used, total)

    def _used(self, plan: Plan, answer: MeteredAnswer, total: int) -> dict[str, int]:
        """What a request has used and what that costs, by unit; empty when its answer does not say so."""
        figures, model = answer.figures()
        if plan.metering.body is not None and total:
            figures = {**(figures or {}), plan.metering.body: total}
        return {} if figures is None else self.tariff.used(plan.metering.begun_by or plan.operation, figures, model)

    async def _began(self, account: Account, job_id: str) -> None:
        """Hold what the job may cost under its own name from now on."""
        try:
            await account.hand_over(job_permit(account.plan.operation, job_id), self.job_seconds)
        except Refusal:
            return  # the store has logged it; what the job may cost is settled as it was estimated

    def _job(self, exchange: Exchange, plan: Plan) -> str:
        """The permit of the job whose figure the answer may have."""
        return job_permit(plan.metering.begun_by, exchange.ids.get(plan.metering.ends or "", ""))

    async def _settle_job(self, exchange: Exchange, plan: Plan, figures: Mapping[str, int]) -> None:
        """Settle a job by its figure, once that is known, whoever asks and however often."""
        permit_id = self._job(exchange, plan)
        if not figures or permit_id in self._settled:
            return
        try:
            await self.quotas.settle(permit_id, figures)
        except Refusal:
            return  # the store has logged it; the next one who asks settles it
        self._settled[permit_id] = None

    # WebSocket

    async def _serve_session(
        self, exchange: Exchange, account: Account, scope: Scope, receive: Receive, send: Send
    ) -> None:
        plan, session = account.plan, SessionQuota(exchange, account, self.window_seconds, self.stop_seconds)
        try:
            charges = list(plan.held)
            if plan.session and plan.metering.session is not None:
                window = self._first_window(plan)
                charges += account.of_amount(plan.session, plan.metering.session, window)
                account.parts = Parts(plan.metering.session, window)
                self._sessions.add(session)
            await self._admit(account, charges)
            await self.app(scope, receive, send)
        finally:
            self._sessions.discard(session)
            await self._shielded(self._end_session(exchange, account, session))

    def _first_window(self, plan: Plan) -> int:
        """A window, or the whole of a limit that is smaller."""
        limits = [one.limit.amount for one in plan.session if one.limit.unit == plan.metering.session]
        return min([self.window_seconds, *limits])

    async def _end_session(self, exchange: Exchange, account: Account, session: SessionQuota) -> None:
        await session.end()
        meter = exchange.session
        if meter is None or meter.opened is None:
            await account.release()
            return
        plan = account.plan
        figures = {
            unit: math.ceil(meter.figures[member])
            for member, unit in (plan.metering.closing or {}).items()
            if member in meter.figures and unit != plan.metering.session
        }
        used = self.tariff.used(plan.operation, figures) if figures or plan.session else {}
        await account.settle_all(used, session.used())

    # Both

    def _end(self, work: Coroutine[Any, Any, None]) -> Awaitable[None]:
        """End what was held, even if this task is cancelled meanwhile. What never waits costs no task."""
        return work if self._in_memory else self._shielded(work)

    def _shielded(self, work: Coroutine[Any, Any, None]) -> Awaitable[None]:
        return asyncio.shield(self._keep(work))

    def _exceeded(self, account: Account) -> QuotaExceeded:
        denial = account.denial
        if denial is None:
            raise RuntimeError("nothing was denied")
        return quota_exceeded(denial, tuple(self._fields(account.plan, denial)))

    def _fields(self, plan: Plan, denial: Denial | None = None) -> Headers:
        """The response fields that say what is left, as far as this process knows."""
        if not self.rate_limit_fields:
            return []
        levels, now = self.quotas.seen(plan.limits), self._now()
        fields = plan.rate_fields
        return fields.of(levels, now) if denial is None else fields.of_denied(denial, levels, now)

    def _plan(self, team: Team, operation: Operation) -> Plan:
        plan = self._plans.get((team.id, operation.name))
        # A directory may give another team of the same id at any time: its limits have changed then.
        if plan is None or (plan.team is not team and plan.team != team):
            plan = self.tariff.plan(team, subject_of("team", team.id), team.limits, operation, shared=self.shared)
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._plans[team.id, operation.name] = plan
        return plan

    def _now(self) -> int:
        return int(self.clock() * 1e6)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _visit(sessions: list[SessionQuota]) -> None:
    for session in sessions:
        session.visit()


def _none_of(charges: Iterable[Charge]) -> dict[str, int]:
    return {charge.limit.unit: 0 for charge in charges}


def _with_parameter(query: bytes, name: bytes, value: int) -> bytes:
    """A query string with one parameter replaced, however it was written and how often; the rest stays as it is."""
    kept = [part for part in query.split(b"&") if part and name not in parse_qs(part, keep_blank_values=True)]
    return b"&".join([*kept, b"%s=%d" % (name, value)])


def _check(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ConfigurationError(f"{name} must be greater than 0, not {value!r}")

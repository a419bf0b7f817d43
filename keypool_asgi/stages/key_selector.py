"""Key selector: lease a key for each attempt, judge it by the answer, and try another where that is safe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from keypool_asgi.asgi import ASGIApp, Message, Receive, Scope, Send
from keypool_asgi.core.attempts import DELIVER, Next, after_answer, after_failure, is_borne_out, without_key
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.selection import Need
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import NoAvailableKeys, UpstreamError
from keypool_asgi.exchange import Attempt, Exchange
from keypool_asgi.ports import Lease, LeasingPool

from .replay import ReplayableBody
from .session_walk import SessionWalk
from .stage import AnswerBroken, Stage

__all__ = ["KeySelector"]

_UNRELATED = Verdict(Fault.UNRELATED)
_GOOD = Verdict(Fault.NONE)
# Most requests need what others needed before them.
_need = lru_cache(maxsize=1024)(Need)


class KeySelector(Stage):
    """Walks the pool until a key serves the request.

    The walk through the pool and the retries after connection failures are two budgets: three dead keys and one good
    one succeed whatever ``retries`` is.

    Args:
        app: the next stage.
        pool: where keys are leased.
        provider: judges answers.
        peek_bytes: longest request body that is kept so that it can be sent again on another key, in bytes.
        held_bytes: of an answer that may be the key's fault, how many bytes of body are read before judging.
        retries: how often a request whose connection could not be made is tried again.
        clock: Unix time in seconds, for dates in answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        pool: LeasingPool,
        provider: Provider,
        peek_bytes: int = 256 * 1024,
        held_bytes: int = 64 * 1024,
        retries: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(app)
        self.pool = pool
        self.provider = provider
        self.peek_bytes = peek_bytes
        self.held_bytes = held_bytes
        self.suspicious = provider.suspicious
        self.judge = provider.judge
        self.regions = frozenset(provider.origins)
        self.retries = retries
        self.clock = clock

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Lease, try, give back; repeat while that is safe and a key is left."""
        if scope["type"] == "websocket":
            session = SessionWalk(exchange, pool=self.pool, regions=self.regions, retries=self.retries)
            await session.run(self.app, scope, receive, send)
            return
        walk = _Walk(self, exchange, ReplayableBody(receive, self.peek_bytes), send)
        try:
            while await walk.attempt(scope):
                walk.body.rewind()
        finally:
            if walk.doubted:
                await walk.end()
            walk.last = None  # it refers to the walk


class _Walk:
    """One exchange's way through the pool."""

    __slots__ = ("body", "doubted", "exchange", "last", "retries_left", "selector", "send", "tried")

    def __init__(self, selector: KeySelector, exchange: Exchange, body: ReplayableBody, send: Send) -> None:
        self.selector = selector
        self.exchange = exchange
        self.body = body
        self.send = send
        self.tried: frozenset[str] = frozenset()
        self.retries_left = selector.retries
        self.last: _Answer | None = None
        self.doubted: list[tuple[Lease, Verdict]] = []

    async def attempt(self, scope: Scope) -> bool:
        """Try once. Returns whether another attempt must follow.

        Raises:
            NoAvailableKeys: no key is left, and there is no answer of upstream's that the caller may see.
        """
        try:
            lease = await self.selector.pool.lease(self._need())
        except NoAvailableKeys:
            if not await self._deliver_last():
                raise
            return False
        answer = self.last = _Answer(self, lease)
        self.exchange.attempts.append(answer.attempt)
        self.exchange.refused = None
        try:
            await self.selector.app(scope, self.body, answer)
        except AnswerBroken:
            if not answer.breaks_off():
                raise
        finally:
            await self._give_back(answer)
        if answer.next is DELIVER:
            return False
        if answer.next is Next.REFUSE or not self.body.whole:
            # The rest of a long answer was read while the caller went on sending: what was kept is no longer whole.
            raise await self._refusal()
        return True

    async def end(self) -> None:
        """Give back the leases whose verdict was doubted: it is believed if what it blames was then done without."""
        served = self.last.lease.key if self.last is not None and self.last.verdict == _GOOD else None
        for lease, verdict in self.doubted:
            believed = served is not None and is_borne_out(verdict, lease.key, served)
            await self.selector.pool.give_back(lease, replace(verdict, certain=True) if believed else _UNRELATED)

    async def _refusal(self) -> NoAvailableKeys:
        """Say when a repeat by the caller can succeed: at once when another key is free, else when the pool says."""
        try:
            lease = await self.selector.pool.lease(self._need())
        except NoAvailableKeys as refusal:
            return refusal
        await self.selector.pool.give_back(lease, _UNRELATED)
        return NoAvailableKeys("The key that was chosen cannot serve; send the request again.", retry_after=1)

    async def _deliver_last(self) -> bool:
        """Deliver the last answer, because no key is left. Returns whether the caller may see it."""
        last = self.last
        if last is None or not last.whole or without_key(last.verdict) is Next.REFUSE:
            return False
        self.exchange.reached_upstream = True
        self.body.forget()
        await last.deliver()
        return True

    def _need(self) -> Need:
        exchange, length = self.exchange, self.exchange.framing.length
        in_full = length is None or length > self.selector.peek_bytes
        return _need(exchange.operation.service, exchange.team.regions, exchange.project, self.tried, in_full)

    async def _give_back(self, answer: _Answer) -> None:
        lease, verdict = answer.lease, answer.verdict
        self.exchange.reached_upstream |= answer.counts
        if verdict.blames_key:
            self.tried |= {lease.key.id}
            if not verdict.certain:
                self.doubted.append((lease, verdict))
                return
        await self.selector.pool.give_back(lease, verdict)


class _Answer:
    """A ``send`` for one attempt: holds back what may be the key's fault until it is judged.

    Attributes:
        verdict: what the attempt says about its key; nothing until an answer has come.
        next: what becomes of the attempt.
        whole: whether all of the answer is held, so that it can be delivered later.
    """

    __slots__ = ("attempt", "held", "held_bytes", "judged", "lease", "next", "verdict", "walk", "whole")

    def __init__(self, walk: _Walk, lease: Lease) -> None:
        self.walk = walk
        self.lease = lease
        self.attempt = Attempt(lease.key)
        self.verdict = _UNRELATED
        self.next = DELIVER
        self.whole = False
        self.held: list[Message] = []
        self.held_bytes = 0
        self.judged = False

    @property
    def counts(self) -> bool:
        """Whether the attempt is the caller's: it left, and its answer is the one that the caller gets."""
        failure = self.attempt.failure
        return self.next is DELIVER and (failure is None or failure.sent)

    async def __call__(self, message: Message) -> None:
        """Pass a message on, or hold it until the answer is judged."""
        if not self.judged:
            if self._may_blame_key(message):
                await self._hold(message)
                return
            self._judge(message)
        if self.next is DELIVER:
            await self.walk.send(message)

    def _may_blame_key(self, message: Message) -> bool:
        """Whether the answer's status alone does not say what it is about, so that its body must be looked at."""
        if message["type"] != "http.response.start":
            return True
        return message["status"] in self.walk.selector.suspicious and self.attempt.failure is None

    async def _hold(self, message: Message) -> None:
        self.held.append(message)
        self.held_bytes += len(message.get("body", b""))
        self.whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self.whole or self.held_bytes > self.walk.selector.held_bytes:
            self._judge(self.held[0], self._held_body())
            if self.next is DELIVER:
                await self.deliver()

    def _held_body(self) -> bytes:
        return b"".join([message.get("body", b"") for message in self.held[1:]])

    def _judge(self, start: Message, body: bytes = b"") -> None:
        self.judged = True
        failure = self.attempt.failure
        self.next = self._after_answer(start, body) if failure is None else self._after_failure(failure)
        if self.next is DELIVER:
            self.walk.body.forget()

    def breaks_off(self) -> bool:
        """Judge an answer that broke off. Returns whether it was held, and blames the key by what has come of it."""
        if self.judged:
            return False
        self.judged = True
        decision = self._after_answer(self.held[0], self._held_body())
        if decision is DELIVER:
            self.verdict = _UNRELATED
            return False
        self.next = decision
        return True

    def _after_answer(self, start: Message, body: bytes) -> Next:
        selector, exchange = self.walk.selector, self.walk.exchange
        if exchange.refused:
            return DELIVER  # our own answer says nothing about the key
        self.verdict = selector.judge(exchange.operation, start["status"], start["headers"], body, selector.clock())
        decision = after_answer(self.verdict, repeatable=self.walk.body.whole)
        return DELIVER if decision is Next.REPEAT and self._is_doubted_twice() else decision

    def _is_doubted_twice(self) -> bool:
        """Whether a key of the same account has got the same doubtful answer already: then it is the request's."""
        if self.verdict.certain or self.verdict.fault is not Fault.THROTTLED:
            return False
        account = self.lease.key.account
        return any(lease.key.account == account for lease, _ in self.walk.doubted)

    def _after_failure(self, failure: UpstreamError) -> Next:
        walk = self.walk
        decision = after_failure(sent=failure.sent, repeatable=walk.body.whole, retries_left=walk.retries_left)
        walk.retries_left -= decision is Next.REPEAT
        return decision

    async def deliver(self) -> None:
        """Send what is held to the caller."""
        held, self.held = self.held, []
        for message in held:
            await self.walk.send(message)

"""The connection to a Redis server that one event loop has: round trips, failures and recovery.

redis-py is imported here and nowhere else, and only when a connection is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.stores.callables import store_failed

from .scripts import Script

__all__ = ["Argument", "Job", "Line", "is_refused_credential", "need_client"]

log = logging.getLogger("keypool_asgi.stores")

Argument = str | bytes | int

# Calls that share a round trip at most, so that none waits long for the answers to those before it.
_BATCH = 128


class Job(NamedTuple):
    """One call.

    Attributes:
        verb: what a log calls it.
        script: the script, None for a plain command.
        words: what follows ``EVALSHA <sha>``, or the whole command.
        then: called with the answer.
    """

    verb: str
    script: Script | None
    words: Sequence[Argument]
    then: Callable[[Any], object] | None


class Line:
    """The connection of one event loop, and the calls that wait for it; see ``RedisServer``.

    Args:
        name: what a log calls the server.
        url: where it is.
        connect_seconds: how long connecting may take.
        answer_seconds: how long an answer may take.
        pause_seconds: how long calls are refused at once after the server could not be reached.
    """

    def __init__(
        self, name: str, url: str, *, connect_seconds: float, answer_seconds: float, pause_seconds: float
    ) -> None:
        self._name = name
        self._client = _client(url, connect_seconds, answer_seconds)
        # For an answer that was lost, another connection and the second answer.
        self._patience = connect_seconds + 2 * answer_seconds
        self._pause_seconds = pause_seconds
        self._waiting: deque[tuple[Job, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._outage: _Outage | None = None

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """Take a call on; it shares a round trip with those that are waiting when its turn comes."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((job, future))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._drain(), name="keypool_asgi: redis")
        return future

    async def close(self) -> None:
        """End after every call that has begun."""
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._client.aclose()

    async def _drain(self) -> None:
        batch: list[tuple[Job, asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                answers = await self._ask([job for job, _ in batch])
                for (job, future), answer in zip(batch, answers, strict=True):
                    _settle(job, future, answer)
        finally:
            # Empty, unless the event loop is ending.
            for _, future in (*batch, *self._waiting):
                future.cancel()
            self._waiting.clear()

    async def _ask(self, jobs: Sequence[Job]) -> Sequence[Any]:
        """Return the answer to each call, or an exception in its place. Never raises."""
        outage = self._outage
        if outage is not None and asyncio.get_running_loop().time() < outage.until:
            outage.refused += len(jobs)
            return [_refusal(outage.cause) for _ in jobs]
        try:
            answers = await self._twice(jobs)
        except Exception as error:  # noqa: BLE001 - whatever it failed of, it refuses (I9)
            await self._disconnect()
            return self._fail(jobs, error)
        self._recover()
        return [_checked(job, answer) for job, answer in zip(jobs, answers, strict=True)]

    async def _twice(self, jobs: Sequence[Job]) -> list[Any]:
        """Send calls; once more if the connection turns out to be broken, as that of a restarted server is."""
        from redis.exceptions import ConnectionError as Broken

        async with asyncio.timeout(self._patience):
            try:
                return await self._once(jobs)
            except (Broken, OSError):
                await self._disconnect()
                return await self._once(jobs)

    async def _once(self, jobs: Sequence[Job]) -> list[Any]:
        """Send calls by the hashes of their scripts, then those whose script the server does not know by its text."""
        from redis.exceptions import ConnectionError as Broken
        from redis.exceptions import NoScriptError, ReadOnlyError

        answers = await self._pipe([_by_hash(job) for job in jobs])
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = await self._pipe([_by_text(jobs[number]) for number in unknown])
            for number, answer in zip(unknown, again, strict=True):
                answers[number] = answer
        for answer in answers:
            # It is loading its data, or has become a replica: another connection may lead to a better one.
            if isinstance(answer, Broken | ReadOnlyError):
                raise answer
        return answers

    async def _pipe(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    async def _disconnect(self) -> None:
        """Forget the connection, which may have answers in it that nobody waits for."""
        try:
            await self._client.connection_pool.disconnect()
        except Exception:  # noqa: BLE001 - it is given up because it failed
            log.debug("state: %s: a failed connection did not close cleanly", self._name)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> list[StoreUnavailable]:
        now = asyncio.get_running_loop().time()
        if self._outage is None:
            self._outage = _Outage(now)
            store_failed("state", f"{self._name}: {jobs[0].verb}", error)
        self._outage.until = now + self._pause_seconds
        self._outage.refused += len(jobs)
        self._outage.cause = error
        return [_refusal(error) for _ in jobs]

    def _recover(self) -> None:
        outage, self._outage = self._outage, None
        if outage is not None:
            seconds = asyncio.get_running_loop().time() - outage.since
            log.warning("state: %s is back after %.1f s; calls refused: %d", self._name, seconds, outage.refused)


class _Outage:
    """A time in which the server cannot be reached.

    Attributes:
        since: when it began, in seconds of the event loop's clock.
        until: when the server is tried again.
        refused: calls that were refused so far.
        cause: what happened last.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self.until = since
        self.refused = 0
        self.cause: Exception | None = None


def need_client() -> None:
    """Raise ConfigurationError where redis-py is not installed."""
    try:
        import redis.asyncio  # noqa: F401 - to say now what is missing
    except ImportError:
        raise ConfigurationError("state: redis:// needs redis-py: pip install 'keypool-asgi[redis]'") from None


def _client(url: str, connect_seconds: float, answer_seconds: float) -> Any:
    """Make redis-py's client. It neither retries nor decodes: both is done here."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    settings: dict[str, Any] = {
        "socket_connect_timeout": connect_seconds,
        "socket_timeout": answer_seconds,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "keypool-asgi",
        "protocol": 2,
    }
    if urlsplit(url).scheme.lower() == "rediss":
        settings["ssl_check_hostname"] = True  # redis-py 5 does not by itself
    return Redis.from_url(url, **settings)


def is_refused_credential(error: BaseException | None) -> bool:
    """Whether the server refused a user or a password."""
    from redis.exceptions import AuthenticationError, AuthorizationError

    return isinstance(error, AuthenticationError | AuthorizationError)


def _settle(job: Job, future: asyncio.Future[Any], answer: Any) -> None:
    failed = isinstance(answer, Exception)
    if job.then is not None and not failed:
        job.then(answer)
    if future.done():
        return
    if failed:
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _by_hash(job: Job) -> Sequence[Argument]:
    return job.words if job.script is None else ("EVALSHA", job.script.sha, *job.words)


def _by_text(job: Job) -> Sequence[Argument]:
    return job.words if job.script is None else ("EVAL", job.script.text, *job.words)


def _checked(job: Job, answer: Any) -> Any:
    """Return an answer, or the refusal for a call that the server took and could not carry out: out of memory, say."""
    return store_failed("state", job.verb, answer) if isinstance(answer, Exception) else answer


def _refusal(cause: Exception | None) -> StoreUnavailable:
    refusal = StoreUnavailable("The service cannot check this request now, so it was refused. Try again later.")
    refusal.__cause__ = cause
    return refusal

"""A pool over a simulator, a caller that is played from a script, and the look for what an exchange left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from harness import guard, secret, tasks_left, token

from keypool_asgi import Charge, KeyPool, Limit, Team, UpstreamKey
from keypool_asgi.stores.quotas import MemoryQuotas
from keypool_asgi.stores.roster import KeySnapshot
from keypool_asgi.testing import Simulator

__all__ = ["PREFIX", "TOKEN", "Caller", "Rig", "cancelled_at", "keys_of", "rig", "scope_of", "simulated", "until"]

PREFIX = "/v1/assemblyai"
TOKEN = token("team-a")
MOST = 3  # exchanges of the team at the same time
CONCURRENCY = Limit("concurrency", MOST)

Message = dict[str, Any]


def simulated(*names: str, account: str | None = None, **settings: Any) -> Simulator:
    """A simulator that knows a key by each name, on an account of its own unless one is named."""
    keys = {secret(name): f"{account or f'account-{name}'}/project-{name}" for name in names or ("k1",)}
    return Simulator(keys, **settings)


def keys_of(*names: str, **settings: Any) -> list[UpstreamKey]:
    return [
        UpstreamKey(name, secret=secret(name), project=f"project-{name}", account=f"account-{name}", **settings)
        for name in names
    ]


@dataclass
class Rig:
    """A pool with one team that may have ``MOST`` exchanges at the same time."""

    app: KeyPool
    simulator: Simulator
    quotas: MemoryQuotas
    records: list[Any]
    others: list[asyncio.Task[Any]] = field(default_factory=list)

    @property
    def keys(self) -> tuple[KeySnapshot, ...]:
        return self.app.keys()

    async def nothing_left(self) -> None:
        """Fail if a lease, a permit, a task or an upstream request is left; what is ending may end first."""
        with contextlib.suppress(TimeoutError):
            await until(lambda: not self._left())
        assert not self._left()
        everything = [Charge("team:team-a", CONCURRENCY, MOST)]
        assert await self.quotas.reserve("probe", everything) is None, f"a permit is left: {self.quotas!r}"
        await self.quotas.release("probe")

    def _left(self) -> list[str]:
        left = tasks_left()
        left += [f"{key.in_flight} leases of {key.id}" for key in self.keys if key.in_flight]
        left += [f"{self.app.open_exchanges} exchanges"] * bool(self.app.open_exchanges)
        left += [f"{self.simulator.open_requests} upstream requests"] * bool(self.simulator.open_requests)
        return left


def rig(
    simulator: Simulator,
    *keys: str,
    limits: Iterable[Limit] = (CONCURRENCY,),
    wrap: Callable[[MemoryQuotas], Any] = lambda quotas: quotas,
    **settings: Any,
) -> Rig:
    """Put a pool over a simulator that is running.

    Args:
        simulator: where the pool's requests go.
        keys: names, as for ``simulated``.
        limits: of the team.
        wrap: makes the pool's ``quotas`` of the store that is looked at in the end.
        settings: those of ``KeyPool``.
    """
    quotas = MemoryQuotas()
    records: list[Any] = []
    given: dict[str, Any] = {
        "keys": keys_of(*keys or ("k1",)),
        "teams": {TOKEN: Team("team-a", limits=limits)},
        "quotas": wrap(quotas),
        "origins": simulator.origins,
        "on_exchange": records.append,
        "key_wait_seconds": 0.05,
    }
    return Rig(KeyPool(**(given | settings)), simulator, quotas, records)


def scope_of(
    method: str, target: str, *headers: tuple[bytes, bytes], body: int | None = None, **more: Any
) -> dict[str, Any]:
    """A scope as a server makes it. ``body`` is the declared length; -1 is chunked."""
    path, _, query = target.partition("?")
    fields = [(b"host", b"pool.example"), (b"authorization", TOKEN.encode()), *headers]
    if body is not None:
        fields.append((b"transfer-encoding", b"chunked") if body < 0 else (b"content-length", str(body).encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": PREFIX + path,
        "raw_path": (PREFIX + path).encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": fields,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        **more,
    }


@dataclass
class Caller:
    """Plays the server's side of one exchange.

    Attributes:
        pieces: of the request body.
        leaves_at_receive: the so-many-th ``receive()`` (from 1) says that the caller is gone.
        leaves_at_send: it is gone once it has been sent so many messages.
        before_piece: awaited before each piece of the body.
    """

    pieces: list[bytes] = field(default_factory=list)
    leaves_at_receive: int | None = None
    leaves_at_send: int | None = None
    before_piece: Callable[[], Awaitable[object]] | None = None
    sent: list[Message] = field(default_factory=list)
    asked: int = 0

    def __post_init__(self) -> None:
        self._gone = asyncio.Event()
        self._left = list(self.pieces) or [b""]

    async def receive(self) -> Message:
        self.asked += 1
        if self.asked == self.leaves_at_receive:
            self.leave()
        if self._gone.is_set():
            return {"type": "http.disconnect"}
        await asyncio.sleep(0)
        if self._left:
            if self.before_piece is not None:
                await self.before_piece()
            piece = self._left.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._left)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        if not self._gone.is_set():
            self.sent.append(message)
        if len(self.sent) == self.leaves_at_send:
            self.leave()

    def leave(self) -> None:
        self._gone.set()

    async def call(self, app: Any, scope: dict[str, Any]) -> Caller:
        await guard(app)(scope, self.receive, self.send)
        return self

    # What came back

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def complete(self) -> bool:
        """Whether the response was ended. What was sent must be a response in the right order, or nothing."""
        kinds = [message["type"] for message in self.sent]
        assert kinds == ["http.response.start", *["http.response.body"] * (len(kinds) - 1)] or not kinds, kinds
        ends = [not message.get("more_body", False) for message in self.sent[1:]]
        assert True not in ends[:-1], "messages after the end of the response"
        return bool(ends) and ends[-1]


async def until(condition: Callable[[], object], seconds: float = 3.0) -> None:
    """Wait until something is true that happens in another thread, or in another task."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.002)


@types.coroutine
def cancelled_at(
    work: Coroutine[Any, Any, Any], number: int, *, again: bool = False
) -> Generator[Any, Any, int | None]:
    """Run ``work``, cancelling the task at its so-many-th suspension (from 1), and with ``again`` at each later one.

    Returns:
        How often it was suspended, if it ended before that; else None, whether or not it lets the cancellation out.
    """
    count = 0
    step: Callable[[], Any] = lambda: work.send(None)  # noqa: E731
    while True:
        try:
            future = step()
        except StopIteration:
            return None if count >= number else count
        except asyncio.CancelledError:
            task = asyncio.current_task()
            while task is not None and task.cancelling():
                task.uncancel()
            return None
        count += 1
        if count == number or (again and count > number):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            value = yield future
            step = lambda value=value: work.send(value)  # noqa: E731
        except BaseException as error:  # noqa: BLE001 - thrown into the work
            step = lambda error=error: work.throw(error)  # noqa: E731

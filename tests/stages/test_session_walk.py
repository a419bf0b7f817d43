"""A session's walk by itself: what it says of keys, and what it leaves. ``test_pool_walk`` has its ways."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from harness import run, uncollected

from keypool_asgi import Team, UpstreamKey
from keypool_asgi.core.headers import Framing
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.exchange import Exchange
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.stages.session_walk import SessionWalk

SERVED = Verdict(Fault.NONE)


class Pool:
    """Leases one key, and notes what is said of it."""

    def __init__(self) -> None:
        self.judged: list[Verdict] = []

    async def lease(self, need: Any) -> Any:  # the port's
        return SimpleNamespace(key=UpstreamKey("k1", secret="secret-of-k1", project="p"))

    async def give_back(self, lease: Any, verdict: Verdict) -> None:
        """Take the lease."""

    def judge(self, lease: Any, verdict: Verdict) -> None:  # the port's
        self.judged.append(verdict)


def exchange() -> Exchange:
    operation = ASSEMBLYAI.table.named("streaming.session")
    made = Exchange("id", operation, operation.path, {}, Framing(0, chunked=False), lambda: "http://pool")
    made.team = Team("team-a")
    return made


def test_a_walk_that_is_over_does_not_hold_its_exchange() -> None:
    """A session that the garbage collector has to find holds memory, and makes its pauses longer."""
    pool = Pool()

    async def walk() -> None:
        one = exchange()

        async def relay(_scope: Any, _receive: Any, _send: Any) -> None:
            one.attempt.judge(SERVED)

        await SessionWalk(one, pool=pool, regions=frozenset({"us"}), retries=0).run(relay, {}, None, None)  # type: ignore[arg-type]
        one.attempt.judge(SERVED)

    async def main() -> None:
        with uncollected(Exchange) as left:
            await walk()
            assert left() == 0
        assert pool.judged == [SERVED]

    run(main())

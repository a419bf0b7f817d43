"""Lifespan: alone, beside hosts with and without one, and twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faults.rig import TOKEN, Caller, keys_of, rig, scope_of, simulated
from harness import run

from keypool_asgi import KeyPool, KeyPoolMiddleware, Team
from keypool_asgi.lifespan import Lifespan

Message = dict[str, Any]
SCOPE = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}


class Server:
    """Sends startup, waits for its answer, and then shutdown."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[str] = asyncio.Queue()
        self.questions: asyncio.Queue[Message] = asyncio.Queue()

    async def receive(self) -> Message:
        return await self.questions.get()

    async def send(self, message: Message) -> None:
        self.answers.put_nowait(message["type"])

    async def ask(self, phase: str) -> str:
        self.questions.put_nowait({"type": f"lifespan.{phase}"})
        return await asyncio.wait_for(self.answers.get(), 2)


class Steps:
    """The lifespan under test, and a diary of what happened in which order."""

    def __init__(self, host: Any = None) -> None:
        self.diary: list[str] = []
        app = host(self.diary) if host else None
        self.lifespan = Lifespan(
            app, startup=self._step("startup"), stopping=self._step("stopping"), shutdown=self._step("shutdown")
        )

    def _step(self, name: str) -> Any:
        async def step() -> None:
            self.diary.append(name)

        return step

    async def whole(self) -> list[str]:
        server = Server()
        task = asyncio.create_task(self.lifespan(dict(SCOPE), server.receive, server.send))
        answers = [await server.ask("startup")]
        if answers == ["lifespan.startup.complete"]:
            answers.append(await server.ask("shutdown"))
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 2)
        self.error = task.exception()
        return answers


BOTH = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def host_with(diary: list[str]) -> Any:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        for phase in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{phase}"
            diary.append(f"host's {phase}")
            await send({"type": f"lifespan.{phase}.complete"})

    return host


def host_that_raises(diary: list[str]) -> Any:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")

    return host


def host_that_returns(diary: list[str]) -> Any:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return

    return host


def host_whose_startup_fails(diary: list[str]) -> Any:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("no database")

    return host


def test_alone() -> None:
    async def main() -> None:
        steps = Steps()
        assert await steps.whole() == BOTH
        assert steps.diary == ["startup", "stopping", "shutdown"]

    run(main())


def test_around_a_hosts_own() -> None:
    async def main() -> None:
        steps = Steps(host_with)
        assert await steps.whole() == BOTH
        assert steps.diary == ["startup", "host's startup", "stopping", "host's shutdown", "shutdown"]

    run(main())


@pytest.mark.parametrize("host", [host_that_raises, host_that_returns])
def test_for_a_host_without_one(host: Any) -> None:
    async def main() -> None:
        steps = Steps(host)
        assert await steps.whole() == BOTH
        assert steps.diary == ["startup", "stopping", "shutdown"]
        assert steps.error is None

    run(main())


def test_a_host_whose_startup_fails_keeps_its_failure_and_leaves_nothing_open() -> None:
    async def main() -> None:
        steps = Steps(host_whose_startup_fails)
        assert await steps.whole() == ["lifespan.startup.failed"]
        assert repr(steps.error) == "RuntimeError('no database')"
        assert steps.diary == ["startup", "shutdown"]

    run(main())


# With a real pool


def test_a_pool_can_be_started_again_after_its_shutdown() -> None:
    """As in tests with a client whose ``with`` block runs the lifespan of one app object each time."""
    with simulated().running() as simulator:

        async def main() -> None:
            pool = rig(simulator)
            for _ in range(2):
                server = Server()
                task = asyncio.create_task(pool.app(dict(SCOPE), server.receive, server.send))
                assert await server.ask("startup") == "lifespan.startup.complete"
                caller = await Caller().call(pool.app, scope_of("GET", "/v1/voices"))
                assert caller.status == 200
                assert await server.ask("shutdown") == "lifespan.shutdown.complete"
                await task
            await pool.nothing_left()

        run(main())


def test_keys_that_cannot_be_loaded_at_startup_do_not_keep_the_app_down() -> None:
    with simulated().running() as simulator:

        async def main() -> None:
            broken = True

            async def keys() -> Any:
                if broken:
                    raise OSError("no vault")
                return keys_of("k1")

            pool = rig(simulator, keys=keys)
            server = Server()
            task = asyncio.create_task(pool.app(dict(SCOPE), server.receive, server.send))
            assert await server.ask("startup") == "lifespan.startup.complete"
            caller = await Caller().call(pool.app, scope_of("GET", "/v1/voices"))
            assert (caller.status, caller.json["code"]) == (503, "STORE_UNAVAILABLE")
            broken = False
            await server.ask("shutdown")
            await task
            await pool.nothing_left()

        run(main())


def test_a_mounted_pool_works_without_a_lifespan() -> None:
    with simulated().running() as simulator:

        async def main() -> None:
            pool = rig(simulator)
            caller = await Caller().call(pool.app, scope_of("GET", "/v1/voices"))
            assert caller.status == 200
            await pool.app.aclose()
            await pool.nothing_left()

        run(main())


def test_a_middleware_drains_before_the_hosts_own_shutdown() -> None:
    async def main() -> None:
        diary: list[str] = []
        app = KeyPoolMiddleware(host_with(diary), keys=keys_of("k1"), teams={TOKEN: Team("team-a")})
        server = Server()
        task = asyncio.create_task(app(dict(SCOPE), server.receive, server.send))
        await server.ask("startup")
        await server.ask("shutdown")
        await task
        assert diary == ["host's startup", "host's shutdown"]
        caller = await Caller().call(app, scope_of("GET", "/v1/voices"))
        assert (caller.status, caller.json["code"]) == (503, "DRAINING")

    run(main())


def test_a_pool_alone_answers_404_outside_its_prefix() -> None:
    async def main() -> None:
        app = KeyPool(keys=keys_of("k1"), teams={TOKEN: Team("team-a")})
        scope = scope_of("GET", "/x")
        scope["path"], scope["raw_path"] = "/hello", b"/hello"
        caller = await Caller().call(app, scope)
        assert (caller.status, caller.json["code"]) == (404, "NOT_FOUND")

    run(main())

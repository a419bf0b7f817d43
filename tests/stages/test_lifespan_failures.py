"""Lifespan when something is wrong: our own startup, and hosts that do not take part."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults.rig import TOKEN, keys_of
from harness import SERVERS, run, serve

from keypool_asgi import KeyPool, KeyPoolMiddleware, Team
from keypool_asgi.lifespan import Lifespan

SCOPE = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
Message = dict[str, Any]


async def lived(app: Any) -> list[str]:
    """Run a lifespan as a server does, that says startup and then shutdown; return what it was told."""
    told: list[str] = []
    waiting = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    answered = asyncio.Event()

    async def receive() -> Message:
        if len(waiting) == 1:
            await answered.wait()
            await asyncio.sleep(0.01)
        return waiting.pop(0)

    async def send(message: Message) -> None:
        told.append(message["type"])
        answered.set()

    async with asyncio.timeout(3):
        await app(dict(SCOPE), receive, send)
    return told


@pytest.fixture
def no_database(tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    path.write_bytes(b"This is a letter to my aunt, not a database. " * 100)
    return path


def middleware(host: Any, **settings: Any) -> KeyPoolMiddleware:
    return KeyPoolMiddleware(host, keys=keys_of("k1"), teams={TOKEN: Team("team-a")}, **settings)


class Host:
    """Counts how often its lifespan was begun."""

    def __init__(self) -> None:
        self.begun = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})


def test_a_state_file_that_is_none_fails_the_startup_once_and_the_hosts_never_runs(no_database: Path) -> None:
    async def main() -> None:
        host = Host()
        assert await lived(middleware(host, state=f"sqlite:///{no_database}")) == ["lifespan.startup.failed"]
        assert host.begun == 0

    run(main())


def test_the_same_without_a_host(no_database: Path) -> None:
    async def main() -> None:
        app = KeyPool(keys=keys_of("k1"), teams={TOKEN: Team("team-a")}, state=f"sqlite:///{no_database}")
        assert await lived(app) == ["lifespan.startup.failed"]

    run(main())


@pytest.mark.parametrize("lifespan", ["on", "auto"])
def test_a_server_does_not_start_then(no_database: Path, lifespan: str) -> None:
    """With "auto" an exception would pass for a host without lifespan, and the server would start regardless."""
    host = Host()
    app = middleware(host, state=f"sqlite:///{no_database}")
    with pytest.raises(RuntimeError, match="did not start"), serve(app, lifespan=lifespan):
        pass
    assert host.begun == 0


def test_what_was_opened_before_the_failure_is_closed() -> None:
    async def main() -> None:
        diary: list[str] = []

        async def startup() -> None:
            diary.append("startup")
            raise ValueError("no vault")

        async def stopping() -> None:
            diary.append("stopping")

        async def shutdown() -> None:
            diary.append("shutdown")

        host = Host()
        lifespan = Lifespan(host, startup=startup, stopping=stopping, shutdown=shutdown)
        assert await lived(lifespan) == ["lifespan.startup.failed"]
        assert diary == ["startup", "shutdown"]
        assert host.begun == 0

    run(main())


async def _hello(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


async def djangoish(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError(f"Django can only handle ASGI/HTTP connections, not {scope['type']}.")
    await _hello(send)


async def returning(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await _hello(send)


BOTH = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize("host", [djangoish, returning])
def test_a_host_without_lifespan(host: Any, tmp_path: Path) -> None:
    async def main() -> None:
        assert await lived(middleware(host, state=f"sqlite:///{tmp_path}/state.db")) == BOTH

    run(main())


@pytest.mark.parametrize("server", [name for name in SERVERS if name.startswith("uvicorn")])
@pytest.mark.parametrize("host", [djangoish, returning])
def test_a_host_without_lifespan_where_the_server_insists_on_one(server: str, host: Any, tmp_path: Path) -> None:
    app = middleware(host, state=f"sqlite:///{tmp_path}/state.db")
    with serve(app, server, lifespan="on") as served:
        assert httpx.get(served.url + "/hello").text == "hi"
        assert httpx.get(served.url + "/v1/assemblyai/v1/voices").status_code == 401


def test_a_hosts_error_after_its_startup_is_its_own() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise OSError("disk")

    async def main() -> None:
        with pytest.raises(OSError, match="disk"):
            await lived(middleware(broken))

    run(main())

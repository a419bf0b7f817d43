"""The harness itself: servers serve, hosts host, tools do what they say."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from . import HOSTS, SERVERS, RawConnection, need, raw_http, run, serve
from .hosts import Hosted, bare


def get(url: str, path: str = "/hello") -> bytes:
    base = "/" + url.split("/", 3)[3] if url.count("/") > 2 else ""
    return raw_http(url, f"GET {base}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())


# Servers


@pytest.mark.parametrize("root_path", ["", "/api"])
@pytest.mark.parametrize("server", SERVERS)
def test_every_server_serves_an_app_object_with_its_lifespan(server: str, root_path: str) -> None:
    events: list[str] = []
    with serve(bare(events), server, root_path=root_path) as served:
        assert events == ["startup"]
        assert get(served.url).endswith(b'{"hello": "host"}')
    assert events == ["startup", "shutdown"]


@pytest.mark.parametrize("server", SERVERS)
def test_lifespan_can_be_off(server: str) -> None:
    events: list[str] = []
    with serve(bare(events), server, lifespan="off") as served:
        assert b'{"hello": "host"}' in get(served.url)
    assert events == []


@pytest.mark.parametrize("server", SERVERS)
def test_every_server_can_speak_tls(server: str) -> None:
    with serve(bare([]), server, tls=True) as served:
        assert served.url.startswith("https://localhost:")
        assert served.ws_url.startswith("wss://localhost:")
        assert served.ca is not None
        assert served.ca.read_text().startswith("-----BEGIN CERTIFICATE")
        assert b'{"hello": "host"}' in get(served.url)


@pytest.mark.parametrize("server", SERVERS)
def test_a_failed_startup_is_raised(server: str) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "planted"})

    with pytest.raises(RuntimeError, match="the server did not start"), serve(failing, server):
        pytest.fail("the server started")


@pytest.mark.parametrize("server", SERVERS)
def test_what_every_server_logs_reaches_the_root_logger(server: str, caplog: pytest.LogCaptureFixture) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("planted")

    with serve(failing, server, lifespan="off") as served:
        assert get(served.url).startswith(b"HTTP/1.1 500")
    assert "ValueError: planted" in caplog.text


async def hanging(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await bare([])(scope, receive, send)
        return
    if scope["path"] == "/leave":
        asyncio.get_running_loop().planted = asyncio.create_task(asyncio.sleep(60))  # type: ignore[attr-defined]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_settles_when_its_clients_are_gone(server: str) -> None:
    with serve(hanging, server) as served:
        with RawConnection(served.url) as connection:
            connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.read_until(b"\r\n\r\n1\r\nx")
            with pytest.raises(AssertionError, match="tasks left"):
                served.settle(within=0.1)
        served.settle()
    gc.collect()  # an unclosed socket or loop would warn now, and warnings are errors


@pytest.mark.parametrize("server", SERVERS)
def test_a_task_that_the_app_leaves_behind_is_a_failure(server: str) -> None:
    def leave() -> None:
        with serve(hanging, server) as served, RawConnection(served.url) as connection:
            connection.send(b"GET /leave HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.read_until(b"\r\n\r\n1\r\nx")
            connection.reset()

    with pytest.raises(AssertionError, match="the app left tasks behind"):
        leave()


@pytest.mark.parametrize("server", SERVERS)
def test_every_server_takes_websockets(server: str) -> None:
    async def greeting(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close", "code": 1000})

    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}==\r\n\r\n"
    )
    with serve(greeting, server, lifespan="off") as served, RawConnection(served.url) as connection:
        connection.send(f"GET / HTTP/1.1\r\nHost: localhost\r\n{upgrade.format('A' * 22)}".encode())
        assert connection.read_until(b"\x81\x05hello").startswith(b"HTTP/1.1 101")
        connection.send(b"\x88\x82\0\0\0\0\x03\xe8")  # close 1000, masked by zeros
        assert connection.read_to_end().endswith(b"\x88\x02\x03\xe8")


def test_an_unknown_server_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown server 'daphne'"), serve(bare([]), "daphne"):
        pass


# Tools


def test_a_missing_tool_skips_and_is_a_failure_where_all_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYPOOL_TESTS_REQUIRE_ALL", raising=False)
    need("pytest", "sh")
    with pytest.raises(pytest.skip.Exception, match="not installed: no-such-tool, npm:no-such-package"):
        need("sh", "no-such-tool", "npm:no-such-package")
    monkeypatch.setenv("KEYPOOL_TESTS_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="not installed: no_such\\.module"):
        need("no_such.module")


def test_an_npm_package_is_found_in_node_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "@scope" / "name"
    package.mkdir(parents=True)
    (package / "package.json").write_text("{}")
    monkeypatch.setenv("NODE_PATH", str(tmp_path))
    need("npm:@scope/name")


def test_run_returns_the_result_and_notices_a_task_left_behind() -> None:
    async def tidy() -> int:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        return 7

    async def untidy() -> None:
        asyncio.get_running_loop().planted = asyncio.create_task(asyncio.sleep(60))  # type: ignore[attr-defined]

    assert run(tidy()) == 7
    with pytest.raises(AssertionError, match="tasks left behind"):
        run(untidy())


# Hosts


class StandIn:
    """Stands in for KeyPoolMiddleware and KeyPool: answers the prefix, opens and closes with the lifespan."""

    def __init__(self, app: Any = None, **settings: Any) -> None:
        self.app = app
        self.settings = settings
        self.closed = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        mounted = self.app is None
        if scope["type"] == "http" and (mounted or "/v1/assemblyai" in scope["path"]):
            body = self.settings["mark"].encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
        else:
            await self.app(scope, receive, send)

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KeyPoolMiddleware", "KeyPool"):
        monkeypatch.setattr(f"keypool_asgi.{name}", StandIn, raising=False)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("server", ["uvicorn-httptools", "hypercorn", "granian"])
def test_every_host_keeps_its_own_route_and_lifespan_beside_the_pool(name: str, server: str) -> None:
    hosted: Hosted = HOSTS[name](mark="the pool")
    with serve(hosted.app, server, **hosted.serving) as served:
        assert b'{"hello":"host"}' in get(served.url).replace(b": ", b":")
        assert b"the pool" in get(served.url, hosted.base + "/v2/transcript")
    assert hosted.events == ([] if name == "django-wrapped" else ["startup", "shutdown"])

"""The harness itself: servers serve, hosts host, and the leak guard catches every kind of planted leak."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from . import HOSTS, SERVERS, RawConnection, need, raw_http, run, secret, serve, token
from .hosts import Hosted, bare
from .leaks import SECRET_MARK, TOKEN_MARK, Leaks, LogGuard, SimulatorWatch, guard
from .tools import REPOSITORY


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


# The leak guard: what goes downstream


async def send_through_guard(messages: list[dict[str, Any]]) -> list[str]:
    leaks, sent = Leaks(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def send(message: Any) -> None:
        sent.append(message)

    await guard(app, leaks)({"type": "http", "path": "/x"}, None, send)
    assert sent == messages
    return [leak.mark for leak in leaks.take()]


SECRET = secret("planted")


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(
            [{"type": "http.response.start", "status": 200, "headers": [(b"x", SECRET.encode())]}], id="field"
        ),
        pytest.param([{"type": "http.response.start", "headers": iter([[SECRET.encode(), b"x"]])}], id="field name"),
        pytest.param([{"type": "http.response.body", "body": b"x" * 99 + SECRET.encode()}], id="body"),
        pytest.param(
            [{"type": "http.response.body", "body": bytes([byte]), "more_body": True} for byte in SECRET.encode()],
            id="body of single bytes",
        ),
        pytest.param([{"type": "websocket.send", "text": f'{{"error": "{SECRET}"}}', "bytes": None}], id="text frame"),
        pytest.param([{"type": "websocket.send", "bytes": SECRET.encode(), "text": None}], id="binary frame"),
        pytest.param([{"type": "websocket.close", "code": 1008, "reason": SECRET}], id="close reason"),
        pytest.param([{"type": "websocket.accept", "subprotocol": SECRET, "headers": []}], id="subprotocol"),
        pytest.param([{"type": "websocket.http.response.body", "body": SECRET.encode()}], id="denial"),
        pytest.param([{"type": "lifespan.startup.failed", "message": SECRET}], id="lifespan"),
    ],
)
def test_a_secret_sent_downstream_is_caught(messages: list[dict[str, Any]]) -> None:
    messages = [{name: list(v) if isinstance(v, Iterator) else v for name, v in m.items()} for m in messages]
    assert SECRET_MARK in run(send_through_guard(messages))


def test_a_token_or_nothing_special_sent_downstream_is_no_leak() -> None:
    clean = [
        {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]},
        {"type": "http.response.body", "body": b"sk-kp", "more_body": True},
        {"type": "http.response.body", "body": token("own").encode()},
        {"type": "http.response.body"},
    ]
    assert run(send_through_guard(clean)) == []


def test_serve_guards_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    leaks = Leaks()
    monkeypatch.setattr("harness.servers.guard", lambda app: guard(app, leaks))

    async def leaky(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": SECRET.encode()})

    with serve(leaky, lifespan="off") as served:
        get(served.url)
    assert [leak.mark for leak in leaks.take()] == [SECRET_MARK]


# The leak guard: what is logged


OURS = """
def log(logger, message, *args, **more):
    logger.warning(message, *args, **more)

def fail(held, then=None):
    local = held
    if then:
        then()
    raise ValueError("planted")
"""


@pytest.fixture
def package(tmp_path: Path) -> dict[str, Any]:
    """A module that lies in a package of ours, and one that lies in its testing folder."""
    modules = {}
    for name in ("ours", "testing/tool"):
        modules[name] = {"__name__": "planted"}
        exec(compile(OURS, str(tmp_path / f"{name}.py"), "exec"), modules[name])
    return modules


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Callable[[str], tuple[logging.Logger, Leaks]]]:
    """Loggers that end in a guard of their own, not in the session's."""
    made: list[logging.Logger] = []

    def logger(name: str) -> tuple[logging.Logger, Leaks]:
        leaks = Leaks()
        new = logging.getLogger(name)
        new.propagate = False
        new.addHandler(LogGuard(leaks, str(tmp_path), str(tmp_path / "testing")))
        made.append(new)
        return new, leaks

    yield logger
    for each in made:
        each.handlers.clear()
        each.propagate = True


def marks(leaks: Leaks) -> set[str]:
    return {leak.mark for leak in leaks.take()}


BOTH = f"{SECRET} {token('planted')}"


def test_a_secret_in_anybodys_log_is_caught(logged: Any) -> None:
    logger, leaks = logged("somebody.planted")
    logger.warning("calling with %s", BOTH)
    assert marks(leaks) == {SECRET_MARK}
    logger.warning("calling", extra={"headers": {"authorization": BOTH}})
    assert marks(leaks) == {SECRET_MARK}
    logger.warning("%d is no number", BOTH)
    assert marks(leaks) == {SECRET_MARK}


def test_a_token_in_our_log_is_caught(logged: Any) -> None:
    logger, leaks = logged("keypool_asgi.planted")
    logger.warning("team %r", token("planted"))
    assert marks(leaks) == {TOKEN_MARK}


def test_a_token_logged_by_others_below_our_frames_is_caught(logged: Any, package: Any) -> None:
    logger, leaks = logged("httpx.planted")
    package["ours"]["log"](logger, "GET ?token=%s", token("planted"))
    assert marks(leaks) == {TOKEN_MARK}
    package["testing/tool"]["log"](logger, "GET ?token=%s", token("planted"))
    assert marks(leaks) == set()


def log_failure(logger: logging.Logger, fail: Callable[[], None]) -> None:
    try:
        fail()
    except Exception:
        logger.exception("failed")


def test_a_secret_or_token_in_the_locals_of_our_frames_is_caught(logged: Any, package: Any) -> None:
    logger, leaks = logged("server.planted")
    fail = package["ours"]["fail"]
    log_failure(logger, lambda: fail([BOTH]))
    assert marks(leaks) == {SECRET_MARK, TOKEN_MARK}
    log_failure(logger, lambda: fail("", lambda: package["testing/tool"]["fail"](BOTH)))
    assert marks(leaks) == set(), "the locals of tests and of our test tools may hold both"


def test_locals_of_causes_contexts_and_groups_are_scanned(logged: Any, package: Any) -> None:
    logger, leaks = logged("server.planted")
    fail = package["ours"]["fail"]

    def caused() -> None:
        try:
            fail(BOTH)
        except ValueError as error:
            raise RuntimeError("other") from error

    def hidden() -> None:
        try:
            fail(BOTH)
        except ValueError:
            raise RuntimeError("other") from None

    def grouped() -> None:
        errors = []
        for held in ("", BOTH):
            with contextlib.suppress(AssertionError):
                try:
                    fail(held)
                except ValueError as error:
                    errors.append(error)
        raise ExceptionGroup("several", errors)

    for failure in (caused, hidden, grouped):
        log_failure(logger, failure)
        assert marks(leaks) == {SECRET_MARK, TOKEN_MARK}, failure


def test_a_secret_in_an_exceptions_text_is_caught(logged: Any) -> None:
    logger, leaks = logged("asyncio.planted")
    logger.error("Task exception was never retrieved", exc_info=ValueError(SECRET))
    assert marks(leaks) == {SECRET_MARK}


def test_a_scope_may_hold_the_token_but_not_a_secret(logged: Any, package: Any) -> None:
    logger, leaks = logged("server.planted")
    scope = {"type": "http", "headers": [(b"authorization", token("planted").encode())]}
    log_failure(logger, lambda: package["ours"]["fail"](scope))
    assert marks(leaks) == set()
    scope["headers"] = [(b"authorization", SECRET.encode())]
    log_failure(logger, lambda: package["ours"]["fail"](scope))
    assert marks(leaks) == {SECRET_MARK}


# The leak guard: what goes upstream


class StandInSimulator:
    def __init__(self, *targets: str) -> None:
        self.seen: list[SimpleNamespace] = []
        self.watched = ""
        for target in targets:
            self.see(target)

    def see(self, target: str) -> None:
        self.seen.append(SimpleNamespace(number=len(self.seen), method="GET", target=target, headers=[]))

    def watch(self, needle: str) -> None:
        self.watched = needle

    def saw(self, needle: str) -> list[SimpleNamespace]:
        assert self.watched == needle
        return [request for request in self.seen if needle in request.target]

    def forget(self) -> None:
        self.seen.clear()


@pytest.fixture
def watch() -> Iterator[SimulatorWatch]:
    watch = SimulatorWatch(StandInSimulator, Leaks())
    watch.on()
    yield watch
    watch.off()


def test_a_token_that_reached_a_simulator_is_caught_once(watch: SimulatorWatch) -> None:
    kept = StandInSimulator("/")
    StandInSimulator("/", f"/?token={token('planted')}")  # gone at once, but not unseen
    for expected in (1, 0):
        watch.look()
        assert len(watch.leaks.take()) == expected
    kept.see(token("planted"))
    for expected in (1, 0):
        watch.look()
        assert len(watch.leaks.take()) == expected


def test_a_simulator_cannot_forget_a_token_unseen(watch: SimulatorWatch) -> None:
    simulator = StandInSimulator(f"/?token={token('planted')}")
    simulator.forget()
    assert simulator.seen == []
    assert len(watch.leaks.take()) == 1


# The leak guard: what a session makes of it


SESSION = f'''
import asyncio, logging
import pytest
from harness import guard, raw_http
from keypool_asgi.testing import Simulator

def test_downstream():
    async def app(scope, receive, send):
        await send({{"type": "http.response.body", "body": b"{SECRET}"}})
    async def send(message):
        pass
    asyncio.run(guard(app)({{"type": "http"}}, None, send))

def test_log():
    logging.getLogger("somebody").debug("{SECRET}")

def test_upstream():
    with Simulator().running() as simulator:
        raw_http(simulator.url, b"GET /?token={token("planted")} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n", timeout=1)

def test_clean():
    logging.getLogger("somebody").debug("nothing special")
'''

LATE_SESSION = f'''
import logging
import pytest

@pytest.fixture(scope="session", autouse=True)
def late():
    yield
    logging.getLogger("somebody").debug("{SECRET}")

def test_clean():
    pass
'''


def session(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_planted.py").write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    path = f"{REPOSITORY / 'tests'}{os.pathsep}{REPOSITORY}"
    environment = os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "harness.plugin", "-p", "no:cacheprovider", "."]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_a_planted_leak_of_each_kind_fails_the_test_that_it_is_in(tmp_path: Path) -> None:
    done = session(tmp_path, SESSION)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = re.findall(r"^ERROR test_planted.py::(\w+) - Failed: leaked \(invariant I2\)", done.stdout, re.MULTILINE)
    assert failed == ["test_downstream", "test_log", "test_upstream"], done.stdout


def test_a_leak_after_the_last_test_fails_the_session(tmp_path: Path) -> None:
    done = session(tmp_path, LATE_SESSION)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "leaks (invariant I2)" in done.stdout
    assert "1 passed" in done.stdout

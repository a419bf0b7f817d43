"""The leak guard catches every kind of planted leak (design invariant I2), and nothing else."""

from __future__ import annotations

import contextlib
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

from . import raw_http, run, secret, serve, token
from .leaks import SECRET_MARK, TOKEN_MARK, Leaks, LogGuard, SimulatorWatch, guard
from .tools import REPOSITORY

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
        raw_http(served.url, b"GET / HTTP/1.0\r\n\r\n")
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

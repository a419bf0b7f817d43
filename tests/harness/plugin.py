"""Pytest's side of the leak guard: ``tests/conftest.py`` takes these hooks and fixtures over."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest

from .leaks import LEAKS, LogGuard, SimulatorWatch

_guard = LogGuard()
_watch: list[SimulatorWatch] = []
_unreported: list[str] = []


def pytest_sessionstart() -> None:
    # Where the suite runs in the background of a shell, Ctrl-C is ignored, and processes that tests start inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)  # what is logged at any level counts
    root.addHandler(_guard)


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail the test during which something leaked."""
    _watch_simulators()
    yield
    leaks = _look()
    if leaks:
        pytest.fail("\n".join(["leaked (invariant I2):", *leaks]), pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session for what leaked after the last test that could have been blamed."""
    _unreported.extend(_look())
    if _unreported and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    for watch in _watch:
        watch.off()
    logging.getLogger().removeHandler(_guard)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _unreported:
        terminalreporter.section("leaks (invariant I2)", red=True, bold=True)
        for leak in _unreported:
            terminalreporter.line(leak, red=True)


def _watch_simulators() -> None:
    """Start watching as soon as the package is there; importing it earlier would hide what its plugin imports."""
    if _watch:
        return
    try:
        from keypool_asgi.testing import Simulator
    except ImportError:
        return
    _watch.append(SimulatorWatch(Simulator))
    _watch[0].on()


def _look() -> list[str]:
    for watch in _watch:
        watch.look()
    return [str(leak) for leak in LEAKS.take()]

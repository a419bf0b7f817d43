"""Server matrix: sessions where the server is a process of its own: its memory, and how it stops."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import SOCKET_SERVERS
from harness.hosts import PREFIX
from matrix.callers import simulated
from matrix.session_server import served_apart
from matrix.session_tools import TERMINATE, RawSession, close_of, dial, frame, read_json

from keypool_asgi.testing import Simulator, SocketFault

MIB = 1024 * 1024


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with simulated().running() as simulator:
        yield simulator


# Memory

PUSHED = 64 * MIB
ROOM = 16 * MIB
PIECE = 65_536


@pytest.mark.parametrize("server", SOCKET_SERVERS)
def test_sixty_four_mib_for_a_side_that_does_not_read(simulator: Simulator, server: str, tmp_path: Path) -> None:
    """Whoever sends is stopped long before, and the process does not grow (invariant I4), whichever side it is."""
    with served_apart(server, tmp_path, origins=simulator.origins, closing_seconds=0.5) as process:
        with dial(process.ws_url + PREFIX) as ws:  # what is imported and made once
            read_json(ws)
            ws.send(TERMINATE)
            close_of(ws)
        before = process.rss()
        pushed = push_at_a_stalled_upstream(simulator, process.url)
        assert pushed < PUSHED // 2
        assert process.rss() - before < ROOM
        simulator.release()
        simulator.heal()
        simulator.wait_until(lambda simulator: not simulator.open_requests, 10)
        poured = pour_at_a_stalled_caller(simulator, process.url)
        assert poured < PUSHED // 2
        assert process.rss() - before < ROOM
        simulator.wait_until(lambda simulator: not simulator.open_requests, 10)
        assert simulator.sessions[-1].state == "terminated"


def push_at_a_stalled_upstream(simulator: Simulator, url: str) -> int:
    simulator.settings.echo = True
    simulator.fail(SocketFault.stalled(what="reading"))
    with RawSession(url, timeout=1.0) as caller:
        caller.read_until(b"Begin")
        pushed, piece = 0, frame(2, bytes(PIECE))
        try:
            while pushed < PUSHED:
                caller.send(piece)
                pushed += PIECE
        except TimeoutError:
            pass
        simulator.settings.echo = False
        return pushed


def pour_at_a_stalled_caller(simulator: Simulator, url: str) -> int:
    simulator.fail(SocketFault.says(*["x" * PIECE] * (PUSHED // PIECE)))
    with RawSession(url) as caller:
        caller.read_until(b"Begin")
        last, sent = -1, 0
        while sent != last:
            time.sleep(0.5)
            last, sent = sent, simulator.sessions[-1].sent
        return sent * PIECE


# A server that is told to stop


@pytest.mark.parametrize("server", SOCKET_SERVERS)
def test_a_servers_own_shutdown_ends_the_session_upstream(simulator: Simulator, server: str, tmp_path: Path) -> None:
    """Each has a way of its own with the caller; upstream is told to end, whatever it is."""
    codes = {"uvicorn": {1012}, "hypercorn": {1011}, "granian": {1006, 1012}}
    with (
        served_apart(server, tmp_path, origins=simulator.origins, closing_seconds=0.5) as process,
        dial(process.ws_url + PREFIX) as ws,
    ):
        read_json(ws)
        process.ask_to_stop()
        assert close_of(ws)[0] in codes[server.split("-", maxsplit=1)[0]]
        process.process.wait(15)
    simulator.wait_until(lambda simulator: not simulator.open_sessions)
    assert simulator.sessions[-1].state == "terminated"

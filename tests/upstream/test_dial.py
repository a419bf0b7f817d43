"""RFC 8305, on loopback addresses: which one wins, and what becomes of the others."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import suppress

import pytest

from keypool_asgi.upstream import dial

from .tools import run

V4, V6 = socket.AF_INET, socket.AF_INET6


def address(where: object, family: int = V4) -> dial._Address:
    return dial._Address(family, socket.SOCK_STREAM, 0, where)


@pytest.fixture
def listening() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: dial._Address) -> None:
    async def resolve(host: str, port: int) -> list[dial._Address]:
        return list(addresses)

    monkeypatch.setattr(dial, "_resolve", resolve)


def test_families_take_turns() -> None:
    addresses = [address(1, V6), address(2, V6), address(3, V6), address(4, V4)]
    assert [each.where for each in dial._alternate(addresses)] == [1, 4, 2, 3]


def test_a_literal_address_needs_no_thread(listening: socket.socket) -> None:
    async def main() -> None:
        sock = await dial.connect_socket("127.0.0.1", listening.getsockname()[1])
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()

    run(main())


def test_a_name_is_resolved(listening: socket.socket) -> None:
    async def main() -> None:
        (await dial.connect_socket("localhost", listening.getsockname()[1])).close()

    run(main())


def test_the_next_address_is_tried_at_once_after_a_failure(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "ATTEMPT_DELAY", 30)
    resolve_to(monkeypatch, address(("127.0.0.1", 1)), address(("127.0.0.1", 1)), address(listening.getsockname()))

    async def main() -> None:
        (await dial.connect_socket("x", 0)).close()

    run(main())


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, address(("127.0.0.1", 1)), address(("127.0.0.1", 2)))

    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await dial.connect_socket("x", 0)

    run(main())


class Attempts:
    """Stands in for ``_connect``: each address is a socket that connects when its event is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = [asyncio.Event() for _ in range(3)]
        self.made: list[socket.socket] = []
        self.running = 0
        monkeypatch.setattr(dial, "_connect", self.connect)
        resolve_to(monkeypatch, *(address(index) for index in range(3)))

    async def connect(self, to: dial._Address) -> socket.socket:
        self.running += 1
        try:
            await self.go[to.where].wait()
        finally:
            self.running -= 1
        self.made.append(socket.socket())
        return self.made[-1]


def test_a_silent_address_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        attempts = Attempts(monkeypatch)
        monkeypatch.setattr(dial, "ATTEMPT_DELAY", 0.01)
        attempts.go[1].set()
        (await dial.connect_socket("x", 0)).close()
        await asyncio.sleep(0.01)
        assert (len(attempts.made), attempts.running) == (1, 0)

    run(main())


def test_two_winners_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        attempts = Attempts(monkeypatch)
        monkeypatch.setattr(dial, "ATTEMPT_DELAY", 0.01)
        connecting = asyncio.ensure_future(dial.connect_socket("x", 0))
        await asyncio.sleep(0.1)
        for event in attempts.go:
            event.set()
        winner = await connecting
        await asyncio.sleep(0.01)
        assert [sock.fileno() for sock in attempts.made if sock is not winner] == [-1, -1]
        assert winner.fileno() >= 0
        winner.close()

    run(main())


@pytest.mark.parametrize("steps", range(8))
def test_cancelled_at_any_step_no_socket_is_lost(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    async def main() -> None:
        attempts = Attempts(monkeypatch)
        attempts.go[0].set()
        connecting = asyncio.ensure_future(dial.connect_socket("x", 0))
        for _ in range(steps):
            await asyncio.sleep(0)
        connecting.cancel()
        with suppress(asyncio.CancelledError):
            (await connecting).close()
        await asyncio.sleep(0.01)
        assert attempts.running == 0
        assert [sock.fileno() for sock in attempts.made] in ([], [-1])

    run(main())
    gc.collect()  # a lost socket would be a ResourceWarning, which is an error

"""TCP connections by happy eyeballs (RFC 8305), on every event loop, without a socket lost when it is cancelled.

``loop.create_connection(happy_eyeballs_delay=...)`` does not exist on uvloop; and where it does exist, a cancellation
in the wrong moment leaves the socket that had just won the race to the garbage collector.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any, Final, NamedTuple

__all__ = ["connect_socket"]

ATTEMPT_DELAY: Final = 0.25
"""Seconds before the next address is tried beside a silent one (RFC 8305, section 5)."""


class _Address(NamedTuple):
    family: int
    kind: int
    protocol: int
    where: Any


async def connect_socket(host: str, port: int) -> socket.socket:
    """Resolve a host and connect to the first of its addresses that answers.

    Raises:
        OSError: there is no such host, or none of its addresses can be connected to.
    """
    addresses = _alternate(await _resolve(host, port))
    if len(addresses) == 1:
        return await _connect(addresses[0])
    return await _race(addresses)


async def _resolve(host: str, port: int) -> list[_Address]:
    with suppress(socket.gaierror):  # an address needs no resolver, and so no thread
        return _addresses(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    return _addresses(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


def _addresses(infos: Iterable[tuple[Any, ...]]) -> list[_Address]:
    return [_Address(family, kind, protocol, where) for family, kind, protocol, _, where in infos]


def _alternate(addresses: list[_Address]) -> list[_Address]:
    """Let the families take turns, the resolver's first choice first (RFC 8305, section 4)."""
    first = [address for address in addresses if address.family == addresses[0].family]
    others = [address for address in addresses if address.family != addresses[0].family]
    return [address for address in chain.from_iterable(zip_longest(first, others)) if address is not None]


async def _connect(address: _Address) -> socket.socket:
    sock = socket.socket(address.family, address.kind, address.protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address.where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(addresses: list[_Address]) -> socket.socket:
    tasks: list[asyncio.Task[socket.socket]] = []
    winner: asyncio.Task[socket.socket] | None = None
    waiting = iter(addresses)
    try:
        while winner is None:
            address = next(waiting, None)
            if address is not None:
                tasks.append(asyncio.ensure_future(_connect(address)))
            running = [task for task in tasks if not task.done()]
            if not running and address is None:
                return tasks[0].result()  # it raises: nobody won
            if running:
                delay = None if address is None else ATTEMPT_DELAY
                await asyncio.wait(running, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in tasks if task.done() and task.exception() is None), None)
        return winner.result()
    finally:
        for task in tasks:
            if task is not winner:
                task.add_done_callback(_discard)
                task.cancel()


def _discard(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()

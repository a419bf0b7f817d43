"""``quotas``: what reserving and settling two limits costs a request, with each store."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from keypool_asgi import Charge, Limit, QuotaCallbacks
from keypool_asgi.ports import QuotaKeeper
from keypool_asgi.stores.quotas import MemoryQuotas, quota_store

from .stats import amount, ratio, table

__all__ = ["run"]

_CHARGES = (Charge("team:a", Limit("requests", 10**9, per="minute")), Charge("team:a", Limit("concurrency", 10**6)))
_AT_ONCE = (1, 64)


def run(*, quick: bool, profile: bool) -> Iterator[str]:  # noqa: ARG001 - every benchmark is called alike
    """Measure, and give out the table."""
    rounds, pairs = (2, 1600) if quick else (7, 8000)
    with tempfile.TemporaryDirectory(prefix="keypool-benchmark-") as folder, _redis(Path(folder)) as redis:
        measured = asyncio.run(_measured(Path(folder), redis, rounds, pairs))
    rows = []
    for (name, at_once), runs in measured.items():
        cpu, wall = [one[0] for one in runs], [one[1] for one in runs]
        memory_cpu, memory_wall = ([one[n] for one in measured["memory", at_once]] for n in (0, 1))
        figures = (min(cpu), ratio(cpu, memory_cpu), min(wall), ratio(wall, memory_wall))
        rows.append([name, str(at_once), *map(amount, figures)])
    columns = ["store", "at once", "CPU us/pair", "x memory", "us/pair", "x memory"]
    yield table("quotas: reserve and settle of two limits", columns, rows)
    if redis is None:
        yield "redis-server is not installed: without its rows."


async def _measured(
    folder: Path, redis: str | None, rounds: int, pairs: int
) -> dict[tuple[str, int], list[tuple[float, float]]]:
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    async with _stores(folder, redis) as stores:
        for _ in range(rounds):
            for at_once in _AT_ONCE:
                for name, store in stores.items():
                    count = pairs if name in ("memory", "callables") else pairs // 8
                    found.setdefault((name, at_once), []).append(await _one_round(store, at_once, count))
    return found


async def _one_round(store: QuotaKeeper, at_once: int, pairs: int) -> tuple[float, float]:
    """Microseconds of this process's time, and of the clock, for a pair."""

    async def worker(number: int) -> None:
        for n in range(pairs // at_once):
            permit = f"{number}-{n}"
            assert await store.reserve(permit, _CHARGES) is None
            await store.settle(permit, {})

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*map(worker, range(at_once)))
    done = pairs // at_once * at_once / 1e6
    return (time.process_time() - cpu) / done, (time.perf_counter() - wall) / done


@asynccontextmanager
async def _stores(folder: Path, redis: str | None) -> AsyncIterator[dict[str, QuotaKeeper]]:
    from keypool_asgi.stores.sqlite_quotas import SqliteQuotas

    behind = MemoryQuotas()
    called = QuotaCallbacks(reserve=behind.reserve, settle=behind.settle, release=behind.release, renew=behind.renew)
    sqlite = SqliteQuotas(folder / "quotas.db")
    stores: dict[str, QuotaKeeper] = {"memory": MemoryQuotas(), "callables": quota_store(called), "sqlite": sqlite}
    state = None
    if redis is not None:
        from keypool_asgi.stores.redis import RedisState

        state = RedisState(redis)
        stores["redis"] = state.quotas
    try:
        yield stores
    finally:
        await sqlite.aclose()
        if state is not None:
            await state.aclose()


@contextmanager
def _redis(folder: Path) -> Iterator[str | None]:
    """Start a Redis server, if there is one; yields its URL."""
    if shutil.which("redis-server") is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--dir", str(folder), "--save", "", "--loglevel", "warning"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return

"""A process that reserves: ``quota_worker.py PATH NUMBER RESERVATIONS``. Each line names the subject of one round."""

from __future__ import annotations

import asyncio
import sys

from keypool_asgi.core.limits import Charge, Limit
from keypool_asgi.stores.sqlite_quotas import SqliteQuotas

BUDGET = Limit("requests", 100, per="month")
AT_ONCE = Limit("concurrency", 100)


async def serve(path: str, number: str, reservations: int, *, keep: bool) -> None:
    store = SqliteQuotas(path, permit_ttl_seconds=3 if keep else 120)
    while line := await asyncio.to_thread(sys.stdin.readline):
        subject = f"team:{line.strip()}"
        limit = Limit("concurrency", 10) if keep else (BUDGET if int(line) % 2 else AT_ONCE)
        ids = [f"{subject}-{number}-{one}" for one in range(reservations)]
        denials = await asyncio.gather(*(store.reserve(one, [Charge(subject, limit)]) for one in ids))
        print(denials.count(None), flush=True)


asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), keep=len(sys.argv) > 4))

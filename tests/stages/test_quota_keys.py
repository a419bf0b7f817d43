"""Limits of keys and accounts: passed over before upstream is asked, and free again when the lease comes back."""

from __future__ import annotations

import asyncio

import pytest
from harness import run, secret

from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.limits import Limit
from keypool_asgi.core.selection import Need
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import ConfigurationError, NoAvailableKeys, StoreUnavailable
from keypool_asgi.stages.key_limits import LimitedPool
from keypool_asgi.stores.pool import Pool
from keypool_asgi.stores.quotas import MemoryQuotas, QuotaCallbacks, quota_store

NEED = Need(service="api")
GOOD = Verdict(Fault.NONE)


def limited(*, now=None, quotas=None, **limits):
    """Two keys of one account, and one of another."""
    keys = [
        UpstreamKey("a-1", secret("a-1"), account="a", priority=0),
        UpstreamKey("a-2", secret("a-2"), account="a", priority=1),
        UpstreamKey("b-1", secret("b-1"), account="b", priority=2),
    ]
    clock = None if now is None else lambda: now[0]
    pool = Pool(keys, wait_seconds=0)
    return LimitedPool(pool, quotas=quotas or MemoryQuotas(clock=clock), **limits), pool


async def used(pool, times):
    """Ids of the keys that so many leases are of, each given back at once."""
    names = []
    for _ in range(times):
        lease = await pool.lease(NEED)
        names.append(lease.key.id)
        await pool.give_back(lease, GOOD)
    return names


def test_a_key_whose_limit_is_used_up_is_passed_over():
    async def scenario():
        pool, _ = limited(keys={"a-*": [Limit("requests", 2, per="hour")]})
        assert await used(pool, 6) == ["a-1", "a-1", "a-2", "a-2", "b-1", "b-1"]

    run(scenario())


def test_keys_of_one_account_share_its_limit():
    async def scenario():
        pool, _ = limited(accounts={"a": [Limit("requests", 3, per="hour")]})
        assert await used(pool, 5) == ["a-1", "a-1", "a-1", "b-1", "b-1"]

    run(scenario())


def test_rows_hold_together():
    async def scenario():
        limit = Limit("requests", 2, per="hour")
        pool, _ = limited(accounts={"*": [limit], "b": [limit, Limit("requests", 1, per="minute")]})
        assert await used(pool, 3) == ["a-1", "a-1", "b-1"]
        with pytest.raises(NoAvailableKeys) as caught:
            await pool.lease(NEED)
        assert caught.value.retry_after == pytest.approx(60, abs=5)

    run(scenario())


def test_what_is_occupied_frees_when_the_lease_comes_back():
    async def scenario():
        pool, inner = limited(keys={"*": [Limit("concurrency", 1)]})
        leases = [await pool.lease(NEED) for _ in range(3)]
        assert [lease.key.id for lease in leases] == ["a-1", "a-2", "b-1"]
        with pytest.raises(NoAvailableKeys):
            await pool.lease(NEED)
        for _ in range(2):
            await pool.give_back(leases[1], GOOD)
        assert (await pool.lease(NEED)).key.id == "a-2"
        assert sum(key.in_flight for key in inner.snapshot()) == 3

    run(scenario())


def test_the_refusal_says_when_the_first_limit_frees():
    async def scenario():
        now = [1_900_000_000.0]
        limits = {"a": [Limit("requests", 1, per="hour")], "b": [Limit("requests", 1, per="minute")]}
        pool, inner = limited(now=now, accounts=limits)
        assert await used(pool, 2) == ["a-1", "b-1"]
        with pytest.raises(NoAvailableKeys) as caught:
            await pool.lease(NEED)
        assert caught.value.retry_after == 60
        assert not any(key.in_flight for key in inner.snapshot())
        now[0] += 60
        assert await used(pool, 1) == ["b-1"]

    run(scenario())


def test_keys_without_limits_cost_nothing():
    async def scenario():
        asked = []
        quotas = quota_store(QuotaCallbacks(reserve=lambda *args: asked.append(args)))
        pool, _ = limited(quotas=quotas, keys={"b-1": [Limit("concurrency", 1)]})
        await used(pool, 5)
        assert not asked
        assert pool.projects() == ("a-1", "a-2", "b-1")

    run(scenario())


def test_a_store_that_fails_refuses_and_keeps_no_lease():
    async def scenario():
        def fail(*_):
            raise OSError("gone")

        pool, inner = limited(quotas=quota_store(QuotaCallbacks(reserve=fail)), keys={"*": [Limit("concurrency", 1)]})
        with pytest.raises(StoreUnavailable):
            await pool.lease(NEED)
        assert not any(key.in_flight for key in inner.snapshot())

    run(scenario())


def test_a_cancelled_lease_keeps_nothing():
    async def scenario():
        async def never(*_):
            await asyncio.sleep(3600)

        released = []
        verbs = QuotaCallbacks(reserve=never, settle=lambda permit, _: released.append(permit))
        pool, inner = limited(quotas=quota_store(verbs), keys={"*": [Limit("concurrency", 1)]})
        leasing = asyncio.create_task(pool.lease(NEED))
        await asyncio.sleep(0.02)
        leasing.cancel()
        await asyncio.wait([leasing])
        assert leasing.cancelled()
        assert not any(key.in_flight for key in inner.snapshot())
        assert len(released) == 1
        for task in list(pool._quotas._tasks):
            task.cancel()

    run(scenario())


@pytest.mark.parametrize(
    "limit", [Limit("streams", 1), Limit("cost", 1, per="day"), Limit("requests", 1, per="day", operations="llm.*")]
)
def test_other_limits_are_refused(limit):
    with pytest.raises(ConfigurationError, match=r"account_limits\['a'\]"):
        limited(accounts={"a": [limit]})

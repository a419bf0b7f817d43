"""Pools of several processes that tell each other through Redis what their keys are worth."""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import asynccontextmanager

import pytest
from harness import run, secret
from harness.redis import redis_server

from keypool_asgi.core.health import HealthPolicy, State
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.selection import Need
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import ConfigurationError, NoAvailableKeys
from keypool_asgi.stores.health_sharing import HealthBoard
from keypool_asgi.stores.pool import Pool
from keypool_asgi.stores.redis.health import RedisHealthBoard
from keypool_asgi.stores.redis.server import RedisServer

API = Need("api")
GOOD = Verdict(Fault.NONE)
EXHAUSTED = Verdict(Fault.EXHAUSTED)
REJECTED = Verdict(Fault.REJECTED)
UNRELATED = Verdict(Fault.UNRELATED)
NAMES = (f"health-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def running():
    with redis_server() as server:
        yield server


def key(id_, **more):
    return UpstreamKey(id_, more.pop("secret", None) or secret(f"board-{id_}"), **more)


class Processes:
    """Pools with a server each; all that they share is the board."""

    def __init__(self, url, *, lease_seconds=5.0, **settings):
        self.url = url
        self.prefix = next(NAMES)
        self.lease_seconds = lease_seconds
        self.settings = settings
        self.started = []

    def start(self, *keys, **settings):
        server = RedisServer(self.url, prefix=self.prefix, answer_seconds=10, pause_seconds=0.05)
        board = RedisHealthBoard(server, lease_seconds=self.lease_seconds)
        settings = {"wait_seconds": 0, "share_seconds": 0.05, **self.settings, **settings}
        pool = Pool(list(keys), board=board, **settings)
        self.started.append((pool, server))
        return pool

    def kill(self, pool):
        """End a process without a word."""
        pool._sharing._task.cancel()

    async def aclose(self):
        for pool, server in self.started:
            await pool.aclose()
            await server.aclose()


@asynccontextmanager
async def processes(url, **settings):
    made = Processes(url, **settings)
    try:
        yield made
    finally:
        await made.aclose()


async def use(pool, verdict=GOOD):
    lease = await pool.lease(API)
    await pool.give_back(lease, verdict)
    return lease.key.id


def state(pool, id_):
    return next(one for one in pool.snapshot() if one.id == id_).health["api"].state


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


def test_it_is_a_board(running):
    board = RedisHealthBoard(RedisServer(running.url))
    assert isinstance(board, HealthBoard)
    with pytest.raises(ConfigurationError, match="lease_seconds"):
        RedisHealthBoard(RedisServer(running.url), lease_seconds=0)
    with pytest.raises(ConfigurationError, match="share_seconds"):
        Pool([key("a")], board=board, share_seconds=0)


def test_a_key_that_one_finds_rejected_is_left_alone_by_the_others(running):
    """Within the time that is set, and without a request to find it out."""

    async def main():
        async with processes(running.url) as every:
            pools = [every.start(key("a"), key("b", priority=1), share_seconds=0.5) for _ in range(3)]
            assert [await use(pool) for pool in pools] == ["a", "a", "a"]
            assert await use(pools[0], REJECTED) == "a"
            for pool in pools:
                await until(lambda pool=pool: state(pool, "a") is State.REJECTED)
                assert await use(pool) == "b"

    run(main())


def test_an_account_that_one_finds_empty_is_empty_for_all(running):
    async def main():
        async with processes(running.url, policy=HealthPolicy(exhausted_seconds=120)) as every:
            keys = [key("a1", account="acme"), key("a2", account="acme")]
            first, second = every.start(*keys), every.start(*keys)
            await use(second)
            await use(first, EXHAUSTED)
            await until(lambda: state(second, "a1") is state(second, "a2") is State.EXHAUSTED)
            with pytest.raises(NoAvailableKeys) as caught:
                await use(second)
            assert 115 < caught.value.retry_after < 122

    run(main())


def test_healing_is_told_too(running):
    """Who found it out probes first; the others hear how it went and ramp up."""

    async def main():
        policy = HealthPolicy(cooling_first_seconds=0.1)
        async with processes(running.url, policy=policy) as every:
            first, second = every.start(key("a")), every.start(key("a"))
            await use(second)
            await use(first, Verdict(Fault.THROTTLED, retry_after=0.3))
            await until(lambda: state(second, "a") is State.COOLING)
            await asyncio.sleep(0.3)
            await use(first)
            assert state(first, "a") is State.RAMP
            await until(lambda: state(second, "a") is State.RAMP)
            await use(second)

    run(main())


def test_nothing_stays_dead_when_its_finder_dies(running):
    async def main():
        policy = HealthPolicy(rejected_first_seconds=0.2)
        async with processes(running.url, policy=policy) as every:
            first, second = every.start(key("a")), every.start(key("a"))
            await use(second)
            await use(first, REJECTED)
            await until(lambda: state(second, "a") is State.REJECTED)
            every.kill(first)
            await until(lambda: second.snapshot()[0].health["api"].opens_in == 0)
            assert await use(second) == "a"
            await asyncio.sleep(0.3)
            assert state(second, "a") is not State.REJECTED, "old news is not heard again"

    run(main())


def test_a_newcomer_hears_it_before_its_first_request(running):
    async def main():
        async with processes(running.url) as every:
            keys = [key("a"), key("b", priority=1)]
            first, second = every.start(*keys), every.start(*keys)
            await use(first, REJECTED)
            await until(lambda: not first._sharing._untold)
            await second.refresh()  # as at startup
            await until(lambda: second._sharing._others)
            assert await use(second) == "b"

    run(main())


def test_another_secret_is_another_key(running):
    async def main():
        async with processes(running.url) as every:
            old, new = key("a", secret=secret("old")), key("a", secret=secret("new"))
            first, second, third = every.start(old), every.start(new), every.start(old)
            for pool in (second, third):
                await use(pool)
            await use(first, REJECTED)
            await until(lambda: state(third, "a") is State.REJECTED)
            assert state(second, "a") is State.ACTIVE
            data = [running.ask("--raw", "hgetall", name) for name in running.ask("--raw", "keys", "*").split()]
            assert data
            assert old.secret.reveal() not in "".join(data)

    run(main())


def test_what_a_process_found_out_itself_is_not_news_to_it(running):
    async def main():
        async with processes(running.url) as every:
            pool = every.start(key("a"))
            await use(pool, REJECTED)
            found = {subject.name: subject.health for subject in pool._roster.subjects()}
            heard_at = pool._sharing._heard_at
            await until(lambda: not pool._sharing._untold and pool._sharing._heard_at > heard_at + 0.2)
            assert {subject.name: subject.health for subject in pool._roster.subjects()} == found

    run(main())


def test_news_is_heard_once(running):
    """It comes with every bulletin, but a probe that was sent meanwhile keeps its place."""

    async def main():
        async with processes(running.url, policy=HealthPolicy(rejected_first_seconds=0.1)) as every:
            first, second = every.start(key("a")), every.start(key("a"))
            await use(second)
            await use(first, REJECTED)
            await until(lambda: state(second, "a") is State.REJECTED)
            await until(lambda: second.snapshot()[0].health["api"].opens_in == 0)
            probe = await second.lease(API)
            heard_at = second._sharing._heard_at
            await until(lambda: second._sharing._heard_at > heard_at + 0.2)
            assert second.snapshot()[0].health["api"].probing
            await second.give_back(probe, GOOD)
            assert state(second, "a") is State.RAMP

    run(main())


# Leases


def test_what_others_have_in_flight_counts_against_the_limit(running):
    async def main():
        async with processes(running.url) as every:
            keys = [key("a", max_in_flight=2), key("b", priority=1)]
            first, second = every.start(*keys), every.start(*keys)
            await use(second)
            leases = [await first.lease(API) for _ in range(2)]
            await until(lambda: second.snapshot()[0].elsewhere == 2)
            assert await use(second) == "b"
            assert second.snapshot()[0].in_flight == 0
            await first.give_back(leases[0], GOOD)
            await until(lambda: second.snapshot()[0].elsewhere == 1)
            assert await use(second) == "a"
            await first.give_back(leases[1], GOOD)

    run(main())


def test_a_waiter_is_served_when_another_process_gives_back(running):
    async def main():
        async with processes(running.url, wait_seconds=300) as every:
            first, second = every.start(key("a", max_in_flight=1)), every.start(key("a", max_in_flight=1))
            await use(second)
            lease = await first.lease(API)
            await until(lambda: second.snapshot()[0].elsewhere == 1)
            waiting = asyncio.create_task(use(second))
            await asyncio.sleep(0.15)
            assert not waiting.done()
            await first.give_back(lease, GOOD)
            async with asyncio.timeout(20):
                assert await waiting == "a"

    run(main())


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_the_leases_of_a_process_that_is_gone_come_back(running, how):
    async def main():
        async with processes(running.url, lease_seconds=0.4) as every:
            first, second = every.start(key("a", max_in_flight=1)), every.start(key("a", max_in_flight=1))
            await use(second)
            await first.lease(API)
            await until(lambda: second.snapshot()[0].elsewhere == 1)
            with pytest.raises(NoAvailableKeys):
                await use(second)
            if how == "killed":
                every.kill(first)
            else:
                await first.aclose()
            await until(lambda: second.snapshot()[0].elsewhere == 0)
            assert await use(second) == "a"

    run(main())


# Failures


def test_without_the_server_each_process_goes_on_by_itself(caplog):
    caplog.set_level(logging.WARNING, "keypool_asgi.pool")

    async def main(server):
        async with processes(server.url) as every:
            keys = [key("a", max_in_flight=1), key("b", priority=1)]
            first, second = every.start(*keys), every.start(*keys)
            await use(second)
            lease = await first.lease(API)
            await until(lambda: second.snapshot()[0].elsewhere == 1)
            server.kill()
            await until(lambda: second.snapshot()[0].elsewhere == 0)
            assert await use(second) == "a"
            await first.give_back(lease, REJECTED)
            assert state(first, "a") is State.REJECTED
            await asyncio.sleep(0.3)
            assert state(second, "a") is State.ACTIVE
            server.start()
            # What was found out meanwhile is told now.
            await until(lambda: state(second, "a") is State.REJECTED)

    with redis_server() as server:
        run(main(server))
    told = [record.getMessage() for record in caplog.records if "shared" in record.getMessage()]
    assert len(told) == 4  # each process once when it begins, and once when it ends


def test_a_pool_that_is_used_in_another_event_loop_shares_there(running):
    every = Processes(running.url)
    pool = every.start(key("a"))

    async def scenario():
        await use(pool)
        await until(lambda: not pool._sharing._failing and pool._sharing._heard_at)
        await every.aclose()

    for _ in range(2):
        pool._sharing._heard_at = 0.0
        run(scenario())

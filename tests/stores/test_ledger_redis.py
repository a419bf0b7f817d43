"""The account in Redis: the contract, one hash slot, bounds, retention, restarts."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from harness import run
from harness.redis import redis_server

from keypool_asgi.core.usage import Selection, correction_of
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.ports import Ledger
from keypool_asgi.stores.redis.ledger import RedisLedger
from keypool_asgi.stores.redis.server import RedisServer
from keypool_asgi.testing.ledger_contract import NOON, LedgerContract, ids, record

NAMES = (f"ledger-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server():
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def cluster():
    """One node that has every slot: it refuses scripts whose keys lie in several."""
    with redis_server(cluster_enabled="yes") as running:
        running.join_alone()
        yield running


class Stores:
    def make_store(self):
        return RedisLedger(RedisServer(self.url, prefix=next(NAMES)))

    async def close_store(self, store):
        await store._server.aclose()


class TestContract(Stores, LedgerContract):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.url = server.url


class TestContractInOneSlot(Stores, LedgerContract):
    stories = 1

    @pytest.fixture(autouse=True)
    def _server(self, cluster):
        self.url = cluster.url


def use(url, scenario, **settings):
    async def main():
        shared = RedisServer(url, prefix=next(NAMES))
        try:
            return await scenario(RedisLedger(shared, **settings))
        finally:
            await shared.aclose()

    return run(main())


def test_it_is_a_ledger(server):
    ledger = RedisLedger(server.url)
    assert isinstance(ledger, Ledger)
    assert repr(ledger) == f"<RedisLedger in <RedisServer {server.url}>>"


@pytest.mark.parametrize("wrong", [{"keep_seconds": 0}, {"most_records": 0}])
def test_it_checks_its_settings(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        RedisLedger("redis://localhost", **wrong)


def test_it_keeps_the_last_records_all_sums_and_what_was_settled(server):
    job = "transcripts.create:1"

    async def scenario(ledger):
        settled = record(correction_of(job), NOON - 1, used={"audio_seconds": 60}, corrects=job)
        await ledger.append([settled])
        for number in range(30):
            await ledger.append([record(f"r{number:02}", NOON + number, team=f"t{number % 3}")])
        kept = await ledger.page(Selection(), 99)
        assert ids(kept) == " ".join(f"r{number:02}" for number in range(29, 19, -1))
        assert len(await ledger.page(Selection(team="t1"), 99)) == 3
        assert await ledger.append([settled]) == []
        (total,) = await ledger.sums(Selection())
        assert (total.used["requests"], total.used["audio_seconds"]) == (30, 60)

    use(server.url, scenario, most_records=10)


def test_a_duty_is_free_when_its_time_is_over(server):
    """The contract cannot move a server's clock."""

    async def scenario(ledger):
        assert await ledger.claim("duty", "a", 0.05)
        assert not await ledger.claim("duty", "b", 60)
        async with asyncio.timeout(5):
            while not await ledger.claim("duty", "b", 60):  # noqa: ASYNC110 - the server's clock sets no event
                await asyncio.sleep(0.02)
        assert not await ledger.claim("duty", "a", 60)

    use(server.url, scenario)


def test_everything_of_it_goes_by_itself_or_is_bounded(server):
    """Sums expire on their own, a time after their day; the other keys are the ones that appends keep short."""

    async def scenario(ledger):
        await ledger.append([record("a")])
        prefix = ledger._server.prefix
        names = sorted(server.ask("keys", f"*{prefix}:*").split())
        lives = {name.rpartition("}:")[2].partition(":")[0]: int(server.ask("ttl", name)) for name in names}
        assert lives.keys() == {"records", "lists", "days", "totals"}
        assert lives["totals"] > 86400

    use(server.url, scenario)


def test_it_refuses_while_the_server_is_away_and_goes_on_after_it():
    with redis_server(appendonly="yes") as server:

        async def scenario(ledger):
            await ledger.append([record("a")])
            server.stop()
            with pytest.raises(StoreUnavailable):
                await ledger.append([record("b")])
            server.start()
            await asyncio.sleep(0.3)  # so long calls are refused at once after an outage
            assert await ledger.append([record("a"), record("b", NOON + 1)]) == [record("a"), record("b", NOON + 1)]
            assert ids(await ledger.page(Selection(), 9)) == "b a"

        use(server.url, scenario)

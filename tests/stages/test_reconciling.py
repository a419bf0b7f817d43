"""The reconciler: jobs that nobody polls are settled, once, within bounds, over restarts and by one of several."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from account.rig import Clock, Stack, keys_of, simulated, teams_of
from harness import run, tasks_left, token
from harness.hosts import PREFIX

from keypool_asgi import Limit
from keypool_asgi.core.limits import Charge
from keypool_asgi.core.reservations import remaining
from keypool_asgi.core.resources import Page, Ref
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.stages.reconciling import Reconciler
from keypool_asgi.stores.sqlite import SqliteResources
from keypool_asgi.stores.sqlite_file import SqliteFile
from keypool_asgi.stores.sqlite_ledger import SqliteLedger
from keypool_asgi.stores.sqlite_schema import SCHEMA

LIMIT = Limit("audio_seconds", 100_000, per="month")


class Caller:
    """A stack that is called in this event loop, as team red."""

    def __init__(self, simulator: Any, clock: Clock, *names: str, **settings: Any) -> None:
        self.simulator, self.clock = simulator, clock
        teams = teams_of("red", limits=[LIMIT])
        self.stack = Stack(simulator, clock, keys=keys_of(*(names or ("a1", "b1"))), teams=teams, **settings)
        transport = httpx.ASGITransport(app=self.stack.app)
        headers = {"authorization": token("red")}
        self.client = httpx.AsyncClient(transport=transport, base_url=f"http://pool{PREFIX}", headers=headers)

    async def submit(self, count: int = 1) -> list[str]:
        body = {"audio_url": "https://example.com/a.mp3", "webhook_url": "https://example.com/hook"}
        answers = [(await self.client.post("/v2/transcript", json=body)).raise_for_status() for _ in range(count)]
        return [answer.json()["id"] for answer in answers]

    async def open_jobs(self) -> list[str]:
        statuses = frozenset({"queued", "processing"})
        return [one.ref.id for one in await self.stack.resources.page(Page("transcript", 1000, statuses=statuses))]

    async def settled(self) -> list[Any]:
        return [one for one in await self.stack.records() if one.corrects]

    async def left(self) -> int | None:
        charges = [Charge("team:red", LIMIT)]
        return remaining(await self.stack.quotas.levels(charges), charges, LIMIT.unit, int(self.clock() * 1e6))

    def asked(self) -> list[str]:
        """Paths of upstream's GET requests since the last time."""
        paths = [one.path for one in self.simulator.requests if one.method == "GET"]
        self.simulator.forget()
        return paths

    async def aclose(self) -> None:
        await self.client.aclose()
        await self.stack.aclose()


def with_caller(scenario: Any, *names: str, **settings: Any) -> None:
    clock = Clock()
    simulator = simulated(clock, "a1", "b1", processing_seconds=60)

    async def main() -> None:
        caller = Caller(simulator, clock, *names, **settings)
        try:
            await scenario(caller)
        finally:
            await caller.aclose()

    with simulator.running():
        run(main())


@pytest.mark.parametrize("name", ["every_seconds", "jobs_per_round", "requests_per_second"])
def test_it_checks_its_settings(name):
    with pytest.raises(ConfigurationError, match="greater than 0"):
        Reconciler(desk=None, resources=None, provider=None, **{name: 0})


def test_jobs_that_nobody_polls_are_settled_once():
    async def scenario(caller: Caller) -> None:
        jobs = await caller.submit(6)
        caller.clock.advance(400)
        assert await caller.stack.reconciler.round() == 6
        assert await caller.open_jobs() == []
        found = await caller.settled()
        assert sorted(one.corrects for one in found) == sorted(f"transcripts.create:{job}" for job in jobs)
        assert [one.used for one in found] == [{"audio_seconds": 30}] * 6
        assert all(one.key is not None and not one.estimated for one in found)
        assert await caller.left() == LIMIT.amount - 180
        for job in jobs:  # now they are polled, too
            await caller.client.get(f"/v2/transcript/{job}")
        assert await caller.stack.reconciler.round() == 0
        assert len(await caller.settled()) == 6
        assert await caller.left() == LIMIT.amount - 180

    with_caller(scenario)


def test_young_and_unfinished_jobs_are_left_alone():
    async def scenario(caller: Caller) -> None:
        await caller.submit(2)
        caller.asked()
        caller.clock.advance(200)
        assert await caller.stack.reconciler.round() == 0
        assert caller.asked() == []  # too young
        caller.simulator._world.processing_seconds = 10_000.0
        caller.clock.advance(200)
        assert await caller.stack.reconciler.round() == 0
        assert caller.asked() == ["/v2/transcript"]  # the list says that they are not done
        assert len(await caller.open_jobs()) == 2
        assert await caller.settled() == []
        caller.clock.advance(10_000)
        assert await caller.stack.reconciler.round() == 2

    with_caller(scenario, "a1")


def test_jobs_that_were_polled_cost_no_request_of_their_own():
    async def scenario(caller: Caller) -> None:
        jobs = await caller.submit(10)
        caller.clock.advance(400)
        for job in jobs:
            await caller.client.get(f"/v2/transcript/{job}")
        caller.asked()
        assert await caller.stack.reconciler.round() == 10
        assert caller.asked() == ["/v2/transcript"]
        assert await caller.open_jobs() == []
        listed = (await caller.client.get("/v2/transcript")).json()["transcripts"]
        assert all(item["status"] == "completed" and item["completed"] for item in listed)

    with_caller(scenario, "a1")


def test_a_round_is_bounded_and_the_next_one_goes_on():
    async def scenario(caller: Caller) -> None:
        await caller.submit(7)
        caller.clock.advance(400)
        rounds = [await caller.stack.reconciler.round() for _ in range(4)]
        assert rounds == [3, 3, 1, 0]

    with_caller(scenario, jobs_per_round=3)


def test_jobs_that_never_end_do_not_keep_others_from_being_looked_at():
    """Those of the first pages stay open; the cursor goes on to the older ones, and then begins anew."""

    async def scenario(caller: Caller) -> None:
        old = await caller.submit(2)
        caller.clock.advance(400)
        caller.simulator._world.processing_seconds = 10_000.0
        stuck = await caller.submit(4)
        caller.simulator._world.processing_seconds = 60
        caller.clock.advance(400)
        for job in stuck:
            caller.simulator._world.transcripts[job].started = caller.clock() + 1e6
        done = [await caller.stack.reconciler.round() for _ in range(4)]
        assert sum(done) == 2
        assert sorted(await caller.open_jobs()) == sorted(stuck)
        assert {one.corrects for one in await caller.settled()} == {f"transcripts.create:{job}" for job in old}

    with_caller(scenario, jobs_per_round=2)


def test_requests_are_paced():
    async def scenario(caller: Caller) -> None:
        await caller.submit(5)
        caller.clock.advance(400)
        began = time.monotonic()
        assert await caller.stack.reconciler.round() == 5
        assert time.monotonic() - began >= 5 / 50  # one list, and five jobs
        assert len(caller.asked()) == 6

    with_caller(scenario, "a1", requests_per_second=50.0)


def test_a_job_that_is_gone_upstream_is_given_up(caplog):
    async def scenario(caller: Caller) -> None:
        (job,) = await caller.submit()
        caller.clock.advance(400)
        del caller.simulator._world.transcripts[job]
        caller.simulator._world.unfinished.clear()
        assert await caller.stack.reconciler.round() == 0
        assert await caller.stack.resources.find(Ref("transcript", job)) is None
        (found,) = await caller.settled()
        assert (found.used, found.estimated) == ({"audio_seconds": 0}, True)

    with_caller(scenario)
    assert "is gone upstream" in caplog.text


def test_a_project_that_cannot_be_asked_does_not_stop_the_others(caplog):
    async def scenario(caller: Caller) -> None:
        await caller.submit(8)
        caller.clock.advance(400)
        caller.simulator.disable_account("account-a")
        theirs = [one for one in caller.simulator.transcripts if one.key.project.name == "project-b1"]
        assert 0 < len(theirs) < 8
        assert await caller.stack.reconciler.round() == len(theirs)
        assert len(await caller.open_jobs()) == 8 - len(theirs)

    with_caller(scenario)
    assert "project-a1 could not be asked" in caplog.text


# The status in the resource store


class Away:
    """A ledger that cannot be written to while ``away`` is set."""

    def __init__(self, ledger: Any) -> None:
        self.away = False
        self.inner = ledger
        for verb in ("find", "knows", "page", "sums", "claim"):
            setattr(self, verb, getattr(ledger, verb))

    async def append(self, records: Any) -> Any:
        if self.away:
            raise StoreUnavailable("away")
        return await self.inner.append(records)


def test_a_job_stays_open_until_its_figure_is_in_the_account(tmp_path):
    ledger = Away(SqliteLedger(tmp_path / "a.db"))

    async def scenario(caller: Caller) -> None:
        await caller.submit(3)
        await caller.stack.books.flush()
        caller.clock.advance(400)
        ledger.away = True
        assert await caller.stack.reconciler.round() == 0
        assert len(await caller.open_jobs()) == 3
        ledger.away = False
        assert await caller.stack.reconciler.round() == 3
        assert len(await caller.settled()) == 3
        await ledger.inner.aclose()

    with_caller(scenario, ledger=ledger)


def test_a_job_that_a_list_has_found_done_is_settled_before_that_is_noted():
    async def scenario(caller: Caller) -> None:
        jobs = await caller.submit(4)
        caller.clock.advance(100)
        listed = (await caller.client.get("/v2/transcript")).json()["transcripts"]
        assert {item["status"] for item in listed} == {"completed"}  # the caller sees it at once
        caller.asked()
        assert (await caller.client.get("/v2/transcript")).json()["transcripts"] == listed
        assert "/v2/transcript" not in caller.asked()  # nothing is open to the lists any more
        async with asyncio.timeout(5):
            while await caller.open_jobs():  # noqa: ASYNC110 - a store sets no event
                await asyncio.sleep(0.01)
        assert sorted(one.corrects for one in await caller.settled()) == sorted(f"transcripts.create:{j}" for j in jobs)
        again = (await caller.client.get("/v2/transcript")).json()["transcripts"]
        assert again == listed

    with_caller(scenario)


# Restarts and several processes


def test_another_process_goes_on_after_a_restart(tmp_path):
    """The first one is killed: nothing of it is closed, and its last records were not written yet."""
    clock = Clock()
    simulator = simulated(clock, "a1", processing_seconds=60)

    def stores() -> dict[str, Any]:
        file = SqliteFile(tmp_path / "keypool.db", SCHEMA)
        return {"ledger": SqliteLedger(file, clock=clock), "resources": SqliteResources(file, clock=clock)}

    async def first() -> None:
        caller = Caller(simulator, clock, "a1", write_seconds=3600, **stores())
        await caller.submit(5)
        assert caller.stack.books.waiting == 5
        await caller.client.aclose()
        await caller.stack.client.aclose()

    async def second() -> None:
        clock.advance(400)
        kept = stores()
        caller = Caller(simulator, clock, "a1", **kept)
        await caller.stack.reconciler.round()
        clock.advance(10)  # for records that another process may be about to write
        assert await caller.stack.reconciler.round() == 5
        (total,) = (await caller.stack.sums("team", "project")).items()
        assert total == (("red", "project-a1"), {"audio_seconds": 150})
        await caller.aclose()
        await kept["ledger"]._file.aclose()

    with simulator.running():
        run(first())
        run(second())


def test_of_several_processes_one_does_it(tmp_path):
    clock = Clock()
    simulator = simulated(clock, "a1", processing_seconds=60)

    async def main() -> None:
        callers = []
        for _ in range(3):
            file = SqliteFile(tmp_path / "keypool.db", SCHEMA)
            kept = {"ledger": SqliteLedger(file), "resources": SqliteResources(file, clock=clock)}
            callers.append((Caller(simulator, clock, "a1", every_seconds=0.1, **kept), file))
        await callers[0][0].submit(9)
        await callers[0][0].stack.books.flush()
        clock.advance(400)
        simulator.forget()
        for caller, _ in callers:
            caller.stack.reconciler.start()
        async with asyncio.timeout(10):
            while await callers[0][0].open_jobs():  # noqa: ASYNC110 - a store sets no event
                await asyncio.sleep(0.02)
        singles = [one.path for one in simulator.requests if one.path != "/v2/transcript"]
        assert len(singles) == len(set(singles)) == 9  # nobody asked twice
        for caller, file in callers:
            assert sum(one.used.get("audio_seconds", 0) for one in await caller.settled()) == 270
            await caller.aclose()
            await file.aclose()

    with simulator.running():
        run(main())


# Its life


def test_it_begins_at_first_use_rests_without_a_task_and_stops():
    async def scenario(caller: Caller) -> None:
        reconciler = caller.stack.reconciler
        assert reconciler._timer is None
        await caller.submit()
        assert reconciler._timer is not None
        await caller.stack.books.flush()
        assert [one for one in tasks_left() if "reconcile" in one] == []
        await reconciler.aclose()
        assert reconciler._timer is None
        await caller.submit()  # as after a restart of the app
        assert reconciler._timer is not None

    with_caller(scenario)


def test_it_works_by_itself_and_goes_on_after_a_failure(caplog):
    class Broken:
        def __init__(self, inner: Any) -> None:
            self.inner, self.failures = inner, [StoreUnavailable("away"), ValueError("no such column")]

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def claim(self, *given: Any) -> bool:
            if self.failures:
                raise self.failures.pop(0)
            return True

    async def scenario(caller: Caller) -> None:
        books = caller.stack.books
        books.ledger = Broken(books.ledger)
        await caller.submit(2)
        caller.clock.advance(400)
        async with asyncio.timeout(10):
            while await caller.open_jobs():  # noqa: ASYNC110 - a store sets no event
                await asyncio.sleep(0.02)
        assert len(await caller.settled()) == 2

    with_caller(scenario, every_seconds=0.05)
    assert "reconcile: broken off, to go on later: away" in caplog.text
    assert "no such column" in caplog.text


def test_closing_breaks_a_round_off():
    async def scenario(caller: Caller) -> None:
        await caller.submit(5)
        caller.clock.advance(400)
        caller.stack.reconciler._begin()
        await asyncio.sleep(0.15)
        await caller.stack.reconciler.aclose()
        assert [one for one in tasks_left() if "reconcile" in one] == []

    with_caller(scenario, every_seconds=0.01, requests_per_second=2.0)

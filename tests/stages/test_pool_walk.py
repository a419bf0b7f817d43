"""Walking the pool through the whole stack: dead keys, healing, doubtful answers, and a true Retry-After (I6)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from faults.rig import Caller, Rig, keys_of, rig, scope_of, simulated
from harness import run, secret

from keypool_asgi import HealthPolicy, UpstreamKey
from keypool_asgi.core.health import State
from keypool_asgi.testing import Fault, Simulator

GOOD = "good"
DEAD = ("dead-1", "dead-2", "dead-3")
SMALL = [b"x" * 1000]
QUICK = HealthPolicy(rejected_seconds=0.05, exhausted_seconds=0.05, cooling_first_seconds=0.05, cooling_max_seconds=0.1)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with simulated(*DEAD, GOOD).running() as simulator:
        yield simulator
        assert simulator.violations == []


def revoke(simulator: Simulator, *names: str) -> None:
    for name in names:
        simulator.revoke_key(secret(name))


def used(simulator: Simulator) -> list[str]:
    names = {secret(name): name for name in (*DEAD, GOOD)}
    return [names[request.key or ""] for request in simulator.requests]


def in_order(*names: str) -> list[UpstreamKey]:
    """Keys that are tried in this order."""
    return [key for rank, name in enumerate(names) for key in keys_of(name, priority=rank)]


async def post(pool: Rig, pieces: list[bytes] = SMALL) -> Caller:
    size = sum(map(len, pieces))
    return await Caller(list(pieces)).call(pool.app, scope_of("POST", "/v2/upload", body=size))


async def get(pool: Rig) -> Caller:
    return await Caller().call(pool.app, scope_of("GET", "/v1/voices"))


def play(script: Callable[[Rig], Awaitable[None]], simulator: Simulator, *keys: str, **settings: Any) -> None:
    async def main() -> None:
        given = {"keys": in_order(*keys), "key_wait_seconds": 0} | settings
        pool = rig(simulator, **given)
        await script(pool)
        await pool.nothing_left()
        await pool.app.aclose()

    run(main())


def states(pool: Rig, service: str = "api") -> dict[str, State]:
    return {key.id: key.health[service].state for key in pool.keys if service in key.health}


def retry_after(caller: Caller) -> int:
    return int(dict(caller.headers)[b"retry-after"])


# Three dead keys and one good one


@pytest.mark.parametrize("retries", [0, 1])
def test_three_dead_keys_and_a_good_one(simulator: Simulator, retries: int) -> None:
    revoke(simulator, *DEAD)

    async def script(pool: Rig) -> None:
        caller = await post(pool)
        assert caller.status == 200
        assert used(simulator) == [*DEAD, GOOD]
        assert states(pool) == dict.fromkeys(DEAD, State.REJECTED) | {GOOD: State.ACTIVE}
        assert pool.records[0].keys == (*DEAD, GOOD)
        assert (await post(pool)).status == 200
        assert used(simulator)[4:] == [GOOD], "a dead key is not asked again"

    play(script, simulator, *DEAD, GOOD, retries=retries)
    assert [upload.size for upload in simulator.uploads] == [1000, 1000]


def test_each_of_them_dead_in_its_own_way(simulator: Simulator) -> None:
    revoke(simulator, "dead-1")
    simulator.set_balance("account-dead-2", -1)
    simulator.throttle("account-dead-3", retry_after=9)

    async def script(pool: Rig) -> None:
        assert (await post(pool)).status == 200
        assert states(pool) == {
            "dead-1": State.REJECTED,
            "dead-2": State.EXHAUSTED,
            "dead-3": State.COOLING,
            GOOD: State.ACTIVE,
        }

    play(script, simulator, *DEAD, GOOD)
    assert used(simulator) == [*DEAD, GOOD]


def test_all_dead_is_a_503_that_tells_nothing_of_the_operators_accounts(simulator: Simulator) -> None:
    revoke(simulator, "dead-1", "dead-2")
    simulator.set_balance("account-dead-3", -1)

    async def script(pool: Rig) -> None:
        for attempts in (3, 0):
            simulator.forget()
            caller = await post(pool)
            assert (caller.status, caller.json["code"]) == (503, "NO_AVAILABLE_KEYS")
            assert 4 <= retry_after(caller) <= 5, "the time of a first refusal"
            assert len(simulator.requests) == attempts
            for word in ("balance", "fund", "account", "dead", "401", "token"):
                assert word not in caller.json["error"].lower()

    play(script, simulator, *DEAD)


def test_all_dead_heal_without_anybodys_doing(simulator: Simulator) -> None:
    revoke(simulator, *DEAD)

    async def script(pool: Rig) -> None:
        assert (await post(pool)).status == 503
        for name in DEAD:
            simulator.restore_key(secret(name))
        await asyncio.sleep(0.06)
        assert (await post(pool)).status == 200
        await asyncio.sleep(0.06)
        assert [(await post(pool)).status for _ in range(5)] == [200] * 5
        assert states(pool)["dead-1"] in (State.RAMP, State.ACTIVE)

    play(script, simulator, *DEAD, health=QUICK)


def test_a_probe_that_fails_takes_the_key_out_again_and_costs_the_caller_nothing(simulator: Simulator) -> None:
    revoke(simulator, "dead-1")

    async def script(pool: Rig) -> None:
        for _ in range(3):
            assert (await post(pool)).status == 200
            assert states(pool)["dead-1"] is State.REJECTED
            await asyncio.sleep(0.06)

    play(script, simulator, "dead-1", GOOD, health=QUICK)
    assert used(simulator) == ["dead-1", GOOD] * 3


# What no other key can cure


def test_a_poison_request_is_sent_once_and_no_key_suffers(simulator: Simulator) -> None:
    rule = simulator.fail(Fault.status(500))

    async def script(pool: Rig) -> None:
        for number in range(1, 4):
            assert (await post(pool)).status == 500
            assert rule.matches == number
            assert set(states(pool).values()) == {State.ACTIVE}

    play(script, simulator, *DEAD, GOOD)


def test_a_throttled_account_takes_its_siblings_along_and_nobody_else(simulator: Simulator) -> None:
    second = simulator.add_key(secret("sibling"), project="project-dead-1")
    sibling = UpstreamKey("sibling", secret=second, project="project-dead-1", account="account-dead-1", priority=1)
    simulator.throttle("account-dead-1", retry_after=30)

    async def script(pool: Rig) -> None:
        assert (await post(pool)).status == 200
        assert states(pool) == {"dead-1": State.COOLING, "sibling": State.COOLING, GOOD: State.ACTIVE}

    keys = [*keys_of("dead-1", priority=0), sibling, *keys_of(GOOD, priority=2)]
    play(script, simulator, keys=keys)
    assert used(simulator) == ["dead-1", GOOD]


# A 403 that may be the request's own fault

BARE = Fault.status(403, {"error": "Forbidden"})


def test_a_bare_403_is_believed_once_another_account_has_served(simulator: Simulator) -> None:
    simulator.fail(BARE, key=secret("dead-1"))

    async def script(pool: Rig) -> None:
        assert (await post(pool)).status == 200
        assert states(pool) == {"dead-1": State.COOLING, GOOD: State.ACTIVE}

    play(script, simulator, "dead-1", GOOD)
    assert used(simulator) == ["dead-1", GOOD]


def test_a_bare_403_from_every_account_is_the_requests(simulator: Simulator) -> None:
    simulator.fail(BARE)

    async def script(pool: Rig) -> None:
        caller = await post(pool)
        assert (caller.status, caller.json) == (403, {"error": "Forbidden"})
        assert set(states(pool).values()) == {State.ACTIVE}, "none of them is blamed"

    play(script, simulator, *DEAD, GOOD)


def test_a_bare_403_is_not_asked_of_a_third_key_of_one_account(simulator: Simulator) -> None:
    simulator.fail(BARE)
    keys = [
        UpstreamKey(name, secret=secret(name), project=f"project-{name}", account="one", priority=rank)
        for rank, name in enumerate((*DEAD, GOOD))
    ]

    async def script(pool: Rig) -> None:
        assert (await post(pool)).status == 403
        assert set(states(pool).values()) == {State.ACTIVE}

    play(script, simulator, keys=keys)
    assert used(simulator) == ["dead-1", "dead-2"]


def test_a_403_with_retry_after_is_throttling_for_certain(simulator: Simulator) -> None:
    simulator.throttle("account-dead-1", status=403, retry_after=8)

    async def script(pool: Rig) -> None:
        assert (await get(pool)).status == 403  # nobody else is there
        assert states(pool, "agents") == {"dead-1": State.COOLING}
        caller = await get(pool)
        assert (caller.status, 7 <= retry_after(caller) <= 8) == (503, True)

    play(script, simulator, "dead-1")


def test_a_403_about_an_upload_of_somebody_else_is_no_ones_fault(simulator: Simulator) -> None:
    rule = simulator.fail(Fault.status(403, {"error": "Cannot access uploaded file"}))

    async def script(pool: Rig) -> None:
        assert (await get(pool)).status == 403
        assert set(states(pool, "agents").values()) == {State.ACTIVE}
        assert rule.matches == 1

    play(script, simulator, "dead-1", GOOD)


def test_a_401_in_other_words_is_believed_once_another_key_has_served(simulator: Simulator) -> None:
    rule = simulator.fail(Fault.status(401, {"error": "Unauthorized"}), key=secret("dead-1"))

    async def script(pool: Rig) -> None:
        assert (await post(pool)).status == 200
        assert states(pool) == {"dead-1": State.REJECTED, GOOD: State.ACTIVE}

    async def alone(pool: Rig) -> None:
        for number in (2, 3):
            caller = await post(pool)
            assert (caller.status, caller.json["code"]) == (503, "NO_AVAILABLE_KEYS")
            assert states(pool) == {"dead-1": State.ACTIVE}, "it may be upstream's bad moment"
            assert rule.matches == number

    play(script, simulator, "dead-1", GOOD)
    play(alone, simulator, "dead-1")


# Retry-After


@pytest.mark.parametrize("http_date", [False, True])
def test_retry_after_is_true(simulator: Simulator, http_date: bool) -> None:
    """The one who is told to come back then is served then, and the one who comes before that is not."""
    simulator.throttle("account-good", retry_after=2, http_date=http_date)

    async def script(pool: Rig) -> None:
        first = await get(pool)
        assert first.status == 429, "AssemblyAI's own answer: the caller can act on it"
        began = time.monotonic()
        second = await get(pool)
        assert (second.status, second.json["code"]) == (503, "NO_AVAILABLE_KEYS")
        assert 1 <= retry_after(second) <= 2
        assert len(simulator.requests) == 1
        simulator.unthrottle("account-good")
        await asyncio.sleep(max(0.0, retry_after(second) + 0.02 - (time.monotonic() - began)))
        assert (await get(pool)).status == 200

    play(script, simulator, GOOD)


def test_the_soonest_of_several_keys_decides(simulator: Simulator) -> None:
    for name, seconds in zip(DEAD, (50, 20, 40), strict=True):
        simulator.throttle(f"account-{name}", retry_after=seconds)

    async def script(pool: Rig) -> None:
        assert (await get(pool)).status == 429
        assert 19 <= retry_after(await get(pool)) <= 20

    play(script, simulator, *DEAD)


def test_a_short_cooling_is_waited_for(simulator: Simulator) -> None:
    simulator.throttle("account-good", retry_after=0)

    async def script(pool: Rig) -> None:
        assert (await get(pool)).status == 429
        simulator.unthrottle("account-good")
        assert (await get(pool)).status == 200

    play(script, simulator, GOOD, key_wait_seconds=1, health=QUICK)


# Bodies


def test_a_large_body_prefers_keys_that_have_proven_themselves(simulator: Simulator) -> None:
    """It cannot be sent twice: a wrong guess would cost the whole upload."""
    large = [b"x" * 100_000] * 4

    async def script(pool: Rig) -> None:
        simulator.throttle("account-dead-1", retry_after=0)
        assert (await post(pool)).status == 200  # proves the good one
        simulator.unthrottle("account-dead-1")
        simulator.forget()
        await asyncio.sleep(0.06)
        assert (await post(pool, large)).status == 200
        assert used(simulator) == [GOOD], "priority would have been for the doubtful one"

    play(script, simulator, "dead-1", GOOD, health=QUICK)


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (300_000, 503)])
def test_a_body_walks_the_pool_only_if_it_is_still_whole(simulator: Simulator, size: int, status: int) -> None:
    revoke(simulator, "dead-1")
    pieces = [b"x" * (size // 10)] * 10

    async def script(pool: Rig) -> None:
        caller = await post(pool, pieces)
        assert caller.status == status
        if status == 503:
            assert (caller.json["code"], retry_after(caller)) == ("NO_AVAILABLE_KEYS", 1)
            assert (await post(pool, pieces)).status == 200, "as it was told, a repeat succeeds"

    play(script, simulator, "dead-1", GOOD)
    assert [upload.size for upload in simulator.uploads] == [size]


def test_a_large_upload_that_is_throttled_gets_upstreams_own_answer(simulator: Simulator) -> None:
    simulator.throttle("account-dead-1", retry_after=5)

    async def script(pool: Rig) -> None:
        caller = await post(pool, [b"x" * 100_000] * 4)
        assert (caller.status, retry_after(caller)) == (429, 5)

    play(script, simulator, "dead-1", GOOD)
    assert used(simulator) == ["dead-1"]


def test_a_region_is_for_its_teams_only(simulator: Simulator) -> None:
    from faults.rig import CONCURRENCY, TOKEN

    from keypool_asgi import Team

    async def script(pool: Rig) -> None:
        caller = await get(pool)
        assert (caller.status, caller.json["code"]) == (503, "NO_AVAILABLE_KEYS")
        assert b"retry-after" not in dict(caller.headers), "no patience helps"

    play(script, simulator, GOOD, teams={TOKEN: Team("team-a", regions=["eu"], limits=[CONCURRENCY])})
    assert simulator.requests == []

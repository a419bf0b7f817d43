"""Exchanges that pass every await of the stack: each is made anew, with a pool of its own, as often as it is needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from faults.rig import CONCURRENCY, TOKEN, Caller, Rig, keys_of, rig, scope_of
from harness import secret

from keypool_asgi import QuotaCallbacks, Team
from keypool_asgi.core.selection import Need
from keypool_asgi.core.verdicts import Fault as KeyFault
from keypool_asgi.core.verdicts import Verdict
from keypool_asgi.stores.quotas import MemoryQuotas
from keypool_asgi.testing import Fault, Simulator

__all__ = ["KEYS", "SCENARIOS", "UPLOAD", "Scenario", "job"]

KEYS = ("dead-1", "dead-2", "dead-3", "good")
PIECES = [b"a" * 1000, b"b" * 1000, b"c" * 1000]
UPLOAD = b"".join(PIECES)
JOB = json.dumps({"audio_url": "https://example.com/audio.mp3"}).encode()
CHAT = json.dumps(
    {"model": "claude-sonnet-5", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
).encode()
JSON = (b"content-type", b"application/json")


@dataclass
class Scenario:
    """One exchange that is about to begin."""

    rig: Rig
    scope: dict[str, Any]
    pieces: list[bytes]
    status: int = 200


Build = Callable[[Simulator], Awaitable[Scenario]]
SCENARIOS: dict[str, Build] = {}


def scenario(build: Build) -> Build:
    SCENARIOS[build.__name__.replace("_", " ")] = build
    return build


def _good(simulator: Simulator, **settings: Any) -> Rig:
    return rig(simulator, "good", **settings)


@scenario
async def read(simulator: Simulator) -> Scenario:
    return Scenario(_good(simulator), scope_of("GET", "/v1/voices"), [])


@scenario
async def upload(simulator: Simulator) -> Scenario:
    return Scenario(_good(simulator), scope_of("POST", "/v2/upload", body=len(UPLOAD)), PIECES)


@scenario
async def chunked_upload(simulator: Simulator) -> Scenario:
    return Scenario(_good(simulator, peek_bytes=1500), scope_of("POST", "/v2/upload", body=-1), PIECES)


@scenario
async def streamed_answer(simulator: Simulator) -> Scenario:
    scope = scope_of("POST", "/v1/chat/completions", JSON, body=len(CHAT))
    return Scenario(_good(simulator), scope, [CHAT])


@scenario
async def walk_over_dead_keys(simulator: Simulator) -> Scenario:
    pool = rig(simulator, *KEYS)
    return Scenario(pool, scope_of("POST", "/v2/upload", body=len(UPLOAD)), PIECES)


@scenario
async def walk_to_nowhere(simulator: Simulator) -> Scenario:
    pool = rig(simulator, *KEYS[:3])
    return Scenario(pool, scope_of("POST", "/v2/upload", body=len(UPLOAD)), PIECES, 503)


@scenario
async def doubtful_403(simulator: Simulator) -> Scenario:
    keys = [*keys_of("dead-1", priority=0), *keys_of("good", priority=1)]
    simulator.fail(Fault.status(403, {"error": "Forbidden"}), key=secret("dead-1"))
    return Scenario(_good(simulator, keys=keys), scope_of("GET", "/v1/voices"), [])


@scenario
async def job(simulator: Simulator) -> Scenario:
    scope = scope_of("POST", "/v2/transcript", JSON, body=len(JOB))
    return Scenario(_good(simulator), scope, [JOB])


async def _with_job(simulator: Simulator) -> tuple[Rig, str]:
    made = await job(simulator)
    caller = await Caller(made.pieces).call(made.rig.app, made.scope)
    return made.rig, caller.json["id"]


@scenario
async def poll(simulator: Simulator) -> Scenario:
    pool, ident = await _with_job(simulator)
    return Scenario(pool, scope_of("GET", f"/v2/transcript/{ident}"), [])


@scenario
async def deletion(simulator: Simulator) -> Scenario:
    pool, ident = await _with_job(simulator)
    return Scenario(pool, scope_of("DELETE", f"/v2/transcript/{ident}"), [])


@scenario
async def a_list_that_asks_upstream(simulator: Simulator) -> Scenario:
    pool, _ = await _with_job(simulator)
    return Scenario(pool, scope_of("GET", "/v2/transcript"), [])


@scenario
async def refused_upload(simulator: Simulator) -> Scenario:
    pool = _good(simulator, teams={TOKEN: Team("team-a", operations=["transcripts.*"], limits=[CONCURRENCY])})
    return Scenario(pool, scope_of("POST", "/v2/upload", body=len(UPLOAD)), PIECES, 403)


@scenario
async def async_callables(simulator: Simulator) -> Scenario:
    async def teams(presented: str) -> Team | None:
        await asyncio.sleep(0)
        return Team("team-a", limits=[CONCURRENCY]) if presented == TOKEN else None

    async def keys() -> Any:
        await asyncio.sleep(0)
        return keys_of("good")

    pool = _good(simulator, wrap=_slow, teams=teams, keys=keys)
    return Scenario(pool, scope_of("GET", "/v1/voices"), [])


def _slow(store: MemoryQuotas) -> QuotaCallbacks:
    def slowly(verb: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any) -> Any:
            await asyncio.sleep(0)
            result = await verb(*args)
            await asyncio.sleep(0)
            return result

        return call

    verbs = {name: slowly(getattr(store, name)) for name in ("reserve", "settle", "release", "renew")}
    return QuotaCallbacks(**verbs)


@scenario
async def sync_callables(simulator: Simulator) -> Scenario:
    def teams(presented: str) -> Team | None:
        return Team("team-a", limits=[CONCURRENCY]) if presented == TOKEN else None

    pool = _good(simulator, wrap=_in_threads, teams=teams, keys=lambda: keys_of("good"))
    return Scenario(pool, scope_of("GET", "/v1/voices"), [])


def _in_threads(store: MemoryQuotas) -> QuotaCallbacks:
    def blocking(verb: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            try:
                verb(*args).send(None)  # it never waits
            except StopIteration as done:
                return done.value
            raise AssertionError("it waits")

        return call

    verbs = {name: blocking(getattr(store, name)) for name in ("reserve", "settle", "release", "renew")}
    return QuotaCallbacks(**verbs)


@scenario
async def wait_for_a_key(simulator: Simulator) -> Scenario:
    pool = _good(simulator, keys=keys_of("good", max_in_flight=1), key_wait_seconds=5)
    keys = pool.app._parts.pool
    lease = await keys.lease(Need("agents"))

    async def end() -> None:
        await asyncio.sleep(0.005)
        await keys.give_back(lease, Verdict(KeyFault.UNRELATED))

    pool.others.append(asyncio.create_task(end()))
    return Scenario(pool, scope_of("GET", "/v1/voices"), [])


@scenario
async def no_connection(simulator: Simulator) -> Scenario:
    nowhere = dict.fromkeys(simulator.origins, "http://127.0.0.1:1")
    return Scenario(_good(simulator, origins=nowhere), scope_of("GET", "/v1/voices"), [], 502)


@scenario
async def answer_that_breaks_off_while_it_is_held(simulator: Simulator) -> Scenario:
    simulator.fail(Fault.reset("response body", after=10), path="/v2/upload")
    return Scenario(_good(simulator), scope_of("POST", "/v2/upload", body=len(UPLOAD)), PIECES, 502)

"""The stages as parts: what each says when another is missing, and other middleware between any two of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults.rig import CONCURRENCY, PREFIX, TOKEN, Caller, keys_of, scope_of, simulated
from harness import need, run, secret, token

from keypool_asgi import Charge, Team, UpstreamKey
from keypool_asgi.core.headers import Framing
from keypool_asgi.errors import MissingStage
from keypool_asgi.exchange import SCOPE_KEY, Attempt, Exchange
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.stages.asking import Asker
from keypool_asgi.stages.auth import Auth
from keypool_asgi.stages.forwarder import Forwarder
from keypool_asgi.stages.gate import Gate
from keypool_asgi.stages.intercept import Intercept
from keypool_asgi.stages.key_selector import KeySelector
from keypool_asgi.stages.lists import Lists
from keypool_asgi.stages.ownership import Ownership
from keypool_asgi.stages.quota import Quota
from keypool_asgi.stores.pool import Pool
from keypool_asgi.stores.quotas import MemoryQuotas
from keypool_asgi.stores.resources import MemoryResources
from keypool_asgi.stores.teams import team_directory
from keypool_asgi.testing import Fault, Simulator
from keypool_asgi.upstream import NativeClient

Wrap = Callable[[Any], Any]


def plain(app: Any) -> Any:
    return app


class Parts:
    """Everything that the stages share, and the stages outermost first."""

    def __init__(self, origins: Any = None, *keys: str) -> None:
        provider = ASSEMBLYAI.with_origins(origins)
        self.pool = Pool(keys_of(*keys or ("k1",)), wait_seconds=0.05)
        self.client = NativeClient()
        self.quotas = MemoryQuotas()
        self.records: list[Any] = []
        asker = Asker(pool=self.pool, client=self.client, provider=provider)
        resources = MemoryResources()
        team = Team("team-a", limits=[CONCURRENCY])
        self.makers: dict[str, Wrap] = {
            "intercept": lambda app: Intercept(app, table=provider.table, on_exchange=self.records.append),
            "gate": Gate,
            "auth": lambda app: Auth(app, teams=team_directory({TOKEN: team})),
            "quota": lambda app: Quota(app, quotas=self.quotas),
            "ownership": lambda app: Ownership(app, resources=resources, rules=provider.resources),
            "lists": lambda app: Lists(app, resources=resources, provider=provider, asker=asker),
            "key selector": lambda app: KeySelector(app, pool=self.pool, provider=provider),
            "forwarder": lambda app: Forwarder(app, client=self.client, provider=provider),
        }

    def compose(self, *names: str, between: Wrap = plain) -> Any:
        app: Any = nothing
        for name in reversed(names or tuple(self.makers)):
            app = self.makers[name](between(app))
        return app

    async def close(self) -> None:
        everything = [Charge("team:team-a", CONCURRENCY, CONCURRENCY.amount)]
        assert await self.quotas.reserve("probe", everything) is None
        assert self.pool.in_flight == 0
        await self.pool.aclose()
        await self.client.aclose()


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands behind the last stage."""


def exchange(**more: Any) -> Exchange:
    operation = ASSEMBLYAI.table.named("voices.list")
    made = Exchange("id", operation, operation.path, {}, Framing(0, chunked=False), "http://pool" + PREFIX)
    for name, value in more.items():
        setattr(made, name, value)
    return made


# Slots


def test_a_slot_that_is_read_too_early_names_the_stage() -> None:
    made = exchange()
    with pytest.raises(MissingStage, match=r"exchange\.team is read before the auth stage has run"):
        _ = made.team
    with pytest.raises(MissingStage, match=r"exchange\.token is read before the auth stage has run"):
        _ = made.token
    with pytest.raises(MissingStage, match=r"exchange\.attempt is read before the key selector stage has run"):
        _ = made.attempt
    assert made.known_team is None


def test_a_slot_that_is_written_twice_names_the_stage() -> None:
    made = exchange(team=Team("a"))
    with pytest.raises(
        MissingStage, match=r"exchange\.team is written twice: the auth stage stands twice in the stack"
    ):
        made.team = Team("b")
    assert (made.team.id, made.known_team) == ("a", "a")


def test_the_attempt_is_the_last_one() -> None:
    made = exchange()
    keys = [UpstreamKey(name, secret=secret(name)) for name in "ab"]
    made.attempts += [Attempt(key) for key in keys]
    assert made.attempt.key is keys[1]


def test_an_exchange_shows_no_secret() -> None:
    from keypool_asgi.core.keys import Secret

    made = exchange(team=Team("a"), token=Secret(TOKEN))
    made.attempts.append(Attempt(UpstreamKey("k", secret=secret("k"))))
    assert secret("k") not in repr(made)
    assert TOKEN not in repr(made)


# A stage without those that it needs

BEHIND_INTERCEPT = ["gate", "auth", "quota", "ownership", "lists", "key selector", "forwarder"]


@pytest.mark.parametrize("name", BEHIND_INTERCEPT)
def test_each_stage_alone_says_what_is_missing(name: str) -> None:
    async def main() -> None:
        parts = Parts()
        with pytest.raises(MissingStage, match="the intercept stage must stand before"):
            await Caller().call(parts.compose(name), scope_of("GET", "/v1/voices"))
        await parts.close()

    run(main())


WITHOUT = {
    "auth": "exchange.team is read before the auth stage has run",
    "key selector": "exchange.attempt is read before the key selector stage has run",
}


@pytest.mark.parametrize("left_out", WITHOUT)
def test_a_stack_without_a_stage_says_which_is_missing(left_out: str) -> None:
    async def main() -> None:
        parts = Parts()
        names = [name for name in parts.makers if name != left_out]
        with pytest.raises(MissingStage, match=WITHOUT[left_out]):
            await Caller().call(parts.compose(*names), scope_of("GET", "/v1/voices"))
        await parts.close()

    run(main())


def test_a_stage_that_stands_twice_is_said() -> None:
    async def main() -> None:
        parts = Parts()
        with pytest.raises(MissingStage, match="the auth stage stands twice"):
            await Caller().call(parts.compose("intercept", "auth", "auth"), scope_of("GET", "/v1/voices"))
        await parts.close()

    run(main())


def test_stages_that_nothing_depends_on_may_be_left_out() -> None:
    with simulated().running() as simulator:

        async def main() -> Caller:
            parts = Parts(simulator.origins)
            stack = parts.compose("intercept", "auth", "key selector", "forwarder")
            caller = await Caller().call(stack, scope_of("GET", "/v1/voices"))
            await parts.close()
            return caller

        assert run(main()).status == 200


@pytest.mark.parametrize("name", [*BEHIND_INTERCEPT, "intercept"])
def test_a_stage_passes_what_is_no_request(name: str) -> None:
    """A lifespan, and whatever else a server may send, goes to the next app with the same objects."""
    seen: list[Any] = []

    async def inner(*given: Any) -> None:
        seen.append(given)

    async def main() -> None:
        parts = Parts()
        stage: Any = parts.makers[name](inner)
        if name == "intercept":
            stage.host = inner
        given: Any = ({"type": "lifespan"}, object(), object())
        await stage(*given)
        assert [one is other for one, other in zip(seen[0], given, strict=True)] == [True] * 3

    run(main())


# Other middleware between any two


class Pure:
    """A pure ASGI middleware with its own scope, receive and send, which adds a field to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def own_receive() -> Any:
            return await receive()

        async def own_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-passed", b"1")]}
            await send(message)

        await self.app({**scope, "mine": True}, own_receive, own_send)


def base_http(app: Any) -> Any:
    need("starlette")
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers.append("x-passed", "1")
        return response

    return BaseHTTPMiddleware(app, dispatch)


BETWEEN: dict[str, Wrap] = {"pure ASGI": Pure, "BaseHTTPMiddleware": base_http}
UPLOAD = [b"a" * 70_000, b"b" * 70_000]
CHAT = json.dumps(
    {"model": "claude-sonnet-5", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
).encode()
REQUESTS: dict[str, tuple[dict[str, Any], list[bytes], int, int]] = {
    # name: scope, body, status, how many of the middlewares between the stages the answer passes
    "read": (scope_of("GET", "/v1/voices"), [], 200, 7),
    "upload": (scope_of("POST", "/v2/upload", body=140_000), UPLOAD, 200, 7),
    "chunked upload": (scope_of("POST", "/v2/upload", body=-1), UPLOAD, 200, 7),
    "streamed answer": (scope_of("POST", "/v1/chat/completions", body=len(CHAT)), [CHAT], 200, 7),
    "unknown resource": (scope_of("GET", "/v2/transcript/nobody"), [], 404, 4),
    "unknown operation": (scope_of("GET", "/v9/nothing"), [], 404, 0),
    "list": (scope_of("GET", "/v2/transcript"), [], 200, 5),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with simulated("dead-1", "dead-2", "k1").running() as simulator:
        for name in ("dead-1", "dead-2"):
            simulator.revoke_key(secret(name))
        yield simulator


@pytest.fixture
def simulator(shared: Simulator) -> Simulator:
    shared.heal()
    return shared


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("what", REQUESTS)
def test_other_middleware_between_all_stages(simulator: Simulator, what: str, between: str) -> None:
    scope, pieces, status, crossed = REQUESTS[what]

    async def main() -> None:
        parts = Parts(simulator.origins, "dead-1", "dead-2", "k1")
        stack = parts.compose(between=BETWEEN[between])
        caller = await asyncio.wait_for(Caller(list(pieces)).call(stack, dict(scope)), 5)
        assert (caller.status, caller.complete) == (status, True), caller.body
        passed = [value for name, value in caller.headers if name == b"x-passed"]
        assert len(passed) == crossed
        (record, *_) = parts.records or [None]
        assert record is None or (record.status, record.complete) == (status, True)
        if what in ("read", "upload"):
            assert record.keys[-1] == "k1"
        await parts.close()

    run(main())


@pytest.mark.parametrize("between", BETWEEN)
def test_a_refusal_is_an_ordinary_response_to_middleware_between(simulator: Simulator, between: str) -> None:
    async def main() -> None:
        parts = Parts(simulator.origins)
        stack = parts.compose(between=BETWEEN[between])
        scope = scope_of("GET", "/v1/voices")
        scope["headers"] = [(b"authorization", token("unknown").encode())]
        caller = await Caller().call(stack, scope)
        assert (caller.status, caller.json["code"]) == (401, "UNAUTHORIZED")
        assert [value for name, value in caller.headers if name == b"x-passed"] == [b"1", b"1"]
        await parts.close()

    run(main())


def test_a_broken_answer_passes_pure_middleware_between_honestly(simulator: Simulator) -> None:
    """Starlette's BaseHTTPMiddleware is not: it ends every response that broke off below it as if it were complete."""

    async def main() -> None:
        for path, status, complete in (("/v1/voices", 200, False), ("/v2/upload", 502, True)):
            simulator.heal()
            simulator.fail(Fault.reset("response body", after=10).but(framing="chunked"))
            parts = Parts(simulator.origins)
            scope = scope_of("GET", path) if status == 200 else scope_of("POST", path, body=1)
            caller = await Caller([b"x"] if status == 502 else []).call(parts.compose(between=Pure), scope)
            assert (caller.status, caller.complete) == (status, complete)
            await parts.close()

    run(main())


@pytest.mark.parametrize("between", BETWEEN)
def test_the_scope_of_the_server_is_left_as_it_was(simulator: Simulator, between: str) -> None:
    async def main() -> None:
        parts = Parts(simulator.origins)
        scope = scope_of("GET", "/v1/voices")
        before = dict(scope)
        await Caller().call(parts.compose(between=BETWEEN[between]), scope)
        assert SCOPE_KEY not in scope
        assert scope == before
        await parts.close()

    run(main())

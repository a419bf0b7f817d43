"""Minting: temporary tokens get no more than their team may use, whoever makes them, and tell nobody about teams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import httpx
import pytest
from faults.rig import Caller, scope_of
from harness import run, secret
from hypothesis import given
from hypothesis import strategies as st
from stages.token_rig import TEAM, TokenRig, simulated_projects, stack

from keypool_asgi import Team, UpstreamKey
from keypool_asgi.core.headers import Framing
from keypool_asgi.core.keys import Secret
from keypool_asgi.core.minting import Terms
from keypool_asgi.core.resources import Ref
from keypool_asgi.core.temporary_tokens import Grant, TokenIssuer, open_grant
from keypool_asgi.errors import BadRequest, ConfigurationError
from keypool_asgi.exchange import SCOPE_KEY, Attempt, Exchange
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.providers.assemblyai.minting import MINT_RULES
from keypool_asgi.providers.assemblyai.resources import refer
from keypool_asgi.stages.minting import Minting
from keypool_asgi.stages.ownership import Ownership
from keypool_asgi.stores.resources import MemoryResources
from keypool_asgi.testing import Simulator

SECRET = "correct-horse-battery-staple-0123456789"
WINDOW, SESSION = "expires_in_seconds", "max_session_duration_seconds"
DISGUISED = SESSION.replace("max", "%6dax", 1).encode()

names = st.sampled_from([SESSION.encode(), DISGUISED, WINDOW.encode(), b"product", b"x", b"max_session", b"a%20b"])
numbers = st.integers(-10, 20_000).map(lambda number: str(number).encode())
odd = st.sampled_from(
    [b"", b"1e3", b"600.0", b"+600", b" 600", b"6_000", b"%36%30%30", b"0x10", b"nan", b"\xd9\xa1" * 3]
)
queries = st.lists(st.tuples(names, numbers | odd).map(b"=".join), max_size=5).map(b"&".join)


def pairs(query: bytes) -> list[tuple[str, str]]:
    return [(unquote_plus(name), value) for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True)]


# What a query may have


@given(queries, st.integers(60, 10_799))
def test_no_query_gets_a_longer_session_than_the_cap(query: bytes, most: int) -> None:
    """By no reading that a server might have: what is no plain number is refused, what is asked for twice too."""
    try:
        capped = MINT_RULES.capped_query(query, most)
    except BadRequest:
        return
    ((_, asked),) = [pair for pair in pairs(capped) if pair[0] == SESSION]
    seconds = int(asked)
    assert asked == str(seconds)
    assert seconds <= most or seconds > 10_800
    assert [pair for pair in pairs(capped) if pair[0] != SESSION] == [p for p in pairs(query) if p[0] != SESSION]


@given(queries)
def test_without_a_cap_a_query_is_left_as_it_is(query: bytes) -> None:
    assert MINT_RULES.capped_query(query, 10_800) == query


@pytest.mark.parametrize(
    ("query", "capped"),
    [
        (b"", b"max_session_duration_seconds=600"),
        (b"expires_in_seconds=60", b"expires_in_seconds=60&max_session_duration_seconds=600"),
        (b"max_session_duration_seconds=599&a=%41", b"max_session_duration_seconds=599&a=%41"),
        (b"max_session_duration_seconds=600", b"max_session_duration_seconds=600"),
        (b"max_session_duration_seconds=601&a=%41", b"a=%41&max_session_duration_seconds=600"),
        (DISGUISED + b"=10800", b"max_session_duration_seconds=600"),
        (DISGUISED + b"=60", DISGUISED + b"=60"),
        # Out of range: AssemblyAI's to refuse.
        (b"max_session_duration_seconds=10801", b"max_session_duration_seconds=10801"),
        (b"max_session_duration_seconds=59", b"max_session_duration_seconds=59"),
        (b"max_session_duration_seconds=-1", b"max_session_duration_seconds=-1"),
    ],
)
def test_what_becomes_of_a_query(query: bytes, capped: bytes) -> None:
    assert MINT_RULES.capped_query(query, 600) == capped


@pytest.mark.parametrize(
    "query",
    [
        b"max_session_duration_seconds=",
        b"max_session_duration_seconds=600.0",
        b"max_session_duration_seconds=%2B600",
        b"max_session_duration_seconds=+600",
        b"max_session_duration_seconds=\xd9\xa1",
        b"max_session_duration_seconds=60&" + DISGUISED + b"=10800",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(query: bytes) -> None:
    with pytest.raises(BadRequest, match=SESSION):
        MINT_RULES.capped_query(query, 600)


@pytest.mark.parametrize(
    ("body", "capped"),
    [
        ({}, {SESSION: 600}),
        ({SESSION: None}, {SESSION: 600}),
        ({"product": "tts", WINDOW: 60, SESSION: 10_800}, {"product": "tts", WINDOW: 60, SESSION: 600}),
        ({SESSION: "700"}, {SESSION: 600}),
        ({SESSION: 100, "access": ["x"]}, {SESSION: 100, "access": ["x"]}),
        ({SESSION: 20_000}, {SESSION: 20_000}),
    ],
)
def test_what_becomes_of_a_body(body: dict[str, Any], capped: dict[str, Any]) -> None:
    assert json.loads(MINT_RULES.capped_body(json.dumps(body).encode(), 600)) == capped
    assert MINT_RULES.capped_body(b"anything", 10_800) == b"anything"


def test_a_member_that_comes_twice_goes_on_once() -> None:
    twice = b'{"max_session_duration_seconds": 10800, "max_session_duration_seconds": 60}'
    assert MINT_RULES.capped_body(twice, 600) == b'{"max_session_duration_seconds": 60}'


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"max_session_duration_seconds": 600.0}', b'{"max_session_duration_seconds": true}'],
)
def test_a_body_that_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        MINT_RULES.capped_body(body, 600)


@pytest.mark.parametrize(
    ("service", "query", "body", "terms"),
    [
        ("streaming", b"expires_in_seconds=60", None, Terms(60, 10_800, "streaming")),
        ("agents", b"expires_in_seconds=9&max_session_duration_seconds=70", None, Terms(9, 70, "agents")),
        ("streaming", b"expires_in_seconds=9999&max_session_duration_seconds=x", None, Terms(600, 10_800, "streaming")),
        ("streaming", b"", None, Terms(600, 10_800, "streaming")),
        ("token", b"product=tts&expires_in_seconds=60", None, Terms(60, 10_800, "tts")),
        ("token", b"product=other&expires_in_seconds=60", None, Terms(60, 10_800, "")),
        ("token", b"x=1", b'{"product": "streaming", "expires_in_seconds": 30}', Terms(30, 10_800, "streaming")),
        ("token", b"", b'{"product": ["tts"], "expires_in_seconds": 30}', Terms(30, 10_800, "")),
    ],
)
def test_what_assemblyai_will_make_of_a_request(service: str, query: bytes, body: bytes | None, terms: Terms) -> None:
    assert MINT_RULES.likely_terms(service, query, body) == terms


@pytest.mark.parametrize(
    ("answer", "window"), [({}, 60), ({WINDOW: 30}, 30), ({WINDOW: 300}, 60), ({WINDOW: "x"}, 60), ({WINDOW: None}, 60)]
)
def test_of_the_window_that_was_asked_for_and_the_one_that_was_given_the_shorter_counts(
    answer: dict[str, Any], window: int
) -> None:
    assert MINT_RULES.given_terms(Terms(60, 600, "tts"), answer) == Terms(window, 600, "tts")


# The stage


def minting_exchange(name: str = "streaming.token", team: Team | None = None) -> Exchange:
    operation = ASSEMBLYAI.table.named(name)
    made = Exchange("id", operation, operation.path, {}, Framing(0, chunked=False), "http://pool")
    made.team = team or Team("team-a")
    made.token = Secret(TEAM)
    return made


class Next:
    """Stands where the next stage stands, keeps what comes to it, and answers with a token."""

    def __init__(self, answer: dict[str, Any] | None = None) -> None:
        self.answer = answer or {"token": "made-by-assemblyai-0123", WINDOW: 60}
        self.queries: list[bytes] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.queries.append(scope["query_string"])
        self.bodies.append((await receive()).get("body", b""))
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(self.answer).encode()})


def asked(stage: Any, exchange: Exchange, query: str = "expires_in_seconds=60", body: bytes | None = None) -> Caller:
    """Ask a stage for a token."""
    method = "GET" if body is None else "POST"
    scope = scope_of(method, f"{exchange.path}?{query}", body=None if body is None else len(body))
    caller = Caller([body or b""])
    run(caller.call(stage, {**scope, SCOPE_KEY: exchange}))
    return caller


async def _later(team: Team) -> float | None:
    return 400.9


@pytest.mark.parametrize(
    ("most", "allowance", "capped"),
    [
        (10_800, None, b""),
        (10_800, lambda team: None, b""),
        (10_800, lambda team: 1e9, b""),
        (900, None, b"900"),
        (900, lambda team: 1000.0, b"900"),
        (900, lambda team: 400.9, b"400"),
        (10_800, _later, b"400"),
        (10_800, lambda team: 60, b"60"),
        (10_800, lambda team: {"team-a": 100}[team.id], b"100"),
    ],
)
def test_the_cap_is_the_settings_or_what_the_team_has_left(most: int, allowance: Any, capped: bytes) -> None:
    following = Next()
    stage = Minting(following, rules=MINT_RULES, max_session_seconds=most, allowance=allowance)
    assert asked(stage, minting_exchange()).status == 200
    expected = b"expires_in_seconds=60" + (b"&max_session_duration_seconds=" + capped if capped else b"")
    assert following.queries == [expected]


@pytest.mark.parametrize("left", [59.9, 0, -5.0])
@pytest.mark.parametrize("issuer", [None, TokenIssuer(SECRET)])
def test_a_team_with_less_than_a_minute_left_gets_no_token(left: float, issuer: TokenIssuer | None) -> None:
    following = Next()
    exchange = minting_exchange()
    stage = Minting(following, rules=MINT_RULES, allowance=lambda team: left, issuer=issuer)
    caller = asked(stage, exchange)
    assert (caller.status, caller.json["code"], exchange.refused) == (429, "QUOTA_EXCEEDED", "QUOTA_EXCEEDED")
    assert following.queries == []


@pytest.mark.parametrize("name", ["streaming.session", "transcripts.list", "transcripts.create", "agents.create"])
def test_what_asks_for_no_token_passes_with_the_same_objects(name: str) -> None:
    seen: list[Any] = []

    async def following(*given: Any) -> None:
        seen.append(given)

    exchange = minting_exchange(name)
    kind = "websocket" if name.endswith("session") else "http"
    passed: Any = ({"type": kind, "query_string": b"", SCOPE_KEY: exchange}, object(), object())
    stage = Minting(following, rules=MINT_RULES, max_session_seconds=60, issuer=TokenIssuer(SECRET))
    run(stage(*passed))
    assert all(one is other for one, other in zip(seen[0], passed, strict=True))


def test_the_body_of_the_token_service_is_capped_and_its_length_told_anew() -> None:
    following, exchange = Next(), minting_exchange("tokens.create")
    exchange.operation = ASSEMBLYAI.table.find("POST", "/v1/token", [], b"").operation  # type: ignore[union-attr]
    stage = Minting(following, rules=MINT_RULES, max_session_seconds=600)
    body = json.dumps({"product": "tts", WINDOW: 60}).encode()
    assert asked(stage, exchange, "", body).status == 200
    assert json.loads(following.bodies[0]) == {"product": "tts", WINDOW: 60, SESSION: 600}
    assert exchange.framing == Framing(len(following.bodies[0]), chunked=False)
    assert asked(stage, exchange, "", b"no json").status == 400
    assert len(following.bodies) == 1


@pytest.mark.parametrize("seconds", [59, 10_801, 0])
def test_a_cap_outside_of_what_a_token_can_be_for_is_refused(seconds: int) -> None:
    with pytest.raises(ConfigurationError, match="max_session_seconds"):
        Minting(Next(), rules=MINT_RULES, max_session_seconds=seconds)


# Tokens of our own


def issued(query: str, name: str = "streaming.token", body: bytes | None = None, **settings: Any) -> Caller:
    stage = Minting(Next(), rules=MINT_RULES, issuer=TokenIssuer(SECRET), clock=lambda: 1000.0, **settings)
    exchange = minting_exchange(name)
    if body is not None:
        exchange.operation = ASSEMBLYAI.table.find("POST", "/v1/token", [], b"").operation  # type: ignore[union-attr]
    return asked(stage, exchange, query, body)


@pytest.mark.parametrize(
    ("name", "query", "body", "expected"),
    [
        ("streaming.token", "expires_in_seconds=1", None, ("streaming", 1001.0, 10_800)),
        ("streaming.token", "expires_in_seconds=600&max_session_duration_seconds=60", None, ("streaming", 1600.0, 60)),
        ("agents.token", "expires_in_seconds=60", None, ("agents", 1060.0, 10_800)),
        ("tokens.create", "product=tts&expires_in_seconds=60", None, ("tts", 1060.0, 10_800)),
        ("tokens.create", "", {"product": "streaming", WINDOW: 60, SESSION: 90}, ("streaming", 1060.0, 90)),
    ],
)
def test_a_token_of_our_own_stands_for_what_was_asked(
    name: str, query: str, body: dict[str, Any] | None, expected: tuple[str, float, int]
) -> None:
    caller = issued(query, name, None if body is None else json.dumps(body).encode())
    assert caller.status == 200
    assert set(caller.json) == {"token", WINDOW}
    assert caller.json[WINDOW] == expected[1] - 1000
    assert dict(caller.headers)[b"content-type"] == b"application/json"
    assert dict(caller.headers)[b"cache-control"] == b"no-store"
    assert TokenIssuer(SECRET).read(caller.json["token"]) == Grant(Secret(TEAM), *expected)


def test_a_token_of_our_own_is_capped_too() -> None:
    for query in (f"{WINDOW}=60", f"{WINDOW}=60&{SESSION}=10800"):
        made = TokenIssuer(SECRET).read(issued(query, max_session_seconds=600).json["token"])
        assert made is not None
        assert made.max_session_seconds == 600


def test_no_two_tokens_are_alike() -> None:
    made = {issued(f"{WINDOW}=60").json["token"] for _ in range(20)}
    assert len(made) == 20


@pytest.mark.parametrize(
    ("name", "query", "named"),
    [
        ("streaming.token", "", WINDOW),
        ("streaming.token", f"{WINDOW}=", WINDOW),
        ("streaming.token", f"{WINDOW}=0", WINDOW),
        ("streaming.token", f"{WINDOW}=601", WINDOW),
        ("streaming.token", f"{WINDOW}=-1", WINDOW),
        ("streaming.token", f"{WINDOW}=60.0", WINDOW),
        ("streaming.token", f"{WINDOW}=abc", WINDOW),
        ("streaming.token", f"{WINDOW}=60&{WINDOW}=60", WINDOW),
        ("streaming.token", f"{WINDOW}=60&{SESSION}=59", SESSION),
        ("streaming.token", f"{WINDOW}=60&{SESSION}=10801", SESSION),
        ("streaming.token", f"{WINDOW}=60&{SESSION}=", SESSION),
        ("agents.token", f"{SESSION}=60", WINDOW),
        ("tokens.create", f"product=everything&{WINDOW}=60", "product"),
    ],
)
def test_what_assemblyai_would_refuse_is_refused(name: str, query: str, named: str) -> None:
    caller = issued(query, name)
    assert caller.status == 400
    assert isinstance(caller.json["error"], str)
    assert named in caller.json["error"]


# Over the whole stack


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated_projects().running() as running:
        yield running


@pytest.fixture(scope="module")
def plain(simulator: Simulator) -> Iterator[TokenRig]:
    with stack(simulator, max_session_seconds=600) as served:
        yield served


def test_assemblyai_is_asked_for_a_capped_session(plain: TokenRig, simulator: Simulator) -> None:
    simulator.forget()
    answer = plain.get(f"/v3/token?{WINDOW}=60&{SESSION}=10800")
    assert answer.status_code == 200
    assert set(answer.json()) == {"token", WINDOW}
    (request,) = simulator.requests
    assert dict(pairs(request.target.partition("?")[2].encode())) == {WINDOW: "60", SESSION: "600"}
    plain.opens(additional_headers={"authorization": answer.json()["token"]})
    assert plain.last.max_session_seconds == 600


@pytest.mark.parametrize("query", [f"{WINDOW}=601", f"{WINDOW}=60&{SESSION}=59", f"{WINDOW}=60&{SESSION}=10801"])
def test_what_is_out_of_range_is_assemblyais_to_refuse(plain: TokenRig, simulator: Simulator, query: str) -> None:
    simulator.forget()
    assert plain.get(f"/v3/token?{query}").status_code == 400
    assert len(simulator.requests) == 1


def test_what_is_recorded_of_a_token_tells_neither_it_nor_the_team_token(plain: TokenRig) -> None:
    minted = plain.mint()
    row = run(plain.resources.find(refer("token", minted)))
    assert row is not None
    key = plain.last.attempt.key
    assert (row.team, row.project) == ("team-a", key.project)
    for text in (minted, TEAM, secret(key.id)):
        assert text not in repr(row)
    made = open_grant(minted, row.summary)
    assert made is not None
    assert (made.team_token.reveal(), made.service, made.max_session_seconds) == (TEAM, "streaming", 600)
    assert (made.key_id, 0 < made.expires - plain.clock() <= 60) == (key.id, True)


def test_a_token_that_assemblyai_does_not_give_is_not_recorded(plain: TokenRig) -> None:
    before = repr(plain.resources)
    assert plain.get(f"/v3/token?{WINDOW}=601").status_code == 400
    assert repr(plain.resources) == before


def test_our_own_tokens_are_made_without_assemblyai(simulator: Simulator) -> None:
    simulator.forget()
    with stack(simulator, issuer=TokenIssuer(SECRET)) as rig:
        minted = rig.mint()
        assert rig.get("/v3/token?expires_in_seconds=601").status_code == 400
        assert simulator.requests == []
        answer = httpx.get(
            simulator.origins["streaming"] + "/v3/token?expires_in_seconds=60", headers={"authorization": minted}
        )
        assert answer.status_code == 401
        assert simulator.saw(TEAM) == []


# The token service, which the simulator does not have


def recorded(body: bytes | None, query: str, answer: dict[str, Any]) -> Grant | None:
    """What ownership records of a token that the token service has made."""
    resources, exchange = MemoryResources(), minting_exchange("tokens.create")
    if body is not None:
        exchange.operation = ASSEMBLYAI.table.find("POST", "/v1/token", [], b"").operation  # type: ignore[union-attr]
    exchange.attempts.append(Attempt(UpstreamKey("k1", secret=secret("k1"))))
    following = Next(answer)
    stage = Ownership(
        following, resources=resources, rules=ASSEMBLYAI.resources, minting=MINT_RULES, clock=lambda: 1000.0
    )
    assert asked(stage, exchange, query, body).json == answer
    assert following.bodies == [body or b""]
    row = run(resources.find(Ref("token", refer("token", answer["token"]).id)))
    assert row is not None
    return open_grant(answer["token"], row.summary)


@pytest.mark.parametrize(
    ("query", "body", "answer", "expected"),
    [
        ("product=tts&expires_in_seconds=60", None, {}, ("tts", 1060.0)),
        ("product=tts&expires_in_seconds=60", None, {WINDOW: 30}, ("tts", 1030.0)),
        ("product=new&expires_in_seconds=60", None, {}, ("", 1060.0)),
        ("", {"product": "tts", WINDOW: 45}, {}, ("tts", 1045.0)),
        ("", {"product": "tts"}, {}, ("tts", 1600.0)),
    ],
)
def test_what_is_recorded_of_a_token_of_the_token_service(
    query: str, body: dict[str, Any] | None, answer: dict[str, Any], expected: tuple[str, float]
) -> None:
    made = recorded(None if body is None else json.dumps(body).encode(), query, {"token": "t-0123", **answer})
    assert made == Grant(Secret(TEAM), *expected, 10_800, "k1")

"""The way in for WebSocket sessions: team tokens in every place, temporary tokens, and web pages that may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness import need, secret, token
from stages.token_rig import LIVEKIT, PREFIX, TEAM, TokenRig, close_of, simulated_projects, stack

from keypool_asgi import Team, UpstreamKey
from keypool_asgi.core.headers import Framing, checked_origins, comes_from
from keypool_asgi.core.messages import Origin, RequestHead
from keypool_asgi.core.requests import upstream_request
from keypool_asgi.core.temporary_tokens import TokenIssuer
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.stages.auth import Auth
from keypool_asgi.stores.resources import MemoryResources
from keypool_asgi.testing import Simulator

SECRET = "correct-horse-battery-staple-0123456789"
TEAM_B = token("team-b")


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated_projects().running() as running:
        yield running


@pytest.fixture(scope="module")
def plain(simulator: Simulator) -> Iterator[TokenRig]:
    """AssemblyAI's own temporary tokens."""
    with stack(simulator) as served:
        yield served


@pytest.fixture(scope="module")
def issuing(simulator: Simulator) -> Iterator[TokenRig]:
    """Temporary tokens of our own."""
    with stack(simulator, issuer=TokenIssuer(SECRET)) as served:
        yield served


@pytest.fixture(params=["plain", "issuing"])
def rig(request: pytest.FixtureRequest, simulator: Simulator) -> Iterator[TokenRig]:
    """Either kind of temporary tokens, with a clean record, and put back as it was."""
    found: TokenRig = request.getfixturevalue(request.param)
    teams = dict(found.directory.teams)
    simulator.forget()
    yield found
    found.ahead = 0.0
    found.directory.teams = teams


def presenting(place: str, text: str) -> tuple[str, dict[str, Any]]:
    """Target and options that present a token in one place."""
    target = "/v3/ws?sample_rate=16000"
    if place == "query":
        return f"{target}&token={text}", {}
    if place == "subprotocol":
        return target, {"subprotocols": [f"keypool-token.{text}"]}
    if place == "subprotocols":
        return target, {"subprotocols": ["chat", f"keypool-token.{text}", "keypool"]}
    name, _, scheme = place.partition(" ")
    return target, {"additional_headers": {name: scheme + " " + text if scheme else text}}


PLACES = ["authorization", "authorization Bearer", "x-api-key", "subprotocol", "subprotocols"]


# Team tokens


@pytest.mark.parametrize("place", PLACES)
def test_a_team_token_opens_a_session_from_every_place(plain: TokenRig, simulator: Simulator, place: str) -> None:
    simulator.forget()
    target, options = presenting(place, TEAM)
    assert plain.opens(target, **options)["type"] == "Begin"
    assert (plain.last.team.id, plain.last.temporary, plain.last.max_session_seconds) == ("team-a", False, None)
    (upgrade,) = simulator.requests
    assert upgrade.header("authorization") in {secret(name) for name in ("p1", "p2", "p3")}
    assert upgrade.target.endswith("/v3/ws?sample_rate=16000")
    assert upgrade.header("user-agent") == LIVEKIT
    assert upgrade.header("sec-websocket-protocol") is None
    assert simulator.saw(TEAM) == []


@pytest.mark.parametrize("server", ["uvicorn-httptools", "hypercorn", "granian"])
def test_a_browser_gets_the_subprotocol_that_hides_its_token(simulator: Simulator, server: str) -> None:
    with stack(simulator, server=server) as rig:
        for offered, chosen in (
            (["keypool", f"keypool-token.{TEAM}"], "keypool"),
            ([f"keypool-token.{TEAM}"], f"keypool-token.{TEAM}"),
        ):
            with rig.dial(subprotocols=offered) as ws:
                assert ws.subprotocol == chosen
                assert json.loads(ws.recv(timeout=10))["type"] == "Begin"
                ws.send('{"type":"Terminate"}')
                close_of(ws)


def test_a_team_token_in_the_url_is_refused_though_it_is_valid(rig: TokenRig, simulator: Simulator) -> None:
    for options in ({}, {"additional_headers": {"authorization": TEAM}}):
        with rig.dial(f"/v3/ws?token={TEAM}", **options) as ws:
            error = json.loads(ws.recv(timeout=10))
            assert error["type"] == "Error"
            assert "A team token is not taken from a URL, which is logged" in error["error"]
            assert TEAM not in error["error"]
            assert close_of(ws)[0] == error["error_code"] == 4001
    assert simulator.requests == []


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "as the subprotocol keypool-token.<token>"),
        ({"authorization": token("nobody")}, "no team token of this service, and no temporary token"),
        ({"authorization": TEAM, "x-api-key": TEAM_B}, "several different team tokens"),
        ({"authorization": "Basic eA=="}, "a scheme other than Bearer"),
    ],
)
def test_why_a_session_is_not_opened(rig: TokenRig, headers: dict[str, str], words: str) -> None:
    status, sentence = rig.refused(additional_headers=headers)
    assert status == 401
    assert words in sentence


def test_an_expired_team_opens_nothing(rig: TokenRig) -> None:
    headers = {"authorization": TEAM_B}
    assert rig.opens(additional_headers=headers)["type"] == "Begin"
    rig.ahead = 1001
    assert rig.refused(additional_headers=headers)[1].startswith("The team token has expired.")


def test_a_team_needs_the_permission_for_the_session_whatever_it_presents(rig: TokenRig) -> None:
    rig.directory.teams[TEAM] = Team("team-a", operations=["streaming.token"])
    status, sentence = rig.refused(additional_headers={"authorization": TEAM})
    assert (status, sentence) == (403, "This team may not use the operation streaming.session.")
    status, sentence = rig.refused(additional_headers={"authorization": rig.mint()})
    assert (status, sentence) == (403, "This team may not use the operation streaming.session.")


# Temporary tokens


@pytest.mark.parametrize("place", [*PLACES, "query"])
def test_a_temporary_token_opens_sessions_from_every_place(rig: TokenRig, simulator: Simulator, place: str) -> None:
    minted = rig.mint("/v3/token?expires_in_seconds=60&max_session_duration_seconds=90")
    target, options = presenting(place, minted)
    for _ in range(2):  # until it expires
        assert rig.opens(target, **options)["type"] == "Begin"
        assert rig.last.team.id == "team-a"
        assert (rig.last.temporary, rig.last.max_session_seconds) == (True, 90)
    upgrades = [request for request in simulator.requests if request.session]
    assert len(upgrades) == 2
    assert all(upgrade.header("authorization") == upgrade.key for upgrade in upgrades)
    assert simulator.saw(minted) == []


def test_its_sessions_last_as_long_as_assemblyais_when_nothing_was_said(rig: TokenRig) -> None:
    rig.opens(additional_headers={"authorization": rig.mint()})
    assert rig.last.max_session_seconds == 10_800


def test_a_temporary_token_of_assemblyai_stays_on_the_project_that_made_it(
    plain: TokenRig, simulator: Simulator
) -> None:
    for _ in range(4):
        simulator.forget()
        minted = plain.mint()
        for _ in range(3):
            plain.opens(additional_headers={"authorization": minted})
        assert len({request.project for request in simulator.requests}) == 1
        assert plain.last.project == simulator.requests[0].project


def test_a_temporary_token_of_assemblyai_opens_assemblyais_own_endpoint(plain: TokenRig, simulator: Simulator) -> None:
    need("websockets")
    from websockets.sync.client import connect

    simulator.forget()
    url = simulator.origins["streaming"].replace("http", "ws", 1) + f"/v3/ws?token={plain.mint()}"
    with connect(url, proxy=None, compression=None) as ws:
        assert json.loads(ws.recv(timeout=10))["type"] == "Begin"
        ws.send('{"type":"Terminate"}')
        close_of(ws)


def test_a_temporary_token_expires_to_the_second(rig: TokenRig) -> None:
    headers = {"authorization": rig.mint("/v3/token?expires_in_seconds=30")}
    rig.ahead = 25
    assert rig.opens(additional_headers=headers)["type"] == "Begin"
    rig.ahead = 30
    assert rig.refused(additional_headers=headers) == (
        401,
        "The temporary token has expired. Make a new one for each connection.",
    )


def test_a_temporary_token_opens_its_own_service_only(rig: TokenRig) -> None:
    streaming = {"additional_headers": {"authorization": rig.mint()}}
    agents = {"additional_headers": {"authorization": rig.mint("/v1/token?expires_in_seconds=60")}}
    words = (401, "The temporary token was made for the sessions of another service.")
    assert rig.refused("/v1/ws", **streaming) == words
    assert rig.refused("/v1/ws?voice_id=jane", **streaming) == words
    assert rig.refused("/v3/ws", **agents) == words
    with rig.dial("/v1/ws", **agents) as ws:
        ws.send('{"type":"session.update","session":{}}')
        assert json.loads(ws.recv(timeout=10))["type"] == "session.ready"


def test_a_revoked_team_takes_its_temporary_tokens_with_it(rig: TokenRig) -> None:
    headers = {"authorization": rig.mint()}
    gone = (401, "The team token that this temporary token was made with is not valid any more.")
    before = rig.directory.teams.pop(TEAM)
    assert rig.refused(additional_headers=headers) == gone
    rig.directory.teams[TEAM] = before
    assert rig.opens(additional_headers=headers)["type"] == "Begin"


def test_an_expired_team_takes_its_temporary_tokens_with_it(rig: TokenRig) -> None:
    rig.ahead = 990
    headers = {"authorization": rig.get("/v3/token?expires_in_seconds=60", TEAM_B).json()["token"]}
    rig.ahead = 1010
    assert rig.refused(additional_headers=headers)[1].startswith("The team token has expired.")


def test_a_team_token_that_is_another_teams_now_opens_nothing_of_the_first_ones(plain: TokenRig) -> None:
    headers = {"authorization": plain.mint()}
    plain.directory.teams[TEAM] = Team("team-z")
    try:
        assert plain.refused(additional_headers=headers)[0] == 401
    finally:
        plain.directory.teams[TEAM] = Team("team-a")


def test_a_temporary_token_opens_nothing_over_http(rig: TokenRig, simulator: Simulator) -> None:
    minted = rig.mint()
    simulator.forget()
    for target in ("/v2/transcript", "/v3/token?expires_in_seconds=60", "/v1/models"):
        answer = rig.get(target, minted)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
    assert simulator.requests == []


def test_our_own_temporary_token_says_over_http_what_it_is(issuing: TokenRig) -> None:
    assert "opens WebSocket sessions only" in issuing.get("/v2/transcript", issuing.mint()).json()["error"]


@pytest.mark.parametrize(
    "change", [lambda text: text[:-1], lambda text: text + "A", lambda text: text[:40] + text[41:]]
)
def test_a_temporary_token_that_was_changed_is_unknown(rig: TokenRig, change: Any) -> None:
    changed = change(rig.mint())
    status, sentence = rig.refused(additional_headers={"authorization": changed})
    assert (status, sentence.partition(":")[0]) == (401, "The token is unknown")
    with rig.dial(f"/v3/ws?token={changed}") as ws:
        assert "no temporary token that was made here lately" in json.loads(ws.recv(timeout=10))["error"]


def test_our_own_temporary_tokens_need_no_memory(simulator: Simulator, issuing: TokenRig) -> None:
    """Another process with the same secret takes them, one with another secret does not."""
    minted = issuing.mint()
    with stack(simulator, issuer=TokenIssuer(["another-secret-0123456789-another", SECRET])) as other:
        assert other.opens(additional_headers={"authorization": minted})["type"] == "Begin"
    with stack(simulator, issuer=TokenIssuer("another-secret-0123456789-another")) as stranger:
        assert stranger.refused(additional_headers={"authorization": minted})[0] == 401


def test_a_temporary_token_of_assemblyai_is_known_where_its_record_is(simulator: Simulator, plain: TokenRig) -> None:
    minted = plain.mint()
    with stack(simulator, resources=plain.resources) as other:
        assert other.opens(additional_headers={"authorization": minted})["type"] == "Begin"
    with stack(simulator, resources=MemoryResources()) as stranger:
        assert stranger.refused(additional_headers={"authorization": minted})[0] == 401


# Web pages


def test_pages_of_other_origins_open_nothing(simulator: Simulator) -> None:
    with stack(simulator, allowed_origins=["https://App.example.com:443", "http://localhost:3000"]) as rig:
        headers = {"authorization": TEAM}
        assert rig.opens(additional_headers=headers)["type"] == "Begin"
        for origin in ("https://app.example.com", "HTTPS://APP.EXAMPLE.COM", "http://localhost:3000"):
            assert rig.opens(additional_headers=headers, origin=origin)["type"] == "Begin"
        simulator.forget()
        for origin in ("http://app.example.com", "https://app.example.com.evil.org", "http://localhost", "null"):
            # In band: a web page cannot see a status.
            with rig.dial("/v3/ws?sample_rate=16000", additional_headers=headers, origin=origin) as page:
                assert close_of(page) == (4001, "Web pages of this origin may not open sessions here.")
        assert simulator.requests == []
        assert rig.get("/v3/token?expires_in_seconds=60").status_code == 200


@pytest.mark.parametrize(
    ("origin", "listed", "let_in"),
    [
        (b"https://a.example", ["https://a.example"], True),
        (b" HTTPS://A.EXAMPLE:443 ", ["https://a.example"], True),
        (b"http://a.example:80", ["http://a.example"], True),
        (b"http://a.example:443", ["http://a.example"], False),
        (b"https://a.example:8443", ["https://a.example"], False),
        (b"https://a.example", [], False),
        (b"https://b.a.example", ["https://a.example"], False),
        (b"https://a.example/", ["https://a.example"], False),
        (b"http://[::1]:3000", ["http://[::1]:3000"], True),
        (b"chrome-extension://abcdefgh", ["chrome-extension://abcdefgh"], True),
        (b"null", ["https://a.example"], False),
        (b"", ["https://a.example"], False),
        (b"\xff", ["https://a.example"], False),
    ],
)
def test_origins_are_compared_as_browsers_write_them(origin: bytes, listed: list[str], let_in: bool) -> None:
    assert comes_from([(b"host", b"x"), (b"origin", origin)], checked_origins(listed)) is let_in


def test_every_origin_that_is_named_must_be_listed() -> None:
    listed = checked_origins(["https://a.example"])
    assert comes_from([], listed)
    assert not comes_from([(b"origin", b"https://a.example"), (b"origin", b"https://b.example")], listed)


@pytest.mark.parametrize(
    "origins",
    [
        "https://a.example",
        ["*"],
        ["null"],
        ["a.example"],
        ["https://a.example/"],
        ["https://*.example"],
        ["https://ä.example"],
        [None],
        ["https://a.example", ""],
    ],
)
def test_a_setting_that_names_no_origins_is_refused(origins: Any) -> None:
    with pytest.raises(ConfigurationError, match="allowed_origins"):
        Auth(lambda *_: None, teams=None, allowed_origins=origins)  # type: ignore[arg-type]


# The upgrade request upstream


def upgrade_of(headers: list[tuple[bytes, bytes]], query: bytes = b"", presented: str = TEAM) -> RequestHead:
    return upstream_request(
        "GET",
        "/v3/ws",
        query,
        headers,
        operation=ASSEMBLYAI.table.named("streaming.session"),
        framing=Framing(0, chunked=False),
        origin=Origin.parse("https://streaming.example"),
        key=UpstreamKey("k1", secret=secret("k1")),
        token=presented,
        via=b"keypool-asgi",
    )


def test_of_the_callers_own_fields_few_go_upstream() -> None:
    kept = [(b"user-agent", b"sdk/1"), (b"assemblyai-version", b"2025-05-12")]
    left = [
        (b"host", b"pool.example"),
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade, X-Hop"),
        (b"x-hop", b"1"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"sec-websocket-protocol", b"keypool, keypool-token." + TEAM.encode()),
        (b"sec-websocket-made-up", b"1"),
        (b"origin", b"https://app.example.com"),
        (b"cookie", b"a=b"),
        (b"authorization", b"Bearer " + TEAM.encode()),
        (b"x-api-key", TEAM.encode()),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-other", b"before " + TEAM.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"0"),
        (b"accept-encoding", b"gzip"),
    ]
    head = upgrade_of([*left, *kept])
    assert head.headers == [
        (b"host", b"streaming.example"),
        (b"authorization", secret("k1").encode()),
        *kept,
        (b"via", b"1.1 keypool-asgi"),
    ]


@pytest.mark.parametrize(
    "parameter", ["token={}", "%74oken={}", "TOKEN={}", "t%6Fken={}", "api_key={}", "x={}", "{}=1", "x=a;token={}"]
)
def test_the_token_goes_upstream_in_no_parameter_however_it_is_spelled(parameter: str) -> None:
    spelled = parameter.format(TEAM.replace("-", "%2D")), parameter.format(TEAM)
    for text in spelled:
        head = upgrade_of([], f"sample_rate=16000&{text}&prompt=a%20b".encode())
        assert head.target == b"/v3/ws?sample_rate=16000&prompt=a%20b"


def test_a_disguised_token_in_the_url_does_not_reach_upstream(plain: TokenRig, simulator: Simulator) -> None:
    simulator.forget()
    minted = plain.mint()
    assert plain.opens(f"/v3/ws?%74oken={minted}&sample_rate=16000")["type"] == "Begin"
    assert simulator.requests[-1].target.endswith("/v3/ws?sample_rate=16000")
    assert PREFIX not in simulator.requests[-1].target

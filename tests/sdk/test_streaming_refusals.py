"""Whoever is refused a live session reads our sentence, in the SDK that they use, and no SDK asks in vain again."""

from __future__ import annotations

import time

import httpx
import pytest
from harness import token

from keypool_asgi import Limit, Team, UpstreamKey
from keypool_asgi.testing import Simulator, SocketFault

from .gateway import KEY_A
from .streaming_callers import CALLERS, Wish, async_python, minted, node, python, python_at
from .streaming_cases import CASES, NO_KEYS, Case, one_open, team
from .streaming_pool import OWN_TOKENS, health_of, live

# The SDK's own affair: it calls pydantic and websockets by old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

each_caller = pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
each_typical_case = pytest.mark.parametrize(
    "case", [case for case in CASES if case.typical], ids=lambda case: case.name
)

HASTE = {"connection_retry_delay": 0.01}
EXPIRED = "The temporary token has expired. Make a new one for each connection."


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_python_shows_our_sentence(case: Case) -> None:
    """In the handler of errors, in place of the SDK's own text for the code; and it does not try again."""
    with case.arranged() as pool:
        heard = python(pool, Wish(case.token, patience=HASTE))
        assert heard.errors == [(case.sentence, case.code)]
        assert heard.messages == []
        assert pool.refused(1)


@each_typical_case
def test_async_python_shows_our_sentence(case: Case) -> None:
    with case.arranged() as pool:
        heard = async_python(pool, Wish(case.token, patience=HASTE))
        assert heard.errors == [(case.sentence, case.code)]
        assert heard.messages == []
        assert pool.refused(1)


@each_typical_case
def test_node_shows_our_sentence(case: Case) -> None:
    """In what ``connect()`` throws; it tries again only where that may help."""
    with case.arranged() as pool:
        heard = node(pool, Wish(case.token, patience=HASTE))
        assert heard.errors == [(case.sentence, case.code)]
        assert pool.refused(1 if case.code in (4001, 4002) else 3)


@each_typical_case
def test_an_operator_may_want_statuses(case: Case) -> None:
    """With ``socket_refusals="http"`` Python shows the number alone, and no session is opened for it."""
    with case.arranged(socket_refusals="http") as pool:
        heard = python(pool, Wish(case.token))
        assert heard.errors == [(f"WebSocket handshake rejected (HTTP {case.status})", case.status)]
        assert pool.refused(1)


def test_node_tries_again_after_any_status() -> None:
    with live(socket_refusals="http") as pool:
        heard = node(pool, Wish(token("nobody"), patience=HASTE))
        assert heard.errors == [("Unexpected server response: 401", None)]
        assert pool.refused(3)


def test_attempts_that_were_in_vain_are_not_counted() -> None:
    """Node asks three times while there are no keys; the one request that the team has is still there then."""
    keys = []
    limited = team(limits=[Limit("requests", 1, per="hour")])()
    with live(keys=lambda: keys, **limited) as pool:
        assert node(pool, Wish(pool.token, patience=HASTE)).errors == [(NO_KEYS, 1013)]
        assert pool.refused(3)
        keys.append(UpstreamKey("a", KEY_A, project="alpha", account="acme"))
        pool.served.call(pool.app.reload_keys)
        assert node(pool, Wish(pool.token, patience=HASTE)).errors == []


def test_the_place_of_a_session_that_has_ended_is_free() -> None:
    with live(**team(limits=[Limit("concurrency", 1)])()) as pool:
        with one_open(pool):
            assert [code for _, code in python(pool, Wish(pool.token)).errors] == [4002]
        pool.rest()
        assert python(pool, Wish(pool.token)).errors == []


# Temporary tokens


def test_a_temporary_token_that_has_expired() -> None:
    with live(**OWN_TOKENS) as pool:
        old = minted(pool.api_host, pool.token, {"expires_in_seconds": 1})
        time.sleep(1.1)
        for caller in CALLERS.values():
            assert caller(pool, Wish(old, temporary=True)).errors == [(EXPIRED, 4001)]
        assert pool.refused(len(CALLERS))


def test_a_team_token_is_not_taken_from_a_url() -> None:
    """As a user has it who gives Node the team token for a temporary one. The server logs URLs: it has no mark."""
    plain = "a-team-token-that-servers-log"
    with live(teams={plain: Team("sdk-users")}) as pool:
        ((text, code),) = node(pool, Wish(plain, temporary=True)).errors
        assert text.startswith("The token in the URL is no temporary token that was made here lately.")
        assert code == 4001


def test_who_may_not_mint_is_told_so() -> None:
    """Python shows the status alone; Node our sentence."""
    with live(**team(operations=["streaming.session"])()) as pool:
        with pytest.raises(httpx.HTTPStatusError, match="403 Forbidden"):
            minted(pool.api_host, pool.token, {"expires_in_seconds": 60})
        heard = node(pool, Wish(pool.token, mint={"expires_in_seconds": 60}))
        assert heard.errors == [("This team may not use the operation streaming.token.", None)]


# What is upstream's to say

BEGINNING = (
    SocketFault.refused(3006, "Invalid parameter: sample_rate is 1"),
    SocketFault.refused(3007, "Input duration violation: 3 ms. Expected between 50 and 1000 ms"),
    SocketFault.closed(3006, "See Error message for details", before_begin=True),
)
MIDDLE = (
    SocketFault.errored(3005, "Session Cancelled: An error occurred", after=2),
    SocketFault.closed(1011, "server is down", after=2),
    SocketFault.closed(4321, "a code of their own", after=2),
    SocketFault.closed(3008, "Session Expired: Maximum session duration exceeded", after=2),
)


def told_alone(fault: SocketFault) -> list[tuple[str, int | None]]:
    """What Python's user sees of a fault without a pool."""
    with Simulator().running() as sim:
        sim.fail(fault)
        return python_at(sim.socket_origins["streaming"], Wish(sim.key)).errors


@pytest.mark.parametrize("fault", [*BEGINNING, *MIDDLE], ids=lambda fault: str(fault.does[0])[:60])
def test_upstreams_own_errors_are_passed_on(fault) -> None:
    with live() as pool:
        pool.sim.fail(fault)
        assert python(pool, Wish(pool.token)).errors == told_alone(fault) != []
        pool.rest()
        assert {health_of(pool, key) for key in ("a", "b")} == {"active"}


@pytest.mark.parametrize("caller", [python, node])
def test_what_every_key_is_refused_for_may_be_the_sessions_own_fault(caller) -> None:
    """Upstream's words are the caller's to read then: as final, and without blame for any key."""
    said = "Unauthorized Connection: this model is not for short audio"
    with live() as pool:
        pool.sim.fail(SocketFault.refused(1008, said))
        heard = caller(pool, Wish(pool.token, patience=HASTE))
        assert heard.errors == [(f"AssemblyAI refuses this session: {said}", 4001)]
        assert pool.refused(1)
        pool.rest()
        assert {health_of(pool, key) for key in ("a", "b")} == {"active"}

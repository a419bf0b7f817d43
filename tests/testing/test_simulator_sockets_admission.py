"""Who may open a session: keys, funds, limits, temporary tokens; told in band, or by a status."""

from __future__ import annotations

import contextlib
import json

import httpx
import pytest
from dialing import close_of, dial, read_json, rest, say
from websockets.exceptions import ConnectionClosed, InvalidStatus


def refused(sim, code: int, text: str, **settings) -> None:
    with dial(sim, **settings) as ws:
        said = rest(ws)
        assert said == [{"type": "Error", "error_code": code, "error": text}]
        assert close_of(ws) == (code, text)
    session = sim.sessions[-1]
    assert (session.state, session.begun, session.refusal) == ("closed", False, text)
    assert (sim.open_sessions, sim.bill, sim.violations) == (0, [], [])


@pytest.mark.parametrize("key", ["nobody", "Bearer {}"])
def test_a_bad_key_is_told_in_band(sim, key) -> None:
    refused(sim, 1008, "Unauthorized Connection: Invalid API key", key=key.format(sim.key))


def test_no_key_is_told_in_band(sim) -> None:
    refused(sim, 1008, "Unauthorized Connection: Missing Authorization header", key=None)


def test_a_key_of_the_other_region_is_a_bad_key(sim) -> None:
    refused(sim, 1008, "Unauthorized Connection: Invalid API key", region="eu")


def test_revoked_disabled_and_without_funds(sim) -> None:
    sim.revoke_key(sim.key)
    refused(sim, 1008, "Unauthorized Connection: Invalid API key")
    sim.restore_key(sim.key)
    sim.disable_account("account-1")
    refused(sim, 1008, "Unauthorized Connection: Account is disabled")
    assert httpx.get(f"{sim.url}/v2/transcript", headers={"authorization": sim.key}).status_code == 401
    sim.disable_account("account-1", disabled=False)
    sim.set_balance("account-1", -1)
    refused(sim, 1008, "Unauthorized Connection: Insufficient account balance")
    sim.set_balance("account-1", 1)
    sim.throttle("account-1")
    refused(sim, 3009, "Unauthorized Connection: Too many concurrent sessions")
    sim.unthrottle("account-1")
    with dial(sim) as ws:
        assert read_json(ws)["type"] == "Begin"


def test_too_many_sessions_at_once_count_those_that_were_dropped(timed, clock) -> None:
    timed.limit_sessions("account-1", at_once=2)
    with dial(timed):
        with dial(timed):
            pass
        timed.wait_until(lambda sim: sim.sessions[1].state == "dropped")
        with dial(timed) as ws:
            assert close_of(ws) == (3009, "Unauthorized Connection: Too many concurrent sessions")
        clock.now += 10_801
        with dial(timed) as ws:
            assert read_json(ws)["type"] == "Begin"


def ended(ws) -> int:
    with contextlib.suppress(ConnectionClosed):
        say(ws, "Terminate")
    return close_of(ws)[0]


def test_too_many_sessions_in_a_minute(timed, clock) -> None:
    timed.limit_sessions("account-1", per_minute=1)
    for wait, code in [(0, 1000), (59, 3009), (1, 1000)]:
        clock.now += wait
        with dial(timed) as ws:
            assert ended(ws) == code


def test_refusals_can_be_told_by_a_status(sim) -> None:
    sim.settings.refuse_in_band = False
    sim.limit_sessions("account-1", at_once=0)
    for key, status in [("nobody", 401), ("", 429)]:
        with pytest.raises(InvalidStatus) as caught, dial(sim, key=key):
            pass
        assert caught.value.response.status_code == status
        assert "Unauthorized Connection" in json.loads(caught.value.response.body)["error"]
    assert sim.sessions == []
    sim.limit_sessions("account-1")
    with dial(sim) as ws:
        assert read_json(ws)["type"] == "Begin"


# Temporary tokens


@pytest.mark.parametrize("place", ["query", "header"])
def test_a_temporary_token_stands_for_its_key(timed, clock, place) -> None:
    other = timed.add_key(project=timed.add_project("project-2", account="account-1").name)
    url = timed.origins["streaming"] + "/v3/token?expires_in_seconds=60&max_session_duration_seconds=120"
    token = httpx.get(url, headers={"authorization": other}).json()["token"]
    where = {"key": None, "token": token} if place == "query" else {"key": token}
    clock.now += 60
    with dial(timed, **where) as ws:
        assert read_json(ws)["expires_at"] == clock.now + 120
        clock.now += 120
        assert close_of(ws)[0] == 3008
    session = timed.sessions[0]
    assert (session.key, session.project, session.token) == (other, "project-2", token)
    assert timed.billed("stream_seconds", key=other) == 120
    assert token not in repr(session)
    assert timed.violations == []
    clock.now += 1
    with dial(timed, **where) as ws:
        assert close_of(ws) == (3008, "Session Expired: the token has expired")


def test_a_token_opens_one_session_or_several(sim) -> None:
    token = sim.add_token()
    for once, code in [(False, 1000), (False, 1000), (True, 1008)]:
        sim.settings.tokens_once = once
        with dial(sim, key=None, token=token) as ws:
            assert ended(ws) == code


def test_a_token_is_for_its_service_and_its_key(sim) -> None:
    refused(sim, 1008, "Unauthorized Connection: Invalid token", key=sim.add_token(service="agents"))
    token = sim.add_token()
    sim.revoke_key(sim.key)
    refused(sim, 1008, "Unauthorized Connection: Invalid API key", key=token)

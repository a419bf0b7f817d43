"""What the first thing that a session brings says about its key: documented words, the simulator's, and anybody's."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from keypool_asgi.core.sessions import Close
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.providers.assemblyai.sessions import SESSION_RULES, judge_session
from keypool_asgi.testing import Simulator

UNAUTHORIZED = "Unauthorized Connection: "
PATHS = {"streaming": "/v3/ws?sample_rate=16000", "agents": "/v1/ws", "tts": "/v1/ws?voice=jane"}

NONE = None
THROTTLED = Verdict(Fault.THROTTLED)
EXHAUSTED = Verdict(Fault.EXHAUSTED)
UNRELATED = Verdict(Fault.UNRELATED)
REJECTED = Verdict(Fault.REJECTED)
DOUBTED = Verdict(Fault.REJECTED, certain=False)
OF_THE_PLAN = Verdict(Fault.REJECTED, certain=False, lasting=False)

# AssemblyAI's documentation of errors of sessions (streaming v3, voice agents, text-to-speech), and what SDKs make of
# each code.
DOCUMENTED = [
    (1000, "", NONE),
    (1001, "", NONE),
    (1005, "", NONE),
    (1006, "", UNRELATED),
    (1008, UNAUTHORIZED + "Missing Authorization header", REJECTED),
    (1008, UNAUTHORIZED + "Invalid API key", REJECTED),
    (1008, "Missing Authorization header", REJECTED),
    (1008, UNAUTHORIZED + "Too many concurrent sessions", THROTTLED),
    (1008, "Too many new sessions", THROTTLED),
    (1008, UNAUTHORIZED + "Insufficient account balance", EXHAUSTED),
    (1008, "Your current account balance is negative. Please top up to continue.", EXHAUSTED),
    (1008, UNAUTHORIZED + "Account is disabled", REJECTED),
    (1008, "See Error message for details", OF_THE_PLAN),
    (1008, "Telephony is not part of your plan", OF_THE_PLAN),
    (1008, "This key has expired", DOUBTED),
    (1008, "", OF_THE_PLAN),
    (1009, "Message is over 131072 bytes", NONE),
    (1011, "Internal error", UNRELATED),
    (1012, "restart", UNRELATED),
    (1013, "", UNRELATED),
    (3005, "Session Cancelled: An error occurred", UNRELATED),
    (3006, "Invalid Message Type: Hello", NONE),
    (3006, "Session terminated due to inactivity", NONE),
    (3007, "Input duration violation: 10 ms. Expected between 50 and 1000 ms", NONE),
    (3008, "Session Expired: Maximum session duration exceeded", NONE),
    (3009, "Too many concurrent sessions", THROTTLED),
    (3010, "More than 8000 characters wait to be spoken", NONE),
    (3012, "The voice is gone", NONE),
    (4000, "Sample rate must be a positive integer", NONE),
]


@pytest.mark.parametrize(("code", "text", "verdict"), DOCUMENTED)
def test_a_documented_refusal_by_message_and_by_close_frame(code, text, verdict) -> None:
    assert judge_session(Close(code, text)) == verdict
    assert judge_session(json.dumps({"type": "Error", "error_code": code, "error": text})) == verdict
    assert judge_session(json.dumps({"error": text, "error_code": code})) == verdict


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        ("UNAUTHORIZED", UNAUTHORIZED + "Invalid API key", REJECTED),
        ("unauthorized", "Invalid API key", REJECTED),
        ("FORBIDDEN", "Insufficient account balance", EXHAUSTED),
        ("FORBIDDEN", "something else", OF_THE_PLAN),
        ("INTERNAL_ERROR", "oops", UNRELATED),
        ("server_error", "oops", UNRELATED),
        ("session_not_found", "No such session", NONE),
        ("session_forbidden", "No such agent", NONE),
        ("invalid_value", "Too many tools", NONE),
        ("insufficient_funds", UNAUTHORIZED + "Insufficient account balance", EXHAUSTED),
        ("rate_limited", UNAUTHORIZED + "Too many concurrent sessions", THROTTLED),
    ],
)
def test_voice_agents_name_their_errors(code, text, verdict) -> None:
    message = {"type": "session.error", "code": code, "message": text, "timestamp": "2026-11-22T00:00:00Z"}
    assert judge_session(json.dumps(message)) == verdict


# What the simulator says, over a real socket


REFUSALS = {
    "revoked": (lambda sim, key: sim.revoke_key(key), REJECTED),
    "no funds": (lambda sim, _: sim.set_balance("account-1", -1), EXHAUSTED),
    "throttled": (lambda sim, _: sim.throttle("account-1"), THROTTLED),
    "too many at once": (lambda sim, _: sim.limit_sessions("account-1", at_once=0), THROTTLED),
    "too many a minute": (lambda sim, _: sim.limit_sessions("account-1", per_minute=0), THROTTLED),
    "disabled": (lambda sim, _: sim.disable_account("account-1"), REJECTED),
}


@pytest.fixture(name="sim")
def _sim() -> Iterator[Simulator]:
    with Simulator().running() as sim:
        yield sim


def first_words(sim: Simulator, service: str, key: str | None) -> tuple[str | bytes, Close]:
    """Open a session that is refused; return its only message, and how it is closed."""
    url = sim.socket_origins[service] + PATHS[service]
    headers = {} if key is None else {"Authorization": key}
    with connect(url, additional_headers=headers, compression=None, proxy=None) as ws:
        said = ws.recv(timeout=5)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=5)
    received = closed.value.rcvd
    assert received is not None
    return said, Close(received.code, received.reason)


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("service", PATHS)
def test_a_refusal_of_the_simulators(sim, service, name) -> None:
    change, verdict = REFUSALS[name]
    change(sim, sim.key)
    said, close = first_words(sim, service, sim.key)
    assert judge_session(said) == verdict
    if service == "streaming":  # the others' close frames do not say it again
        assert judge_session(close) == verdict


@pytest.mark.parametrize("service", PATHS)
def test_no_key_at_all_is_a_bad_key(sim, service) -> None:
    said, close = first_words(sim, service, None)
    assert judge_session(said) == REJECTED
    assert judge_session(close) in (REJECTED, DOUBTED, OF_THE_PLAN), "some services say only where to look"


@pytest.mark.parametrize("query", ["sample_rate=lots", "sample_rate=16000&encoding=mp3"])
def test_what_the_caller_asked_for_is_no_fault_of_the_key(sim, query, monkeypatch) -> None:
    monkeypatch.setitem(PATHS, "streaming", "/v3/ws?" + query)
    said, close = first_words(sim, "streaming", sim.key)
    assert json.loads(said)["type"] == "Error"
    assert judge_session(said) is None
    assert judge_session(close) is None


@pytest.mark.parametrize("service", ["streaming", "tts"])
def test_a_session_that_is_served_begins_with_no_refusal(sim, service) -> None:
    url = sim.socket_origins[service] + PATHS[service]
    with connect(url, additional_headers={"Authorization": sim.key}, compression=None, proxy=None) as ws:
        assert judge_session(ws.recv(timeout=5)) is None


# Anybody's words

BLAMING = ["Too many", "Insufficient account balance", "Account balance", "Invalid API key", UNAUTHORIZED.strip()]


@given(st.text(min_size=1, max_size=20), st.sampled_from(BLAMING), st.sampled_from([3006, 3007, 4000, 1009]))
def test_a_callers_words_that_are_echoed_in_an_error_blame_no_key(word, blaming, code) -> None:
    """The codes of a caller's own mistakes decide, whatever the text; it may be the caller's from its first letter."""
    for text in (f"{blaming} {word}", f"{UNAUTHORIZED}{blaming}", f"Invalid Message Type: {blaming}"):
        assert judge_session(json.dumps({"type": "Error", "error_code": code, "error": text})) is None
        assert judge_session(Close(code, text)) is None


@given(st.text(max_size=20), st.sampled_from(BLAMING))
def test_words_within_a_refusal_do_not_count(before, blaming) -> None:
    text = f"Invalid prompt {before!r}: {blaming}"
    verdict = judge_session(json.dumps({"type": "Error", "error_code": 1008, "error": text}))
    assert verdict in (DOUBTED, OF_THE_PLAN), "believed only if another key serves the same"


@given(st.sampled_from(BLAMING))
def test_a_transcript_with_such_words_is_a_served_session(blaming) -> None:
    turn = {"type": "Turn", "transcript": blaming, "error": blaming, "error_code": 1008}
    assert judge_session(json.dumps(turn)) is None
    assert judge_session(blaming) is None
    assert judge_session(blaming.encode()) is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
codes = st.sampled_from([1008, 1011, 3009, "unauthorized", "rate_limited", None, [], {}]) | anything
errors = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["Error", "session.error", "Turn"]) | anything,
        "error_code": codes,
        "code": codes,
        "error": anything,
        "message": anything,
    },
)


@given(errors.map(json.dumps) | anything.map(json.dumps) | st.text(st.characters(codec=None)) | st.binary())
@settings(max_examples=200)
def test_anything_can_be_judged(first) -> None:
    verdict = judge_session(first)
    assert verdict is None or verdict.fault is not Fault.NONE


@pytest.mark.parametrize("count", [50, 900, 990, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_deeply_nested_error_can_be_judged(count, opening, closing) -> None:
    nested = opening * count + ("1" if closing == "}" else "") + closing * count
    verdict = judge_session('{"type":"Error","error_code":1008,"error":' + nested + "}")
    assert verdict in (None, DOUBTED, OF_THE_PLAN)


@given(st.builds(Close, st.integers(0, 65_535), st.text(st.characters(codec=None))))
def test_every_close_can_be_judged(close) -> None:
    verdict = judge_session(close)
    if verdict is not None:
        assert close.code in (1006, 1008, 1011, 1012, 1013, 3005, 3009)


def test_the_end_messages_are_what_upstream_ends_by() -> None:
    for session_rules in SESSION_RULES.values():
        assert json.loads(session_rules.end_message)["type"] in session_rules.ends

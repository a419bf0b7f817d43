"""A wrong relay is caught: handshakes, what may not be forwarded, frames that break RFC 6455, leaks."""

from __future__ import annotations

import pytest
from dialing import PATHS, close_of, dial, masked, raw_session, read_json, rest, say, upgrade
from rawsocket import connect, head, read_all, read_head, talk

from keypool_asgi.testing.simulator.sockets.frames import frame


def status_of(sim, request: bytes) -> int:
    return int(talk(sim, request).split()[1])


# The handshake


def test_the_accept_of_the_standard(sim) -> None:
    """RFC 6455, section 1.3."""
    with connect(sim) as sock:
        sock.sendall(upgrade(sim))
        answer = read_head(sock)
    assert b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" in answer
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"Sec-WebSocket-Protocol" not in answer
    assert b"Sec-WebSocket-Extensions" not in answer


@pytest.mark.parametrize(
    ("without", "fields", "status"),
    [
        ("Connection", ("Connection: keep-alive, Upgrade",), 400),
        ("Connection", ("Connection: close",), 400),
        ("Sec-WebSocket-Version", (), 400),
        ("Sec-WebSocket-Version", ("Sec-WebSocket-Version: 8",), 426),
        ("Sec-WebSocket-Key", (), 400),
        ("Sec-WebSocket-Key", ("Sec-WebSocket-Key: short",), 400),
        ("Sec-WebSocket-Key", ("Sec-WebSocket-Key: c2hvcnQ=",), 400),
        ("", ("Sec-WebSocket-Version: 13",), 400),
        ("", ("Content-Length: 3",), 400),
        ("", ("Transfer-Encoding: chunked",), 400),
        ("", ("Sec-WebSocket-Protocol: keypool-token.tt-1, keypool",), 400),
        ("", ("Origin: https://example.com",), 400),
        ("", ("Cookie: session=1",), 400),
        ("", ("X-Forwarded-For: 10.0.0.1",), 400),
        ("", ("Forwarded: for=10.0.0.1",), 400),
        ("", ("X-KeyPool-Team: a",), 400),
        ("", ("Authorization: another",), 400),
        ("", ("TE: gzip",), 400),
    ],
)
def test_an_upgrade_that_no_sane_proxy_sends(sim, without, fields, status) -> None:
    body = b"abc" if "Content-Length: 3" in fields else b"0\r\n\r\n" * ("chunked" in "".join(fields))
    answer = talk(sim, upgrade(sim, *fields, without=without) + body)
    assert int(answer.split()[1]) == status
    assert (b"Sec-WebSocket-Version: 13" in answer) == (status == 426)
    assert len(sim.violations) == 1
    assert sim.sessions == []


@pytest.mark.parametrize(
    "line",
    [
        "POST /streaming/v3/ws",
        "GET /streaming/v3/ws?token=tt-team",
        "GET http://elsewhere/streaming/v3/ws",
        "GET /streaming/x/../v3/ws",
    ],
)
def test_targets_of_an_upgrade(sim, line) -> None:
    assert status_of(sim, upgrade(sim, line=line)) in (400, 404)
    assert sim.violations
    assert sim.sessions == []


def test_a_key_in_the_query_is_no_token(sim) -> None:
    assert status_of(sim, upgrade(sim, line=f"GET /streaming/v3/ws?token={sim.key}")) == 400
    assert "query parameter token" in sim.violations[0]


def test_a_token_comes_alone(sim) -> None:
    assert status_of(sim, upgrade(sim, line=f"GET /streaming/v3/ws?token={sim.add_token()}")) == 400
    assert "both a token in the query and an Authorization" in sim.violations[0]


def test_the_host_has_to_be_the_origin(sim) -> None:
    assert status_of(sim, upgrade(sim, host="gateway.example.com")) == 400
    assert "Host is" in sim.violations[0]


def test_an_upgrade_of_something_else(sim) -> None:
    assert status_of(sim, upgrade(sim, line="GET /v2/transcript")) == 400
    assert "field upgrade must not be forwarded" in sim.violations[0]


@pytest.mark.parametrize("service", PATHS)
def test_a_session_needs_an_upgrade(sim, service) -> None:
    assert status_of(sim, head(sim, f"GET /{service}{PATHS[service]}")) == 426


def test_frames_before_the_101(sim) -> None:
    with connect(sim) as sock:
        sock.sendall(upgrade(sim) + masked(1, b'{"type":"Terminate"}'))
        assert b"Termination" in read_all(sock)
    assert "bytes after its end" in sim.violations[0]


def test_extensions_are_noted_and_not_accepted(sim) -> None:
    with dial(sim, _compression="deflate") as ws:
        read_json(ws)
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
    assert sim.sessions[0].extensions == ("permessage-deflate; client_max_window_bits",)


def test_extensions_are_accepted_if_it_is_told_to(sim) -> None:
    sim.settings.deflate = True
    with dial(sim, _compression="deflate") as ws:
        assert ws.response.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        read_json(ws)
        ws.send(bytes(3200))
        say(ws, "Terminate")
        assert rest(ws)[-1]["type"] == "Termination"
    assert sim.sessions[0].audio_bytes == 3200
    with dial(sim) as ws:
        assert read_json(ws)["type"] == "Begin"
    assert sim.violations == []


# Frames


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"{}"), 1002),  # not masked
        (masked(1, b"{}", rsv=0x40), 1002),
        (masked(3), 1002),
        (masked(9, b"p", fin=False), 1002),
        (masked(9, b"p" * 126), 1002),
        (masked(0, b"{}"), 1002),
        (masked(1, b"{", fin=False) + masked(1, b"}"), 1002),
        (masked(1, b"\xff\xfe"), 1007),
        (masked(8, b"\x03"), 1002),
        (masked(8, b"\x03\xed"), 1002),
        (masked(8, b"\x03\xe8\xff"), 1007),
    ],
)
def test_a_client_that_breaks_the_protocol(sim, data, code) -> None:
    with raw_session(sim) as sock:
        sock.sendall(data)
        assert frame(8, code.to_bytes(2))[2:4] in read_all(sock)
    assert "broken WebSocket" in sim.violations[0]
    assert (sim.sessions[0].state, sim.sessions[0].server_close[0]) == ("closed", code)
    assert sim.requests[0].outcome == "malformed"


def test_fragments_and_pings_make_one_message(sim) -> None:
    text = '{"type": "UpdateConfiguration", "prompt": "é"}'.encode()
    with raw_session(sim) as sock:
        sock.sendall(masked(1, text[:-3], fin=False) + masked(9, b"now") + masked(0, text[-3:-2], fin=False))
        sock.sendall(masked(10, b"unasked") + masked(0, text[-2:]) + masked(1, b'{"type":"Terminate"}') + masked(8))
        assert frame(10, b"now") in read_all(sock)
    session = sim.sessions[0]
    assert session.messages[0] == ("text", text.decode())
    assert (session.pings, session.pongs, session.client_close) == (1, 1, (None, ""))
    assert sim.violations == []


@pytest.mark.parametrize(
    ("payload", "answer", "told"),
    [
        (b"", b"", (None, "")),
        (b"\x03\xe8", b"\x03\xe8", (1000, "")),
        (b"\x0f\xa0because", b"\x0f\xa0", (4000, "because")),
        (b"\x13\x87" + b"r" * 123, b"\x13\x87", (4999, "r" * 123)),
    ],
)
def test_a_close_is_answered_with_its_code(sim, payload, answer, told) -> None:
    with raw_session(sim) as sock:
        sock.sendall(masked(8, payload))
        assert read_all(sock).endswith(frame(8, answer))
    assert sim.sessions[0].client_close == told


def test_a_message_over_the_limit_is_told_of_before_its_end(sim) -> None:
    with raw_session(sim) as sock:
        sock.sendall(masked(2, bytes(100_000), fin=False) + masked(0, bytes(40_000), fin=False))
        assert b'"error_code":1009' in read_all(sock)


# Looking for leaks


def test_saw_looks_into_sessions(sim) -> None:
    with dial(sim, note="needle-1", _subprotocols=None) as ws:
        say(ws, "UpdateConfiguration", prompt="needle-2")
        ws.send(b"needle-3" + bytes(1600))
        ws.ping(b"needle-4")
        ws.close(4000, "needle-5")
    talk(sim, upgrade(sim, "Sec-WebSocket-Protocol: keypool-token.needle-6"))
    sim.wait_until(lambda sim: not sim.open_requests)
    found = [[record.number for record in sim.saw(f"needle-{number}")] for number in range(1, 8)]
    assert found == [[1]] * 5 + [[2], []]


def test_a_watched_needle_is_found_in_a_long_session(sim) -> None:
    sim.watch("needle")
    with dial(sim) as ws:
        for _ in range(5):
            ws.send(bytes(32_000))
        ws.send(bytes(1600) + b"needle")
        say(ws, "Terminate")
        assert close_of(ws)[0] == 1000
    assert len(sim.saw("needle")) == 1
    with pytest.raises(LookupError, match="watch"):
        sim.saw("another")

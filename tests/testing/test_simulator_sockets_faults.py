"""Faults of sessions: each is played as it says, and the record tells of it."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from dialing import close_of, dial, masked, raw_session, read_json, rest, say
from rawsocket import read_all
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection

from keypool_asgi.testing import INVALID_FRAMES, Fault, Simulator, SocketFault


def begin_of(sim, **settings) -> dict[str, object]:
    with dial(sim, **settings) as ws:
        message = read_json(ws)
        say(ws, "Terminate")
        rest(ws)
        return message


# The upgrade


@pytest.mark.parametrize("status", [401, 403, 429, 503])
def test_an_upgrade_refused_with_a_status(sim, status) -> None:
    sim.fail(Fault.status(status, {"error": "no"}, headers=[(b"Retry-After", b"7")]), times=1)
    with pytest.raises(InvalidStatus) as caught, dial(sim):
        pass
    response = caught.value.response
    assert (response.status_code, response.body, response.headers["Retry-After"]) == (status, b'{"error": "no"}', "7")
    assert (sim.sessions, sim.requests[0].outcome) == ([], "answered")
    assert begin_of(sim)["type"] == "Begin"


def test_no_answer_to_the_upgrade(sim) -> None:
    sim.fail(Fault.stalled(), times=1)
    with pytest.raises(TimeoutError), dial(sim, _open_timeout=0.2):
        pass
    sim.wait_until(lambda sim: not sim.open_requests)
    assert (sim.requests[0].outcome, sim.sessions) == ("abandoned", [])


def test_a_late_answer_to_the_upgrade(sim) -> None:
    sim.fail(Fault.stalled(seconds=0.2), times=1)
    start = time.monotonic()
    assert begin_of(sim)["type"] == "Begin"
    assert time.monotonic() - start > 0.19


@pytest.mark.parametrize("fault", [Fault.malformed("garbage"), Fault.reset(), Fault.fin()])
def test_garbage_for_an_answer(sim, fault) -> None:
    sim.fail(fault)
    with pytest.raises((InvalidMessage, ConnectionError)), dial(sim):
        pass
    assert sim.sessions == []


@pytest.mark.parametrize(
    "field",
    [
        (b"Sec-WebSocket-Accept", b"nonsense"),
        (b"Sec-WebSocket-Protocol", b"unasked"),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
        (b"Upgrade", b"h2c"),
    ],
)
def test_a_wrong_101(sim, field) -> None:
    sim.fail(SocketFault.fields(field))
    with pytest.raises(InvalidHandshake), dial(sim):
        pass


def test_more_fields_in_the_101(sim) -> None:
    sim.fail(SocketFault.fields((b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")))
    with dial(sim) as ws:
        assert ws.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]


def test_which_rule_concerns_what(sim, http) -> None:
    rule = sim.fail(SocketFault.refused(), key=sim.key, times=1)
    assert http.get("/v2/transcript").status_code == 200
    assert rule.matches == 0
    with dial(sim, key=None, token=sim.add_token()) as ws:
        assert close_of(ws)[0] == 1008
    assert rule.hits == 1
    assert sim.requests[-1].fault is rule.fault
    assert begin_of(sim)["type"] == "Begin"


# Before Begin


@pytest.mark.parametrize(("code", "text"), [(1008, "Unauthorized"), (4002, "Insufficient Funds"), (3009, "Too many")])
def test_refused_in_band(sim, code, text) -> None:
    sim.fail(SocketFault.refused(code, text))
    with dial(sim) as ws:
        assert rest(ws) == [{"type": "Error", "error_code": code, "error": text}]
        assert close_of(ws) == (code, text)
    assert (sim.sessions[0].begun, sim.sessions[0].refusal, sim.bill) == (False, text, [])


def test_refused_after_the_first_message(sim) -> None:
    sim.fail(SocketFault.refused().but(after=1))
    with dial(sim) as ws:
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.1)
        say(ws, "KeepAlive")
        assert [message["type"] for message in rest(ws)] == ["Error"]


@pytest.mark.parametrize(("code", "reason"), [(1012, "restart"), (None, ""), (1000, "")])
def test_closed_before_begin(sim, code, reason) -> None:
    sim.fail(SocketFault.closed(code, reason, before_begin=True))
    with dial(sim) as ws:
        assert rest(ws) == []
        assert close_of(ws) == (code or 1005, reason)
    assert (sim.sessions[0].state, sim.bill) == ("closed", [])


@pytest.mark.parametrize("how", ["reset", "fin"])
@pytest.mark.parametrize("before_begin", [True, False])
def test_dropped(sim, how, before_begin) -> None:
    sim.fail(SocketFault.dropped(how, before_begin=before_begin))
    with dial(sim) as ws:
        assert len(rest(ws)) == (not before_begin)
        assert close_of(ws) is None
    sim.wait_until(lambda sim: not sim.open_requests)
    assert (sim.requests[0].outcome, sim.sessions[0].state) == ("cut", "closed")


def test_a_late_begin(sim) -> None:
    sim.fail(SocketFault.late(0.2), times=1)
    with dial(sim) as ws:
        start = time.monotonic()
        ws.send(bytes(32_000))
        messages = [read_json(ws)["type"] for _ in range(2)]
        assert messages == ["Begin", "SpeechStarted"]
        assert time.monotonic() - start > 0.15


def test_no_begin_and_still_a_meter(sim) -> None:
    sim.fail(SocketFault.silent())
    with dial(sim) as ws, pytest.raises(TimeoutError):
        ws.recv(timeout=0.1)
    sim.wait_until(lambda sim: sim.sessions[0].state == "dropped")
    assert (sim.sessions[0].begun, sim.open_sessions) == (False, 1)


# In the middle


@pytest.mark.parametrize(
    ("code", "reason"), [(1011, "oops"), (1012, ""), (4999, "r" * 123), (None, ""), (1000, "é" * 61)]
)
def test_closed_after_so_many_messages(sim, code, reason) -> None:
    sim.fail(SocketFault.closed(code, reason, after=2))
    with dial(sim) as ws:
        read_json(ws)
        for _ in range(2):
            ws.send(bytes(32_000))
        assert len(rest(ws)) > 2
        assert close_of(ws) == (code or 1005, reason)
    session = sim.sessions[0]
    assert (session.state, session.server_close) == ("closed", (code, reason))
    assert sim.billed("stream_seconds") > 0


def test_a_reason_is_cut_between_characters(sim) -> None:
    sim.fail(SocketFault.closed(4000, "é" * 100))
    with dial(sim) as ws:
        assert close_of(ws) == (4000, "é" * 61)


def test_an_error_right_after_begin(sim) -> None:
    sim.fail(SocketFault.errored(3005, "Session Cancelled"))
    with dial(sim) as ws:
        assert [message["type"] for message in rest(ws)] == ["Begin", "Error"]
        assert close_of(ws) == (3005, "Session Cancelled")


def test_messages_of_ones_own(sim) -> None:
    warning = {"type": "Warning", "warning_code": 1, "warning": "slow"}
    sim.fail(SocketFault.says(warning, "plain", b"bytes").and_then(SocketFault.empty()))
    with dial(sim) as ws:
        read_json(ws)
        assert read_json(ws) == warning
        assert [ws.recv(timeout=5) for _ in range(4)] == ["plain", b"bytes", "", b""]


@pytest.mark.parametrize("binary", [True, False])
def test_a_giant_message(sim, binary) -> None:
    sim.fail(SocketFault.giant(binary=binary))
    with dial(sim) as ws:
        read_json(ws)
        assert len(ws.recv(timeout=10)) == 16 << 20


@pytest.mark.parametrize("message", ["text é" * 10, b"bytes" * 10, {"type": "Warning"}, ""])
def test_a_message_in_fragments(sim, message) -> None:
    sim.fail(SocketFault.fragmented(message, 5, pings=2))
    with dial(sim) as ws:
        read_json(ws)
        received = list(ws.recv_streaming())
        say(ws, "Terminate")
        rest(ws)
    assert len(received) == 5
    assert type(received[0])().join(received) == (
        message if isinstance(message, str | bytes) else '{"type": "Warning"}'
    )
    assert sim.sessions[0].pongs == 8


def test_a_flood_of_pings(sim) -> None:
    sim.fail(SocketFault.pinged(2500, b"flood"))
    with dial(sim) as ws:
        read_json(ws)
        sim.wait_until(lambda sim: sim.sessions[0].pongs == 2500)


@pytest.mark.parametrize("kind", INVALID_FRAMES)
def test_frames_that_break_the_protocol(sim, kind) -> None:
    sim.fail(SocketFault.invalid(kind))
    client = Connection(ConnectionType.CLIENT)
    with raw_session(sim) as sock:
        data = b""
        while INVALID_FRAMES[kind] not in data:
            data += sock.recv(65_536)
        client.receive_data(data)
        assert type(list(client.events())[-1]) is CloseConnection
        assert client.state is ConnectionState.OPEN, "the close is the parser's own"
    sim.wait_until(lambda sim: not sim.open_requests)


def test_a_client_closes_on_a_frame_that_breaks_the_protocol(sim) -> None:
    sim.fail(SocketFault.invalid("utf-8"))
    with dial(sim) as ws:
        read_json(ws)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=5)
    assert closed.value.sent.code == 1007
    sim.wait_until(lambda sim: not sim.open_requests)
    assert sim.sessions[0].client_close[0] == 1007


# Stalls


def test_stalled_until_it_is_released(sim) -> None:
    sim.fail(SocketFault.stalled(after=1))
    with dial(sim) as ws:
        read_json(ws)
        say(ws, "KeepAlive")
        say(ws, "Terminate")
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.2)
        assert (sim.sessions[0].state, sim.sessions[0].received) == ("open", 1)
        sim.release()
        assert rest(ws)[-1]["type"] == "Termination"


def test_stalled_in_sending_only(sim) -> None:
    sim.fail(SocketFault.stalled(0.3, what="sending", after=1))
    with dial(sim) as ws:
        read_json(ws)
        say(ws, "KeepAlive")
        ws.ping()
        say(ws, "Terminate")
        sim.wait_until(lambda sim: sim.sessions[0].state == "terminated")
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.1)
        assert rest(ws)[-1]["type"] == "Termination"


def test_stalled_in_reading_only(sim) -> None:
    sim.fail(SocketFault.stalled(what="reading", after=1))
    sim.settings.echo = True
    with dial(sim) as ws:
        read_json(ws)
        ws.send("one")
        assert ws.recv(timeout=5) == "one"
        ws.send("two")
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.1)
        sim.release()
        assert ws.recv(timeout=5) == "two"


def test_who_leaves_a_stalled_session_has_not_been_heard(sim) -> None:
    sim.fail(SocketFault.stalled())
    with raw_session(sim) as sock:
        sock.sendall(masked(1, b'{"type":"Terminate"}') + masked(8))
        time.sleep(0.05)
    sim.wait_until(lambda sim: not sim.open_requests)
    assert (sim.sessions[0].state, sim.sessions[0].received, sim.open_sessions) == ("dropped", 0, 1)


def test_what_was_sent_during_a_short_stall_is_heard(sim) -> None:
    sim.fail(SocketFault.stalled(0.2))
    with raw_session(sim) as sock:
        sock.sendall(masked(1, b'{"type":"Terminate"}') + masked(8))
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    assert sim.sessions[0].state == "terminated"


def test_a_stalled_reader_pushes_back(sim) -> None:
    sim.fail(SocketFault.stalled(what="reading"))
    with raw_session(sim) as sock:
        sock.settimeout(0.3)
        sent, chunk = 0, masked(2, bytes(65_536)) * 4
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                sent += sock.send(chunk)
    assert sent < 32 << 20


def test_a_close_during_a_stall_is_answered_after_it(sim) -> None:
    sim.fail(SocketFault.stalled(0.2, what="sending"))
    with raw_session(sim) as sock:
        start = time.monotonic()
        sock.sendall(masked(8, b"\x03\xe8"))
        assert read_all(sock).endswith(b"\x88\x02\x03\xe8")
        assert time.monotonic() - start > 0.15


def test_a_client_that_never_answers_the_close(sim) -> None:
    sim.fail(SocketFault.closed(1011))
    with raw_session(sim) as sock:
        assert read_all(sock).endswith(b"\x88\x02\x03\xf3")
    assert (sim.sessions[0].client_close, sim.sessions[0].state) == (None, "closed")


def test_a_stop_ends_a_stalled_session() -> None:
    sim = Simulator()
    sim.fail(SocketFault.stalled())
    with sim.running(), raw_session(sim) as sock:
        sim.wait_until(lambda sim: sim.open_sessions == 1)
        sim.stop()
        read_all(sock)
    assert (sim.open_sessions, sim.sessions[0].state) == (0, "closed")

"""What the border does to one session's messages: refusals in the form that the caller sees, and what is noted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from harness import run, secret, token
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi import KeyPool, Team, UpstreamKey
from keypool_asgi.core.close_codes import REASON_BYTES
from keypool_asgi.stages.socket_watch import SocketWatch

CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept", "subprotocol": None}
DENIALS = {"websocket.http.response": {}}
REFUSAL = {"error": "The team token is unknown.", "code": "UNAUTHORIZED", "request_id": "r-1"}

Message = dict[str, Any]


class Server:
    """The server's two ends: messages that it has for the app, and those that it was sent."""

    def __init__(self, *messages: Message) -> None:
        self.messages = [CONNECT, *messages]
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        assert self.messages, "the server has nothing more: this would wait for ever"
        return self.messages.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def watch(self, form: str = "http", *, extensions: Any = DENIALS, subprotocol: str | None = None) -> SocketWatch:
        scope = {"type": "websocket"} if extensions is None else {"type": "websocket", "extensions": extensions}
        return SocketWatch(scope, self.receive, self.send, form=form, subprotocol=subprotocol)  # type: ignore[arg-type]


def denial(status: int, *bodies: bytes) -> list[Message]:
    """The messages of a denial response, its body in so many pieces."""
    kind = "websocket.http.response"
    last = len(bodies) - 1
    return [
        {"type": f"{kind}.start", "status": status, "headers": [(b"content-type", b"application/json")]},
        *({"type": f"{kind}.body", "body": body, "more_body": n < last} for n, body in enumerate(bodies)),
    ]


def sent_through(watch: SocketWatch, messages: Iterable[Message]) -> None:
    async def send_all() -> None:
        for message in messages:
            await watch.send(message)

    run(send_all())


def received_through(watch: SocketWatch, count: int) -> list[Message]:
    async def receive_all() -> list[Message]:
        return [await watch.receive() for _ in range(count)]

    return run(receive_all())


# Refusals with a status


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_a_refusal_with_a_status_is_complete_however_its_body_comes(pieces) -> None:
    server = Server()
    watch = server.watch()
    body = json.dumps(REFUSAL).encode()
    size = len(body) // pieces + 1
    messages = denial(401, *(body[start : start + size] for start in range(0, len(body), size)))
    sent_through(watch, messages)
    assert server.messages == [], "servers want the connect to have been read"
    assert server.sent[0] == messages[0]
    assert b"".join(each.get("body", b"") for each in server.sent[1:]) == body
    assert not server.sent[-1].get("more_body", False), "the server would wait for more"
    assert (watch.status, watch.complete, watch.close_code) == (401, True, None)


def test_a_status_is_shown_only_with_the_whole_refusal() -> None:
    server = Server()
    watch = server.watch()
    sent_through(watch, denial(503, b"{}")[:1])
    assert (server.sent, watch.status, watch.complete) == ([], 503, False)


@pytest.mark.parametrize("extensions", [None, {}, {"tls": {}}])
def test_a_server_that_cannot_deny_closes_instead(extensions) -> None:
    server = Server()
    watch = server.watch(extensions=extensions)
    sent_through(watch, denial(403, b"{}"))
    assert server.sent == [{"type": "websocket.close"}], "before accept: an empty 403 of the server's own"
    assert (watch.status, watch.complete) == (403, True)


def test_after_a_refusal_the_end_is_told_again_and_again() -> None:
    server = Server()
    watch = server.watch()
    sent_through(watch, denial(401, b"{}"))
    assert [message["type"] for message in received_through(watch, 3)] == ["websocket.disconnect"] * 3


# Refusals in band


@pytest.mark.parametrize(
    ("status", "code"), [(401, 4001), (403, 4001), (404, 4001), (410, 4001), (429, 4002), (502, 1013), (503, 1013)]
)
@pytest.mark.parametrize("subprotocol", [None, "keypool"])
def test_a_refusal_in_band(status, code, subprotocol) -> None:
    server = Server()
    watch = server.watch("in_band", subprotocol=subprotocol)
    sent_through(watch, denial(status, json.dumps(REFUSAL).encode()))
    accept, error, close = server.sent
    assert accept == {"type": "websocket.accept", "subprotocol": subprotocol}
    told = {"type": "Error", "error_code": code, "error_type": "unauthorized", "retryable": status in (429, 502, 503)}
    assert json.loads(error["text"]) == told | REFUSAL
    assert close == {"type": "websocket.close", "code": code, "reason": REFUSAL["error"]}
    assert (watch.status, watch.close_code, watch.complete) == (status, code, True)


def test_a_refusal_in_band_whose_body_comes_in_pieces() -> None:
    server = Server()
    body = json.dumps(REFUSAL).encode()
    sent_through(server.watch("in_band"), denial(401, body[:10], body[10:], b""))
    assert json.loads(server.sent[1]["text"])["error"] == REFUSAL["error"]


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[]", b'"error"', b"null", b'{"detail":"no"}', b"\xff\xfe"])
def test_a_refusal_of_somebody_elses_is_told_by_its_status(body) -> None:
    server = Server()
    sent_through(server.watch("in_band"), denial(403, body))
    error = json.loads(server.sent[1]["text"])
    assert error["error"] == "The request was refused: HTTP 403."
    assert (error["type"], error["error_code"], error["error_type"]) == ("Error", 4001, "refused")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"7")], 7),
        ([(b"content-type", b"text/plain"), (b"retry-after", b"0")], 0),
        ([], None),
        ([(b"retry-after", b"Sun, 22 Nov 2026 18:00:00 GMT")], None),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"-1")], None),
        (None, None),
    ],
)
def test_when_to_come_back_is_told_in_band_too(headers, seconds) -> None:
    start, body = denial(429, b"{}")
    del start["headers"]
    server = Server()
    sent_through(server.watch("in_band"), [start if headers is None else {**start, "headers": headers}, body])
    assert json.loads(server.sent[1]["text"]).get("retry_after_seconds") == seconds


@pytest.mark.parametrize("form", ["http", "in_band"])
def test_a_refusal_after_the_caller_was_accepted_is_told_in_band(form) -> None:
    server = Server()
    watch = server.watch(form)
    sent_through(watch, [ACCEPT, *denial(503, json.dumps(REFUSAL).encode())])
    assert [each["type"] for each in server.sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert json.loads(server.sent[1]["text"])["error"] == REFUSAL["error"]
    assert watch.close_code == 1013


@given(st.text(st.characters(codec=None), max_size=300) | st.integers() | st.none() | st.lists(st.text(max_size=5)))
def test_every_sentence_fits_into_a_close_frame(sentence) -> None:
    server = Server()
    sent_through(server.watch("in_band"), denial(503, json.dumps({"error": sentence}).encode()))
    reason = server.sent[-1]["reason"]
    assert len(reason.encode()) <= REASON_BYTES
    assert json.loads(server.sent[1]["text"])["error"] == sentence


# Callers that have left


GONE = {"type": "websocket.disconnect", "code": 1006}


@pytest.mark.parametrize("form", ["http", "in_band"])
def test_nobody_is_refused_who_has_left(form) -> None:
    server = Server(GONE)
    watch = server.watch(form)
    received_through(watch, 2)
    sent_through(watch, [*denial(401, b"{}"), {"type": "websocket.close", "code": 1000}])
    assert server.sent == []
    assert not watch.complete


@pytest.mark.parametrize(
    ("message", "code", "complete"),
    [
        (GONE, 1006, False),
        ({"type": "websocket.disconnect", "code": 1000, "reason": "bye"}, 1000, True),
        ({"type": "websocket.disconnect", "code": 4000}, 4000, True),
        ({"type": "websocket.disconnect"}, 1005, True),
    ],
)
def test_how_a_caller_has_left_is_noted_and_told_again(message, code, complete) -> None:
    server = Server(message)
    watch = server.watch()
    assert received_through(watch, 4) == [CONNECT, message, message, message]
    assert (watch.close_code, watch.complete) == (code, complete)


def test_a_session_that_we_have_closed_is_over_for_the_app() -> None:
    server = Server()
    watch = server.watch()
    sent_through(watch, [ACCEPT, {"type": "websocket.close", "code": 4408, "reason": "idle"}])
    assert received_through(watch, 2) == [{"type": "websocket.disconnect", "code": 4408}] * 2
    assert (watch.status, watch.close_code, watch.complete) == (101, 4408, True)


def test_only_the_first_close_is_sent() -> None:
    server = Server()
    watch = server.watch()
    sent_through(watch, [ACCEPT, {"type": "websocket.close"}, {"type": "websocket.close", "code": 1011}])
    assert server.sent == [ACCEPT, {"type": "websocket.close"}]
    assert watch.close_code == 1000, "what a close without a code means (RFC 6455, section 7.4.1)"


def test_that_the_caller_has_left_is_told_to_who_sends() -> None:
    async def broken(_message: Message) -> None:
        raise OSError("the caller has left")

    server = Server()
    watch = SocketWatch({"type": "websocket"}, server.receive, broken, form="http", subprotocol=None)
    with pytest.raises(OSError, match="has left"):
        sent_through(watch, [ACCEPT])


# What passes


def test_messages_pass_as_they_are_and_are_counted() -> None:
    up = [
        {"type": "websocket.receive", "bytes": b"12345", "text": None},
        {"type": "websocket.receive", "text": "é!"},
        {"type": "websocket.receive", "bytes": b""},
        {"type": "websocket.receive", "text": "", "bytes": None},
    ]
    down = [
        ACCEPT,
        {"type": "websocket.send", "text": "abc"},
        {"type": "websocket.send", "bytes": b"1234", "text": None},
        {"type": "websocket.send", "bytes": None, "text": ""},
        {"type": "websocket.send", "bytes": b""},
    ]
    server = Server(*up)
    watch = server.watch()
    sent_through(watch, down)
    received = received_through(watch, len(up))
    assert received == up
    assert all(got is given for got, given in zip(received, up, strict=True))
    assert all(got is given for got, given in zip(server.sent, down, strict=True))
    assert (watch.request_bytes, watch.response_bytes, watch.status) == (7, 7, 101)
    assert not watch.complete


def test_the_connect_is_read_before_the_caller_is_accepted() -> None:
    server = Server()
    sent_through(server.watch(), [ACCEPT])
    assert server.messages == []


def test_a_connect_that_the_app_has_read_is_not_waited_for_again() -> None:
    server = Server()
    watch = server.watch()
    assert received_through(watch, 1) == [CONNECT]
    sent_through(watch, [ACCEPT])
    assert server.sent == [ACCEPT]


def test_messages_of_extensions_pass() -> None:
    server = Server()
    unknown = {"type": "websocket.something.new", "value": 1}
    sent_through(server.watch(), [unknown])
    assert server.sent == [unknown]


def test_a_server_may_leave_out_what_is_optional_in_a_scope() -> None:
    """ASGI specification, WebSocket connection scope: ``query_string`` and ``subprotocols`` among others."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        pool = KeyPool(keys=[UpstreamKey("k1", secret("k1"))], teams={token("a"): Team("a")})
        await pool({"type": "websocket", "path": "/v1/assemblyai/v3/ws", "headers": []}, receive, send)
        await pool.aclose()

    run(main())
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert json.loads(sent[1]["text"])["code"] == "UNAUTHORIZED"

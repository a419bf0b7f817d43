"""The opening handshake as bytes (RFC 6455, section 4): what is asked, and which answers are taken."""

from __future__ import annotations

import base64
import traceback

import pytest

from keypool_asgi.core.messages import Origin, RequestHead
from keypool_asgi.errors import ProtocolViolation, UpgradeRefused
from keypool_asgi.upstream.sockets.handshake import AnswerReader, encode_upgrade

from .socket_tools import KEY, switch, upgrade_head

ORIGIN = Origin("https", "streaming.test", 443)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3
HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n"
)


def lines(data: bytes) -> list[bytes]:
    assert data.endswith(b"\r\n\r\n")
    return data[:-4].split(b"\r\n")


def test_the_request() -> None:
    upgrade = encode_upgrade(upgrade_head(ORIGIN, (b"X-oDD", b"caf\xe9 , \t kept")))
    sent = lines(upgrade.request.data)
    assert sent[:5] == [
        b"GET /v3/ws?sample_rate=16000 HTTP/1.1",
        b"Host: streaming.test",
        b"authorization: " + KEY.encode(),
        b"X-oDD: caf\xe9 , \t kept",
        b"Upgrade: websocket",
    ]
    assert sent[5:7] == [b"Connection: Upgrade", b"Sec-WebSocket-Version: 13"]
    name, nonce = sent[7].split(b": ")
    assert (name, len(base64.b64decode(nonce, validate=True)), len(sent)) == (b"Sec-WebSocket-Key", 16, 8)
    assert switch(upgrade.request.data).count(upgrade.accept) == 1


def test_every_nonce_is_fresh() -> None:
    assert len({encode_upgrade(upgrade_head(ORIGIN)).accept for _ in range(50)}) == 50


@pytest.mark.parametrize("part", [b"\r\n", b"\n", b"\r", b"\0"])
@pytest.mark.parametrize("where", ["name", "value", "target"])
def test_no_head_that_would_be_two(part: bytes, where: str) -> None:
    head = upgrade_head(ORIGIN, (b"x" + part * (where == "name"), b"a" + part * (where == "value") + b"b"))
    if where == "target":
        head = RequestHead(head.method, head.origin, head.target + part, head.headers, head.patience)
    with pytest.raises(ValueError, match="CR, LF or NUL") as caught:
        encode_upgrade(head)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in shown.stack if "keypool_asgi" in frame.filename]
    assert ours
    assert KEY not in repr([(frame.line, frame.locals) for frame in ours])
    assert KEY not in repr(caught.value)


@pytest.mark.parametrize(
    "field",
    [
        (b"connection", b"keep-alive"),
        (b"UPGRADE", b"websocket"),
        (b"sec-websocket-key", b"x"),
        (b"Sec-WebSocket-Protocol", b"token"),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
        (b"content-length", b"5"),
        (b"transfer-encoding", b"chunked"),
    ],
)
def test_fields_that_are_not_the_callers(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="upgrade"):
        encode_upgrade(upgrade_head(ORIGIN, field))


def test_another_method_than_get() -> None:
    with pytest.raises(ValueError, match="GET"):
        encode_upgrade(RequestHead(b"POST", ORIGIN, b"/", [], 1))


# The answer


def read(data: bytes, *, bytewise: bool = False) -> bytes | UpgradeRefused | None:
    reader = AnswerReader(ACCEPT)
    for piece in [data[n : n + 1] for n in range(len(data))] if bytewise else [data]:
        rest = reader.feed(piece)
        if rest is not None:
            return rest + (data[data.index(b"\r\n\r\n") + 4 :] if bytewise else b"")
    return reader.refusal() if reader.refused else None


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        HEAD.replace(b" Switching Protocols", b""),
        HEAD.replace(b" Switching Protocols", b" "),
        HEAD.replace(b": ", b":  \t"),
        HEAD.replace(b"websocket\r", b"WebSocket \t\r").replace(b"Upgrade\r", b"keep-alive, UPGRADE\r"),
        HEAD.replace(b"Sec-WebSocket-Accept", b"sec-websocket-accept"),
        HEAD + b"Set-Cookie: a=1\r\nset-cookie: b=2; caf\xe9\r\nServer:\r\n",
        HEAD + b"Sec-WebSocket-Extensions: \r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + HEAD,
    ],
)
def test_answers_that_accept(head: bytes, bytewise: bool) -> None:
    assert read(head + b"\r\n", bytewise=bytewise and not head.startswith(b"HTTP/1.1 103")) == b""


def test_what_follows_the_answer_is_kept() -> None:
    assert read(HEAD + b"\r\n\x81\x02hi") == b"\x81\x02hi"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD.replace(ACCEPT, b"nonsense") + b"\r\n",
        HEAD.replace(ACCEPT, ACCEPT.lower()) + b"\r\n",
        HEAD.replace(b"Sec-WebSocket-Accept: " + ACCEPT, b"X: y") + b"\r\n",
        HEAD + b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n",
        HEAD.replace(b"Upgrade: websocket", b"Upgrade: h2c") + b"\r\n",
        HEAD.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c") + b"\r\n",
        HEAD.replace(b"Upgrade: websocket\r\n", b"") + b"\r\n",
        HEAD.replace(b"Connection: Upgrade", b"Connection: close") + b"\r\n",
        HEAD.replace(b"Connection: Upgrade\r\n", b"") + b"\r\n",
        HEAD + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        HEAD + b"Sec-WebSocket-Protocol: token\r\n\r\n",
        HEAD + b"Sec-WebSocket-Protocol:\r\n\r\n",
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n",
        HEAD + b" folded\r\n\r\n",
        HEAD + b"X: a\0b\r\n\r\n",
        HEAD + b"X: a\rb\r\n\r\n",
        HEAD + b"X: a\nY: b\r\n\r\n",
        HEAD + b"X : a\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        b"HTTP/2 101\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"HTTP/1.1 1010 Switching\r\n\r\n",
        b"HTTP/1.1 101Switching\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 65_536,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
)
def test_answers_that_are_malformed(answer: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        read(answer)
    assert caught.value.sent


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 5\r\n\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\n", b"llo\r\n0\r\n\r\n"),
        (b"\r\n", b"hello"),
        (b"content-length: 0\r\n\r\n", b""),
    ],
)
def test_an_ordinary_answer(framing: bytes, body: bytes, bytewise: bool) -> None:
    refusal = read(b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\n" + framing + body, bytewise=bytewise)
    assert isinstance(refusal, UpgradeRefused)
    assert (refusal.status, refusal.headers[0]) == (429, (b"Retry-After", b"7"))
    assert refusal.body == (b"hello" if body else b"")


def test_only_the_beginning_of_a_long_body_is_kept() -> None:
    reader = AnswerReader(ACCEPT)
    reader.feed(b"HTTP/1.1 500 Error\r\n\r\n")
    for _ in range(100):
        reader.feed(b"x" * 1000)
    assert reader.ended
    assert len(reader.refusal().body) == 65_536


def test_a_refusal_needs_a_head() -> None:
    with pytest.raises(ProtocolViolation):
        AnswerReader(ACCEPT).refusal()

"""Opening: what goes out, what is refused and how, what it costs in time, and who may know of the key."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import traceback
from collections.abc import Callable

import pytest

from keypool_asgi.core.messages import Origin
from keypool_asgi.core.sessions import Close
from keypool_asgi.errors import ConnectFailed, ConnectionBroken, ProtocolViolation, UpgradeRefused, UpstreamTimeout
from keypool_asgi.ports import UpstreamSocket, UpstreamSockets
from keypool_asgi.testing.simulator.sockets.frames import frame
from keypool_asgi.upstream import Timeouts
from keypool_asgi.upstream.sockets import NativeSockets, upgrade
from keypool_asgi.upstream.sockets.socket import NativeSocket

from .socket_tools import KEY, TEXT, Script, playing, switch, upgrade_head
from .test_connection import certificate, loops, server_context  # noqa: F401 - the certificate is a fixture
from .tools import run, until


def client_context(path: object) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(path))


async def greet(script: Script) -> None:
    await script.say(TEXT, b"Begin")
    await script.to_end()


@loops
def test_a_request_goes_out_as_it_is(loop: str) -> None:
    async def main() -> None:
        async with playing(greet) as stage:
            socket = await stage.open((b"X-oDD", b"\xc3\xa9 ,kept"))
            assert await socket.receive() == "Begin"
            socket.abort()
            await stage.peer.settled()
        head = stage.scripts[0].request.split(b"\r\n")
        assert head[0] == b"GET /v3/ws?sample_rate=16000 HTTP/1.1"
        assert head[2:4] == [b"authorization: " + KEY.encode(), b"X-oDD: \xc3\xa9 ,kept"]
        assert not [line for line in head if line.lower().startswith((b"sec-websocket-ext", b"sec-websocket-pro"))]

    run(main(), loop=loop)


@loops
def test_over_tls(loop: str, certificate: object) -> None:  # noqa: F811
    async def main() -> None:
        server = server_context(certificate)
        server.set_alpn_protocols(["h2", "http/1.1"])
        context = client_context(certificate)
        context.set_alpn_protocols(["http/1.1"])
        async with playing(echo, server=server, client=context) as stage:
            socket = await stage.open()
            for message in ("", b"", "é" * 70_000, b"x" * 3200):
                await socket.send(message)
                assert await socket.receive() == message
            await socket.close(Close(1000, "bye"))
            assert await socket.receive() == Close(1000, "bye")
            await stage.peer.settled()

    run(main(), loop=loop)


async def echo(script: Script) -> None:
    while True:
        first, payload = await script.hear()
        await script.say(first & 0x0F, payload)
        if first == 0x88:
            return


def test_an_unknown_certificate(certificate: object) -> None:  # noqa: F811
    async def main() -> None:
        async with playing(server=server_context(certificate)) as stage:
            with pytest.raises(ConnectFailed, match="TLS"):
                await stage.open()
            await stage.peer.settled()

    run(main())


@loops
def test_what_follows_the_answer_at_once_is_received(loop: str) -> None:
    def answer(head: bytes) -> bytes:
        return switch(head) + frame(1, b"one") + frame(1, b"two") + frame(8, b"\x03\xf0no")

    async def main() -> None:
        async with playing(answer=answer) as stage:
            socket = await stage.open()
            assert [await socket.receive() for _ in range(4)] == ["one", "two", Close(1008, "no"), Close(1008, "no")]
            await stage.peer.settled()

    run(main(), loop=loop)


# Answers that are none of the wanted kind


@loops
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"Content-Length: 5\r\n\r\nhello and more", b"hello"),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"\r\nhello", b"hello"),
        (b"Content-Length: 50\r\n\r\nhello", b"hello"),  # it breaks off: what there is of it still tells something
        (b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000, b"x" * 65_536),
        (b"Content-Length: 0\r\n\r\n", b""),
    ],
)
def test_an_ordinary_answer(loop: str, answer: bytes, body: bytes) -> None:
    async def main() -> None:
        async with playing(answer=lambda _: b"HTTP/1.1 403 No\r\nX-Why: key\r\n" + answer) as stage:
            with pytest.raises(UpgradeRefused) as caught:
                await stage.open()
            await stage.peer.settled()
        assert (caught.value.status, caught.value.body, caught.value.sent) == (403, body, True)
        assert caught.value.headers[0] == (b"X-Why", b"key")

    run(main(), loop=loop)


@pytest.mark.parametrize("patience", [0.2, 10])
def test_an_ordinary_answer_whose_body_does_not_end(patience: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "REFUSAL_SECONDS", 0.2)

    async def main() -> None:
        async with playing(Script.to_end, answer=lambda _: b"HTTP/1.1 500 Error\r\n\r\nit beg") as stage:
            with pytest.raises(UpgradeRefused) as caught:
                await stage.open(patience=patience)
            await stage.peer.settled()
        assert caught.value.body == b"it beg"

    run(main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda _: b"SSH-2.0-OpenSSH\r\n", ProtocolViolation),
        (lambda head: switch(head).replace(b"Accept: ", b"Accept: x"), ProtocolViolation),
        (lambda head: switch(head, b"Sec-WebSocket-Extensions: permessage-deflate"), ProtocolViolation),
        (lambda _: b"", ConnectionBroken),
        (lambda _: b"HTTP/1.1 101 Swi", ConnectionBroken),
    ],
)
def test_answers_that_break_the_protocol(answer: Callable[[bytes], bytes], error: type[Exception]) -> None:
    async def main() -> None:
        async with playing(answer=answer) as stage:
            with pytest.raises(error) as caught:
                await stage.open()
            assert type(caught.value) is error
            assert caught.value.sent  # type: ignore[attr-defined]
            await stage.peer.settled()

    run(main())


def test_no_answer() -> None:
    async def main() -> None:
        async with playing(Script.to_end, answer=lambda _: None) as stage:
            with pytest.raises(UpstreamTimeout) as caught:
                await stage.open(patience=0.1)
            assert caught.value.sent
            await stage.peer.settled()

    run(main())


# No connection


def test_nobody_is_there() -> None:
    async def main() -> None:
        async with playing() as stage:
            origin = stage.peer.origin
        with pytest.raises(ConnectFailed) as caught:
            await NativeSockets().open(upgrade_head(origin))
        assert not caught.value.sent

    run(main())


@pytest.mark.parametrize("limit", ["patience", "connect timeout"])
def test_a_handshake_that_does_not_end_is_no_connection(limit: str, certificate: object) -> None:  # noqa: F811
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(0)
        ends.append(asyncio.current_task())
        try:
            while await reader.read(1000):
                pass
        finally:
            writer.close()

    ends: list[asyncio.Task[None] | None] = []

    async def main() -> None:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        origin = Origin("https", "127.0.0.1", server.sockets[0].getsockname()[1])
        timeouts = Timeouts(connect=0.1 if limit == "connect timeout" else 10)
        sockets = NativeSockets(timeouts=timeouts, ssl_context=client_context(certificate))
        with pytest.raises(ConnectFailed) as caught:
            await sockets.open(upgrade_head(origin, patience=0.1 if limit == "patience" else 10))
        assert not caught.value.sent
        await until(lambda: bool(ends) and all(task is None or task.done() for task in ends))
        server.close()
        await server.wait_closed()

    run(main())


def test_a_malformed_head_dials_nobody() -> None:
    async def main() -> None:
        async with playing() as stage:
            with pytest.raises(ValueError, match="CR, LF or NUL"):
                await stage.open((b"x", b"a\r\nb: c"))
            await asyncio.sleep(0.01)
            assert stage.peer.connections == 0

    run(main())


# I2


@pytest.mark.parametrize(
    "answer",
    [
        lambda head: switch(head).replace(b"Accept: ", b"Accept: x") + head,
        lambda head: b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno" + head,
        lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n" + head,
        lambda head: b"HTTP/1.1 200 OK\r\nX\0: x\r\n\r\n" + head,
        lambda head: head + head,
        lambda _: b"",
        None,
    ],
)
def test_no_error_knows_the_key(answer: Callable[[bytes], bytes] | None) -> None:
    """Not even when upstream repeats what it was sent."""

    async def main() -> Exception:
        async with playing(answer=answer or switch) as stage:
            field = (b"x", b"a\nb") if answer is None else (b"x", b"y")
            with pytest.raises((ValueError, Exception)) as caught:
                await stage.open(field)
            await stage.peer.settled()
            return caught.value

    error = run(main())
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [step for step in shown.stack if "keypool_asgi" in step.filename]
    assert ours
    said = repr([step.locals for step in ours]) + repr(error) + str(error) + repr(error.args)
    assert KEY not in said
    assert error.__cause__ is None


# The whole


def test_importing_and_making_sockets_is_cheap() -> None:
    code = (
        "import sys; from keypool_asgi.upstream.sockets import NativeSockets; sockets = NativeSockets();"
        "heavy = {'httpx', 'wsproto', 'h11', 'httptools', 'websockets'};"
        "print(sorted(heavy & set(sys.modules))); sockets.warm(); print('wsproto' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split("\n")[:2] == ["[]", "True"]


def test_aclose_cuts_what_is_open_and_can_be_followed_by_more() -> None:
    async def main() -> None:
        async with playing(greet) as stage:
            first = await stage.open()
            waiting = asyncio.ensure_future(first.receive())
            assert await waiting == "Begin"
            waiting = asyncio.ensure_future(first.receive())
            await asyncio.sleep(0)
            await stage.sockets.aclose()
            end = await waiting
            assert isinstance(end, Close)
            assert end.code == 1006
            await stage.peer.settled()
            second = await stage.open()
            assert await second.receive() == "Begin"

    run(main())


def typed() -> None:
    """Not executed: mypy checks it."""
    sockets: UpstreamSockets = NativeSockets()
    kind: type[UpstreamSocket] = NativeSocket
    print(sockets, kind)

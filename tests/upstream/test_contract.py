"""The contract of ``UpstreamClient``: one suite for every implementation, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest

from keypool_asgi.core.messages import Origin, ResponseHead
from keypool_asgi.errors import ConnectFailed, ConnectionBroken, ProtocolViolation, UpstreamError, UpstreamTimeout
from keypool_asgi.ports import UpstreamCall, UpstreamClient
from keypool_asgi.upstream import NativeClient, Timeouts
from keypool_asgi.upstream.httpx_door import HttpxClient

from .tools import CHUNKED, OK, Wire, answering, fetch, read_all, request, run, serve, sized


@dataclass(frozen=True)
class Kind:
    """One implementation on one event loop."""

    make: Callable[..., UpstreamClient]
    loop: str = "asyncio"

    def client(self, **timeouts: float) -> UpstreamClient:
        return self.make(timeouts=Timeouts(**timeouts))

    def run(self, main: Any) -> Any:
        return run(main, loop=self.loop)


def _httpx(timeouts: Timeouts) -> HttpxClient:
    return HttpxClient(httpx.AsyncHTTPTransport(trust_env=False), timeouts=timeouts)


KINDS = {
    "httptools": Kind(partial(NativeClient, parser="httptools")),
    "h11": Kind(partial(NativeClient, parser="h11")),
    "uvloop": Kind(partial(NativeClient, parser="httptools"), "uvloop"),
    "httpx": Kind(_httpx),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return KINDS[request.param]


def native(kind: Kind) -> bool:
    return kind.make is not _httpx


async def send(call: UpstreamCall, *pieces: bytes) -> None:
    for piece in pieces:
        await call.write(piece)
    await call.finish()


# What goes out


def test_a_request_goes_out_as_it_is(kind: Kind) -> None:
    async def main() -> None:
        requests: list[tuple[bytes, bytes]] = []
        async with serve(answering(requests, OK)) as peer:
            client = kind.client()
            fields = [(b"X-One", b"1"), (b"x-one", b"\xc3\xa9"), (b"Accept-Encoding", b"gzip")]
            target = b"/v2/upload%2F?a=b%20c&d=%7e'"
            response = await fetch(client, peer.origin, headers=fields, target=target)
            await client.aclose()
        assert response == (ResponseHead(200, b"OK", [(b"Content-Length", b"2")]), b"ok")
        head = requests[0][0].split(b"\r\n")
        assert head[0] == b"GET " + target + b" HTTP/1.1"
        assert head[1:-2] == [b"host: " + peer.origin.authority, *(b"%b: %b" % field for field in fields)]

    kind.run(main())


@pytest.mark.parametrize("size", [0, 1, 5, 100_000, 3_000_000])
def test_bodies_with_a_length(kind: Kind, size: int) -> None:
    async def main() -> None:
        requests: list[tuple[bytes, bytes]] = []
        body = bytes(range(256)) * (size // 256 + 1)
        async with serve(answering(requests, OK)) as peer:
            client = kind.client()
            call = await client.open(request(peer.origin, b"POST", headers=sized(size)))
            for at in range(0, size, 65_536):
                await call.write(body[at : min(at + 65_536, size)])
                await call.write(b"")
            await call.finish()
            assert (await call.head()).status == 200
            assert await read_all(call) == b"ok"
            call.close()
            await client.aclose()
        assert requests[0][1] == body[:size]

    kind.run(main())


@pytest.mark.parametrize("pieces", [[], [b"a"], [b"abc", b"", b"d" * 70_000, b"e"]])
def test_chunked_bodies(kind: Kind, pieces: list[bytes]) -> None:
    async def main() -> None:
        requests: list[tuple[bytes, bytes]] = []
        async with serve(answering(requests, OK)) as peer:
            client = kind.client()
            call = await client.open(request(peer.origin, b"POST", headers=CHUNKED))
            for piece in pieces:
                await call.write(piece)
            await call.finish()
            assert (await call.head()).status == 200
            call.close()
            await client.aclose()
        assert requests[0][1] == b"".join(pieces)

    kind.run(main())


@pytest.mark.parametrize("headers", [sized(3), CHUNKED, sized(0), []], ids=["length", "chunked", "empty", "none"])
def test_nothing_is_complete_before_finish(kind: Kind, headers: Any) -> None:
    """I7: a caller that vanishes, even after the last byte, never makes a complete request."""

    async def main() -> None:
        requests: list[tuple[bytes, bytes]] = []
        async with serve(answering(requests, OK)) as peer:
            client = kind.client()
            call = await client.open(request(peer.origin, b"POST", headers=headers))
            if headers in (sized(3), CHUNKED):
                await call.write(b"ab")
                await call.write(b"c")
            await asyncio.sleep(0.05)
            call.close()
            await client.aclose()
            await peer.settled()
        assert requests == []

    kind.run(main())


@pytest.mark.parametrize("written", [b"ab", b"abcd"])
def test_a_body_of_another_length_cuts_the_connection(kind: Kind, written: bytes) -> None:
    async def main() -> None:
        requests: list[tuple[bytes, bytes]] = []
        async with serve(answering(requests, OK)) as peer:
            client = kind.client()
            call = await client.open(request(peer.origin, b"POST", headers=sized(3)))
            with pytest.raises(ConnectionBroken, match="Content-Length"):
                await send(call, written)
            with pytest.raises(ConnectionBroken):
                await call.head()
            call.close()
            await client.aclose()
            await peer.settled()
        assert requests == []

    kind.run(main())


def test_the_head_goes_out_before_there_is_a_body(kind: Kind) -> None:
    """A server that asks for the body only after a look at the head must not wait for ever."""

    async def main() -> None:
        seen = asyncio.Event()

        async def handler(wire: Wire) -> None:
            await wire.reader.readuntil(b"\r\n\r\n")
            await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            seen.set()
            assert await wire.reader.readexactly(3) == b"abc"
            await wire.send(OK)

        async with serve(handler) as peer:
            client = kind.client()
            call = await client.open(request(peer.origin, b"POST", headers=sized(3)))
            await seen.wait()
            await call.write(b"abc")
            await call.finish()
            assert (await call.head()).status == 200
            call.close()
            await client.aclose()

    kind.run(main())


# What comes back


@pytest.mark.parametrize(
    ("method", "pieces", "body"),
    [
        (b"GET", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", b"cd"], b"abcd"),
        (
            b"GET",
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b"2\r\ncd\r\n0\r\n\r\n"],
            b"abcd",
        ),
        (b"GET", [b"HTTP/1.1 200 OK\r\n\r\nab", b"cd"], b"abcd"),
        (b"GET", [b"HTTP/1.1 103 x\r\n\r\nHT", b"TP/1.1 200 OK\r\nContent-Le", b"ngth: 1\r\n\r\n", b"a"], b"a"),
        (b"GET", [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz"], b"xyz"),
        (b"GET", [b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
        (b"GET", [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"], b""),
        (b"HEAD", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], b""),
        (b"HEAD", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], b""),
    ],
)
def test_bodies_of_responses(kind: Kind, method: bytes, pieces: list[bytes], body: bytes) -> None:
    async def main() -> None:
        until_close = b"\r\n\r\nab" in pieces[0] and b"Content-Length" not in pieces[0]
        async with serve(answering(None, *pieces, close=until_close)) as peer:
            client = kind.client()
            assert (await fetch(client, peer.origin, method))[1] == body
            await client.aclose()

    kind.run(main())


def test_the_last_piece_says_so_where_it_is_known(kind: Kind) -> None:
    async def main() -> None:
        async with serve(answering(None, OK)) as peer:
            client = kind.client()
            call = await client.open(request(peer.origin))
            await call.finish()
            await call.head()
            assert await call.read() == (b"ok", False)
            assert await call.read() == (b"", False)
            call.close()
            await client.aclose()

    kind.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_truncated_is_broken(kind: Kind, answer: bytes) -> None:
    """I7."""

    async def main() -> None:
        async with serve(answering(None, answer, close=True)) as peer:
            client = kind.client()
            with pytest.raises(ConnectionBroken) as caught:
                await fetch(client, peer.origin)
            assert caught.value.sent
            await client.aclose()

    kind.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhunter2\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_malformed_is_a_violation(kind: Kind, answer: bytes) -> None:
    async def main() -> None:
        async with serve(answering(None, answer, close=True)) as peer:
            client = kind.client()
            with pytest.raises(ProtocolViolation) as caught:
                await fetch(client, peer.origin)
            assert "hunter2" not in repr(caught.value)
            await client.aclose()
            await peer.settled()

    kind.run(main())


# Timeouts


def test_no_answer_in_time(kind: Kind) -> None:
    async def main() -> None:
        async with serve(answering(None, b"")) as peer:
            client = kind.client()
            with pytest.raises(UpstreamTimeout, match="did not answer"):
                await fetch(client, peer.origin, patience=0.1)
            await client.aclose()
            await peer.settled()

    kind.run(main())


def test_patience_starts_when_the_request_is_complete(kind: Kind) -> None:
    async def main() -> None:
        async with serve(answering(None, OK)) as peer:
            client = kind.client()
            call = await client.open(request(peer.origin, b"POST", headers=sized(2), patience=0.2))
            head = asyncio.ensure_future(call.head())
            await call.write(b"a")
            await asyncio.sleep(0.4)
            await call.write(b"b")
            await call.finish()
            assert (await head).status == 200
            call.close()
            await client.aclose()

    kind.run(main())


def test_a_response_that_stalls(kind: Kind) -> None:
    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await wire.request()
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na")
            await asyncio.sleep(30)

        async with serve(handler) as peer:
            client = kind.client(read=0.1)
            call = await client.open(request(peer.origin))
            await call.finish()
            assert (await call.head()).status == 200
            assert await call.read() == (b"a", True)
            with pytest.raises(UpstreamTimeout):
                await call.read()
            call.close()
            await client.aclose()

    kind.run(main())


def test_an_upload_that_stalls(kind: Kind) -> None:
    """I4: what a peer does not read is not read from the caller either, and does not last for ever."""

    async def main() -> None:
        async def handler(wire: Wire) -> None:
            wire.writer.transport.pause_reading()
            await asyncio.sleep(30)

        async with serve(handler) as peer:
            client = kind.client(write=0.2)
            call = await client.open(request(peer.origin, b"POST", headers=CHUNKED))
            with pytest.raises(UpstreamTimeout, match=r"took nothing|too slow"):
                await send(call, *[b"x" * 65_536] * 460)  # more than any sockets hold
            with pytest.raises(UpstreamError):
                await call.head()
            call.close()
            await client.aclose()

    kind.run(main())


# Connections


def test_connections_are_reused(kind: Kind) -> None:
    async def main() -> None:
        async with serve(answering(None, OK)) as peer:
            client = kind.client()
            for body in (None, b"abc", None):
                assert (await fetch(client, peer.origin, b"POST", body))[1] == b"ok"
            assert peer.connections == 1
            await client.aclose()
            await peer.settled()

    kind.run(main())


def test_connections_that_upstream_ends_are_not_reused(kind: Kind) -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        async with serve(answering(None, answer)) as peer:
            client = kind.client()
            for _ in range(3):
                assert (await fetch(client, peer.origin))[1] == b"ok"
            assert peer.connections == 3
            await client.aclose()

    kind.run(main())


def test_a_response_that_is_not_read_to_its_end_costs_the_connection(kind: Kind) -> None:
    async def main() -> None:
        async with serve(answering(None, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")) as peer:
            client = kind.client()
            call = await client.open(request(peer.origin))
            await call.finish()
            await call.head()
            call.close()
            call.close()
            with pytest.raises(ConnectionBroken):
                await call.read()
            await peer.settled()
            await client.aclose()

    kind.run(main())


def test_nobody_listens(kind: Kind) -> None:
    async def main() -> None:
        client = kind.client()
        with pytest.raises(ConnectFailed) as caught:
            await fetch(client, Origin("http", "127.0.0.1", 1))
        assert not caught.value.sent
        await client.aclose()

    kind.run(main())


def test_aclose_cuts_open_calls(kind: Kind) -> None:
    async def main() -> None:
        async with serve(answering(None, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")) as peer:
            client = kind.client()
            calls = []
            for _ in range(3):
                call = await client.open(request(peer.origin))
                await call.finish()
                await call.head()
                assert await call.read() == (b"ab", True)
                calls.append(call)
            await client.aclose()
            await peer.settled()
            for call in calls:
                with pytest.raises(UpstreamError):
                    await call.read()
                call.close()

    kind.run(main())


@pytest.mark.parametrize("where", ["open", "write", "head", "read"])
def test_cancellation_leaks_nothing(kind: Kind, where: str) -> None:
    async def exchange(client: UpstreamClient, origin: Origin) -> None:
        call = await client.open(request(origin, b"POST", headers=CHUNKED))
        try:
            while where == "write":
                await call.write(b"x" * 65_536)
            await call.finish()
            await call.head()
            await read_all(call)
        finally:
            call.close()

    async def handler(wire: Wire) -> None:
        if where == "write":
            wire.writer.transport.pause_reading()
            await asyncio.sleep(30)
        await wire.request()
        if where == "read":
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na")
        await wire.reader.read()

    async def main() -> None:
        async with serve(handler) as peer:
            client = kind.client()
            task = asyncio.ensure_future(exchange(client, peer.origin))
            await asyncio.sleep(0 if where == "open" else 0.15)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if where != "write":  # there the peer does not look
                await peer.settled()
            await client.aclose()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert not [other for other in others if "keypool_asgi" in repr(other.get_coro())]

    kind.run(main())


def test_both_sides_at_once(kind: Kind) -> None:
    """Early answers that come while the upload goes on, where the client can see them."""

    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await wire.reader.readuntil(b"\r\n\r\n")
            await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(10):
                data = await wire.reader.readexactly(1000)
                await wire.send(b"3e8\r\n" + data + b"\r\n")
            await wire.send(b"0\r\n\r\n")

        async with serve(handler) as peer:
            client = kind.client()
            call = await client.open(request(peer.origin, b"POST", headers=sized(10_000)))
            if native(kind):
                assert (await call.head()).status == 200
            body = b""
            for at in range(10):
                await call.write(bytes([at]) * 1000)
                if native(kind) and at < 9:
                    body += (await call.read())[0]
            await call.finish()
            await call.head()
            body += await read_all(call)
            assert body == b"".join(bytes([at]) * 1000 for at in range(10))
            call.close()
            assert peer.connections == 1
            await client.aclose()

    kind.run(main())

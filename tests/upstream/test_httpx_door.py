"""Both ways through the door: any httpx transport as our client, and our client as an httpx transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from keypool_asgi.core.messages import Origin
from keypool_asgi.errors import ConnectFailed, ConnectionBroken, ProtocolViolation, UpstreamError, UpstreamTimeout
from keypool_asgi.upstream import NativeClient, Timeouts
from keypool_asgi.upstream.httpx_door import HttpxClient, KeyPoolTransport

from .tools import CHUNKED, OK, Wire, answering, fetch, read_all, request, run, serve, sized

ORIGIN = Origin("http", "upstream.test", 80)


class Scripted(httpx.AsyncBaseTransport):
    """A transport that does what the test says, once it has read ``read`` pieces of the body (None for all)."""

    def __init__(self, outcome: httpx.Response | BaseException | None, *, read: int | None = None) -> None:
        self.outcome = outcome
        self.read = read
        self.requests: list[httpx.Request] = []
        self.body: list[bytes] = []
        self.complete = False
        self.closed = False
        self.failure: BaseException | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        try:
            async for piece in request.stream:
                self.body.append(piece)
                if self.read is not None and len(self.body) >= self.read:
                    break
            else:
                self.complete = True
        except BaseException as exc:
            self.failure = exc
            raise
        if isinstance(self.outcome, httpx.Response):
            return self.outcome
        if self.outcome is not None:
            raise self.outcome
        await asyncio.sleep(30)
        raise AssertionError

    async def aclose(self) -> None:
        self.closed = True


class Pieces(httpx.AsyncByteStream):
    def __init__(self, *pieces: bytes | BaseException) -> None:
        self.pieces = pieces
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    async def aclose(self) -> None:
        self.closed = True


def response(*pieces: bytes | BaseException, status: int = 200, **headers: str) -> httpx.Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=fields, stream=Pieces(*pieces), extensions={"reason_phrase": b"Fine"})


# HttpxClient


def test_a_transport_gets_the_request_as_it_is() -> None:
    async def main() -> None:
        transport = Scripted(response(b"a", b"", b"b"))
        client = HttpxClient(transport, timeouts=Timeouts(connect=1, write=2, read=3))
        headers = [(b"X-One", b"\xff"), (b"x-one", b"2")]
        call = await client.open(request(ORIGIN, b"POST", b"/a%2Fb?c=%7e", headers=[*headers, *CHUNKED], patience=9))
        await call.write(b"one")
        await call.write(b"two")
        await call.finish()
        head = await call.head()
        assert (head.status, head.reason) == (200, b"Fine")
        assert await read_all(call) == b"ab"
        call.close()
        sent = transport.requests[0]
        assert sent.headers.raw == [(b"host", b"upstream.test"), *headers, *CHUNKED]
        assert sent.extensions["target"] == b"/a%2Fb?c=%7e"
        assert sent.extensions["timeout"] == {"connect": 1, "pool": 1, "write": 2, "read": 9}
        assert (transport.body, transport.complete) == ([b"one", b"two"], True)
        await client.aclose()
        assert transport.closed

    run(main())


def test_one_piece_is_handed_over_at_a_time() -> None:
    """I4."""

    async def main() -> None:
        transport = Scripted(None, read=1)
        client = HttpxClient(transport, timeouts=Timeouts(write=0.1))
        call = await client.open(request(ORIGIN, b"POST", headers=CHUNKED))
        await call.write(b"1")
        await call.write(b"2")
        with pytest.raises(UpstreamTimeout, match="took nothing"):
            await call.write(b"3")
        assert transport.body == [b"1"]
        call.close()
        await client.aclose()

    run(main())


@pytest.mark.parametrize("headers", [CHUNKED, sized(2)])
def test_an_abandoned_request_fails(headers: Any) -> None:
    """I7: the transport sees its body fail, never end."""

    async def main() -> None:
        transport = Scripted(response())
        client = HttpxClient(transport)
        call = await client.open(request(ORIGIN, b"POST", headers=headers))
        await call.write(b"1")
        await call.write(b"2")
        await asyncio.sleep(0)
        call.close()
        await client.aclose()
        assert not transport.complete
        assert transport.failure is not None

    run(main())


def test_an_abandoned_request_fails_although_the_answer_is_there() -> None:
    async def main() -> None:
        early = response(b"no", status=413, content_length="2")
        transport = Scripted(early, read=1)
        client = HttpxClient(transport)
        call = await client.open(request(ORIGIN, b"POST", headers=CHUNKED))
        await call.write(b"1")
        assert (await call.head()).status == 413
        assert await read_all(call) == b"no"
        call.close()
        assert isinstance(transport.requests[0].stream, httpx.AsyncByteStream)
        with pytest.raises(httpx.WriteError):
            async for _ in transport.requests[0].stream:
                pass
        await client.aclose()

    run(main())


@pytest.mark.parametrize(
    ("theirs", "ours", "sent"),
    [
        (httpx.ConnectError("refused"), ConnectFailed, False),
        (httpx.ConnectTimeout("slow"), ConnectFailed, False),
        (httpx.PoolTimeout("busy"), ConnectFailed, False),
        (httpx.ProxyError("403"), ConnectFailed, False),
        (httpx.ReadTimeout("slow"), UpstreamTimeout, True),
        (httpx.WriteTimeout("slow"), UpstreamTimeout, True),
        (httpx.ReadError("hunter2"), ConnectionBroken, True),
        (httpx.WriteError("hunter2"), ConnectionBroken, True),
        (httpx.RemoteProtocolError("hunter2"), ProtocolViolation, True),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), ConnectionBroken, True),
        (httpx.RemoteProtocolError("peer closed connection"), ConnectionBroken, True),
        (httpx.LocalProtocolError("hunter2"), ConnectionBroken, True),
        (httpx.UnsupportedProtocol("ftp"), ConnectionBroken, True),
    ],
)  # fmt: skip
def test_errors_are_translated(theirs: httpx.HTTPError, ours: type[UpstreamError], sent: bool) -> None:
    async def main() -> None:
        for script in (Scripted(theirs), Scripted(response(b"a", theirs, content_length="9"))):
            client = HttpxClient(script)
            with pytest.raises(ours) as caught:
                await fetch(client, ORIGIN, b"POST", b"abc")
            assert type(caught.value) is ours
            assert caught.value.sent is sent
            error: BaseException | None = caught.value
            while error is not None:
                assert "hunter2" not in str(error)
                error = error.__cause__ or error.__context__
            await client.aclose()

    run(main())


def test_other_errors_are_not_hidden() -> None:
    async def main() -> None:
        client = HttpxClient(Scripted(KeyError("a bug")))
        with pytest.raises(KeyError):
            await fetch(client, ORIGIN)
        await client.aclose()

    run(main())


@pytest.mark.parametrize(
    ("answer", "ours"),
    [
        (response(b"ab", content_length="3"), ConnectionBroken),
        (response(b"abcd", content_length="3"), ProtocolViolation),
        (response(b"abc", b"d", content_length="3"), ProtocolViolation),
        (response(status=100), ProtocolViolation),
        (response(content_length="x"), ProtocolViolation),
        (response(content_length="3", transfer_encoding="chunked"), ProtocolViolation),
    ],
)
def test_a_transport_is_held_to_the_framing(answer: httpx.Response, ours: type[UpstreamError]) -> None:
    async def main() -> None:
        client = HttpxClient(Scripted(answer))
        with pytest.raises(ours):
            await fetch(client, ORIGIN)
        await client.aclose()
        assert isinstance(answer.stream, Pieces)
        assert answer.stream.closed

    run(main())


def test_a_response_without_an_asynchronous_stream() -> None:
    class Sync(httpx.SyncByteStream):
        pass

    async def main() -> None:
        client = HttpxClient(Scripted(httpx.Response(200, stream=Sync())))
        with pytest.raises(TypeError):
            await fetch(client, ORIGIN)

    run(main())


def test_a_mock_transport_will_do() -> None:
    async def main() -> None:
        client = HttpxClient(httpx.MockTransport(lambda request: httpx.Response(201, content=b"made")))
        head, body = await fetch(client, ORIGIN)
        assert (head.status, body) == (201, b"made")
        await client.aclose()

    run(main())


# KeyPoolTransport


def test_the_native_client_under_an_httpx_client() -> None:
    async def main() -> None:
        requests: list[tuple[bytes, bytes]] = []
        cookies = b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        answer = b"HTTP/1.1 200 Sure\r\n" + cookies + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        async with serve(answering(requests, answer)) as peer:
            transport = KeyPoolTransport(NativeClient())
            async with httpx.AsyncClient(transport=transport, base_url=str(peer.origin)) as client:
                got = await client.get("/a b", params={"c": "d"})
                assert (got.text, got.reason_phrase, got.headers.get_list("set-cookie")) == (
                    "abc",
                    "Sure",
                    ["a=1", "b=2"],
                )
                await client.post("/p", json={"x": 1})

                async def pieces() -> AsyncIterator[bytes]:
                    yield b"one"
                    yield b"two"

                await client.post("/s", content=pieces())
                assert peer.connections == 1
            await peer.settled()
        assert [head.split(b"\r\n")[0] for head, _ in requests] == [
            b"GET /a%20b?c=d HTTP/1.1",
            b"POST /p HTTP/1.1",
            b"POST /s HTTP/1.1",
        ]
        assert [body for _, body in requests] == [b"", b'{"x":1}', b"onetwo"]

    run(main())


def test_an_early_answer_reaches_an_httpx_client() -> None:
    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await wire.reader.readuntil(b"\r\n\r\n")
            await wire.send(b"HTTP/1.1 413 x\r\nContent-Length: 2\r\n\r\nno")

        async with serve(handler) as peer, httpx.AsyncClient(transport=KeyPoolTransport()) as client:
            got = await client.post(str(peer.origin), content=b"x" * 10_000_000)
            assert (got.status_code, got.text) == (413, "no")

    run(main())


@pytest.mark.parametrize(
    ("answer", "theirs"),
    [
        (b"", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na", httpx.ReadError),
        (b"garbage\r\n\r\n", httpx.RemoteProtocolError),
    ],
)
def test_errors_of_the_native_client(answer: bytes, theirs: type[Exception]) -> None:
    async def main() -> None:
        async with serve(answering(None, answer, close=True)) as peer:
            client = httpx.AsyncClient(transport=KeyPoolTransport())
            with pytest.raises(theirs):
                await client.get(str(peer.origin))
            await client.aclose()
            await peer.settled()

    run(main())


def test_timeouts_and_failed_connects_of_the_native_client() -> None:
    async def main() -> None:
        async with serve(answering(None, b"")) as peer, httpx.AsyncClient(transport=KeyPoolTransport()) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(str(peer.origin), timeout=0.1)
            with pytest.raises(httpx.ConnectError):
                await client.get("http://127.0.0.1:1")

    run(main())


def test_a_response_that_is_closed_early() -> None:
    async def main() -> None:
        async with serve(answering(None, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na")) as peer:
            client = httpx.AsyncClient(transport=KeyPoolTransport(), timeout=None)
            async with client.stream("GET", str(peer.origin)) as got:
                assert got.status_code == 200
            await peer.settled()
            await client.aclose()

    run(main())


def test_a_cancelled_request_is_cut() -> None:
    async def main() -> None:
        async with serve(answering(None, b"")) as peer, httpx.AsyncClient(transport=KeyPoolTransport()) as client:
            task = asyncio.ensure_future(client.get(str(peer.origin)))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await peer.settled()

    run(main())


def test_a_request_body_must_be_asynchronous() -> None:
    async def main() -> None:
        async with serve(answering(None, OK)) as peer:
            transport = KeyPoolTransport()
            with pytest.raises(TypeError):
                await transport.handle_async_request(httpx.Request("POST", str(peer.origin), content=iter([b"a"])))
            await transport.aclose()

    run(main())

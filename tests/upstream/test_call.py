"""What the native client promises beyond the contract: early answers, stale connections, both on either event loop."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import pytest

from keypool_asgi.core.messages import Headers
from keypool_asgi.errors import ConnectFailed, ConnectionBroken, UpstreamTimeout
from keypool_asgi.upstream import NativeClient, Timeouts
from keypool_asgi.upstream.settings import HIGH_WATER

from .tools import CHUNKED, OK, Handler, Wire, answering, fetch, read_all, request, run, serve, sized, until

LOOPS = ["asyncio"] + (["uvloop"] if importlib.util.find_spec("uvloop") else [])
loops = pytest.mark.parametrize("loop", LOOPS)

REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large"
SIZE = 60_000_000
PIECE = b"x" * 65_536


async def upload(call: Any, size: int = SIZE) -> None:
    for _ in range(size // len(PIECE)):
        await call.write(PIECE)
    if size % len(PIECE):
        await call.write(PIECE[: size % len(PIECE)])
    await call.finish()


# Early answers


def refusing(*, after: int, end: str) -> Handler:
    """Answer in mid-upload, then: close, reset, stall, or read on."""

    async def handler(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        await wire.skip(after)
        await wire.send(REFUSAL)
        if end == "reset":
            wire.reset()
        elif end == "stall":
            wire.writer.transport.pause_reading()
            await asyncio.sleep(30)
        elif end == "read":
            await wire.skip(SIZE - after)
            await handler(wire)

    return handler


@loops
@pytest.mark.parametrize("after", [0, 1_000_000])
@pytest.mark.parametrize("end", ["close", "reset", "stall", "read"])
def test_an_early_answer_is_delivered(loop: str, after: int, end: str) -> None:
    async def main() -> None:
        async with serve(refusing(after=after, end=end)) as peer:
            client = NativeClient(timeouts=Timeouts(write=0.2))
            rounds = 5 if end in ("close", "reset") else 2
            for _ in range(rounds):
                call = await client.open(request(peer.origin, b"POST", headers=sized(SIZE)))
                writing = asyncio.ensure_future(upload(call))
                if end == "read":
                    await writing
                assert (await call.head()).status == 413
                assert await read_all(call) == b"too large"
                if end != "read":
                    with pytest.raises((ConnectionBroken, UpstreamTimeout)):
                        await writing
                if end == "read":
                    await until(call._conn.quiet)
                call.close()
            assert peer.connections == (1 if end == "read" else rounds)
            await client.aclose()

    run(main(), loop=loop)


@loops
@pytest.mark.parametrize("end", ["close", "reset"])
def test_an_early_answer_is_delivered_to_who_asks_last(loop: str, end: str) -> None:
    """A caller that does one thing after the other learns of it by an error, and then finds the answer."""

    async def main() -> None:
        async with serve(refusing(after=0, end=end)) as peer:
            client = NativeClient()
            for _ in range(10):
                call = await client.open(request(peer.origin, b"POST", headers=CHUNKED))
                with pytest.raises(ConnectionBroken):
                    await upload(call)
                assert (await call.head()).status == 413
                assert await read_all(call) == b"too large"
                call.close()
            await client.aclose()

    run(main(), loop=loop)


# Stale connections


class Stale:
    """A server that answers ``answers`` times per connection, then reads one more request and closes without a word."""

    def __init__(self, answers: int = 1) -> None:
        self.seen: list[bytes] = []
        self.answers = answers

    async def __call__(self, wire: Wire) -> None:
        for _ in range(self.answers):
            await wire.request()
            await wire.send(OK)
        self.seen.append((await wire.reader.readuntil(b"\r\n\r\n")).split(b" ")[0])


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_a_safe_request_is_sent_once_more(method: bytes) -> None:
    async def main() -> None:
        stale = Stale()
        async with serve(stale) as peer:
            client = NativeClient()
            await fetch(client, peer.origin)
            head, _ = await fetch(client, peer.origin, method)
            assert head.status == 200
            assert (peer.connections, stale.seen) == (2, [method])
            await client.aclose()

    run(main())


@pytest.mark.parametrize("method", [b"POST", b"DELETE", b"PUT", b"PATCH"])
@pytest.mark.parametrize("body", [None, b"abc"])
def test_no_other_request_is_sent_twice(method: bytes, body: bytes | None) -> None:
    """I6: it may have had its effect."""

    async def main() -> None:
        stale = Stale()
        async with serve(stale) as peer:
            client = NativeClient()
            await fetch(client, peer.origin)
            with pytest.raises(ConnectionBroken) as caught:
                await fetch(client, peer.origin, method, body)
            assert caught.value.sent
            await client.aclose()
            assert (peer.connections, stale.seen) == (1, [method])

    run(main())


def test_a_request_on_a_new_connection_is_not_sent_twice() -> None:
    async def main() -> None:
        stale = Stale(answers=0)
        async with serve(stale) as peer:
            client = NativeClient()
            with pytest.raises(ConnectionBroken):
                await fetch(client, peer.origin)
            assert peer.connections == 1
            await client.aclose()

    run(main())


def test_a_request_is_not_sent_twice_after_the_first_byte_of_an_answer() -> None:
    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await wire.request()
            await wire.send(OK)
            await wire.request()
            await wire.send(b"H")

        async with serve(handler) as peer:
            client = NativeClient()
            await fetch(client, peer.origin)
            with pytest.raises(ConnectionBroken):
                await fetch(client, peer.origin)
            assert peer.connections == 1
            await client.aclose()

    run(main())


@loops
@pytest.mark.parametrize("headers", [sized(3), CHUNKED, []], ids=["length", "chunked", "none"])
def test_a_connection_that_ends_before_anything_was_sent_is_replaced(loop: str, headers: Headers) -> None:
    """Even a POST moves: nothing of it left."""

    async def main() -> None:
        requests: list[tuple[bytes, bytes]] = []
        async with serve(answering(requests, OK)) as peer:
            client = NativeClient()
            await fetch(client, peer.origin)
            call = await client.open(request(peer.origin, b"POST", headers=headers))
            call._conn.cut()
            if headers:
                await call.write(b"abc")
            await call.finish()
            assert (await call.head()).status == 200
            call.close()
            assert peer.connections == 2
            assert [body for _, body in requests] == [b"", b"abc" if headers else b""]
            await client.aclose()

    run(main(), loop=loop)


def test_bytes_before_the_request_cost_the_connection() -> None:
    """A late 408, or somebody else's answer, is not an answer to a request that was not sent yet."""

    async def main() -> None:
        async def handler(wire: Wire) -> None:
            if wire.number == 1:
                await wire.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
                await asyncio.sleep(30)
            await answering(None, OK)(wire)

        async with serve(handler) as peer:
            client = NativeClient()
            call = await client.open(request(peer.origin))
            await until(lambda: call._conn.gone)
            await call.finish()
            assert (await call.head()).status == 200
            call.close()
            await client.aclose()

    run(main())


def test_a_replacement_that_cannot_be_made() -> None:
    async def main() -> None:
        async with serve(answering(None, OK)) as peer:
            client = NativeClient()
            await fetch(client, peer.origin)
            call = await client.open(request(peer.origin))
            call._conn.cut()
        head = asyncio.ensure_future(call.head())
        with pytest.raises(ConnectFailed):
            await call.finish()
        with pytest.raises(ConnectFailed):
            await head
        call.close()
        await client.aclose()

    run(main())


def test_closed_while_it_is_being_replaced() -> None:
    async def main() -> None:
        async with serve(answering(None, OK)) as peer:
            client = NativeClient()
            await fetch(client, peer.origin)
            call = await client.open(request(peer.origin))
            call._conn.cut()
            finishing = asyncio.ensure_future(call.finish())
            await asyncio.sleep(0)
            call.close()
            with pytest.raises(ConnectionBroken):
                await finishing
            await client.aclose()
            await peer.settled()

    run(main())


# Back-pressure: invariant I4


@loops
def test_a_response_that_nobody_reads_stays_where_it_is(loop: str) -> None:
    async def main() -> None:
        sent = 0

        async def handler(wire: Wire) -> None:
            nonlocal sent
            await wire.request()
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            while sent < SIZE:
                await wire.send(PIECE[: SIZE - sent])
                sent += len(PIECE[: SIZE - sent])

        async with serve(handler) as peer:
            client = NativeClient()
            call = await client.open(request(peer.origin))
            await call.finish()
            await call.head()
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < SIZE / 2
            assert sum(map(len, call._pieces)) <= HIGH_WATER + 256 * 1024
            total, more = 0, True
            while more:
                data, more = await call.read()
                total += len(data)
            assert total == SIZE
            call.close()
            assert peer.connections == 1
            await client.aclose()

    run(main(), loop=loop)


@loops
@pytest.mark.parametrize("headers", [sized(SIZE // 4), CHUNKED], ids=["length", "chunked"])
def test_an_upload_goes_no_faster_than_it_is_read(loop: str, headers: Headers) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def handler(wire: Wire) -> None:
            await go.wait()
            _, body = await wire.request()
            assert len(body) == SIZE // 4
            await wire.send(OK)

        async with serve(handler) as peer:
            client = NativeClient()
            call = await client.open(request(peer.origin, b"POST", headers=headers))
            writing = asyncio.ensure_future(upload(call, SIZE // 4))
            await asyncio.sleep(0.3)
            assert not writing.done()
            held = call._conn._transport.get_write_buffer_size()
            assert held <= 4 * len(PIECE)
            go.set()
            await writing
            assert (await call.head()).status == 200
            call.close()
            await client.aclose()

    run(main(), loop=loop)


def test_slow_is_not_stalled() -> None:
    """The write timeout is about progress, not about the time of a piece."""

    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await wire.reader.readuntil(b"\r\n\r\n")
            left = 3_000_000
            while left:
                left -= len(await wire.reader.read(min(left, 100_000)))
                await asyncio.sleep(0.02)
            await wire.send(OK)

        async with serve(handler) as peer:
            client = NativeClient(timeouts=Timeouts(write=0.25))
            call = await client.open(request(peer.origin, b"POST", headers=sized(3_000_000)))
            await call.write(b"x" * 2_999_999)
            await call.write(b"x")
            await call.finish()
            assert (await call.head()).status == 200
            call.close()
            await client.aclose()

    run(main())


def test_what_is_held_back_counts_as_unsent() -> None:
    """The patience for an answer starts when upstream has taken the request, not when it was handed over."""

    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await asyncio.sleep(0.5)
            await wire.request()
            await wire.send(OK)

        async with serve(handler) as peer:
            client = NativeClient()
            size = 20_000_000
            call = await client.open(request(peer.origin, b"POST", headers=sized(size), patience=0.25))
            await call.write(b"x" * size)
            await call.finish()
            assert (await call.head()).status == 200
            call.close()
            await client.aclose()

    run(main(), seconds=30)


# Ends


def test_close_wakes_who_waits() -> None:
    async def main() -> None:
        async with serve(answering(None, b"")) as peer:
            client = NativeClient()
            call = await client.open(request(peer.origin))
            await call.finish()
            head = asyncio.ensure_future(call.head())
            await asyncio.sleep(0.05)
            call.close()
            with pytest.raises(ConnectionBroken, match="closed"):
                await head
            for late in (call.write(b"a"), call.read()):
                with pytest.raises(ConnectionBroken):
                    await late
            await client.aclose()

    run(main())


def test_head_can_be_asked_again_after_a_cancelled_wait() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def handler(wire: Wire) -> None:
            await wire.request()
            await go.wait()
            await wire.send(OK)

        async with serve(handler) as peer:
            client = NativeClient()
            call = await client.open(request(peer.origin))
            await call.finish()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call.head(), 0.05)
            go.set()
            assert (await call.head()).status == 200
            assert (await call.head()).status == 200
            call.close()
            await client.aclose()

    run(main())


def test_finish_twice_is_once() -> None:
    async def main() -> None:
        requests: list[tuple[bytes, bytes]] = []
        async with serve(answering(requests, OK)) as peer:
            client = NativeClient()
            call = await client.open(request(peer.origin))
            await call.finish()
            await call.finish()
            await call.head()
            call.close()
            await client.aclose()
        assert len(requests) == 1

    run(main())

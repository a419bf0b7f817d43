"""Whose connection is it, and for how long."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import warnings

import pytest

from keypool_asgi.core.messages import Origin
from keypool_asgi.errors import ConfigurationError, ConnectFailed
from keypool_asgi.upstream import NativeClient, Timeouts
from keypool_asgi.upstream.call import NativeCall

from .tools import OK, Peer, Wire, answering, fetch, read_all, request, run, serve

LOOPS = ["asyncio"] + (["uvloop"] if importlib.util.find_spec("uvloop") else [])
loops = pytest.mark.parametrize("loop", LOOPS)


async def numbered(wire: Wire) -> None:
    """Answer every request with the number of the connection."""
    number = b"%d" % wire.number
    await answering(None, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(number), number))(wire)


async def start(client: NativeClient, peer: Peer) -> NativeCall:
    call = await client.open(request(peer.origin))
    await call.finish()
    return call


async def end(call: NativeCall) -> bytes:
    await call.head()
    body = await read_all(call)
    call.close()
    return body


def test_the_last_used_connection_comes_first() -> None:
    async def main() -> None:
        async with serve(numbered) as peer:
            client = NativeClient()
            calls = [await start(client, peer) for _ in range(3)]
            assert [await end(call) for call in calls] == [b"1", b"2", b"3"]
            again = [await start(client, peer) for _ in range(2)]
            assert [await end(call) for call in again] == [b"3", b"2"]
            await client.aclose()

    run(main())


def test_origins_do_not_share() -> None:
    async def main() -> None:
        async with serve(numbered) as one, serve(numbered) as two:
            client = NativeClient()
            for peer in (one, two, one, two):
                await fetch(client, peer.origin)
            assert (one.connections, two.connections) == (1, 1)
            await client.aclose()

    run(main())


@loops
def test_idle_connections_expire(loop: str) -> None:
    async def main() -> None:
        async with serve(numbered) as peer:
            client = NativeClient(timeouts=Timeouts(idle=0.2))
            calls = [await start(client, peer) for _ in range(3)]
            await end(calls.pop())
            await asyncio.sleep(0.1)
            for call in calls:
                await end(call)
            await peer.settled(open_connections=2)
            await peer.settled()
            assert await end(await start(client, peer)) == b"4"
            await client.aclose()

    run(main(), loop=loop)


def test_an_expired_connection_is_not_used_although_nobody_swept() -> None:
    async def main() -> None:
        async with serve(numbered) as peer:
            client = NativeClient()
            await fetch(client, peer.origin)
            client._connections._buckets[("http", "127.0.0.1", peer.origin.port)].idle[0].idle_since -= 100
            assert (await fetch(client, peer.origin))[1] == b"2"
            await client.aclose()

    run(main())


@loops
@pytest.mark.parametrize("seen", [True, False], ids=["seen by the loop", "not yet seen"])
@pytest.mark.parametrize("how", ["close", "reset", "garbage"])
def test_a_connection_that_upstream_closed_carries_no_post(loop: str, seen: bool, how: str) -> None:
    """I6: no risk is taken with a request that must not be sent twice."""

    async def main() -> None:
        go, gone = asyncio.Event(), asyncio.Event()

        async def handler(wire: Wire) -> None:
            await wire.request()
            await wire.send(OK)
            if wire.number > 1:
                await wire.reader.read()
                return
            await go.wait()
            if how == "garbage":
                await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother")
            elif how == "reset":
                wire.reset()
            else:
                wire.writer.close()
            gone.set()
            await wire.reader.read()

        async with serve(handler) as peer:
            client = NativeClient()
            await fetch(client, peer.origin)
            conn = client._connections._buckets[("http", "127.0.0.1", peer.origin.port)].idle[0]
            if not seen:
                conn._transport.pause_reading()
            go.set()
            await gone.wait()
            await asyncio.sleep(0.05)
            assert conn.gone == seen
            assert (await fetch(client, peer.origin, b"POST", b"abc"))[1] == b"ok"
            assert peer.connections == 2
            await client.aclose()

    run(main(), loop=loop)


@pytest.mark.parametrize("parser", ["httptools", "h11"])
@pytest.mark.parametrize("surplus", [OK, b"\x00", b"HTTP"])
def test_bytes_after_a_response_cost_the_connection(parser: str, surplus: bytes) -> None:
    """RFC 9112, section 9.2: what was not asked for must never become another caller's answer."""

    async def main() -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        for answer in (OK + surplus, chunked + surplus):
            async with serve(answering(None, answer)) as peer:
                client = NativeClient(parser=parser)  # type: ignore[arg-type]
                for _ in range(3):
                    assert (await fetch(client, peer.origin))[1] == b"ok"
                assert peer.connections == 3
                await client.aclose()

    run(main())


# max_connections


def test_callers_take_turns() -> None:
    async def main() -> None:
        async with serve(numbered) as peer:
            client = NativeClient(max_connections=2)
            held = [await start(client, peer) for _ in range(2)]
            order: list[int] = []

            async def wait(number: int) -> None:
                call = await start(client, peer)
                order.append(number)
                await end(call)

            waiting = [asyncio.ensure_future(wait(number)) for number in range(6)]
            await asyncio.sleep(0.05)
            assert order == []
            waiting[1].cancel()
            await end(held[0])
            held[1].close()  # not complete: its connection is cut, and its slot goes on
            await asyncio.gather(*waiting, return_exceptions=True)
            assert order == [0, 2, 3, 4, 5]
            assert peer.connections <= 3
            await client.aclose()

    run(main())


def test_no_turn_in_time() -> None:
    async def main() -> None:
        async with serve(numbered) as peer:
            client = NativeClient(max_connections=1, timeouts=Timeouts(connect=0.1))
            held = await start(client, peer)
            with pytest.raises(ConnectFailed, match="in use"):
                await start(client, peer)
            await end(held)
            await end(await start(client, peer))
            await client.aclose()

    run(main())


def test_a_failed_connect_frees_its_slot() -> None:
    async def main() -> None:
        client = NativeClient(max_connections=1)
        for _ in range(3):
            with pytest.raises(ConnectFailed):
                await client.open(request(Origin("http", "127.0.0.1", 1)))
        await client.aclose()

    run(main())


@pytest.mark.parametrize("steps", range(12))
def test_cancelled_at_any_step_no_slot_is_lost(steps: int) -> None:
    """Cancel an exchange after each number of loop steps, with another caller waiting for the only slot."""

    async def main() -> None:
        async with serve(numbered) as peer:
            client = NativeClient(max_connections=1)

            async def exchange() -> bytes:
                call = await client.open(request(peer.origin))
                try:
                    await call.finish()
                    await call.head()
                    return await read_all(call)
                finally:
                    call.close()

            first = asyncio.ensure_future(exchange())
            second = asyncio.ensure_future(exchange())
            third = asyncio.ensure_future(exchange())
            for _ in range(steps):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.sleep(0)
            second.cancel()
            assert (await third).isdigit()
            await asyncio.gather(first, second, return_exceptions=True)
            assert (await exchange()).isdigit()
            bucket = client._connections._buckets[("http", "127.0.0.1", peer.origin.port)]
            assert (bucket.count, len(bucket.waiters), len(bucket.idle)) == (1, 0, 1)
            await client.aclose()
            assert (bucket.count, len(bucket.idle)) == (0, 0)

    run(main())


@pytest.mark.parametrize("granted", ["connection", "slot"])
def test_cancelled_in_the_moment_of_its_turn(granted: str) -> None:
    async def main() -> None:
        async with serve(numbered) as peer:
            client = NativeClient(max_connections=1)
            held = await start(client, peer)
            first = asyncio.ensure_future(start(client, peer))
            second = asyncio.ensure_future(start(client, peer))
            await asyncio.sleep(0.01)
            if granted == "connection":
                await held.head()
                await read_all(held)
            held.close()
            first.cancel()
            await end(await second)
            assert first.cancelled()
            await client.aclose()

    run(main())


def test_a_granted_connection_that_is_lost_at_once() -> None:
    async def main() -> None:
        async with serve(numbered) as peer:
            client = NativeClient(max_connections=1)
            held = await start(client, peer)
            waiting = asyncio.ensure_future(start(client, peer))
            await asyncio.sleep(0.01)
            await end(held)
            held._conn.cut()
            assert await end(await waiting) == b"2"
            await client.aclose()

    run(main())


# Ends


@loops
def test_aclose_fails_who_waits_and_who_connects(loop: str) -> None:
    async def main() -> None:
        async with serve(numbered) as peer:
            client = NativeClient(max_connections=1)
            connecting = asyncio.ensure_future(start(client, peer))
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(start(client, peer))
            await asyncio.sleep(0)
            await client.aclose()
            for task in (connecting, waiting):
                with pytest.raises(ConnectFailed, match="closed"):
                    await task
            await peer.settled()
            assert await end(await start(client, peer))  # and it may be used again
            await client.aclose()

    run(main(), loop=loop)


def test_another_loop_starts_without_connections() -> None:
    client = NativeClient()

    async def use() -> int:
        async with serve(numbered) as peer:
            await fetch(client, peer.origin)
            await fetch(client, peer.origin)
            return peer.connections

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the first loop was closed without aclose()
        assert asyncio.run(use()) == 1
        assert asyncio.run(use()) == 1
        asyncio.run(client.aclose())
        gc.collect()
    asyncio.run(client.aclose())


@pytest.mark.parametrize("wrong", [{"max_connections": 0}, {"max_head_bytes": 0}, {"parser": "mine"}])
def test_wrong_settings_are_told(wrong: dict[str, object]) -> None:
    async def main() -> None:
        client = NativeClient(**wrong)  # type: ignore[arg-type]
        await client.open(request(Origin("http", "127.0.0.1", 1)))

    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        run(main())


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["connect", "write", "read", "idle"])
def test_wrong_timeouts_are_told(name: str, wrong: float) -> None:
    with pytest.raises(ConfigurationError, match=f"timeouts.{name}"):
        Timeouts(**{name: wrong})


def test_a_name_that_does_not_exist() -> None:
    async def main() -> None:
        client = NativeClient()
        with pytest.raises(ConnectFailed):
            await client.open(request(Origin("http", "keypool.invalid", 80)))
        with pytest.raises(ConnectFailed):
            await client.open(request(Origin("http", "a" * 70 + ".invalid", 80)))
        await client.aclose()

    run(main())

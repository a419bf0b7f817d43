"""Cases 11 and 19: callers who leave, and servers that do, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from faults.rig import CONCURRENCY, PREFIX, TOKEN, keys_of, simulated
from harness import RawConnection
from regressions.served import UVICORNS, Pool, pooled, until

from keypool_asgi import Team
from keypool_asgi.testing import Fault, Simulator


@pytest.fixture(params=UVICORNS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with simulated().running() as simulator:
        yield simulator


def request_of(pool: Pool, path: str = "/v1/voices", method: str = "GET", *fields: str) -> bytes:
    lines = [f"{method} {PREFIX}{path} HTTP/1.1", f"Host: {pool.served.host}", f"Authorization: {TOKEN}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def leave(connection: RawConnection, how: str) -> None:
    connection.reset() if how == "reset" else connection.sock.close()


LEAVING = pytest.mark.parametrize("how", ["reset", "close"])


# 11


@LEAVING
def test_case_11_leaving_during_the_look_up_of_the_token(simulator: Simulator, server: str, how: str) -> None:
    asked, answer = threading.Event(), threading.Event()

    def teams(presented: str) -> Team:
        asked.set()
        answer.wait(5)
        return Team("team-a", limits=[CONCURRENCY])

    with pooled(simulator, server, teams=teams) as pool:
        connection = RawConnection(pool.served.url)
        connection.send(request_of(pool, "/v2/upload", "POST", "Content-Length: 5") + b"hel")
        assert asked.wait(5)
        leave(connection, how)
        time.sleep(0.02)
        answer.set()
        pool.nothing_left()
    assert not any(request.complete for request in simulator.requests)


@LEAVING
def test_case_11_leaving_during_the_wait_for_a_key(simulator: Simulator, server: str, how: str) -> None:
    simulator.fail(Fault.stalled("response head"), times=1)
    with pooled(simulator, server, keys=keys_of("k1", max_in_flight=1), key_wait_seconds=5) as pool:
        first, second = RawConnection(pool.served.url), RawConnection(pool.served.url)
        first.send(request_of(pool))
        simulator.wait_until(lambda simulator: simulator.open_requests == 1)
        second.send(request_of(pool))
        until(lambda: pool.app.open_exchanges == 2)
        leave(second, how)
        time.sleep(0.02)
        simulator.release()
        assert b"voices" in first.read_until(b"}]}")
        first.sock.close()
        pool.nothing_left()
    assert len([request for request in simulator.requests if request.complete]) == 1


@LEAVING
@pytest.mark.parametrize("announced", [None, 1_000_000], ids=["chunked", "length"])
def test_case_11_leaving_during_the_upload(simulator: Simulator, server: str, how: str, announced: int | None) -> None:
    with pooled(simulator, server) as pool:
        connection = pool.open_upload(announced=announced)
        connection.send(b"x" * 70_000 if announced else b"11170\r\n" + b"x" * 70_000 + b"\r\n")
        simulator.wait_until(lambda simulator: simulator.requests and simulator.requests[0].body_size >= 65_536)
        leave(connection, how)
        pool.nothing_left()
    assert [request.outcome for request in simulator.requests] == ["abandoned"]


@LEAVING
@pytest.mark.parametrize("place", ["request head", "response head", "response body"])
def test_case_11_leaving_during_the_wait_for_upstream(simulator: Simulator, server: str, how: str, place: Any) -> None:
    simulator.fail(Fault.stalled(place))
    with pooled(simulator, server) as pool:
        connection = RawConnection(pool.served.url)
        connection.send(request_of(pool))
        simulator.wait_until(lambda simulator: simulator.open_requests == 1)
        time.sleep(0.02)
        leave(connection, how)
        pool.nothing_left()
        (record,) = pool.records
        assert not record.complete
    assert [request.outcome for request in simulator.requests] == ["abandoned"]


@LEAVING
def test_case_11_leaving_during_the_answer(simulator: Simulator, server: str, how: str) -> None:
    simulator.fail(Fault.large_body(200_000_000))
    with pooled(simulator, server) as pool:
        connection = RawConnection(pool.served.url)
        connection.send(request_of(pool))
        connection.read_until(b"\0" * 100_000)
        leave(connection, how)
        pool.nothing_left()
        (record,) = pool.records
        assert not record.complete
        assert record.response_bytes < 100_000_000


def test_case_11_a_crowd_that_leaves_at_once(simulator: Simulator, server: str) -> None:
    simulator.fail(Fault.stalled("response head"))
    with pooled(simulator, server, limits=()) as pool:
        crowd = [RawConnection(pool.served.url) for _ in range(50)]
        for connection in crowd:
            connection.send(request_of(pool))
        simulator.wait_until(lambda simulator: simulator.open_requests == 50)
        assert pool.keys[0].in_flight == 50
        for number, connection in enumerate(crowd):
            leave(connection, "reset" if number % 2 else "close")
        pool.nothing_left()


# 19


def test_case_19_draining(simulator: Simulator, server: str) -> None:
    """New work is refused with a 503 and a Retry-After, while an upload that has begun goes on to its end."""
    with pooled(simulator, server) as pool, ThreadPoolExecutor(1) as threads:
        connection = pool.open_upload(announced=10)
        connection.send(b"hello")
        until(lambda: pool.app.open_exchanges == 1)
        draining = threads.submit(pool.served.call, pool.app.drain, 5)
        until(lambda: pool.app._parts.gate.draining)
        refused = pool.send("/v1/voices")
        assert (refused.status, json.loads(refused.body)["code"]) == (503, "DRAINING")
        assert refused.all("retry-after") == ["1"]
        assert pool.exact(b"GET /hello", "Connection: close").status == 299, "the host app's own paths go on"
        assert not draining.done()
        connection.send(b"world")
        assert b" 200 OK" in connection.read_until(b"upload_url")
        connection.sock.close()
        draining.result(2)
        pool.nothing_left()
    assert [upload.size for upload in simulator.uploads] == [10]


def test_case_19_a_refused_upload_sees_its_503(simulator: Simulator, server: str) -> None:
    with pooled(simulator, server) as pool:
        pool.served.call(pool.app.drain, 0)
        answer = pool.send("/v2/upload", "POST", body=bytes(500_000))
        assert (answer.status, answer.whole) == (503, True)
    assert simulator.requests == []


def test_case_19_the_deadline_is_respected(simulator: Simulator, server: str) -> None:
    with pooled(simulator, server) as pool:
        connection = pool.open_upload(announced=10)
        connection.send(b"hello")
        until(lambda: pool.app.open_exchanges == 1)
        began = time.monotonic()
        pool.served.call(pool.app.drain, 0.2)
        assert 0.15 < time.monotonic() - began < 2
        assert pool.app.open_exchanges == 1
        connection.sock.close()
        pool.nothing_left()


def test_case_19_a_servers_own_shutdown_drains(simulator: Simulator, server: str) -> None:
    """Its lifespan's end waits for what is open, as long as ``drain_seconds``; here nothing hangs."""
    simulator.fail(Fault.stalled("response head", seconds=0.1))
    with pooled(simulator, server) as pool, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(pool.send, "/v1/voices")
        simulator.wait_until(lambda simulator: simulator.open_requests == 1)
    assert answer.result().status == 200
    assert pool.app.open_exchanges == 0
    assert pool.keys[0].in_flight == 0


def test_a_handler_that_is_cancelled_by_its_server_settles(simulator: Simulator) -> None:
    """A server cancels what is still open once its patience is over."""
    simulator.fail(Fault.stalled("response head"))
    with pooled(simulator) as pool:
        connection = RawConnection(pool.served.url)
        connection.send(request_of(pool))
        simulator.wait_until(lambda simulator: simulator.open_requests == 1)
    assert pool.app.open_exchanges == 0
    assert pool.keys[0].in_flight == 0
    assert asyncio.run(pool.quotas.reserve("probe", [])) is None
    simulator.wait_until(lambda simulator: simulator.open_requests == 0)
    connection.sock.close()

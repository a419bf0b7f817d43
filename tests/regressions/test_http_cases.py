"""Bugs that peers had, as tests over real sockets; the numbers are those of the collection (facts, section F)."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from faults.rig import PREFIX, TOKEN, keys_of, simulated
from harness import secret, token
from regressions.served import UVICORNS, Pool, pooled

from keypool_asgi import HealthPolicy, Team, UpstreamKey
from keypool_asgi.core.health import State
from keypool_asgi.testing import Fault, Simulator

NOT_TEXT = bytes(range(256)) * 40
DEAD = ("dead-1", "dead-2", "dead-3")
JOB = json.dumps({"audio_url": "https://example.com/a.mp3"}).encode()


@pytest.fixture(params=UVICORNS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with simulated("k1", *DEAD).running() as simulator:
        yield simulator
        assert simulator.violations == []


@pytest.fixture(scope="module", params=UVICORNS)
def shared(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with simulated().running() as simulator, pooled(simulator, request.param) as pool:
        yield pool


@pytest.fixture
def pool(shared: Pool) -> Iterator[Pool]:
    shared.simulator.heal()
    shared.afresh()
    yield shared
    shared.nothing_left()
    assert shared.simulator.violations == []


# 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "application/octet-stream"),
        ("application/octet-stream", "application/octet-stream"),
        ("application/json", "application/json"),
        ("audio/wav", "audio/wav"),
        ("application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_case_01_an_upload_is_bytes_whatever_it_says_it_is(
    pool: Pool, given: str | None, expected: str, chunked: bool
) -> None:
    fields = [f"Content-Type: {given}"] if given else []
    body = NOT_TEXT
    if chunked:
        fields.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(NOT_TEXT), NOT_TEXT)
    answer = pool.send("/v2/upload", "POST", *fields, body=body)
    assert answer.status == 200
    (request,) = pool.simulator.requests
    assert request.sha256 == hashlib.sha256(NOT_TEXT).hexdigest()
    assert request.header("content-type") == expected
    assert json.loads(answer.body)["upload_url"] == pool.simulator.uploads[-1].url


# 2


@pytest.mark.parametrize("region", ["us", "eu"])
def test_case_02_the_keys_region_fixes_the_host(region: str, server: str) -> None:
    with simulated("us").running() as simulator:
        simulator.add_account("account-eu", region="eu")
        simulator.add_project("project-eu", account="account-eu")
        simulator.add_key(secret("eu"), project="project-eu")
        keys = [*keys_of("us"), *keys_of("eu", region="eu")]
        origins = {"api": {"us": simulator.origins["api"], "eu": simulator.origins_in("eu")["api"]}}
        teams = {TOKEN: Team("team-a", regions=[region])}
        lie = {"us": "api.eu.assemblyai.com", "eu": "api.assemblyai.com"}[region]
        with pooled(simulator, server, keys=keys, origins=origins, teams=teams) as pool:
            for query in ("", "?file=eu.wav", "?file=/eu/v2/upload", "?region=us"):
                body = b"eu.assemblyai.com"
                assert pool.exact(
                    f"POST {PREFIX}/v2/upload{query}".encode(),
                    f"Authorization: {TOKEN}",
                    f"Content-Length: {len(body)}",
                    "Connection: close",
                    "X-Forwarded-Host: " + lie,
                    body=body,
                    host=lie,
                ).status == 200  # fmt: skip
        assert {request.region for request in simulator.requests} == {region}
        assert len(simulator.requests) == 4
        assert simulator.violations == []


# 5, 6, 7


def test_case_05_three_dead_keys_and_a_good_one(simulator: Simulator, server: str) -> None:
    for name in DEAD:
        simulator.revoke_key(secret(name))
    keys = [key for rank, name in enumerate((*DEAD, "k1")) for key in keys_of(name, priority=rank)]
    with pooled(simulator, server, keys=keys, retries=1) as pool:
        assert pool.send("/v2/upload", "POST", body=NOT_TEXT).status == 200
        pool.nothing_left()
    assert len(simulator.requests) == 4
    assert len(simulator.uploads) == 1


def test_case_06_a_pool_that_was_all_dead_heals_by_itself(simulator: Simulator) -> None:
    for name in DEAD:
        simulator.revoke_key(secret(name))
    with pooled(simulator, keys=keys_of(*DEAD), health=HealthPolicy(rejected_seconds=0.2)) as pool:
        assert pool.send("/v1/voices").status == 503
        assert pool.send("/v1/voices").status == 503
        for name in DEAD:
            simulator.restore_key(secret(name))
        time.sleep(0.2)
        assert pool.send("/v1/voices").status == 200
        pool.nothing_left()


def test_case_07_a_poison_request_leaves_every_key_in_service(simulator: Simulator) -> None:
    rule = simulator.fail(Fault.status(500))
    with pooled(simulator, "uvicorn-httptools", "k1", *DEAD) as pool:
        for _ in range(5):
            assert pool.send("/v2/transcript", "POST", "Content-Type: application/json", body=JOB).status == 500
        assert rule.matches == 5
        states = [health.state for key in pool.keys for health in key.health.values()]
        assert set(states) == {State.ACTIVE}
        pool.nothing_left()


# 12 (leaving at other places: test_leaving_cases)


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("announced", [None, 100_000], ids=["chunked", "length"])
def test_case_12_half_an_upload_never_becomes_a_whole_one(pool: Pool, how: str, announced: int | None) -> None:
    connection = pool.open_upload(announced=announced)
    piece = b"x" * 50_000
    connection.send(piece if announced else b"%x\r\n%b\r\n" % (len(piece), piece))
    pool.simulator.wait_until(lambda simulator: simulator.requests and simulator.requests[0].body_size >= 50_000)
    connection.reset() if how == "reset" else connection.sock.close()
    pool.nothing_left()
    (request,) = pool.simulator.requests
    assert (request.complete, request.outcome) == (False, "abandoned")
    assert not any(upload.size == 50_000 for upload in pool.simulator.uploads)


# 15


def test_case_15_a_cookie_is_never_kept_for_anybody(pool: Pool) -> None:
    cookies = [(b"Set-Cookie", b"a=1; Path=/"), (b"X-Between", b"1"), (b"Set-Cookie", b"b=2"), (b"set-cookie", b"a=3")]
    rule = pool.simulator.fail(Fault.fields(*cookies))
    answer = pool.send("/v1/voices")
    assert answer.all("set-cookie") == ["a=1; Path=/", "b=2", "a=3"], "duplicates, in order"
    pool.simulator.heal(rule)
    for fields in ([], ["Cookie: session=mine; a=1"]):
        assert pool.send("/v1/voices", "GET", *fields).status == 200
    assert [request.header("cookie") for request in pool.simulator.requests] == [None] * 3


# 16


def test_case_16_hop_by_hop_fields_end_at_each_hop(pool: Pool) -> None:
    secrets = [
        "X-Secret: 1",
        "Connection: x-secret, keep-alive",
        "TE: trailers",
        "Trailer: X-T",
        "Keep-Alive: timeout=5",
    ]
    secrets += ["Proxy-Authorization: Basic eDp5", "Proxy-Connection: keep-alive", "X-Kept: 1", "X-Kept: 2"]
    pool.simulator.fail(
        Fault.fields(
            (b"Connection", b"X-Internal"), (b"X-Internal", b"1"), (b"Keep-Alive", b"timeout=9"), (b"X-K", b"1")
        )
    )
    answer = pool.send("/v1/voices", "GET", *secrets)
    (request,) = pool.simulator.requests
    gone = ("x-secret", "te", "trailer", "keep-alive", "proxy-authorization", "proxy-connection")
    assert [request.header(name) for name in gone] == [None] * len(gone)
    assert [value for name, value in request.headers if name.lower() == b"x-kept"] == [b"1", b"2"]
    assert (answer.status, answer.all("x-internal"), answer.all("keep-alive"), answer.all("x-k")) == (
        200,
        [],
        [],
        ["1"],
    )


AMBIGUOUS = {
    "length and chunked": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "two lengths": ["Content-Length: 5", "Content-Length: 6"],
    "a list of lengths": ["Content-Length: 5, 6"],
    "a signed length": ["Content-Length: +5"],
    "another coding": ["Transfer-Encoding: gzip, chunked"],
    "identity": ["Transfer-Encoding: identity"],
    "two hosts": ["Host: other.example", "Content-Length: 5"],
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_case_16_what_can_be_read_in_two_ways_is_refused(pool: Pool, what: str) -> None:
    fields = AMBIGUOUS[what]
    body = b"5\r\nhello\r\n0\r\n\r\n" if "chunked" in str(fields) else b"hello"
    answer = pool.send("/v2/upload", "POST", *fields, body=body)
    assert answer.status == 400
    assert pool.simulator.requests == []


# I6: nothing billable is done twice

LOSSES = {
    "reset after the head of its answer": Fault.reset("response body", after=5),
    "closed after the request": Fault.fin("response head"),
    "reset after the request": Fault.reset("response head"),
    "500": Fault.status(500),
    "503": Fault.status(503),
    "504": Fault.status(504),
    "garbage": Fault.malformed("garbage"),
    "400": Fault.status(400, {"error": "Invalid endpoint schema"}),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_i6_a_job_is_never_submitted_twice(simulator: Simulator, loss: str) -> None:
    simulator.fail(LOSSES[loss], path="/v2/transcript")
    with pooled(simulator, "uvicorn-httptools", "k1", *DEAD, retries=3) as pool:
        answer = pool.send("/v2/transcript", "POST", "Content-Type: application/json", body=JOB)
        assert answer.whole
        assert answer.status >= 400
        pool.nothing_left()
    assert len(simulator.requests) == 1
    assert len(simulator.transcripts) <= 1


def test_i6_a_caller_who_gives_up_waiting_has_submitted_once(simulator: Simulator) -> None:
    simulator.fail(Fault.stalled("response head"), path="/v2/transcript")
    with pooled(simulator, "uvicorn-httptools", "k1", *DEAD) as pool:
        with pytest.raises(TimeoutError):
            pool.send("/v2/transcript", "POST", "Content-Type: application/json", body=JOB, timeout=0.2)
        pool.nothing_left()
    assert len(simulator.requests) == 1


def test_i6_a_stale_connection_costs_a_job_nothing(simulator: Simulator) -> None:
    with pooled(simulator) as pool:
        for _ in range(3):
            assert pool.send("/v2/transcript", "POST", "Content-Type: application/json", body=JOB).status == 200
            simulator.close_idle()
            time.sleep(0.02)
    assert len(simulator.transcripts) == 3


def test_i6_an_early_401_ends_a_large_upload(simulator: Simulator, server: str) -> None:
    """The body is gone by then: it cannot go out on another key. The caller learns that a repeat will succeed."""
    size = 8 * 1024 * 1024
    error = {"error": "Authentication error, API token missing/invalid"}
    simulator.fail(Fault.early(401, error, after=500_000), key=secret("dead-1"))
    keys = [*keys_of("dead-1", priority=0), *keys_of("k1", priority=1)]
    with pooled(simulator, server, keys=keys) as pool, httpx.Client(headers={"authorization": TOKEN}) as client:
        url = pool.served.url + PREFIX + "/v2/upload"
        first = client.post(url, content=bytes(size))
        assert (first.status_code, first.json()["code"]) == (503, "NO_AVAILABLE_KEYS")
        assert first.headers["retry-after"] == "1"
        assert client.post(url, content=bytes(size)).status_code == 200
        client.close()
        pool.nothing_left()
    assert [upload.size for upload in simulator.uploads] == [size]


# 22


def test_case_22_the_keys_are_swapped_under_200_requests(server: str) -> None:
    with simulated("old", "new").running() as simulator:
        simulator.fail(Fault.stalled("response head", seconds=0.15), path="/v1/voices")
        listed: list[Any] = keys_of("old")

        async def keys() -> list[UpstreamKey]:
            return list(listed)

        with pooled(simulator, server, keys=keys, limits=()) as pool:
            # Requests that go out before the swap, while it happens, and after it.
            with ThreadPoolExecutor(50) as threads:
                answers = [threads.submit(pool.send, "/v1/voices") for _ in range(100)]
                simulator.wait_until(lambda simulator: simulator.open_requests >= 20)
                listed[:] = keys_of("new")
                pool.served.call(pool.app._parts.pool.refresh)
                (old,) = [key for key in pool.keys if key.id == "old"]
                assert old.in_flight > 0
                assert not old.listed
                answers += [threads.submit(pool.send, "/v1/voices") for _ in range(100)]
                assert {answer.result().status for answer in answers} == {200}
            assert [key.id for key in pool.keys] == ["new"], "the old one is forgotten with its last exchange"
            assert pool.keys[0].in_flight == 0
        by_key = [request.key for request in simulator.requests]
        assert by_key.count(secret("old")) + by_key.count(secret("new")) == 200
        assert by_key.count(secret("new")) >= 100


def test_an_unknown_team_is_told_so_before_it_uploads(pool: Pool) -> None:
    """It expects a 100, gets a 401, and has sent nothing of its gigabyte."""
    head = [f"Host: {pool.served.host}", f"Authorization: {token('nobody')}", "Expect: 100-continue"]
    data = f"POST {PREFIX}/v2/upload HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in head)
    with socket.create_connection(("127.0.0.1", pool.served.port), 5) as sock:
        sock.sendall(data.encode() + b"Content-Length: 1000000000\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 401 ")
    assert pool.simulator.requests == []

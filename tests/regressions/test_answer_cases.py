"""Cases 18 and 21: answers pass byte by byte, and no secret passes at all, over real sockets."""

from __future__ import annotations

import gzip
import json
import logging
import traceback
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from faults.rig import PREFIX, TOKEN, keys_of, simulated
from harness import secret
from regressions.served import UVICORNS, Pool, pooled

from keypool_asgi import KeyPool, Team
from keypool_asgi.testing import Fault, Simulator

TEXT = json.dumps({"text": "hello " * 500}).encode()
BROTLI = bytes.fromhex("1b0c00001480aaaaaaeaff7402")  # any bytes will do: nobody may look into them
BODIES = {"gzip": gzip.compress(TEXT), "deflate": zlib.compress(TEXT), "br": BROTLI, "zstd": b"\x28\xb5\x2f\xfd" * 9}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with simulated(stream_interval=0.001).running() as simulator:
        yield simulator
        assert simulator.violations == []


@pytest.fixture(scope="module", params=UVICORNS)
def shared(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with simulated(stream_interval=0.001).running() as simulator, pooled(simulator, request.param) as pool:
        yield pool


@pytest.fixture
def pool(shared: Pool) -> Iterator[Pool]:
    shared.simulator.heal()
    shared.afresh()
    yield shared
    shared.nothing_left()
    assert shared.simulator.violations == []


# 21


@pytest.mark.parametrize("coding", BODIES)
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_case_21_compressed_answers_are_not_touched(pool: Pool, coding: str, framing: Any) -> None:
    fields = [(b"Content-Encoding", coding.encode()), (b"Content-Type", b"application/json"), (b"ETag", b'"x"')]
    pool.simulator.fail(Fault.status(200, BODIES[coding], headers=fields).but(framing=framing))
    answer = pool.send("/v1/voices", "GET", f"Accept-Encoding: {coding}")
    assert (answer.status, answer.body, answer.whole) == (200, BODIES[coding], True)
    assert (answer.all("content-encoding"), answer.all("etag")) == ([coding], ['"x"'])
    assert answer.all("content-length") == ([str(len(BODIES[coding]))] if framing == "length" else [])
    asked = pool.simulator.requests[0].header("accept-encoding")
    assert asked == ("gzip" if coding == "gzip" else "identity"), (
        "only what we can read, too; but this one did not listen"
    )


def test_case_21_head_has_the_fields_and_no_body(pool: Pool) -> None:
    whole = pool.send("/v1/voices")
    head = pool.send("/v1/voices", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.all("content-length") == [str(len(whole.body))]
    assert [request.method for request in pool.simulator.requests] == ["GET", "HEAD"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_case_21_head_of_a_refusal(pool: Pool, method: str) -> None:
    answer = pool.send("/v2/transcript/nobody", method)
    assert (answer.status, bool(answer.body)) == (404, method == "GET")


def test_case_21_a_204_has_no_body_and_no_length(pool: Pool) -> None:
    pool.simulator.fail(Fault(raw=b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", then="hang up"))
    answer = pool.send("/v1/voices")
    assert (answer.status, answer.body) == (204, b"")
    assert (answer.all("content-length"), answer.all("transfer-encoding")) == ([], [])


def test_case_21_a_304_keeps_its_fields(pool: Pool) -> None:
    pool.simulator.fail(Fault.status(304, b"", headers=[(b"ETag", b'"x"')]))
    answer = pool.send("/v1/voices", "GET", 'If-None-Match: "x"')
    assert (answer.status, answer.body, answer.all("etag")) == (304, b"", ['"x"'])
    assert pool.simulator.requests[0].header("if-none-match") == '"x"'


def test_case_21_a_304_that_tells_a_length_has_no_body(pool: Pool) -> None:
    """It is the length of what a GET would get (RFC 9110, section 8.6); some servers would wait for that body."""
    raw = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 400\r\nETag: x\r\n\r\n"
    pool.simulator.fail(Fault(raw=raw, then="hang up"))
    answer = pool.send("/v1/voices")
    assert (answer.status, answer.body, answer.all("etag")) == (304, b"", ["x"])
    assert pool.records[0].complete


def test_case_21_interim_answers_are_passed_over(pool: Pool) -> None:
    pool.simulator.fail(Fault.informed(102, 103, 103))
    answer = pool.send("/v1/voices")
    assert answer.status == 200
    assert b"voices" in answer.body
    assert answer.all("link") == []


def test_case_21_trailers_are_dropped_and_the_body_is_whole(pool: Pool) -> None:
    pool.simulator.fail(Fault.trailing((b"X-Checksum", b"1")))
    answer = pool.send("/v1/voices")
    assert (answer.status, answer.whole, answer.all("x-checksum"), answer.all("trailer")) == (200, True, [], [])
    assert b"voices" in answer.body


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_case_21_bodies_of_any_size_arrive_whole(pool: Pool, size: int, framing: Any) -> None:
    pool.simulator.fail(Fault.large_body(size, framing=framing))
    answer = pool.send("/v1/voices")
    assert (answer.status, len(answer.body), answer.whole) == (200, size, True)


@pytest.mark.parametrize("cut", ["length", "chunked", "close"])
def test_an_answer_that_breaks_off_is_broken_off_on_the_wire(pool: Pool, cut: Any) -> None:
    pool.simulator.fail(Fault.reset("response body", after=100_000).but(
        answer=Fault.large_body(1_000_000).answer, acts=False, framing=cut
    ))  # fmt: skip
    answer = pool.send("/v1/voices")
    assert answer.status == 200
    assert not answer.whole
    assert len(answer.body) < 1_000_000


def test_an_event_stream_is_not_held_back(pool: Pool) -> None:
    """The first event arrives while the last one has not been made."""
    pool.simulator.fail(Fault.stalled("response body", after=20), path="/v1/chat/completions")
    body = json.dumps({"model": "claude-sonnet-5", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
    from harness import RawConnection

    with RawConnection(pool.served.url) as connection:
        head = f"POST {PREFIX}/v1/chat/completions HTTP/1.1\r\nHost: {pool.served.host}\r\nAuthorization: {TOKEN}\r\n"
        head += f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.send((head + body).encode())
        connection.read_until(b"data: ")
        assert pool.simulator.open_requests == 1
        pool.simulator.release()
        assert b"[DONE]" in connection.read_to_end()


# 18: the whole suite runs under the leak guard; these are the places where a secret would show first


def test_case_18_errors_of_the_operators_own_functions(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    def teams(presented: str) -> Team:
        raise LookupError(f"no row for {presented}")

    def keys() -> Any:
        raise OSError(f"vault refused {keys_of('k1')} {keys_of('k1')[0].secret}")

    def select(offers: Any, need: Any) -> str:
        raise RuntimeError(f"cannot choose among {offers}")

    def on_exchange(record: Any) -> None:
        raise ValueError(f"cannot write {record}")

    caplog.set_level(logging.DEBUG)
    settings: list[dict[str, Any]] = [
        {"teams": teams},
        {"keys": keys},
        {"on_exchange": on_exchange},
        {"select": select},
    ]
    bodies = []
    for given in settings:
        with pooled(simulator, **given) as pool:
            answer = pool.send("/v1/voices")
            bodies.append((answer.status, answer.body))
            pool.nothing_left()
    assert [status for status, _ in bodies][:3] == [503, 503, 200]
    shown = caplog.text + repr(bodies) + "".join(map(repr, (record.__dict__ for record in caplog.records)))
    assert secret("k1") not in shown
    assert all(TOKEN not in record.getMessage() for record in caplog.records if record.name.startswith("keypool_asgi"))
    assert "no row for" not in caplog.text, "its text has the caller's token in it"


def test_case_18_whatever_can_be_printed() -> None:
    (key,) = keys_of("k1")
    team = Team("team-a")
    app = KeyPool(keys=[key], teams={TOKEN: team})
    held: list[Any] = [key, [key], {"key": key}, app, app.keys(), app._parts, app._parts.pool, app._parts.client]
    shown = "".join(f"{value!r}{value!s}" for value in held)
    several = ExceptionGroup("several", [ValueError(key), RuntimeError(app, key.secret)])
    shown += "".join(traceback.format_exception(several))
    assert secret("k1") not in shown
    assert TOKEN not in shown


def test_case_18_upstream_that_echoes_the_key(simulator: Simulator) -> None:
    """AssemblyAI does not, but a caller must not learn the key from an error of its credential either."""
    echo = {"error": f"Authentication error, API token {secret('k1')} missing/invalid"}
    simulator.fail(Fault.status(401, echo))
    with pooled(simulator) as pool:
        answer = pool.send("/v1/voices")
        assert answer.status == 503
        assert secret("k1").encode() not in answer.body

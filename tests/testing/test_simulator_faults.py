"""Every fault is what it says, seen by a real client."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import httpx
import pytest
from rawsocket import connect, head, read_all, read_head, talk

from keypool_asgi.testing import MALFORMED, Fault, Stall, silence_wav


def rss() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


# Which requests get it


def test_rules_select_by_key_service_method_path_and_count(sim, http) -> None:
    other = sim.add_key(project="project-1")
    rule = sim.fail(Fault.status(500), key=sim.key, service="api", method="GET", path="/v2/*", nth=2)
    assert http.get("/v2/transcript", headers={"authorization": other}).status_code == 200
    assert http.get("/v2/transcript").status_code == 200
    assert http.post("/v2/upload", content=b"a").status_code == 200
    assert http.get("/v2/transcript").status_code == 500
    assert http.get("/v2/transcript").status_code == 200
    assert (rule.matches, rule.hits) == (3, 1)


def test_times_heal_and_first_come_first_served(sim, http) -> None:
    sim.fail(Fault.status(503), times=1)
    forever = sim.fail(Fault.status(502))
    assert [http.get("/v2/transcript").status_code for _ in range(3)] == [503, 502, 502]
    sim.heal(forever)
    assert http.get("/v2/transcript").status_code == 200
    sim.fail(Fault.status(502))
    sim.heal()
    assert http.get("/v2/transcript").status_code == 200
    assert sim.requests[0].fault.answer.status == 503


# Statuses and fields


def test_a_status_does_nothing_else(sim, http) -> None:
    sim.fail(Fault.status(500, "<h1>Oops</h1>", headers=[(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]))
    answer = http.post("/v2/upload", content=b"audio")
    assert (answer.status_code, answer.text) == (500, "<h1>Oops</h1>")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert sim.uploads == []


def test_an_unusual_status(sim, http) -> None:
    sim.fail(Fault.status(599, {"error": "?"}))
    assert http.get("/v2/transcript").status_code == 599


def test_a_status_can_hide_that_it_was_done(sim, http) -> None:
    sim.fail(Fault.status(504, b"").but(acts=True))
    assert http.post("/v2/upload", content=b"audio").status_code == 504
    assert len(sim.uploads) == 1


def test_a_connection_field_that_names_others(sim, http) -> None:
    sim.fail(Fault.fields((b"Connection", b"x-secret, keep-alive"), (b"X-Secret", b"1")))
    answer = http.get("/v2/transcript")
    assert (answer.headers["connection"], answer.headers["x-secret"]) == ("x-secret, keep-alive", "1")


def test_a_redirect(sim, http) -> None:
    sim.fail(Fault.redirect("http://elsewhere.example/v2/upload"))
    answer = http.post("/v2/upload", content=b"audio")
    assert (answer.status_code, answer.headers["location"]) == (307, "http://elsewhere.example/v2/upload")


def test_informational_responses_and_trailers(sim) -> None:
    sim.fail(Fault.informed(102, 103).but(trailers=((b"X-Sum", b"9"),)))
    answer = talk(sim, head(sim, "GET /v2/transcript"))
    first, second, final = answer.split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3], final[:3]) == (b"102", b"103", b"200")
    assert answer.endswith(b"0\r\nX-Sum: 9\r\n\r\n")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_framings(sim, http, framing) -> None:
    sim.fail(Fault(framing=framing))
    answer = http.get("/v2/transcript")
    assert answer.json()["transcripts"] == []
    assert ("content-length" in answer.headers, "transfer-encoding" in answer.headers) == (
        framing == "length",
        framing == "chunked",
    )


# Throttling


def test_throttling(sim, http) -> None:
    sim.throttle("account-1", retry_after=7)
    answer = http.get("/v2/transcript")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    sim.throttle("account-1", status=403, retry_after=None)
    answer = http.get("/v2/transcript")
    assert (answer.status_code, "retry-after" in answer.headers) == (403, False)
    sim.settings.clock = lambda: 0.0
    sim.throttle("account-1", retry_after=60, http_date=True)
    assert http.get("/v2/transcript").headers["retry-after"] == "Thu, 01 Jan 1970 00:01:00 GMT"
    sim.throttle("account-1", service="tts")
    assert http.get("/v2/transcript").status_code == 200
    sim.unthrottle("account-1")


def test_a_rate_limit_is_the_accounts(sim) -> None:
    now = [1000.0]
    sim.settings.clock = lambda: now[0]
    sim.add_account("small", rate_limit=(2, 10.0))
    sim.add_project("small-1", account="small")
    keys = [sim.add_key(project="small-1") for _ in range(3)]
    with httpx.Client(base_url=sim.url) as client:
        answers = [client.get("/v2/transcript", headers={"authorization": key}) for key in keys]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].headers["retry-after"] == "10"
        now[0] += 10
        assert client.get("/v2/transcript", headers={"authorization": keys[0]}).status_code == 200


# Connections that end


def test_resets_and_fins_before_the_response(sim, http) -> None:
    for fault, error in [
        (Fault.reset("request head"), httpx.ReadError),
        (Fault.reset("response head"), httpx.ReadError),
        (Fault.fin("request head"), httpx.RemoteProtocolError),
        (Fault.fin("response head"), httpx.RemoteProtocolError),
    ]:
        sim.fail(fault, times=1)
        with pytest.raises(error):
            http.get("/v2/transcript")
    assert [record.outcome for record in sim.requests] == ["cut"] * 4
    assert [record.complete for record in sim.requests] == [False, True, False, True]


def test_a_lost_response_was_acted_on_and_a_lost_request_was_not(sim, http) -> None:
    sim.fail(Fault.reset("response head"), times=1)
    sim.fail(Fault.reset("request body", 3), times=1)
    sim.fail(Fault.reset("response head").but(acts=False), times=1)
    for _ in range(3):
        with pytest.raises(httpx.TransportError):
            http.post("/v2/upload", content=b"audio" * 100_000)
    assert len(sim.uploads) == 1


def test_a_reset_in_the_middle_of_the_request_body(sim) -> None:
    sim.fail(Fault.reset("request body", 5))
    with connect(sim) as sock:
        sock.sendall(head(sim, "POST /v2/upload", "Content-Length: 100") + b"12345")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert sim.requests[0].body_size == 5


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", ["reset", "fin"])
def test_a_response_that_breaks_off(sim, framing, how) -> None:
    made = Fault.reset if how == "reset" else Fault.fin
    sim.fail(made("response body", 20).but(framing=framing))
    with (
        httpx.Client() as client,
        client.stream("GET", f"{sim.url}/v2/transcript", headers={"authorization": sim.key}) as answer,
    ):
        assert answer.status_code == 200
        pieces = answer.iter_raw()
        assert next(pieces) == b'{"page_details":{"li'
        with pytest.raises(httpx.ReadError if how == "reset" else httpx.RemoteProtocolError):
            next(pieces)
    assert sim.requests[0].outcome == "cut"


def test_connections_dropped_before_anything_is_read(sim, http) -> None:
    sim.drop_connections(2)
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            http.get("/v2/transcript")
    assert http.get("/v2/transcript").status_code == 200
    assert (len(sim.requests), sim.connections) == (1, 3)


def test_idle_connections_are_closed(sim) -> None:
    with connect(sim) as sock:
        sock.sendall(head(sim, "GET /v2/transcript"))
        assert read_head(sock)
        sim.wait_until(lambda sim: sim.open_requests == 0)
        sim.close_idle()
        assert sock.recv(1) == b""


@pytest.mark.parametrize(("then", "announced"), [("close", True), ("hang up", False)])
def test_what_becomes_of_the_connection(sim, then, announced) -> None:
    sim.fail(Fault(then=then))
    with connect(sim) as sock:
        sock.sendall(head(sim, "GET /v2/transcript"))
        answer = read_all(sock)
    assert (b"Connection: close" in answer) == announced


def test_a_reset_after_a_complete_response(sim) -> None:
    sim.fail(Fault(then="reset"))
    with connect(sim) as sock:
        sock.sendall(head(sim, "GET /v2/transcript"))
        assert read_head(sock).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


# Slowness


def test_a_stall_before_the_head_ends_by_itself_or_is_released(sim, http) -> None:
    sim.fail(Fault.stalled(seconds=0.1), times=1)
    began = time.monotonic()
    assert http.get("/v2/transcript").status_code == 200
    assert time.monotonic() - began >= 0.1
    sim.fail(Fault.stalled(), times=1)
    releaser = threading.Thread(
        target=lambda: (sim.wait_until(lambda sim: sim.open_requests), time.sleep(0.05), sim.release())
    )
    releaser.start()
    assert http.get("/v2/transcript").status_code == 200
    releaser.join()


def test_who_leaves_during_a_stall_has_abandoned_the_exchange(sim, http) -> None:
    sim.fail(Fault.stalled())
    with pytest.raises(httpx.ReadTimeout):
        http.get("/v2/transcript", timeout=0.05)
    sim.wait_until(lambda sim: sim.open_requests == 0)
    assert sim.requests[0].outcome == "abandoned"


def test_a_stall_in_the_middle_of_the_response(sim, http) -> None:
    sim.fail(Fault.stalled("response body", 20))
    with http.stream("GET", "/v2/transcript") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b'{"page_details":{"li'
        assert sim.requests[0].status == 200
        assert sim.open_requests == 1
        sim.release()
        assert b"".join(pieces).endswith(b"}")


def test_a_stall_in_the_request_body_is_back_pressure(sim) -> None:
    sim.fail(Fault.stalled("request body", 1))
    with connect(sim) as sock:
        sock.sendall(head(sim, "POST /v2/upload", "Content-Length: 1000000000"))
        sock.settimeout(0.7)
        with pytest.raises(TimeoutError):
            sock.sendall(b"x" * 30_000_000)  # the kernel holds some 6 MB


def test_a_trickle(sim, http) -> None:
    sim.fail(Fault.trickled(20, 0.002))
    began = time.monotonic()
    assert http.get("/v2/transcript").json()["transcripts"] == []
    assert time.monotonic() - began > 0.02


def test_slow_reading(sim, http) -> None:
    sim.fail(Fault.slow_read(1_000_000))
    began = time.monotonic()
    assert http.post("/v2/upload", content=b"x" * 300_000).status_code == 200
    assert time.monotonic() - began > 0.25


# Early answers


def test_an_early_answer_then_the_rest_is_read(sim, http) -> None:
    sim.fail(Fault.early(429, after=10), times=1)
    assert http.post("/v2/upload", content=iter([b"x" * 65_536] * 50)).status_code == 429
    assert http.get("/v2/transcript").status_code == 200
    assert (sim.requests[0].body_size, sim.requests[0].complete) == (65_536 * 50, True)
    assert sim.requests[1].connection == 1
    assert sim.uploads == []


@pytest.mark.parametrize("then", ["close", "reset"])
def test_an_early_answer_then_the_end(sim, then) -> None:
    sim.fail(Fault.early(401, after=10, then=then))
    with connect(sim) as sock:
        sock.sendall(head(sim, "POST /v2/upload", "Content-Length: 100") + b"x" * 10)
        answer = read_head(sock)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert (b"Connection: close" in answer) == (then == "close")
        if then == "reset":
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    assert not sim.requests[0].complete


def test_an_incomplete_request_is_never_acted_on(sim) -> None:
    sim.fail(Fault.early(200, after=10, then="close").but(acts=True))
    talk(sim, head(sim, "POST /v2/upload", "Content-Length: 100") + b"x" * 10)
    assert sim.uploads == []


def test_an_early_answer_instead_of_a_100(sim) -> None:
    sim.fail(Fault.early(403))
    answer = talk(sim, head(sim, "POST /v2/upload", "Expect: 100-continue", "Content-Length: 100"))
    assert answer.startswith(b"HTTP/1.1 403 ")


# What is not HTTP


@pytest.mark.parametrize("kind", list(MALFORMED))
def test_malformed_replies_arrive_as_they_are(sim, kind) -> None:
    sim.fail(Fault.malformed(kind))
    assert talk(sim, head(sim, "POST /v2/upload", "Content-Length: 5") + b"audio") == MALFORMED[kind]
    assert len(sim.uploads) == 1
    assert sim.requests[0].outcome == "answered"


# Large bodies


def test_a_large_download_is_not_held(sim, http) -> None:
    sim.fail(Fault.large_body(150_000_000))
    before = rss()
    with http.stream("GET", "/v2/transcript") as answer:
        size = sum(len(piece) for piece in answer.iter_raw(65_536))
    assert size == 150_000_000
    assert rss() - before < 40_000_000


def test_a_large_upload_is_not_held(sim, http) -> None:
    before = rss()
    piece = b"x" * 65_536
    assert http.post("/v2/upload", content=(piece for _ in range(2400))).status_code == 200
    assert rss() - before < 40_000_000
    assert sim.uploads[0].size == 65_536 * 2400
    assert sim.requests[0].sha256 == hashlib.sha256(piece * 2400).hexdigest()


def test_faults_combine(sim) -> None:
    fault = Fault.status(503).but(stall=Stall("response head", seconds=0.05), then="close")
    sim.fail(fault)
    began = time.monotonic()
    with connect(sim) as sock:
        sock.sendall(head(sim, "GET /v2/transcript"))
        assert b"Connection: close" in read_all(sock)
    assert time.monotonic() - began >= 0.05


def test_silence_is_a_wav(sim, http) -> None:
    sim.fail(Fault(), times=1)
    assert http.post("/v2/upload", content=silence_wav(0.5)).status_code == 200

"""A wrong proxy is caught: credentials, ownership, what may not be forwarded, uploads that broke off."""

from __future__ import annotations

import hashlib
import json

import httpx
import pytest
from rawsocket import connect, head, read_head, talk

from keypool_asgi.testing import Simulator, silence_wav

INVALID = "Authentication error, API token missing/invalid"


# Credentials


@pytest.mark.parametrize("value", [None, "", "nonsense", "Bearer {key}", "bearer {key}", "Basic {key}"])
def test_only_the_raw_key_opens_the_api(sim, value) -> None:
    headers = {} if value is None else {"authorization": value.format(key=sim.key)}
    answer = httpx.get(f"{sim.url}/v2/transcript", headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"error": INVALID})


@pytest.mark.parametrize("service", ["streaming", "llm_gateway", "sync", "dictation", "tts"])
def test_bearer_is_refused_by_every_service_but_agents(sim, service) -> None:
    paths = {
        "streaming": ("GET", "/v3/token?expires_in_seconds=60"),
        "llm_gateway": ("POST", "/v1/chat/completions"),
        "sync": ("POST", "/v1/transcribe"),
        "dictation": ("POST", "/v1/transcribe/live"),
        "tts": ("POST", "/v1/speech"),
    }
    method, path = paths[service]
    answer = httpx.request(method, sim.origins[service] + path, headers={"authorization": f"Bearer {sim.key}"})
    assert answer.status_code == 401
    assert INVALID in answer.text


@pytest.mark.parametrize("form", ["{}", "Bearer {}"])
def test_agents_take_both_forms(sim, form) -> None:
    answer = httpx.get(sim.origins["agents"] + "/v1/agents", headers={"authorization": form.format(sim.key)})
    assert answer.json() == {"agents": []}
    assert sim.requests[0].key == sim.key


def test_a_revoked_key_is_unknown_until_it_is_restored(sim, http) -> None:
    sim.revoke_key(sim.key)
    assert http.get("/v2/transcript").status_code == 401
    sim.restore_key(sim.key)
    assert http.get("/v2/transcript").status_code == 200


def test_a_key_is_unknown_in_the_other_region(sim, http) -> None:
    sim.add_account("europe", region="eu")
    sim.add_project("eu-1", account="europe")
    key = sim.add_key(project="eu-1")
    eu = sim.origins_in("eu")["api"]
    assert httpx.get(f"{eu}/v2/transcript", headers={"authorization": key}).status_code == 200
    assert httpx.get(f"{eu}/v2/transcript", headers={"authorization": sim.key}).status_code == 401
    assert http.get("/v2/transcript", headers={"authorization": key}).status_code == 401


def test_what_needs_no_key(sim) -> None:
    origins = sim.origins
    for url in (origins["dictation"] + "/v1/warm", origins["sync"] + "/warm", origins["llm_gateway"] + "/v1/models"):
        assert httpx.get(url).status_code == 200


# Ownership


@pytest.fixture
def other(sim) -> str:
    """A key of another project of the same account."""
    sim.add_project("project-2", account="account-1")
    return sim.add_key(project="project-2")


def test_an_upload_belongs_to_its_project(sim, http, other) -> None:
    url = http.post("/v2/upload", content=silence_wav(1)).json()["upload_url"]
    foreign = http.post("/v2/transcript", json={"audio_url": url}, headers={"authorization": other})
    assert (foreign.status_code, foreign.json()) == (403, {"error": "Cannot access uploaded file"})
    assert [(each.kind, each.owner, each.caller) for each in sim.foreign_requests] == [
        ("upload", "project-1", "project-2")
    ]
    assert sim.foreign_requests[0].number == sim.requests[-1].number


def test_keys_of_one_project_are_interchangeable(sim, http) -> None:
    twin = sim.add_key(project="project-1")
    url = http.post("/v2/upload", content=silence_wav(1)).json()["upload_url"]
    assert http.post("/v2/transcript", json={"audio_url": url}, headers={"authorization": twin}).status_code == 200
    assert sim.foreign_requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "")]
    + [("GET", f"/{each}") for each in ("sentences", "paragraphs", "srt", "vtt", "word-search?words=a")]
    + [("GET", "/redacted-audio"), ("DELETE", "")],
)
def test_a_foreign_transcript_reads_like_an_unknown_one(sim, http, other, method, path) -> None:
    ident = http.post("/v2/transcript", json={"audio_url": "https://example.com/a.mp3"}).json()["id"]
    foreign = http.request(method, f"/v2/transcript/{ident}{path}", headers={"authorization": other})
    unknown = http.request(method, f"/v2/transcript/nobody{path}", headers={"authorization": other})
    assert foreign.status_code == unknown.status_code == 400
    assert foreign.json() == unknown.json() == {"error": "Transcript lookup error, transcript id not found"}
    assert [each.id for each in sim.foreign_requests] == [ident]


def test_lists_show_the_project_only_and_foreign_cursors_mean_nothing(sim, http, other) -> None:
    mine = http.post("/v2/transcript", json={"audio_url": "https://example.com/a.mp3"}).json()["id"]
    assert http.get("/v2/transcript", headers={"authorization": other}).json()["transcripts"] == []
    answer = http.get(f"/v2/transcript?before_id={mine}", headers={"authorization": other})
    assert answer.status_code == 400
    assert sim.foreign_requests


def test_the_gateway_and_agents_belong_to_the_account(sim, http, other) -> None:
    sim.add_account("account-2")
    sim.add_project("project-3", account="account-2")
    stranger = sim.add_key(project="project-3")
    ident = http.post("/v2/transcript", json={"audio_url": "https://example.com/a.mp3"}).json()["id"]
    body = {"transcript_id": ident, "speech_understanding": {"request": {"translation": {}}}}
    url = sim.origins["llm_gateway"] + "/v1/understanding"
    assert httpx.post(url, json=body, headers={"authorization": other}).status_code == 200
    assert httpx.post(url, json=body, headers={"authorization": stranger}).status_code == 404
    agents = sim.origins["agents"] + "/v1/agents"
    agent = httpx.post(agents, json={"name": "a"}, headers={"authorization": sim.key})
    assert agent.status_code == 201
    at = f"{agents}/{agent.json()['id']}"
    assert httpx.get(at, headers={"authorization": other}).status_code == 200
    assert httpx.delete(at, headers={"authorization": stranger}).status_code == 404
    assert httpx.delete(at, headers={"authorization": sim.key}).status_code == 204
    assert [each.kind for each in sim.foreign_requests] == ["transcript", "agent"]


# What no sane proxy forwards


@pytest.mark.parametrize(
    "field",
    [
        "Connection: keep-alive, X-Secret",
        "Keep-Alive: timeout=5",
        "TE: gzip",
        "Proxy-Authorization: Basic x",
        "Proxy-Connection: keep-alive",
        "Upgrade: h2c",
        "X-API-Key: tt",
        "Cookie: session=1",
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Host: internal",
        "Forwarded: for=10.0.0.1",
        "X-KeyPool-Team: a",
        "Authorization: another",
    ],
)
def test_a_field_that_must_not_be_forwarded(sim, field) -> None:
    answer = talk(sim, head(sim, "GET /v2/transcript", field, "X-Fine: yes"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert len(sim.violations) == 1


@pytest.mark.parametrize("field", ["Connection: keep-alive", "Connection: close", "TE: trailers", "Via: 1.1 x"])
def test_a_field_that_may_be_forwarded(sim, field) -> None:
    assert talk(sim, head(sim, "GET /v2/transcript", field)).startswith(b"HTTP/1.1 200 ")
    assert sim.violations == []


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("GET /v2/transcript", "gateway.example.com"),
        ("GET /v2/transcript", "127.0.0.1"),
        ("GET http://elsewhere/v2/transcript", None),
        ("GET /v2/transcript?token=tt-team", None),
        ("GET /v2/../v2/transcript", None),
        ("GET /v2/%2e%2E/transcript", None),
    ],
)
def test_host_and_target(sim, line, host) -> None:
    assert talk(sim, head(sim, line, host=host)).startswith(b"HTTP/1.1 400 ")
    assert len(sim.violations) == 1


def test_length_and_chunks_together(sim) -> None:
    request = head(sim, "POST /v2/upload", "Content-Length: 3", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"
    assert talk(sim, request).startswith(b"HTTP/1.1 400 ")
    assert "both Content-Length and Transfer-Encoding" in sim.violations[0]
    assert sim.uploads == []


@pytest.mark.parametrize(
    "request_bytes", [b"hello there\r\n\r\n", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"GET /v2/transcript HTT"]
)
def test_what_is_not_http_is_recorded(sim, request_bytes) -> None:
    with connect(sim) as sock:
        sock.sendall(request_bytes)
        sock.shutdown(1)
        assert sock.recv(100).startswith(b"HTTP/1.1 400")
    assert sim.requests[0].outcome == "malformed"
    assert sim.saw(request_bytes[:10])
    assert "malformed request" in sim.violations[0]


def test_bytes_after_the_end_of_a_request_are_noticed(sim) -> None:
    smuggled = head(sim, "GET /v2/transcript") + head(sim, "DELETE /v2/transcript/1", "Connection: close")
    assert talk(sim, smuggled).count(b"HTTP/1.1 ") == 2
    assert "bytes after its end" in sim.violations[0]


# Uploads that broke off


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_an_upload_that_broke_off_is_none(sim, framing) -> None:
    with connect(sim) as sock:
        sock.sendall(head(sim, "POST /v2/upload", framing) + b"3e7\r\n"[: 5 * ("chunked" in framing)] + b"a" * 999)
        if "chunked" in framing:
            sock.sendall(b"\r\n")  # every chunk is complete, but the last one is missing
    sim.wait_until(lambda sim: sim.requests and not sim.open_requests)
    record = sim.requests[0]
    assert (record.complete, record.outcome, record.status, record.sha256) == (False, "abandoned", None, None)
    assert record.body_size == 999
    assert sim.uploads == []


def test_a_body_with_bad_chunks_is_no_upload(sim) -> None:
    talk(sim, head(sim, "POST /v2/upload", "Transfer-Encoding: chunked") + b"3\r\nabcd\r\n0\r\n\r\n")
    assert sim.uploads == []
    assert sim.requests[0].outcome == "malformed"
    assert "malformed body" in sim.violations[0]


def test_an_upload_is_counted_and_hashed_but_not_held(sim, http) -> None:
    wav = silence_wav(60)
    http.post("/v2/upload", content=iter([wav[:1000], wav[1000:]]))
    record = sim.requests[0]
    assert record.complete
    assert (record.body_size, record.sha256) == (len(wav), hashlib.sha256(wav).hexdigest())
    assert record.body == wav[: sim.settings.keep_body]
    assert sim.uploads[0].sha256 == record.sha256
    assert sim.uploads[0].seconds == pytest.approx(60)


def test_request_trailers_are_recorded(sim) -> None:
    body = b"3\r\nabc\r\n0\r\nX-Team-Token: tt-1\r\n\r\n"
    talk(sim, head(sim, "POST /v2/upload", "Transfer-Encoding: chunked") + body)
    assert sim.requests[0].trailers == [(b"X-Team-Token", b"tt-1")]
    assert sim.saw("tt-1")


# Looking for leaks


def test_saw_looks_everywhere(sim, http) -> None:
    http.get("/v2/transcript?status=needle-1")
    http.get("/v2/transcript", headers={"x-note": "needle-2"})
    http.post("/v2/transcript", json={"audio_url": "https://example.com/needle-3"})
    http.get("/v2/transcript?status=%6eeedle-4")
    assert [len(sim.saw(f"needle-{n}")) for n in range(1, 6)] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("border", [None, 70_003, 70_001, 70_000])
def test_a_watched_needle_is_found_across_borders(sim, http, border) -> None:
    sim.watch("needle")
    body = b"x" * 70_000 + b"needle" + b"x" * 100
    http.post("/v2/upload", content=body if border is None else iter([body[:border], body[border:]]))
    assert [record.number for record in sim.saw("needle")] == [1]


def test_an_unwatched_needle_in_a_long_body_cannot_be_answered(sim, http) -> None:
    http.post("/v2/upload", content=b"x" * 100_000)
    with pytest.raises(LookupError, match="watch"):
        sim.saw("needle")
    assert sim.saw("x" * 10)


# Lengths and limits


def test_100_continue(sim) -> None:
    body = json.dumps({"audio_url": "https://example.com/a.mp3"}).encode()
    fields = ("Expect: 100-continue", f"Content-Length: {len(body)}")
    with connect(sim) as sock:
        sock.sendall(head(sim, "POST /v2/transcript", *fields))
        assert read_head(sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert read_head(sock).startswith(b"HTTP/1.1 200 OK\r\n")


def test_who_waits_for_a_100_in_vain_is_spared_the_upload(sim) -> None:
    answer = talk(sim, head(sim, "POST /v2/upload", "Expect: 100-continue", "Content-Length: 9", key="nobody"))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close" in answer
    assert b"100 Continue" not in answer


def test_head_has_no_body(sim) -> None:
    answer = talk(sim, head(sim, "HEAD /v2/transcript", "Connection: close"))
    length = int(answer.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    assert length > 0
    assert answer.endswith(b"\r\n\r\n")


def test_gzip_where_it_is_taken(sim, http) -> None:
    sim.settings.compress = True
    assert http.get("/v2/transcript").headers["content-encoding"] == "gzip"
    assert http.get("/v2/transcript").json()["transcripts"] == []
    assert "content-encoding" not in http.get("/v2/transcript", headers={"accept-encoding": "identity"}).headers


def test_http_1_0_ends_with_the_connection(sim) -> None:
    request = head(sim, "GET /v2/transcript").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert b"Connection: close" in talk(sim, request)


def test_ipv4_only_by_default_and_hosts_are_named(http) -> None:
    with Simulator(host="localhost").running() as sim:
        assert sim.url.startswith("http://localhost:")
        assert httpx.get(f"{sim.url}/v2/transcript", headers={"authorization": sim.key}).status_code == 200

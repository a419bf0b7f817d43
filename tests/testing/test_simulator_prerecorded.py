"""Jobs, lists, sub-resources, tokens, clips and stored agents, as AssemblyAI documents them."""

from __future__ import annotations

import json

import httpx
import pytest

from keypool_asgi.testing import Simulator, silence_wav

URL = "https://example.com/a.mp3"


def submit(http: httpx.Client, **request: object) -> dict:
    return http.post("/v2/transcript", json={"audio_url": URL, **request}).json()


def status(http: httpx.Client, ident: str) -> str:
    return http.get(f"/v2/transcript/{ident}").json()["status"]


@pytest.fixture
def world(request):
    """A simulator with settings of the test's own, and a client."""
    with (
        Simulator(**request.param).running() as sim,
        httpx.Client(base_url=sim.url, headers={"authorization": sim.key}, verify=False) as http,
    ):
        yield sim, http


# The life of a job


@pytest.mark.parametrize("world", [{"completes_after_polls": 3}], indirect=True)
def test_a_job_completes_by_polls(world) -> None:
    sim, http = world
    job = submit(http)
    assert job["status"] == "queued"
    assert sim.bill == []
    assert [status(http, job["id"]) for _ in range(4)] == ["processing", "processing", "completed", "completed"]
    assert sim.billed("audio_seconds") == 30


@pytest.mark.parametrize("world", [{"processing_seconds": 5.0}], indirect=True)
def test_a_job_completes_by_time(world) -> None:
    sim, http = world
    now = [100.0]
    sim.settings.clock = lambda: now[0]
    job = submit(http)
    seen = []
    for now[0] in (100.0, 103.0, 105.0):
        seen.append(status(http, job["id"]))
    assert seen == ["queued", "processing", "completed"]


def test_too_many_jobs_wait_and_are_throttled(sim, http) -> None:
    sim.add_account("tiny", free=True)
    sim.add_project("tiny-1", account="tiny")
    http.headers["authorization"] = sim.add_key(project="tiny-1")
    jobs = [submit(http) for _ in range(6)]
    assert [job["throttled"] for job in jobs] == [False] * 5 + [True]
    assert len(http.get("/v2/transcript?throttled_only=true").json()["transcripts"]) == 1
    assert status(http, jobs[5]["id"]) == "queued"
    assert status(http, jobs[0]["id"]) == "completed"
    assert status(http, jobs[5]["id"]) == "completed"


def test_failed_jobs_cost_nothing(sim, http) -> None:
    sim.fail_job(error="Nobody spoke.")
    job = submit(http)
    answer = http.get(f"/v2/transcript/{job['id']}")
    assert (answer.status_code, answer.json()["status"], answer.json()["error"]) == (200, "error", "Nobody spoke.")
    later = submit(http)
    sim.fail_job(later["id"])
    assert status(http, later["id"]) == "error"
    assert sim.bill == []
    assert http.get(f"/v2/transcript/{job['id']}/srt").status_code == 400


@pytest.mark.parametrize(
    ("content", "content_type", "wanted"),
    [
        (silence_wav(1), None, "completed"),
        (silence_wav(1), "application/x-www-form-urlencoded", "completed"),
        (silence_wav(1), "application/json", "error"),
        (silence_wav(0.1), None, "error"),
        (b"x" * 32_000, None, "completed"),
    ],
)
def test_what_can_be_audio(sim, http, content, content_type, wanted) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    url = http.post("/v2/upload", content=content, headers=headers).json()["upload_url"]
    assert url.startswith("https://cdn.assemblyai.com/upload/")
    assert status(http, submit(http, audio_url=url)["id"]) == wanted


def test_an_empty_upload(http) -> None:
    assert http.post("/v2/upload", content=b"").status_code == 400


@pytest.mark.parametrize("body", [b"{}", b"[]", b"nonsense", b'{"audio_url": 3}', b'{"audio_url": "file:///etc"}'])
def test_a_job_needs_an_audio_url(http, body) -> None:
    answer = http.post("/v2/transcript", content=body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


def test_no_funds(sim, http) -> None:
    ident = submit(http)["id"]
    sim.set_balance("account-1", -0.01)
    for path, body in [("/v2/upload", b"a"), ("/v2/transcript", json.dumps({"audio_url": URL}).encode())]:
        answer = http.post(path, content=body)
        assert answer.status_code == 400
        assert answer.json() == {
            "error": "Your current account balance is negative. Please top up to continue using the API."
        }
    assert status(http, ident) == "completed", "what there is can still be fetched"
    sim.set_balance("account-1", 1)
    assert http.post("/v2/upload", content=b"a").status_code == 200


def test_work_is_paid_for(sim, http) -> None:
    sim.set_balance("account-1", 0.001)
    sim.finish_jobs()
    status(http, submit(http)["id"])
    assert submit(http).keys() == {"error"}


# Results


def test_the_same_audio_has_the_same_words(http) -> None:
    urls = [http.post("/v2/upload", content=silence_wav(3)).json()["upload_url"] for _ in range(2)]
    texts = [http.get(f"/v2/transcript/{submit(http, audio_url=url)['id']}").json()["text"] for url in urls]
    assert texts[0] == texts[1]
    assert urls[0] != urls[1]


def test_the_request_is_mirrored_but_not_its_secret(http) -> None:
    job = submit(http, webhook_url=URL, webhook_auth_header_name="x", webhook_auth_header_value="s3cret", prompt="p")
    assert (job["webhook_url"], job["webhook_auth"], job["prompt"]) == (URL, True, "p")
    assert "s3cret" not in json.dumps(job)


def test_phrases_are_found(http) -> None:
    job = submit(http)
    words = http.get(f"/v2/transcript/{job['id']}").json()["words"]
    first, second = (word["text"].lower().strip(".") for word in words[:2])
    found = http.get(f"/v2/transcript/{job['id']}/word-search", params={"words": f"{first} {second},nowhere"}).json()
    assert found["matches"][0]["timestamps"][0] == [words[0]["start"], words[1]["end"]]
    assert found["total_count"] == found["matches"][0]["count"]
    assert http.get(f"/v2/transcript/{job['id']}/word-search").status_code == 400


def test_results_have_to_be_completed(http) -> None:
    ident = submit(http)["id"]
    answer = http.get(f"/v2/transcript/{ident}/sentences")
    assert (answer.status_code, "queued" in answer.json()["error"]) == (400, True)


def test_a_job_deleted_before_its_end_is_never_billed(sim, http) -> None:
    ident = submit(http)["id"]
    http.delete(f"/v2/transcript/{ident}")
    status(http, ident)
    assert sim.bill == []


# The list


def test_the_list_is_paged_both_ways(sim, http) -> None:
    made = [submit(http)["id"] for _ in range(5)][::-1]
    page = http.get("/v2/transcript?limit=2").json()
    assert page["page_details"]["next_url"] is None
    seen = [page]
    while url := seen[-1]["page_details"]["prev_url"]:
        assert url.startswith(f"{sim.url}/v2/transcript?")
        seen.append(http.get(url).json())
    assert [[made.index(item["id"]) for item in page["transcripts"]] for page in seen] == [[0, 1], [2, 3], [4]]
    newer = http.get(seen[-1]["page_details"]["next_url"]).json()
    assert [made.index(item["id"]) for item in newer["transcripts"]] == [2, 3]
    assert newer["page_details"]["current_url"] == seen[-1]["page_details"]["next_url"]
    assert newer["page_details"]["result_count"] == 2


def test_the_list_is_filtered(sim, http) -> None:
    sim.settings.clock = lambda: 0.0
    done = submit(http)["id"]
    status(http, done)
    sim.settings.clock = lambda: 86_400.0
    submit(http)
    listed = http.get("/v2/transcript?status=completed").json()["transcripts"]
    assert [item["id"] for item in listed] == [done]
    assert len(http.get("/v2/transcript?created_on=1970-01-01").json()["transcripts"]) == 1
    assert len(http.get("/v2/transcript?created_on=1970-01-03").json()["transcripts"]) == 0


@pytest.mark.parametrize("limit", ["0", "201", "x", "-1", ""])
def test_the_limit_of_a_list(http, limit) -> None:
    assert http.get(f"/v2/transcript?limit={limit}").status_code == 400


# What there is not


@pytest.mark.parametrize(
    "path", ["/lemur/v3/generate/task", "/v2/realtime/token", "/v3/token", "/", "/v2//upload", "/v2%2Fupload"]
)
def test_not_there(http, path) -> None:
    answer = http.post(path)
    assert (answer.status_code, answer.json()) == (404, {"error": "Not found"})


def test_a_wrong_method(http) -> None:
    assert http.put("/v2/transcript").status_code == 405


# The other services


def test_tokens_stand_for_their_key(sim, http) -> None:
    token = http.get(sim.origins["streaming"] + "/v3/token?expires_in_seconds=60&max_session_duration_seconds=600")
    assert token.json() == {"token": sim.tokens[0].value, "expires_in_seconds": 60}
    assert (sim.tokens[0].key.secret, sim.tokens[0].max_session_seconds) == (sim.key, 600)
    assert sim.tokens[0].value not in repr(sim.tokens[0])
    assert http.get(sim.origins["agents"] + "/v1/token?expires_in_seconds=60").status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "",
        "expires_in_seconds=0",
        "expires_in_seconds=601",
        "expires_in_seconds=1e2",
        "expires_in_seconds=60&max_session_duration_seconds=59",
        "expires_in_seconds=60&max_session_duration_seconds=10801",
    ],
)
def test_ranges_of_tokens(sim, http, query) -> None:
    assert http.get(sim.origins["streaming"] + f"/v3/token?{query}").status_code == 400
    assert sim.tokens == []


CONFIG = ("config", (None, b"{}", "application/json"))
AUDIO = ("audio", ("a.wav", silence_wav(1), "audio/wav"))
MODEL = {"x-aai-model": "universal-3-5-pro"}


@pytest.mark.parametrize(
    ("where", "parts", "model", "wanted"),
    [
        ("/sync/v1/transcribe/live", [CONFIG, AUDIO], True, 200),
        ("/sync/v1/transcribe/live", [AUDIO, CONFIG], True, 400),
        ("/sync/v1/transcribe/live", [AUDIO], True, 400),
        ("/sync/v1/transcribe", [AUDIO, CONFIG], True, 200),
        ("/sync/transcribe", [AUDIO], True, 200),
        ("/sync/v1/transcribe", [CONFIG, AUDIO], False, 400),
        ("/dictation/v1/transcribe/stream", [CONFIG, AUDIO], False, 200),
        ("/dictation/v1/transcribe/live", [CONFIG, AUDIO], True, 400),
        ("/dictation/v1/transcribe", [CONFIG, AUDIO], False, 404),
        ("/dictation/v1/transcribe/live", [("config", (None, b'{"model": 1}')), AUDIO], False, 400),
        ("/dictation/v1/transcribe/live", [CONFIG, ("audio", ("a.pcm", bytes(32_000), "audio/pcm"))], False, 400),
    ],
)
def test_clips(http, where, parts, model, wanted) -> None:
    answer = http.post(where, files=parts, headers=MODEL if model else {})
    assert answer.status_code == wanted, answer.text
    if wanted == 200:
        assert answer.json()["audio_duration_ms"] == 1000
    else:
        assert answer.json()["status"] == wanted


def test_clips_are_billed_when_they_are_transcribed(sim, http) -> None:
    http.post("/sync/v1/transcribe/live", files=[AUDIO, CONFIG], headers=MODEL)
    assert sim.bill == []
    http.post("/sync/v1/transcribe/live", files=[CONFIG, AUDIO], headers=MODEL)
    assert sim.billed("audio_seconds") == pytest.approx(1)


def test_a_clip_whose_multipart_body_is_not_ended(sim, http) -> None:
    whole = http.build_request("POST", sim.origins["sync"] + "/v1/transcribe", files=[CONFIG, AUDIO], headers=MODEL)
    headers = {**MODEL, "content-type": whole.headers["content-type"]}
    answer = http.post(whole.url, content=whole.read()[:-20], headers=headers)
    assert answer.status_code == 400


def test_chat_completions_are_refused_in_the_gateways_dialect(sim, http) -> None:
    url = sim.origins["llm_gateway"] + "/v1/chat/completions"
    answer = http.post(url, json={"model": "nothing", "messages": []})
    assert (answer.status_code, set(answer.json())) == (400, {"code", "message", "request_id", "metadata"})
    answer = http.post(url, headers={"authorization": "x"})
    assert set(answer.json()) == {"error", "status", "request_id"}
    sim.add_account("poor", free=True)
    sim.add_project("poor-1", account="poor")
    assert http.post(url, headers={"authorization": sim.add_key(project="poor-1")}).status_code == 403


def test_events_are_sent_one_by_one(sim, http) -> None:
    url = sim.origins["llm_gateway"] + "/v1/chat/completions"
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with http.stream("POST", url, json=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        pieces = [piece for piece in answer.iter_raw() if piece]
    assert len(pieces) > 5
    assert pieces[-1].endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(("kind", "body"), [("agents", {"name": "a"}), ("webhook-subscriptions", {"url": URL})])
def test_documents(sim, http, kind, body) -> None:
    url = f"{sim.origins['agents']}/v1/{kind}"
    assert http.post(url, json={}).status_code == 400
    made = http.post(url, json=body)
    assert made.status_code == 201
    at = f"{url}/{made.json()['id']}"
    changed = http.put(at, json={"note": "n", "id": "mine"}).json()
    assert changed == {**made.json(), "note": "n"}
    assert http.get(at).json() == changed
    assert next(iter(http.get(url).json().values())) == [changed]
    gone = http.delete(at)
    assert (gone.status_code, gone.content) == (204, b"")
    assert http.get(at).status_code == 404
    assert http.get(sim.origins["agents"] + "/v1/voices").json()["voices"]

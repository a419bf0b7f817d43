"""Whoever is refused reads our sentence, in the words of the SDK that they use (every row of the error table)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import assemblyai as aai
import httpx
import pytest
from harness import raw_http, run, token

from keypool_asgi import Team
from keypool_asgi.errors import ERROR_TABLE
from keypool_asgi.testing import silence_wav

from .audio_forms import Unsized
from .cases import CASES, Act, Case
from .gateway import TOKEN, Gateway, opened
from .nodes import Node, NodeError, buffer, stream

# The SDK's own affair: it calls pydantic by an old name.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

UPLOAD = silence_wav(12.5)
BIG = bytes(16 * 1024**2)
UNKNOWN_ID = "1f0e4d52-0000-4000-8000-000000000000"
UNKNOWN_TOKEN = "The team token is unknown. Use the token that the operator of this service gave you."

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def settings_for(gateway: Gateway, case: Case) -> aai.Settings:
    return aai.Settings(api_key=case.token, base_url=gateway.url + case.below, polling_interval=0.005)


def act(client: aai.Client, what: Act) -> None:
    work = aai.Transcriber(client=client)
    match what:
        case "list":
            work.list_transcripts()
        case "list too many":
            work.list_transcripts(aai.ListTranscriptParameters(limit=500))
        case "get":
            aai.prerecorded.v2.api.get_transcript(client.http_client, UNKNOWN_ID)
        case "submit":
            work.submit("https://example.com/a.mp3")
        case "upload":
            work.upload_file(UPLOAD)
        case "upload unsized":
            work.upload_file(Unsized(UPLOAD))
        case "upload big":
            work.upload_file(BIG)


async def act_async(client: aai.AsyncClient, what: Act) -> None:
    work = aai.AsyncTranscriber(client=client)
    match what:
        case "list":
            await work.list_transcripts()
        case "list too many":
            await work.list_transcripts(aai.ListTranscriptParameters(limit=500))
        case "get":
            await work.get_by_id(UNKNOWN_ID)
        case "submit":
            await work.submit("https://example.com/a.mp3")
        case "upload":
            await work.upload_file(UPLOAD)
        case "upload unsized":
            await work.upload_file(Unsized(UPLOAD))
        case "upload big":
            await work.upload_file(BIG)


def check_response(response: httpx.Response, case: Case) -> None:
    """What the user's code can look at beyond the exception."""
    body = response.json()
    assert response.status_code == ERROR_TABLE[case.code].status
    assert response.headers["content-type"] == "application/json"
    assert (body["error"], body["code"]) == (case.sentence, case.code)
    if case.retry_after is None:
        assert "retry-after" not in response.headers
    else:
        low, high = case.retry_after
        assert low <= int(response.headers["retry-after"]) <= high


@each_case
def test_python_shows_our_sentence(case: Case) -> None:
    with case.arranged() as gateway:
        client = aai.Client(settings=settings_for(gateway, case))
        with pytest.raises(aai.AssemblyAIError) as caught:
            act(client, case.act)
        client.http_client.close()
        assert case.sentence in str(caught.value)
        check_response(client.last_response, case)


@pytest.mark.parametrize("case", {case.code: case for case in CASES}.values(), ids=lambda case: case.code)
def test_async_python_shows_our_sentence(case: Case) -> None:
    async def work(gateway: Gateway) -> httpx.Response:
        async with aai.AsyncClient(settings=settings_for(gateway, case)) as client:
            with pytest.raises(aai.AssemblyAIError) as caught:
                await act_async(client, case.act)
            assert case.sentence in str(caught.value)
            return client.last_response

    with case.arranged() as gateway:
        check_response(run(work(gateway)), case)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, object]:
    """What an upload is in Node: a Buffer has a length, a stream has none."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "upload.wav").write_bytes(UPLOAD)
    (folder / "big.wav").write_bytes(BIG)
    return {
        "upload": buffer(folder / "upload.wav"),
        "upload unsized": stream(folder / "upload.wav"),
        "upload big": buffer(folder / "big.wav"),
    }


@each_case
def test_node_shows_our_sentence(case: Case, node: Node, files) -> None:
    """Exactly the sentence: this SDK puts nothing before it."""
    calls = {
        "list": ("transcripts.list",),
        "list too many": ("transcripts.list", {"limit": 500}),
        "get": ("transcripts.get", UNKNOWN_ID),
        "submit": ("transcripts.submit", {"audio": "https://example.com/a.mp3"}),
        **{name: ("files.upload", file) for name, file in files.items()},
    }
    with case.arranged() as gateway, pytest.raises(NodeError) as caught:
        node.call({"apiKey": case.token, "baseUrl": gateway.url + case.below}, *calls[case.act])
    assert str(caught.value) == case.sentence


def test_every_row_of_the_error_table_has_a_case() -> None:
    assert {case.code for case in CASES} | {"GONE"} == set(ERROR_TABLE)


# Retired endpoints


def test_an_old_sdks_lemur_call_is_told_what_to_use_instead(gateway: Gateway) -> None:
    """The request of ``assemblyai`` 0.40; newer ones have no LeMUR any more."""
    wanted = {"prompt": "What was said?", "transcript_ids": [UNKNOWN_ID]}
    answer = httpx.post(f"{gateway.url}/lemur/v3/generate/task", json=wanted, headers={"authorization": gateway.token})
    assert answer.status_code == 410
    assert answer.json()["error"].startswith("LeMUR was shut down by AssemblyAI in March 2026. Use the LLM Gateway")
    assert answer.json()["code"] == "GONE"


def test_node_is_told_what_to_use_instead_of_v2_realtime(gateway: Gateway, node: Node) -> None:
    with pytest.raises(NodeError, match=r"Use Universal-Streaming instead: GET /v3/token"):
        node.call(
            {"apiKey": gateway.token, "baseUrl": gateway.url}, "realtime.createTemporaryToken", {"expires_in": 60}
        )


# Nothing presented at all, and what no SDK sends


def test_python_without_a_key_is_told_how_to_present_one(gateway: Gateway) -> None:
    client = aai.Client(settings=aai.Settings(base_url=gateway.url), api_key_required=False)
    with pytest.raises(
        aai.AssemblyAIError, match="The team token is missing: send it as Authorization: Bearer <token>"
    ):
        aai.Transcriber(client=client).list_transcripts()
    client.http_client.close()


def test_node_with_an_empty_key_is_told_how_to_present_one(gateway: Gateway, node: Node) -> None:
    with pytest.raises(NodeError, match="The team token is empty: send it as Authorization: Bearer <token>"):
        node.call({"apiKey": "", "baseUrl": gateway.url}, "transcripts.list")


def test_a_request_that_is_framed_in_another_way_is_answered_in_the_same_form(gateway: Gateway) -> None:
    """A transfer coding beside chunked, as bytes: no SDK sends that."""
    path = gateway.url.removeprefix(gateway.served.url)
    head = f"POST {path}/v2/upload HTTP/1.1\r\nHost: {gateway.served.host}\r\nAuthorization: {gateway.token}\r\n"
    framing = "Transfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
    answer, _, body = raw_http(gateway.served.url, (head + framing).encode()).partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"] == "The request uses a transfer coding other than chunked."


# The other products, whose errors have forms of their own


@pytest.fixture
def stranger(gateway: Gateway) -> Iterator[aai.Client]:
    bases = {f"{product}_base_url": gateway.url for product in ("sync", "dictation", "llm_gateway", "tts")}
    client = aai.Client(settings=aai.Settings(api_key=token("nobody"), base_url=gateway.url, **bases))
    yield client
    client.http_client.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda client: aai.SyncTranscriber(client=client).transcribe(silence_wav(1)),
        lambda client: aai.DictationTranscriber(client=client).transcribe_live(iter([silence_wav(1)])),
        lambda client: aai.LLMGateway(client=client).models.list(),
        lambda client: aai.LLMGateway(client=client).chat.completions.create(model="gpt-5", messages=[], stream=True),
        lambda client: aai.TextToSpeech(client=client).synthesize("Good morning."),
    ],
    ids=["sync", "dictation", "models", "chat", "speech"],
)
def test_python_shows_our_sentence_for_every_product(stranger: aai.Client, use) -> None:
    with pytest.raises(aai.AssemblyAIError, match=UNKNOWN_TOKEN) as caught:
        list(use(stranger))
    assert caught.value.status_code == 401


@pytest.mark.parametrize("method", ["sync.transcribe", "dictation.transcribeLive", "llmGateway.listModels"])
def test_node_shows_our_sentence_for_every_product(gateway: Gateway, node: Node, files, method) -> None:
    bases = {f"{product}BaseUrl": gateway.url for product in ("sync", "dictation", "llmGateway")}
    audio = {"sync.transcribe": [files["upload"]], "dictation.transcribeLive": [files["upload unsized"]]}
    with pytest.raises(NodeError, match=UNKNOWN_TOKEN) as caught:
        node.call({"apiKey": token("nobody"), **bases}, method, *audio.get(method, []))
    assert caught.value.fields["status"] == 401


def test_node_shows_our_sentence_for_a_streaming_token(gateway: Gateway, node: Node) -> None:
    options = {"apiKey": token("nobody"), "streamingBaseUrl": gateway.url}
    with pytest.raises(NodeError, match=UNKNOWN_TOKEN):
        node.call(options, "streaming.createTemporaryToken", {"expires_in_seconds": 60})


def test_the_ai_sdk_shows_the_reason_phrase_at_least(node: Node, files) -> None:
    """It reads no string ``error``, AssemblyAI's own included: the status has to speak."""
    with opened(teams={TOKEN: Team("sdk-users", operations=[])}) as gateway, pytest.raises(NodeError) as caught:
        node.call({"apiKey": gateway.token, "baseUrl": gateway.url}, "ai.transcribe", files["upload"])
    assert str(caught.value) == "Forbidden"
    assert caught.value.fields["statusCode"] == 403


# What is upstream's own


def test_an_upstream_refusal_that_is_the_callers_business_passes_unchanged(python_sdk) -> None:
    """Throttling of every account: the caller can wait, and is told how long."""
    with opened() as gateway:
        for account in ("acme", "beta-corp"):
            gateway.sim.throttle(account, retry_after=7)
        client = aai.Client(settings=aai.Settings(api_key=gateway.token, base_url=gateway.url))
        with pytest.raises(aai.TranscriptError, match="Too Many Requests"):
            aai.Transcriber(client=client).submit(gateway.audio_url)
        client.http_client.close()
    assert client.last_response.status_code == 429
    assert client.last_response.headers["retry-after"] == "7"

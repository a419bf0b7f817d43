"""The operations table: every AssemblyAI endpoint that the pool serves.

Three pairs of services share paths below one prefix; a condition on the first row of a pair tells them apart:
sync requests carry ``X-AAI-Model`` and dictation's do not; text-to-speech sockets name a voice or model in the query
and agents' do not; the token service's requests name a ``product`` and agents' do not.
"""

from __future__ import annotations

from keypool_asgi.core.operations import SOCKET, Condition, Operation
from keypool_asgi.core.ownership import Creates, Names

__all__ = ["OPERATIONS"]

_LEMUR_GONE = (
    "LeMUR was shut down by AssemblyAI in March 2026. "
    "Use the LLM Gateway instead: POST /v1/chat/completions with a transcript_id."
)
_REALTIME_GONE = (
    "The v2 realtime API is not for new integrations. Use Universal-Streaming instead: GET /v3/token for a temporary "
    "token, and the WebSocket /v3/ws."
)

# How long an answer may take after the whole request, in seconds, by what the product documents or its SDKs wait.
_LLM_PATIENCE = 300.0
_SYNC_PATIENCE = 180.0
_DICTATION_PATIENCE = 300.0
_SPEECH_PATIENCE = 610.0

_HAS_MODEL_HEADER = Condition(header=b"x-aai-model")
_NAMES_VOICE = Condition(query=frozenset({"voice_id", "word_boundaries", "model_id"}))
_NAMES_PRODUCT = Condition(query=frozenset({"product"}))


_IN_PATH = {
    "{transcript_id}": Names("transcript", "transcript_id"),
    "{agent_id}": Names("agent", "agent_id"),
    "{subscription_id}": Names("webhook_subscription", "subscription_id"),
}
_RECORDING = (Names("upload", "audio_url", in_body=True),)
_TRANSCRIPT = (Names("transcript", "transcript_id", in_body=True),)
_AGENT = (Names("agent", "agent_id", in_body=True),)
_VOICE = (Names("voice", "voice_id", in_body=True),)
# What the LLM Gateway is asked after each turn: a JSON object like those of "llm.chat".
_TRANSCRIPT_FOR_LLM = (Names("transcript", "transcript_id", in_query=True, within="llm_gateway"),)
_VOICE_IN_QUERY = (Names("voice", "voice_id", in_query=True),)
_AGENT_SESSION = (Names("agent", "agent_id", in_body=True), Names("agent_session", "session_id", in_body=True))
_TOKEN = Creates("token", "token")


def _row(
    name: str, method: str, path: str, service: str = "api", *, names: tuple[Names, ...] = (), **rest: object
) -> Operation:
    names += tuple(named for parameter, named in _IN_PATH.items() if parameter in path)
    return Operation(name=name, method=method, path=path, service=service, names=names, **rest)  # type: ignore[arg-type]


_PRE_RECORDED = (
    _row(
        "uploads.create",
        "POST",
        "/v2/upload",
        patience=120.0,
        content_type=b"application/octet-stream",
        creates=Creates("upload", "upload_url"),
    ),
    _row("transcripts.create", "POST", "/v2/transcript", names=_RECORDING, creates=Creates("transcript", "id")),
    _row("transcripts.list", "GET", "/v2/transcript"),
    _row("transcripts.get", "GET", "/v2/transcript/{transcript_id}"),
    _row("transcripts.delete", "DELETE", "/v2/transcript/{transcript_id}", deletes=True),
    _row("transcripts.sentences", "GET", "/v2/transcript/{transcript_id}/sentences"),
    _row("transcripts.paragraphs", "GET", "/v2/transcript/{transcript_id}/paragraphs"),
    _row("transcripts.srt", "GET", "/v2/transcript/{transcript_id}/srt"),
    _row("transcripts.vtt", "GET", "/v2/transcript/{transcript_id}/vtt"),
    _row("transcripts.word_search", "GET", "/v2/transcript/{transcript_id}/word-search"),
    _row("transcripts.redacted_audio", "GET", "/v2/transcript/{transcript_id}/redacted-audio"),
)

_STREAMING = (
    _row("streaming.token", "GET", "/v3/token", "streaming", creates=_TOKEN),
    _row("streaming.session", SOCKET, "/v3/ws", "streaming", names=_TRANSCRIPT_FOR_LLM),
)

_LLM_GATEWAY = (
    _row("llm.models", "GET", "/v1/models", "llm_gateway"),
    _row("llm.chat", "POST", "/v1/chat/completions", "llm_gateway", patience=_LLM_PATIENCE, names=_TRANSCRIPT),
    *(
        _row(name, "POST", path, "llm_gateway", patience=_LLM_PATIENCE, names=_TRANSCRIPT)
        for name, path in (
            ("llm.understanding", "/v1/understanding"),
            ("llm.understanding_validate", "/v1/understanding/validate"),
        )
    ),
)

_SYNC = (
    *(
        _row("sync.transcribe", "POST", path, "sync", patience=_SYNC_PATIENCE, condition=condition)
        for path, condition in (
            ("/v1/transcribe/live", _HAS_MODEL_HEADER),
            ("/v1/transcribe/stream", _HAS_MODEL_HEADER),
            ("/v1/transcribe", None),
            ("/transcribe", None),
        )
    ),
    _row("sync.warm", "GET", "/v1/warm", "sync", condition=_HAS_MODEL_HEADER, anonymous=True),
    _row("sync.warm", "GET", "/warm", "sync", anonymous=True),
)

_DICTATION = (
    _row("dictation.transcribe", "POST", "/v1/transcribe/live", "dictation", patience=_DICTATION_PATIENCE),
    _row("dictation.transcribe", "POST", "/v1/transcribe/stream", "dictation", patience=_DICTATION_PATIENCE),
    _row("dictation.warm", "GET", "/v1/warm", "dictation", anonymous=True),
)

_TOKEN_SERVICE = (
    _row("tokens.create", "GET", "/v1/token", "token", condition=_NAMES_PRODUCT, creates=_TOKEN),
    _row("tokens.create", "POST", "/v1/token", "token", creates=_TOKEN),
)

_SPEECH = (
    _row("speech.create", "POST", "/v1/speech", "tts", patience=_SPEECH_PATIENCE, names=_VOICE),
    _row("speech.session", SOCKET, "/v1/ws", "tts", condition=_NAMES_VOICE, names=_VOICE_IN_QUERY),
)


def _agents_row(name: str, method: str, path: str, **rest: object) -> Operation:
    """Agents document ``Bearer``, alone among the services."""
    return _row(name, method, path, "agents", bearer=True, **rest)  # type: ignore[arg-type]


_SUBSCRIPTIONS = "/v1/webhook-subscriptions"
_SUBSCRIPTION = "/v1/webhook-subscriptions/{subscription_id}"

_AGENTS = (
    _agents_row(
        "agents.session", SOCKET, "/v1/ws", names=_AGENT_SESSION, creates=Creates("agent_session", "session_id")
    ),
    _agents_row("agents.token", "GET", "/v1/token", creates=_TOKEN),
    _agents_row("agents.create", "POST", "/v1/agents", creates=Creates("agent", "id")),
    _agents_row("agents.list", "GET", "/v1/agents"),
    _agents_row("agents.get", "GET", "/v1/agents/{agent_id}"),
    _agents_row("agents.update", "PUT", "/v1/agents/{agent_id}"),
    _agents_row("agents.delete", "DELETE", "/v1/agents/{agent_id}", deletes=True),
    _agents_row("voices.list", "GET", "/v1/voices"),
    _agents_row(
        "webhook_subscriptions.create",
        "POST",
        _SUBSCRIPTIONS,
        names=_AGENT,
        creates=Creates("webhook_subscription", "id"),
    ),
    _agents_row("webhook_subscriptions.list", "GET", _SUBSCRIPTIONS),
    _agents_row("webhook_subscriptions.get", "GET", _SUBSCRIPTION),
    _agents_row("webhook_subscriptions.update", "PUT", _SUBSCRIPTION, names=_AGENT),
    _agents_row("webhook_subscriptions.delete", "DELETE", _SUBSCRIPTION, deletes=True),
)

_RETIRED = (
    _row("lemur.generate", "POST", "/lemur/v3/generate/{kind}", gone=_LEMUR_GONE),
    _row("lemur.get", "GET", "/lemur/v3/{request_id}", gone=_LEMUR_GONE),
    _row("lemur.delete", "DELETE", "/lemur/v3/{request_id}", gone=_LEMUR_GONE),
    _row("realtime.token", "POST", "/v2/realtime/token", gone=_REALTIME_GONE),
    _row("realtime.session", SOCKET, "/v2/realtime/ws", gone=_REALTIME_GONE),
)

OPERATIONS: tuple[Operation, ...] = (
    *_PRE_RECORDED,
    *_STREAMING,
    *_LLM_GATEWAY,
    *_SYNC,
    *_DICTATION,
    *_TOKEN_SERVICE,
    *_SPEECH,
    *_AGENTS,
    *_RETIRED,
)
"""Every row; of rows that share a method and path the one with a condition stands first."""

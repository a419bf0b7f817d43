"""What all products share: the introduction, the groups, identifiers in paths, and the form of upstream's errors."""

from __future__ import annotations

from keypool_asgi.reference.pages import Body, Page, Parameter, Tag
from keypool_asgi.reference.schemas import integer, maybe, record, text

__all__ = ["AGENTS", "DICTATION", "INTRODUCTION", "IN_PATH", "LLM", "PRERECORDED", "SPEECH", "STREAMING", "SYNC"]
__all__ += ["TAGS", "TOKENS", "TRANSCRIPT_ID", "UPSTREAM_ERROR", "ByOperation", "json"]

ByOperation = dict[tuple[str, str], Page]
"""Operation name and method to what is written about it."""

PRERECORDED = "Pre-recorded audio"
STREAMING = "Streaming"
LLM = "LLM Gateway"
SYNC = "Sync"
DICTATION = "Dictation"
TOKENS = "Temporary tokens"
SPEECH = "Text to speech"
AGENTS = "Voice agents"

INTRODUCTION = (
    "Everything that AssemblyAI's API offers, with **your team token in place of an AssemblyAI key**. Point an SDK's "
    "base URL at this server and give it the team token; nothing else changes. Requests and answers are AssemblyAI's "
    "own, passed on as they are: fields that are not described here work as well.\n\n"
    "- **Token**: `Authorization: Bearer <token>`, `Authorization: <token>` or `x-api-key: <token>`.\n"
    "- **Ownership**: uploads, transcripts, agents, webhook subscriptions and custom voices belong to the team that "
    "made them. What belongs to another team answers as if it did not exist.\n"
    "- **Permissions**: every operation has a name, such as `transcripts.create`, by which an operator may permit it.\n"
    '- **Errors**: `{"error": "<sentence>", "code": "<CODE>", "request_id": "..."}` when they are the pool\'s own; '
    "AssemblyAI's pass through unchanged and have no such `code`."
)

TAGS = (
    Tag(PRERECORDED, "Transcribe files: upload, submit, poll, and read the result in several forms."),
    Tag(STREAMING, "Transcribe live audio over a WebSocket."),
    Tag(LLM, "Language models, over your transcripts or any text."),
    Tag(SYNC, "Transcribe a clip of up to two minutes within one request."),
    Tag(DICTATION, "Transcribe a dictated clip, and have it rewritten, within one request."),
    Tag(TOKENS, "Short-lived tokens of the unified token service."),
    Tag(SPEECH, "Have text spoken, in one request or over a WebSocket."),
    Tag(AGENTS, "Talk to a voice agent over a WebSocket; stored agents, voices and webhook subscriptions."),
    Tag("Retired", "Endpoints that AssemblyAI has shut down. The answer says what to use instead."),
)

TRANSCRIPT_ID = "39487a83-1b6a-4d0b-8c3c-0a6d3f7e5c11"


def _identifier(name: str, description: str, example: str) -> Parameter:
    schema = text(pattern="^[A-Za-z0-9_-]{1,128}$")
    return Parameter(name, schema, description, required=True, where="path", example=example)


IN_PATH = {
    "transcript_id": _identifier(
        "transcript_id", "The `id` that `POST /v2/transcript` returned to your team.", TRANSCRIPT_ID
    ),
    "agent_id": _identifier(
        "agent_id", "The `id` of an agent that your team created.", "7d3fbd7a-6a1b-4f7e-9d28-2f6f1d9c4b0e"
    ),
    "subscription_id": _identifier(
        "subscription_id",
        "The `id` of a webhook subscription that your team created.",
        "c2a8a3de-60c4-4b6a-8f0c-7b8c2ef1a9d4",
    ),
    "kind": _identifier("kind", "Which of the retired endpoints.", "task"),
    "request_id": _identifier(
        "request_id", "The id of a request to a retired endpoint.", "5e1b27c2-691f-4414-8bc5-f14678442f9e"
    ),
}

UPSTREAM_ERROR = record(
    "An error of AssemblyAI's own, passed through unchanged. Its form depends on the product: `error` for most, "
    "`title` and `detail` for Sync and Dictation, `message` and `code` for the LLM Gateway and text to speech.",
    error=text("What went wrong."),
    message=text("What went wrong."),
    title=text("The kind of problem."),
    detail=maybe(text("What went wrong.")),
    status={"description": "The HTTP status, or `error`.", "type": ["integer", "string"]},
    code={"description": "The kind of problem.", "type": ["integer", "string"]},
    param=maybe(text("The field that is wrong.")),
    request_id=text("What AssemblyAI's support knows the request by."),
    retry_after_seconds=maybe(integer("Seconds to wait.", 0)),
)


def json(schema: dict[str, object], description: str = "") -> tuple[Body, ...]:
    """A JSON answer's bodies."""
    return (Body(schema, description=description),)

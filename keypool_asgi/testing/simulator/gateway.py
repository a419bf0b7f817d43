"""The LLM gateway (``llm-gateway.assemblyai.com``): models, chat completions, speech understanding."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from .values import Refused, Reply, Request, json_reply
from .world import World

__all__ = ["complete", "list_models", "understand", "validate"]

MODELS = {"claude-sonnet-5": "Anthropic", "gpt-5": "OpenAI", "gemini-3-pro": "Google"}
_ANSWER = ("Here", "is", "what", "was", "said", "in", "the", "recording,", "in", "a", "few", "words.")


def list_models(world: World, request: Request) -> Reply:  # noqa: ARG001 # every handler takes both
    """``GET /v1/models``: needs no key."""
    return json_reply({"data": [_model(name, creator) for name, creator in MODELS.items()]})


def complete(world: World, request: Request) -> Reply:
    """``POST /v1/chat/completions``: one JSON object, or server-sent events with ``stream: true``."""
    wanted = _wanted(world, request)
    if wanted.get("model") not in MODELS:
        raise Refused(400, f"Model {wanted.get('model')!r} is not supported", code="model not supported")
    if not isinstance(wanted.get("messages"), list) or not wanted["messages"]:
        raise Refused(400, "messages must be a list with at least one message", code="messages: required")
    request_id = str(uuid.uuid4())
    usage = _usage(wanted["messages"])
    world.charge(request.key, "llm_gateway", "input_tokens", usage["prompt_tokens"], request_id)
    world.charge(request.key, "llm_gateway", "output_tokens", usage["completion_tokens"], request_id)
    headers = [(b"X-Request-Id", request_id.encode())]
    if wanted.get("stream"):
        headers = [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-cache"), *headers]
        events = tuple(_events(request_id, wanted["model"], usage, int(request.now)))
        return Reply(200, headers, events, pause=world.stream_interval)
    return json_reply(_completion(request_id, wanted, usage), headers=headers)


def understand(world: World, request: Request) -> Reply:
    """``POST /v1/understanding``: features over an existing transcript."""
    wanted = _wanted(world, request, required=True)
    features = _features(wanted)
    request_id = str(uuid.uuid4())
    world.charge(request.key, "llm_gateway", "input_tokens", 100, request_id)
    world.charge(request.key, "llm_gateway", "output_tokens", 20, request_id)
    response = {name: {"status": "success"} for name in features}
    usage = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
    return json_reply(
        {
            "request_id": request_id,
            "speech_understanding": {"request": features, "response": response},
            "usage": usage,
        }
    )


def validate(world: World, request: Request) -> Reply:
    """``POST /v1/understanding/validate``: the same body, nothing is run."""
    _features(_wanted(world, request))
    return json_reply({"valid": True, "request_id": str(uuid.uuid4())})


def _wanted(world: World, request: Request, *, required: bool = False) -> dict[str, Any]:
    if request.key.account.free:
        raise Refused(403, "The LLM gateway is not available to free accounts", code="upgrade required")
    wanted = request.json()
    ident = wanted.get("transcript_id")
    if required and not ident:
        raise Refused(400, "transcript_id is required", code="transcript_id: required")
    if ident:
        _check_transcript(world, request, str(ident))
    return wanted


def _check_transcript(world: World, request: Request, ident: str) -> None:
    job = world.transcripts.get(ident)
    if job is not None and job.key.account is not request.key.account:
        world.note_foreign(request.number, "transcript", ident, job.key.project, request.key)
        job = None
    if job is None:
        raise Refused(404, "Transcript not found")


def _features(wanted: dict[str, Any]) -> dict[str, Any]:
    understanding = wanted.get("speech_understanding")
    features = understanding.get("request") if isinstance(understanding, dict) else None
    if not isinstance(features, dict) or not features:
        raise Refused(400, "speech_understanding.request must name a feature", code="request: required")
    return features


def _usage(messages: list[Any]) -> dict[str, int]:
    given = max(1, len(json.dumps(messages)) // 4)
    made = len(_ANSWER)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def _completion(request_id: str, wanted: dict[str, Any], usage: dict[str, int]) -> dict[str, Any]:
    message = {"role": "assistant", "content": " ".join(_ANSWER)}
    return {
        "request_id": request_id,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {**usage, "input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
        "request": {"model": wanted["model"], "max_tokens": wanted.get("max_tokens")},
        "http_status_code": 200,
        "response_time": 1_000_000,
        "llm_status_code": 200,
    }


def _events(request_id: str, model: str, usage: dict[str, int], created: int) -> Iterator[bytes]:
    base = {"id": request_id, "object": "chat.completion.chunk", "created": created, "model": model}
    for n, word in enumerate(_ANSWER):
        delta = {"content": (" " if n else "") + word, **({} if n else {"role": "assistant"})}
        yield _event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    # The gateway forwards the provider's own usage event, which has no input_tokens and output_tokens.
    yield _event({**base, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _model(name: str, creator: str) -> dict[str, Any]:
    provider = {"id": creator.lower(), "name": creator}
    return {
        "id": name,
        "name": name.replace("-", " ").title(),
        "description": f"A language model by {creator}.",
        "default_parameters": {"temperature": None, "top_p": None, "frequency_penalty": None},
        "supported_parameters": ["max_tokens", "temperature", "tools"],
        "top_provider": {"is_moderated": False, "context_length": 200_000, "max_completion_tokens": 64_000},
        "context_length": 200_000,
        "pricing": {"global": {"prompt": 3e-6, "completions": 15e-6}, "us": {"prompt": 3.3e-6, "completions": 16.5e-6}},
        "creator": creator,
        "retirement_date": 0,
        "available_regions": ["us", "eu"] if creator != "OpenAI" else ["us"],
        "providers": [provider],
        "default_provider": provider,
    }

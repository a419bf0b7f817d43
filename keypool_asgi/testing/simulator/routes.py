"""The table of routes, who may use them, and the dialect in which each service refuses."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from functools import cache
from typing import Any, NamedTuple

from . import agents, clips, gateway, prerecorded, tokens, tts
from .values import Refused, Reply, Request, Service, json_reply
from .world import Account, Key, Throttle, World

__all__ = ["REGIONS", "SERVICES", "answer", "check", "identify", "locate", "presented_key", "refuse"]

REGIONS = ("us", "eu")

SERVICES: dict[Service, str] = {
    "api": "",
    "streaming": "/streaming",
    "llm_gateway": "/llm-gateway",
    "sync": "/sync",
    "dictation": "/dictation",
    "agents": "/agents",
    "tts": "/tts",
    "token": "/token-service",
}
"""The first segment of a path stands for AssemblyAI's host name; the EU hosts have ``/eu`` before it."""

INVALID_KEY = "Authentication error, API token missing/invalid"
NEGATIVE_BALANCE = "Your current account balance is negative. Please top up to continue using the API."

Handler = Callable[[World, Request], Reply]


class Route(NamedTuple):
    """One row of the table. ``open`` needs no key; ``paid`` needs an account that is not below zero."""

    service: Service
    method: str
    path: str
    handler: Handler
    open: bool = False
    paid: bool = False


def upgrade_required(world: World, request: Request) -> Reply:  # noqa: ARG001 # every handler takes both
    """Say that sessions over WebSocket begin here."""
    raise Refused(426, "Upgrade Required", code="upgrade_required", headers=[(b"Upgrade", b"websocket")])


def not_simulated(world: World, request: Request) -> Reply:  # noqa: ARG001
    """Stand where the token service's host would be, so that nothing goes out to the real one."""
    raise Refused(501, "The token service is not simulated.", code="not_implemented")


ROUTES = (
    Route("api", "POST", "/v2/upload", prerecorded.upload, paid=True),
    Route("api", "POST", "/v2/transcript", prerecorded.create_transcript, paid=True),
    Route("api", "GET", "/v2/transcript", prerecorded.list_transcripts),
    Route("api", "GET", "/v2/transcript/{id}", prerecorded.get_transcript),
    Route("api", "DELETE", "/v2/transcript/{id}", prerecorded.delete_transcript),
    Route("api", "GET", "/v2/transcript/{id}/sentences", prerecorded.get_sentences),
    Route("api", "GET", "/v2/transcript/{id}/paragraphs", prerecorded.get_paragraphs),
    Route("api", "GET", "/v2/transcript/{id}/srt", prerecorded.get_srt),
    Route("api", "GET", "/v2/transcript/{id}/vtt", prerecorded.get_vtt),
    Route("api", "GET", "/v2/transcript/{id}/word-search", prerecorded.search_words),
    Route("api", "GET", "/v2/transcript/{id}/redacted-audio", prerecorded.get_redacted_audio),
    Route("streaming", "GET", "/v3/token", tokens.streaming_token),
    Route("llm_gateway", "GET", "/v1/models", gateway.list_models, open=True),
    Route("llm_gateway", "POST", "/v1/chat/completions", gateway.complete, paid=True),
    Route("llm_gateway", "POST", "/v1/understanding", gateway.understand, paid=True),
    Route("llm_gateway", "POST", "/v1/understanding/validate", gateway.validate, paid=True),
    Route("sync", "POST", "/v1/transcribe/live", clips.sync_live, paid=True),
    Route("sync", "POST", "/v1/transcribe/stream", clips.sync_live, paid=True),
    Route("sync", "POST", "/v1/transcribe", clips.sync_buffered, paid=True),
    Route("sync", "POST", "/transcribe", clips.sync_buffered, paid=True),
    Route("sync", "GET", "/v1/warm", clips.warm, open=True),
    Route("sync", "GET", "/warm", clips.warm, open=True),
    Route("dictation", "POST", "/v1/transcribe/live", clips.dictate, paid=True),
    Route("dictation", "POST", "/v1/transcribe/stream", clips.dictate, paid=True),
    Route("dictation", "GET", "/v1/warm", clips.warm, open=True),
    Route("agents", "POST", "/v1/agents", agents.create_agent),
    Route("agents", "GET", "/v1/agents", agents.list_agents),
    Route("agents", "GET", "/v1/agents/{id}", agents.get_agent),
    Route("agents", "PUT", "/v1/agents/{id}", agents.update_agent),
    Route("agents", "DELETE", "/v1/agents/{id}", agents.delete_agent),
    Route("agents", "GET", "/v1/voices", agents.list_voices),
    Route("agents", "POST", "/v1/webhook-subscriptions", agents.create_subscription),
    Route("agents", "GET", "/v1/webhook-subscriptions", agents.list_subscriptions),
    Route("agents", "GET", "/v1/webhook-subscriptions/{id}", agents.get_subscription),
    Route("agents", "PUT", "/v1/webhook-subscriptions/{id}", agents.update_subscription),
    Route("agents", "DELETE", "/v1/webhook-subscriptions/{id}", agents.delete_subscription),
    Route("agents", "GET", "/v1/token", tokens.agent_token),
    Route("tts", "POST", "/v1/speech", tts.speak, paid=True),
    Route("streaming", "GET", "/v3/ws", upgrade_required, open=True),
    Route("agents", "GET", "/v1/ws", upgrade_required, open=True),
    Route("tts", "GET", "/v1/ws", upgrade_required, open=True),
    Route("token", "GET", "/v1/token", not_simulated),
    Route("token", "POST", "/v1/token", not_simulated),
)


def locate(path: str) -> tuple[str, Service, str]:
    """Tell ``(region, service, rest)`` of a path."""
    region = "us"
    if path == "/eu" or path.startswith("/eu/"):
        region, path = "eu", path.removeprefix("/eu")
    for service, prefix in SERVICES.items():
        if prefix and (path == prefix or path.startswith(prefix + "/")):
            return region, service, path.removeprefix(prefix)
    return region, "api", path


def answer(world: World, request: Request) -> Reply:
    """Answer a complete request."""
    try:
        route, names = _route(request)
        if not route.open:
            key = identify(world, request)
            request = replace(request, caller=key, names=names)
            _admit(key.account, request, paid=route.paid)
        return route.handler(world, request)
    except Refused as refused:
        return _DIALECTS[request.service](refused)


def check(world: World, request: Request) -> None:
    """Check what can be checked before the body has come, for a client that waits for a 100.

    Raises:
        Refused: there is no such route, or the key is not good.
    """
    route, _ = _route(request)
    if not route.open:
        identify(world, request)


def presented_key(request: Request) -> str | None:
    """Return what a request presents as its key; only the agents' host takes ``Bearer``."""
    text = request.header(b"authorization")
    if text is not None and request.service == "agents" and text.lower().startswith("bearer "):
        return text[7:].strip()
    return text


def identify(world: World, request: Request) -> Key:
    """Return the key that a request presents.

    Raises:
        Refused: 401, it is missing, unknown, revoked, of another region, or not in the form the service takes.
    """
    key = world.keys.get(presented_key(request) or "")
    if key is None or key.revoked or key.account.disabled or key.account.region != request.region:
        raise Refused(401, INVALID_KEY, code="unauthorized")
    return key


def refuse(request: Request, refused: Refused) -> Reply:
    """Render a refusal that was decided before the body came."""
    return _DIALECTS[request.service](refused)


def _route(request: Request) -> tuple[Route, dict[str, str]]:
    method = "GET" if request.method == "HEAD" else request.method
    known = False
    for route in ROUTES:
        if route.service == request.service and (found := _pattern(route.path).fullmatch(request.path)):
            if route.method == method:
                return route, found.groupdict()
            known = True
    raise Refused(405, "Method not allowed") if known else Refused(404, "Not found", code="not_found")


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)))


def _admit(account: Account, request: Request, *, paid: bool) -> None:
    throttle = account.throttle
    if throttle is not None and throttle.service in (None, request.service):
        raise _throttled(throttle, request.now)
    wait = account.wait(request.now)
    if wait is not None:
        raise _throttled(Throttle(retry_after=wait), request.now)
    if paid and account.balance < 0:
        raise Refused(400, NEGATIVE_BALANCE, code="insufficient_funds")


def _throttled(throttle: Throttle, now: float) -> Refused:
    headers = []
    if throttle.retry_after is not None:
        seconds = max(1, round(throttle.retry_after + 0.4999)) if throttle.retry_after else 0
        text = formatdate(now + throttle.retry_after, usegmt=True) if throttle.http_date else str(seconds)
        headers.append((b"Retry-After", text.encode()))
    return Refused(throttle.status, throttle.error, code="rate_limited", headers=headers)


def _plain(refused: Refused) -> Reply:
    return json_reply({"error": refused.text}, refused.status, refused.headers)


def _llm(refused: Refused) -> Reply:
    request_id = str(uuid.uuid4())
    value: dict[str, Any] = {"code": refused.status, "message": refused.text, "request_id": request_id}
    if refused.status == 401:
        value = {"error": refused.text, "status": "error", "request_id": request_id}
    elif refused.code:
        value["metadata"] = {"errors": [refused.code]}
    return json_reply(value, refused.status, refused.headers)


def _problem(refused: Refused) -> Reply:
    title = (refused.code or "bad_request").replace("_", " ").title()
    value = {"status": refused.status, "title": title, "detail": refused.text}
    return json_reply(value, refused.status, refused.headers)


def _speech(refused: Refused) -> Reply:
    value = {
        "code": refused.code or "invalid_request",
        "message": refused.text,
        "param": None,
        "request_id": str(uuid.uuid4()),
        "retryable": refused.status in (429, 500, 503),
    }
    return json_reply(value, refused.status, refused.headers)


_DIALECTS: dict[Service, Callable[[Refused], Reply]] = {
    "api": _plain,
    "streaming": _plain,
    "llm_gateway": _llm,
    "sync": _problem,
    "dictation": _problem,
    "agents": _plain,
    "tts": _speech,
    "token": _plain,
}

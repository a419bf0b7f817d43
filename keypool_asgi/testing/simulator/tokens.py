"""Temporary tokens: ``GET /v3/token`` for streaming, ``GET /v1/token`` for voice agents."""

from __future__ import annotations

import secrets

from .prerecorded import number
from .values import Reply, Request, json_reply
from .world import Token, World

__all__ = ["agent_token", "streaming_token"]


def streaming_token(world: World, request: Request) -> Reply:
    """``GET /v3/token`` of the streaming host."""
    return _mint(world, request)


def agent_token(world: World, request: Request) -> Reply:
    """``GET /v1/token`` of the agents' host."""
    return _mint(world, request)


def _mint(world: World, request: Request) -> Reply:
    seconds = number(request, "expires_in_seconds", 1, 600)
    longest = number(request, "max_session_duration_seconds", 60, 10_800, default=10_800)
    token = Token(secrets.token_urlsafe(32), request.key, request.service, request.now + seconds, longest)
    world.tokens[token.value] = token
    return json_reply({"token": token.value, "expires_in_seconds": seconds})

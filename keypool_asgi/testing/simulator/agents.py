"""The REST half of voice agents (``agents.assemblyai.com``): stored agents, voices, webhook subscriptions."""

from __future__ import annotations

import uuid
from typing import Any

from .values import Refused, Reply, Request, json_reply
from .world import World

__all__ = [
    "create_agent",
    "create_subscription",
    "delete_agent",
    "delete_subscription",
    "get_agent",
    "get_subscription",
    "list_agents",
    "list_subscriptions",
    "list_voices",
    "update_agent",
    "update_subscription",
]

_VOICES = ("jane", "michael", "anna", "paul")


def create_agent(world: World, request: Request) -> Reply:
    """``POST /v1/agents``."""
    return _create(world, request, "agent", "name")


def list_agents(world: World, request: Request) -> Reply:
    """``GET /v1/agents``."""
    return _list(world, request, "agent")


def get_agent(world: World, request: Request) -> Reply:
    """``GET /v1/agents/{id}``."""
    return json_reply(_own(world, request, "agent"))


def update_agent(world: World, request: Request) -> Reply:
    """``PUT /v1/agents/{id}``."""
    return _update(world, request, "agent")


def delete_agent(world: World, request: Request) -> Reply:
    """``DELETE /v1/agents/{id}``."""
    return _delete(world, request, "agent")


def list_voices(world: World, request: Request) -> Reply:  # noqa: ARG001 # every handler takes both
    """``GET /v1/voices``."""
    return json_reply({"voices": [{"id": f"aai-{name}", "name": name.title()} for name in _VOICES]})


def create_subscription(world: World, request: Request) -> Reply:
    """``POST /v1/webhook-subscriptions``."""
    return _create(world, request, "webhook_subscription", "url")


def list_subscriptions(world: World, request: Request) -> Reply:
    """``GET /v1/webhook-subscriptions``."""
    return _list(world, request, "webhook_subscription")


def get_subscription(world: World, request: Request) -> Reply:
    """``GET /v1/webhook-subscriptions/{id}``."""
    return json_reply(_own(world, request, "webhook_subscription"))


def update_subscription(world: World, request: Request) -> Reply:
    """``PUT /v1/webhook-subscriptions/{id}``."""
    return _update(world, request, "webhook_subscription")


def delete_subscription(world: World, request: Request) -> Reply:
    """``DELETE /v1/webhook-subscriptions/{id}``."""
    return _delete(world, request, "webhook_subscription")


def _create(world: World, request: Request, kind: str, required: str) -> Reply:
    wanted = request.json()
    if not isinstance(wanted.get(required), str):
        raise Refused(400, f"{required} is required")
    made = {**wanted, "id": str(uuid.uuid4())}
    world.documents[kind, made["id"]] = (request.key.project, made)
    return json_reply(made, 201)


def _list(world: World, request: Request, kind: str) -> Reply:
    documents = [item for key, item in world.documents.items() if key[0] == kind]
    mine = [value for project, value in documents if project.account is request.key.account]
    return json_reply({f"{kind}s": mine})


def _own(world: World, request: Request, kind: str) -> dict[str, Any]:
    ident = request.names["id"]
    project, value = world.documents.get((kind, ident), (None, {}))
    if project is not None and project.account is not request.key.account:
        world.note_foreign(request.number, kind, ident, project, request.key)
        project = None
    if project is None:
        raise Refused(404, "Not found")
    return value


def _update(world: World, request: Request, kind: str) -> Reply:
    value = _own(world, request, kind)
    value |= {**request.json(), "id": value["id"]}
    return json_reply(value)


def _delete(world: World, request: Request, kind: str) -> Reply:
    value = _own(world, request, kind)
    del world.documents[kind, value["id"]]
    return Reply(204)

"""Adopting: give a team what a project holds already, so that a pool can stand before an account that is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from keypool_asgi.core.ownership import decoded_json
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.resources import Ref, Resource
from keypool_asgi.errors import AdoptionFailed, StoreUnavailable
from keypool_asgi.ports import ResourceStore

from .asking import Asker

__all__ = ["adopt"]


async def adopt(
    team: str,
    project: str,
    *,
    asker: Asker,
    provider: Provider,
    resources: ResourceStore,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Record a project's transcripts as a team's, newest first. Repeating it changes nothing.

    A transcript that some team owns already stays with that team.

    Args:
        team: id of the team.
        project: whose transcripts; the pool must have a key of it.
        asker: asks upstream.
        provider: how lists look.
        resources: where owners are recorded.
        progress: called with the number of transcripts seen so far, after each page.

    Returns:
        How many transcripts were seen.

    Raises:
        AdoptionFailed: upstream refused the list.
        NoAvailableKeys, UpstreamError, StoreUnavailable: what they say. What was recorded until then stays.
    """
    seen = 0
    for operation, kind in provider.lists.composed.items():
        last: str | None = None
        while page := await _page(operation, project, last, asker, provider):
            if page[-1]["id"] == last:
                raise AdoptionFailed(f"upstream gives the same page of {operation} again and again")
            await _record(page, kind, team, project, provider, resources)
            seen += len(page)
            last = str(page[-1]["id"])
            if progress is not None:
                progress(seen)
    return seen


async def _page(
    operation: str, project: str, last: str | None, asker: Asker, provider: Provider
) -> list[dict[str, Any]]:
    reply = await asker.ask(operation, project, query=provider.lists.batch(last))
    if reply.status != 200:
        raise AdoptionFailed(f"upstream answered {reply.status} to {operation} on project {project!r}")
    found = provider.lists.items(decoded_json(reply.headers, reply.body) or {})
    return [item for item in found if isinstance(item.get("id"), str)]


async def _record(
    items: Iterable[dict[str, Any]], kind: str, team: str, project: str, provider: Provider, resources: ResourceStore
) -> None:
    try:
        async with asyncio.TaskGroup() as group:  # at once: a store may write them together
            for item in items:
                status, summary = provider.resources.describe(kind, item)
                place = provider.lists.created(item)
                found = Resource(Ref(kind, item["id"]), team, project, place, status, summary)
                group.create_task(_recorded(resources, found))
    except* StoreUnavailable as several:
        raise several.exceptions[0] from None


async def _recorded(resources: ResourceStore, found: Resource) -> None:
    await resources.record(found)

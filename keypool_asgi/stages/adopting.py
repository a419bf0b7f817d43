"""Adopting: give a team what a project holds already, so that a pool can stand before an account that is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from keypool_asgi.core.ownership import decoded_json
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.resources import Ref, Resource
from keypool_asgi.errors import AdoptionFailed
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
            await _record([_owned(item, kind, team, project, provider) for item in page], resources)
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


def _owned(item: dict[str, Any], kind: str, team: str, project: str, provider: Provider) -> Resource:
    status, summary = provider.resources.describe(kind, item)
    return Resource(Ref(kind, item["id"]), team, project, provider.lists.created(item), status, summary)


async def _record(found: Sequence[Resource], resources: ResourceStore) -> None:
    """Record them at once: a store may write them together.

    Raises:
        StoreUnavailable: the store failed for one of them.
    """
    outcomes = await asyncio.gather(*(resources.record(one) for one in found), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome

"""Bringing listed items up to date: those that were not finished when last seen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keypool_asgi.core.ownership import decoded_json
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.resources import Ref, Resource
from keypool_asgi.errors import NoAvailableKeys, UpstreamError
from keypool_asgi.ports import ResourceStore

from .asking import Asker, Reply

__all__ = ["Refresher"]

logger = logging.getLogger("keypool_asgi")

_ASKED_AT_ONCE = 8


class Refresher:
    """Asks upstream about unfinished items, and writes down what has become of them.

    Args:
        resources: where it is written down.
        provider: how items are described.
        asker: asks upstream.
    """

    def __init__(self, *, resources: ResourceStore, provider: Provider, asker: Asker) -> None:
        self.resources = resources
        self.provider = provider
        self.asker = asker
        self.list_operations = {kind: name for name, kind in provider.lists.composed.items()}

    async def refreshed(self, rows: Sequence[Resource]) -> list[Resource]:
        """Return the rows as upstream has them now; those that are gone upstream are forgotten and left out.

        What cannot be asked about at the moment stays as it was last seen.
        """
        unfinished = [row for row in rows if row.status in self.provider.lists.unfinished]
        if not unfinished:
            return list(rows)
        projects: dict[str, list[Resource]] = {}
        for row in unfinished:
            projects.setdefault(row.project, []).append(row)
        found = await asyncio.gather(*(self._project(name, some) for name, some in projects.items()))
        changed = {ref: now for some in found for ref, now in some.items()}
        current = [changed.get(row.ref, row) for row in rows]
        return [row for row in current if row is not None]

    async def _project(self, project: str, rows: list[Resource]) -> dict[Ref, Resource | None]:
        """Look among the project's newest items first, then ask for each that is not there."""
        kind = rows[0].ref.kind
        reply = await self._ask(self.list_operations[kind], project, query=self.provider.lists.batch(None))
        found = self._read(reply) if reply and reply.status == 200 else {}
        newest = {item.get("id"): item for item in self.provider.lists.items(found)}
        slots = asyncio.Semaphore(_ASKED_AT_ONCE)
        states = await asyncio.gather(*(self._state(row, newest.get(row.ref.id), slots) for row in rows))
        return {row.ref: state for row, state in zip(rows, states, strict=True)}

    async def _state(self, row: Resource, item: dict[str, Any] | None, slots: asyncio.Semaphore) -> Resource | None:
        """Return an item as it is now, None when it is gone."""
        if item is None:
            operation, parameter = self.provider.resources.safe_reads[row.ref.kind]
            async with slots:
                reply = await self._ask(operation, row.project, {parameter: row.ref.id})
            if reply is None:
                return row
            if self.provider.resources.says_gone(reply.status, reply.body):
                await self.resources.forget(row.ref)
                return None
            item = self._read(reply) if reply.status == 200 else {}
        return await self._noted(row, item) if item else row

    async def _noted(self, row: Resource, item: dict[str, Any]) -> Resource:
        status, summary = self.provider.resources.describe(row.ref.kind, item)
        if (status, summary) == (row.status, row.summary) or status is None:
            return row
        await self.resources.note(row.ref, status, summary)
        return replace(row, status=status, summary=summary)

    async def _ask(
        self, operation: str, project: str, ids: Mapping[str, str] | None = None, query: bytes = b""
    ) -> Reply | None:
        try:
            return await self.asker.ask(operation, project, ids, query)
        except (NoAvailableKeys, UpstreamError) as error:
            logger.warning("%s: project %s could not be asked: %s", operation, project, error)
            return None

    def _read(self, reply: Reply) -> dict[str, Any]:
        return decoded_json(reply.headers, reply.body) or {}

"""Bringing listed items up to date: those that were not finished when last seen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from keypool_asgi.core.ownership import decoded_json
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.resources import Resource
from keypool_asgi.errors import NoAvailableKeys, Refusal, UpstreamError
from keypool_asgi.ports import ResourceStore

from .asking import Asker, Reply

__all__ = ["Refresher"]

logger = logging.getLogger("keypool_asgi")

_ASKED_AT_ONCE = 8
_MOST_ASKED = 50


class Refresher:
    """Asks upstream about the unfinished items of one list request, and writes down what has become of them.

    Args:
        resources: where it is written down.
        provider: how items are described.
        asker: asks upstream.
        singles: how many items may be asked about one by one; the rest stay as they were last seen.
    """

    def __init__(
        self, *, resources: ResourceStore, provider: Provider, asker: Asker, singles: int = _MOST_ASKED
    ) -> None:
        self.resources = resources
        self.provider = provider
        self.asker = asker
        self.singles = singles
        self.slots = asyncio.Semaphore(_ASKED_AT_ONCE)
        self.newest: dict[str, dict[str, dict[str, Any]]] = {}

    async def refreshed(self, rows: Sequence[Resource]) -> list[Resource]:
        """Return the rows as upstream has them now; those that are gone upstream are forgotten and left out.

        What cannot be asked about at the moment stays as it was last seen.
        """
        unfinished = [row for row in rows if row.status in self.provider.lists.unfinished]
        if not unfinished:
            return list(rows)
        for project in dict.fromkeys(row.project for row in unfinished):
            if project not in self.newest:
                self.newest[project] = await self._newest(project, unfinished[0].ref.kind)
        async with asyncio.TaskGroup() as group:
            tasks = {row.ref: group.create_task(self._state(row)) for row in unfinished}
        current = [tasks[row.ref].result() if row.ref in tasks else row for row in rows]
        return [row for row in current if row is not None]

    async def _newest(self, project: str, kind: str) -> dict[str, dict[str, Any]]:
        """The project's newest items by id: one request that answers for most."""
        lists = self.provider.lists
        operation = next(name for name, listed in lists.composed.items() if listed == kind)
        reply = await self._ask(operation, project, query=lists.batch(None))
        found = self._read(reply) if reply and reply.status == 200 else {}
        return {str(item.get("id")): item for item in lists.items(found)}

    async def _state(self, row: Resource) -> Resource | None:
        """Return an item as it is now, None when it is gone."""
        item = self.newest[row.project].get(row.ref.id)
        if item is None:
            reply = await self._single(row)
            if reply is None:
                return row
            if self.provider.resources.says_gone(reply.status, reply.body):
                with suppress(Refusal):  # the store has logged it; the row goes the next time
                    await self.resources.forget(row.ref)
                return None
            item = self._read(reply) if reply.status == 200 else {}
        return await self._noted(row, item) if item else row

    async def _single(self, row: Resource) -> Reply | None:
        if self.singles <= 0:
            return None
        self.singles -= 1
        operation, parameter = self.provider.resources.safe_reads[row.ref.kind]
        async with self.slots:
            return await self._ask(operation, row.project, {parameter: row.ref.id})

    async def _noted(self, row: Resource, item: dict[str, Any]) -> Resource:
        status, summary = self.provider.resources.describe(row.ref.kind, item)
        if (status, summary) == (row.status, row.summary) or status is None:
            return row
        with suppress(Refusal):
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

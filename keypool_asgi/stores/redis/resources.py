"""Owners of resources in a Redis server: several machines share it."""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cachetools import TTLCache

from keypool_asgi.core.resources import CURSOR_SECONDS, RETENTION_SECONDS, Page, Ref, Resource
from keypool_asgi.stores.resources import BuiltIn, check_retention
from keypool_asgi.stores.shelves import Place, span

from .line import Argument
from .scripts import Script, key_names
from .server import RedisServer

__all__ = ["CACHE_SECONDS", "RedisResources"]

CACHE_SECONDS = 3.0
"""How long this process may still find what another one has just forgotten, and show the status that it had."""

_CACHED = 4096

_RECORD, _FIND, _NOTE, _FORGET, _PLACE, _PAGE = (
    Script.load("resources", verb) for verb in ("record", "find", "note", "forget", "place", "page")
)
_KEYS = ("bodies", "lists", "ages", "left", "left_ages")


class RedisResources(BuiltIn):
    """Owners in a Redis server.

    What has been recorded is as durable as the server is set up to be. Without an append-only file, whatever came
    after its last snapshot is lost when it dies; with ``appendfsync everysec`` that is about a second, with ``always``
    nothing. A replica that takes over lacks what had not reached it. What is lost here stays upstream: its team gets a
    404 for it, until it is recorded again (``adopt``). The server must not evict: ``maxmemory-policy noeviction``.

    What ``find`` has found is remembered for ``cache_seconds``, because owners never change; what it has not found is
    always looked up. So another process's ``forget`` and ``note`` may be seen that much later by ``find``, though at
    once by ``place`` and ``page``; this process's own are seen at once. A resource takes about 1 KB there.

    Args:
        server: a URL, or a ``RedisServer`` that others use too; it is then theirs to close.
        clock: returns Unix time in seconds, which all processes must agree on. None: the server's. Retention is
            measured with it, from the moment of recording.
        retention: kind to how long its owners are remembered, in seconds; for ever where a kind is not named. A change
            holds for what was recorded before too.
        cursor_seconds: how long the place of a forgotten resource is remembered.
        cache_seconds: how long ``find`` believes itself.

    Raises:
        ConfigurationError: a number is out of its range, or the server's settings are wrong.
    """

    def __init__(
        self,
        server: str | RedisServer,
        *,
        clock: Callable[[], float] | None = None,
        retention: Mapping[str, float] = RETENTION_SECONDS,
        cursor_seconds: float = CURSOR_SECONDS,
        cache_seconds: float = CACHE_SECONDS,
    ) -> None:
        check_retention(retention, cursor_seconds)
        self.retention = dict(retention)
        self.cursor_seconds = cursor_seconds
        self._clock = clock
        self._shared = isinstance(server, RedisServer)
        self._server = server if isinstance(server, RedisServer) else RedisServer(server)
        # Written as answers come in, whose order is that of the server, so that nothing outdated comes back into it.
        self._cache: TTLCache[Ref, tuple[Resource, float]] = TTLCache(_CACHED, cache_seconds, time.monotonic)

    def __repr__(self) -> str:
        return f"<RedisResources in {self._server!r}>"

    async def open(self) -> None:
        """Connect now; the first use does it otherwise. See ``RedisServer.open``."""
        await self._server.open()

    async def aclose(self) -> None:
        """Finish what has begun and disconnect; the next use connects again."""
        if not self._shared:
            await self._server.aclose()

    async def record(self, resource: Resource) -> None:
        """Remember a resource, unless it is known already."""
        ref, created = resource.ref, repr(resource.created)
        owners = (resource.team, resource.project, resource.summary)
        status = () if resource.status is None else (resource.status,)
        await self._call(
            _RECORD, ref.kind, (self.cursor_seconds, ref.id, _encoded(resource.place), created, *owners, *status)
        )

    async def find(self, ref: Ref) -> Resource | None:
        """Return a resource, or None when it is unknown, forgotten or over its retention."""
        cached = self._cache.get(ref)
        if cached is not None and cached[1] > self._now() - self.retention.get(ref.kind, math.inf):
            return cached[0]
        if not _can_be_stored(ref):
            return None
        body = await self._call(_FIND, ref.kind, (ref.id,), partial(self._found, ref))
        return None if body is None else _resource(ref, json.loads(body))

    async def note(self, ref: Ref, status: str, summary: str) -> None:
        """Write down a job's status and summary."""
        if _can_be_stored(ref):
            await self._call(_NOTE, ref.kind, (ref.id, status, summary), partial(self._uncache, ref))

    async def forget(self, ref: Ref) -> None:
        """Forget a resource but for its place."""
        if _can_be_stored(ref):
            await self._call(_FORGET, ref.kind, (ref.id,), partial(self._uncache, ref))

    async def place(self, ref: Ref, team: str | None) -> Place | None:
        """Return the place of a resource that is remembered, or was until ``cursor_seconds`` ago."""
        if not _can_be_stored(ref):
            return None
        owner = () if team is None else (team,)
        created = await self._call(_PLACE, ref.kind, (self.cursor_seconds, ref.id, *owner))
        return None if created is None else (float(created), ref.id)

    async def page(self, page: Page) -> Sequence[Resource]:
        """Return a part of a list, newest first."""
        if page.limit < 1 or page.statuses == frozenset():
            return []
        low, high = (b"" if end is None else _encoded(end) for end in span(page))
        order = "newest" if page.after is None else "oldest"
        owner = ("all", "") if page.team is None else ("team", page.team)
        statuses = sorted(page.statuses or ())
        texts = await self._call(_PAGE, page.kind, (page.limit, order, low, high, *owner, *statuses))
        bodies = [json.loads(text) for text in texts]
        found = [_resource(Ref(page.kind, resource_id), body) for resource_id, body in bodies]
        # Each status is a list of its own, with as many as could be wanted of it.
        nearest = sorted(found, key=_place, reverse=page.after is None)[: page.limit]
        return nearest if page.after is None else nearest[::-1]

    async def _call(
        self, script: Script, kind: str, words: Sequence[Argument | float], then: Callable[[Any], object] | None = None
    ) -> Any:
        now = "" if self._clock is None else repr(self._clock())
        common = (now, str(self.retention.get(kind, math.inf)))
        keys = key_names(self._server.prefix, f"resources:{kind}", _KEYS)
        arguments = [str(word) if isinstance(word, float) else word for word in (*common, *words)]
        return await self._server.call(script, keys, arguments, then)

    def _now(self) -> float:
        return time.time() if self._clock is None else self._clock()

    def _found(self, ref: Ref, body: bytes | None) -> None:
        if body is not None:
            known = json.loads(body)
            self._cache[ref] = (_resource(ref, known), float(known["recorded"]))

    def _uncache(self, ref: Ref, _: object) -> None:
        self._cache.pop(ref, None)


def _encoded(place: Place) -> bytes:
    """Make bytes of a place that stand in the same order: IEEE 754, but that a sign turns the rest around."""
    created, resource_id = place
    (bits,) = struct.unpack(">Q", struct.pack(">d", created + 0.0))  # -0.0 becomes 0.0
    ordered = bits ^ (0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 1 << 63)
    return b"%016x" % ordered + resource_id.encode(errors="surrogatepass")


def _place(resource: Resource) -> Place:
    return resource.place


def _resource(ref: Ref, body: Mapping[str, Any]) -> Resource:
    # A status that there is not is false there, because Lua's nil is no value in a table.
    status = body["status"] if body["status"] is not False else None
    return Resource(ref, body["team"], body["project"], float(body["created"]), status, body["summary"])


def _can_be_stored(ref: Ref) -> bool:
    """Whether an id is text that can be stored. A caller can name one that is not; then nobody owns it."""
    try:
        ref.id.encode()
    except UnicodeEncodeError:
        return False
    return True

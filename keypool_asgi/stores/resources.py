"""Where owners of resources are kept: in memory, or behind callables and objects that the user gave."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from keypool_asgi.core.resources import CURSOR_SECONDS, MEMORY_ENTRIES, RETENTION_SECONDS, Page, Ref, Resource
from keypool_asgi.errors import ConfigurationError, NotFound, Refusal
from keypool_asgi.ports import ResourceStore

from .callables import as_async, call_store, store_failed
from .shelves import SWEEP, Entry, Place, Shelf

__all__ = [
    "NO_LISTS",
    "BuiltIn",
    "GuardedResources",
    "MemoryResources",
    "ResourceCallbacks",
    "check_retention",
    "resource_store",
]

log = logging.getLogger("keypool_asgi.stores")

NO_LISTS = "Lists are not available: this service remembers who owns what, but keeps no lists."
"""What a caller reads who asks for a list that the operator's store cannot give."""

_VERBS = ("record", "find", "note", "forget", "place", "page")


class BuiltIn:
    """Marks a store of this package: it raises ``StoreUnavailable`` by itself, so it needs no guard."""

    __slots__ = ()


class MemoryResources(BuiltIn):
    """Owners in this process's memory: gone with it, and unknown to other processes.

    Every verb runs without an await inside, so that it is atomic among the tasks of one event loop. A page costs
    O(limit + log n), whatever it asks for. 100,000 owners take about 60 MB.

    Args:
        clock: returns the time in seconds. Retention is measured with it, from the moment of recording.
        max_entries: how many owners are remembered at most; the oldest recording goes first. As many places of
            forgotten resources are remembered beside them.
        retention: kind to how long its owners are remembered, in seconds; for ever where a kind is not named.
        cursor_seconds: how long the place of a forgotten resource is remembered.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        max_entries: int = MEMORY_ENTRIES,
        retention: Mapping[str, float] = RETENTION_SECONDS,
        cursor_seconds: float = CURSOR_SECONDS,
    ) -> None:
        check_retention(retention, cursor_seconds)
        if max_entries < 1:
            raise ConfigurationError(f"resources: max_entries must be at least 1, not {max_entries!r}")
        self.max_entries = max_entries
        self.retention = dict(retention)
        self.cursor_seconds = cursor_seconds
        self._clock = clock
        self._shelves: dict[str, Shelf] = {}
        # Places of forgotten resources, in the order of forgetting.
        self._left: OrderedDict[Ref, _Left] = OrderedDict()
        self._recorded = 0
        self._evicted = False

    def __repr__(self) -> str:
        return f"<MemoryResources: {self._count()} owners, {len(self._left)} forgotten>"

    async def record(self, resource: Resource) -> None:
        """Remember a resource, unless it is known already."""
        now = self._sweep()
        shelf = self._shelves.get(resource.ref.kind)
        if shelf is None:
            shelf = self._shelves[resource.ref.kind] = Shelf(self.retention.get(resource.ref.kind, math.inf))
        if shelf.find(resource.ref.id, now) is not None:
            return
        shelf.drop(resource.ref.id)
        self._recorded += 1
        shelf.add(Entry(resource, now, self._recorded))
        if self._count() > self.max_entries:
            self._evict()

    async def find(self, ref: Ref) -> Resource | None:
        """Return a resource, or None when it is unknown, forgotten or over its retention."""
        return self._find(ref)

    async def note(self, ref: Ref, status: str, summary: str) -> None:
        """Write down a job's status and summary."""
        if self._find(ref) is not None:
            self._shelves[ref.kind].note(ref.id, status, summary)

    async def forget(self, ref: Ref) -> None:
        """Forget a resource but for its place."""
        now = self._sweep()
        found = self._find(ref)
        if found is None:
            return
        self._shelves[ref.kind].drop(ref.id)
        self._left.pop(ref, None)
        self._left[ref] = _Left(now, found.team, found.place)
        if len(self._left) > self.max_entries:
            self._left.popitem(last=False)

    async def place(self, ref: Ref, team: str | None) -> Place | None:
        """Return the place of a resource that is remembered, or was until ``cursor_seconds`` ago."""
        found = self._find(ref)
        if found is not None and team in (None, found.team):
            return found.place
        left = self._left.get(ref)
        if left is None or team not in (None, left.team) or left.since <= self._clock() - self.cursor_seconds:
            return None
        return left.place

    async def page(self, page: Page) -> Sequence[Resource]:
        """Return a part of a list, newest first."""
        now = self._sweep()
        shelf = self._shelves.get(page.kind)
        return [] if shelf is None else shelf.page(page, now)

    def _count(self) -> int:
        return sum(len(shelf.entries) for shelf in self._shelves.values())

    def _find(self, ref: Ref) -> Resource | None:
        shelf = self._shelves.get(ref.kind)
        return None if shelf is None else shelf.find(ref.id, self._clock())

    def _sweep(self) -> float:
        """Clear some of what has expired away; returns the time."""
        now = self._clock()
        for shelf in self._shelves.values():
            shelf.sweep(now)
        for _ in range(SWEEP):
            if not self._left or next(iter(self._left.values())).since > now - self.cursor_seconds:
                break
            self._left.popitem(last=False)
        return now

    def _evict(self) -> None:
        """Forget the oldest recording of the kind that has the most: a flood of one kind costs that kind alone."""
        shelf = max(self._shelves.values(), key=_size)
        shelf.drop(next(iter(shelf.entries)))
        if not self._evicted:
            self._evicted = True
            log.warning(
                "resources: memory holds max_entries=%d owners, so the oldest are forgotten and their teams can no "
                'longer reach them; give MemoryResources a higher max_entries, or keep state="sqlite:///..."',
                self.max_entries,
            )


class _Left(NamedTuple):
    """What is left of a forgotten resource."""

    since: float
    team: str
    place: Place


def _size(shelf: Shelf) -> int:
    return len(shelf.entries)


def check_retention(retention: Mapping[str, float], cursor_seconds: float) -> None:
    """Check how long things are remembered.

    Raises:
        ConfigurationError: a number of seconds is not above 0.
    """
    for name, seconds in [*retention.items(), ("cursor_seconds", cursor_seconds)]:
        if not seconds > 0:
            raise ConfigurationError(f"resources: {name} must be remembered for more than 0 seconds, not {seconds!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceCallbacks:
    """Functions that stand for a resource store; each is sync (run in a thread) or async.

    ``ports.ResourceStore`` says what each verb must do; a ``Refusal`` that one raises reaches the caller as it is.

    Args:
        record: ``(resource) -> None``.
        find: ``(ref) -> Resource | None``.
        note: ``(ref, status, summary) -> None``. Without it lists show what was known at the recording, until
            upstream is asked.
        forget: ``(ref) -> None``. Without it the owner of what is deleted stays known, and upstream answers for it.
        place: ``(ref, team) -> (created, id) | None``. Without it ``find`` gives the place, so that paging cannot go
            on from a resource that is forgotten.
        page: ``(page) -> list of Resource``. Without it there are no lists: whoever asks for one gets a 404 that says
            so, because an empty list would be a false answer.

    Raises:
        ConfigurationError: a value is not callable.
    """

    record: Callable[[Resource], Awaitable[None] | None]
    find: Callable[[Ref], Resource | Awaitable[Resource | None] | None]
    note: Callable[[Ref, str, str], Awaitable[None] | None] | None = None
    forget: Callable[[Ref], Awaitable[None] | None] | None = None
    place: Callable[[Ref, str | None], Place | Awaitable[Place | None] | None] | None = None
    page: Callable[[Page], Sequence[Resource] | Awaitable[Sequence[Resource]]] | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            given = getattr(self, name)
            if not callable(given) and (given is not None or name in ("record", "find")):
                raise ConfigurationError(f"resources: {name} must be callable, not {type(given).__name__}")


class GuardedResources(BuiltIn):
    """The store behind a user's callables: what they raise becomes ``StoreUnavailable``.

    - ``record``, ``note`` and ``forget`` run to their end even if the caller is cancelled, and are tried twice: an
      owner that is lost is a resource that nobody can reach.
    - An answer that is not of the asked resource, team or kind is refused, so that a mistake there shows no team what
      is another's (invariant I3).
    """

    def __init__(self, verbs: ResourceCallbacks) -> None:
        self._record = as_async(verbs.record)
        self._find = as_async(verbs.find)
        self._note = as_async(verbs.note or _nothing)
        self._forget = as_async(verbs.forget or _nothing)
        self._place = as_async(verbs.place or self._found_place)
        self._page = as_async(verbs.page or _no_lists)
        self._tasks: set[asyncio.Task[None]] = set()

    async def record(self, resource: Resource) -> None:
        """Remember a resource."""
        await self._finish("record", self._record, resource)

    async def find(self, ref: Ref) -> Resource | None:
        """Return a resource, or None."""
        found = await call_store("resources", "find", self._find, ref)
        if found is None or (isinstance(found, Resource) and found.ref == ref):
            return found
        raise _wrong("find", found, "the resource that was asked for")

    async def note(self, ref: Ref, status: str, summary: str) -> None:
        """Write down a job's status and summary."""
        await self._finish("note", self._note, ref, status, summary)

    async def forget(self, ref: Ref) -> None:
        """Forget a resource."""
        await self._finish("forget", self._forget, ref)

    async def place(self, ref: Ref, team: str | None) -> Place | None:
        """Return a place in lists, or None."""
        found: Any = await call_store("resources", "place", self._place, ref, team)
        match found:
            case None:
                return None
            case [int() | float() as created, str() as resource_id]:
                return float(created), resource_id
        raise _wrong("place", found, "a pair of time and id")

    async def page(self, page: Page) -> Sequence[Resource]:
        """Return a part of a list.

        Raises:
            NotFound: the user gave no ``page``.
            StoreUnavailable: it failed, or gave what was not asked for.
        """
        found = await call_store("resources", "page", self._page, page)
        if not isinstance(found, Sequence) or len(found) > max(0, page.limit):
            raise _wrong("page", found, f"a sequence of at most {page.limit}")
        for one in found:
            if not _belongs(one, page):
                raise _wrong("page", found, "resources of the kind and team that were asked for")
        return found

    async def _found_place(self, ref: Ref, team: str | None) -> Place | None:
        found = await self.find(ref)
        return found.place if found is not None and team in (None, found.team) else None

    async def _finish(self, name: str, verb: Callable[..., Awaitable[None]], *args: Any) -> None:
        await asyncio.shield(self._keep(_twice(name, verb, *args)))

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run as a task of its own, kept here because the event loop holds tasks by weak references only."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: it is logged already, and its caller may be gone


def resource_store(value: object = None) -> ResourceStore:
    """Return the store that a ``resources`` setting stands for.

    Args:
        value: None for memory, ``ResourceCallbacks``, or an object with the port's methods, sync or async.

    Raises:
        ConfigurationError: it is none of these.
    """
    if value is None:
        return MemoryResources()
    if isinstance(value, ResourceCallbacks):
        return GuardedResources(value)
    missing = [verb for verb in _VERBS if not callable(getattr(value, verb, None))]
    if missing or isinstance(value, type):
        lacks = f", which lacks {', '.join(missing)}" if missing else ", a class: pass an instance"
        raise ConfigurationError(
            "resources: must be None, ResourceCallbacks, or an object with the methods "
            f"{', '.join(_VERBS)}; not {type(value).__name__}{lacks}"
        )
    if isinstance(value, BuiltIn):
        return value  # type: ignore[return-value]  # its methods are there
    return GuardedResources(ResourceCallbacks(**{verb: getattr(value, verb) for verb in _VERBS}))


async def _twice(name: str, verb: Callable[..., Awaitable[None]], *args: Any) -> None:
    try:
        await verb(*args)
    except Refusal:
        raise
    except Exception:  # noqa: BLE001 - reported if it happens again
        await call_store("resources", name, verb, *args)


def _belongs(one: object, page: Page) -> bool:
    return isinstance(one, Resource) and one.ref.kind == page.kind and page.team in (None, one.team)


def _wrong(verb: str, found: object, wanted: str) -> Refusal:
    return store_failed("resources", verb, TypeError(f"its answer ({type(found).__name__}) is not {wanted}"))


async def _nothing(*_: object) -> None:
    """Stand for a verb that was left out."""


async def _no_lists(_: Page) -> Sequence[Resource]:
    raise NotFound(NO_LISTS)

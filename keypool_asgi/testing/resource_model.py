"""A naive resource store to compare real ones with, and random stories to tell to both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from keypool_asgi.core.resources import Page, Ref, Resource

__all__ = ["ModelResources", "story"]

# Some are named more often, so that several verbs come to the same resource.
_KINDS = ("transcript", "transcript", "transcript", "upload", "agent")
_IDS = ("a", "a", "a", "a", "b", "b", "c", "aa", "B", "é", "0")
_TEAMS = ("team-a", "team-b", "team-c")
_STATUSES = ("queued", "processing", "completed", "error")
# Few times, so that many are equal.
_TIMES = (1_800_000_000.0, 1_800_000_000.5, 1_800_000_007.0, 5.0)


class ModelResources:
    """Does what ``ports.ResourceStore`` says in the simplest way: everything is looked at, every time."""

    def __init__(self, retention: Mapping[str, float], cursor_seconds: float) -> None:
        self.now = 0.0
        self._retention = retention
        self._cursor_seconds = cursor_seconds
        self._known: dict[Ref, tuple[float, Resource]] = {}
        self._left: dict[Ref, tuple[float, Resource]] = {}

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        endless = float("inf")
        for ref, (since, _) in list(self._known.items()):
            if since + self._retention.get(ref.kind, endless) <= self.now:
                del self._known[ref]
        for ref, (since, _) in list(self._left.items()):
            if since + self._cursor_seconds <= self.now:
                del self._left[ref]

    def record(self, resource: Resource) -> None:
        """Remember a resource."""
        self._known.setdefault(resource.ref, (self.now, resource))

    def find(self, ref: Ref) -> Resource | None:
        """Return a resource."""
        return self._known[ref][1] if ref in self._known else None

    def note(self, ref: Ref, status: str, summary: str) -> None:
        """Write down status and summary."""
        if ref in self._known:
            since, resource = self._known[ref]
            self._known[ref] = (since, replace(resource, status=status, summary=summary))

    def forget(self, ref: Ref) -> None:
        """Forget a resource but for its place."""
        if ref in self._known:
            self._left[ref] = (self.now, self._known.pop(ref)[1])

    def place(self, ref: Ref, team: str | None) -> tuple[float, str] | None:
        """Return a place, a forgotten one's too."""
        for kept in (self._known, self._left):
            if ref in kept and team in (None, kept[ref][1].team):
                return kept[ref][1].place
        return None

    def page(self, page: Page) -> list[Resource]:
        """Return a part of a list."""
        every = sorted((one for _, one in self._known.values() if _within(one, page)), key=lambda one: one.place)
        if page.after is not None:
            return every[: page.limit][::-1]
        return every[::-1][: page.limit]


def _within(one: Resource, page: Page) -> bool:
    return (
        one.ref.kind == page.kind
        and page.team in (None, one.team)
        and (page.before is None or one.place < page.before)
        and (page.after is None or one.place > page.after)
        and (page.since is None or one.created >= page.since)
        and (page.until is None or one.created < page.until)
        and (page.statuses is None or one.status in page.statuses)
    )


def story(chance: Random, steps: int, *, moving: bool) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Give verbs and their arguments, with ``advance`` among them if the clock is ``moving``."""
    weights = _WEIGHTS if moving else {**_WEIGHTS, "advance": 0}
    verbs = [verb for verb, weight in weights.items() for _ in range(weight)]
    for _ in range(steps):
        verb = chance.choice(verbs)
        yield verb, _ARGUMENTS[verb](chance)


def _ref(chance: Random) -> Ref:
    return Ref(chance.choice(_KINDS), chance.choice(_IDS))


def _resource(chance: Random) -> tuple[Resource]:
    status = chance.choice((*_STATUSES, None))
    team, project = chance.choice(_TEAMS), chance.choice(("p-1", "p-2"))
    return (Resource(_ref(chance), team, project, chance.choice(_TIMES), status, f'{{"n": {chance.randrange(9)}}}'),)


def _note(chance: Random) -> tuple[Ref, str, str]:
    return _ref(chance), chance.choice(_STATUSES), f'{{"n": {chance.randrange(9)}}}'


def _page(chance: Random) -> tuple[Page]:
    place = (chance.choice(_TIMES), chance.choice(_IDS))
    few = frozenset(chance.choices(_STATUSES, k=chance.randrange(4)))
    return (
        Page(
            chance.choice(_KINDS),
            chance.choice((1, 2, 3, 10)),
            chance.choice((None, *_TEAMS)),
            **{chance.choice(("before", "after")): chance.choice((None, place))},
            since=chance.choice((None, None, None, None, *_TIMES)),
            until=chance.choice((None, None, None, None, *_TIMES)),
            statuses=chance.choice((None, None, few)),
        ),
    )


_ARGUMENTS: dict[str, Callable[[Random], tuple[Any, ...]]] = {
    "record": _resource,
    "find": lambda chance: (_ref(chance),),
    "note": _note,
    "forget": lambda chance: (_ref(chance),),
    "place": lambda chance: (_ref(chance), chance.choice((None, *_TEAMS))),
    "page": _page,
    "advance": lambda chance: (chance.choice((0.5, 60.0, 3600.0, 5 * 3600.0, 8 * 86400.0, 91 * 86400.0)),),
}

# How often each verb comes. Much is recorded and little forgotten, so that there is something to list.
_WEIGHTS = {"record": 8, "find": 4, "note": 2, "forget": 1, "place": 2, "page": 5, "advance": 1}

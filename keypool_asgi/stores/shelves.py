"""What the store in memory keeps of one kind of resource, in the orders that lists need. Nothing here awaits."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from keypool_asgi.core.resources import Page, Resource

__all__ = ["SWEEP", "Entry", "Place", "Shelf", "span"]

SWEEP = 64
"""How many expired entries one verb clears away at most, so that none takes long."""

Place = tuple[float, str]
"""A place in a list: time of creation as Unix time in seconds, then id."""


class Entry(NamedTuple):
    """A resource, the time of its recording, and the number of recordings until then."""

    resource: Resource
    recorded: float
    number: int


class Shelf:
    """The resources of one kind: by id in order of recording, and in order of their places by team and status."""

    def __init__(self, retention: float) -> None:
        self.retention = retention
        # The order makes the oldest one cheap to find, which a dict does not after many removals at its front.
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self._lists: dict[tuple[str | None, ...], list[Place]] = {}

    def find(self, resource_id: str, now: float) -> Resource | None:
        """Return what is not expired."""
        entry = self.entries.get(resource_id)
        return entry.resource if entry is not None and entry.recorded > now - self.retention else None

    def add(self, entry: Entry) -> None:
        """Put a new entry in."""
        self.entries[entry.resource.ref.id] = entry
        self._list(entry.resource, _list_keys(entry.resource))

    def drop(self, resource_id: str) -> None:
        """Take an entry out, if it is there."""
        entry = self.entries.pop(resource_id, None)
        if entry is not None:
            self._unlist(entry.resource, _list_keys(entry.resource))

    def note(self, resource_id: str, status: str, summary: str) -> None:
        """Replace the status and summary of an entry; its age stays."""
        old = self.entries[resource_id]
        new = old._replace(resource=replace(old.resource, status=status, summary=summary))
        self.entries[resource_id] = new
        if old.resource.status != status:
            self._unlist(old.resource, _list_keys(old.resource)[2:])
            self._list(new.resource, _list_keys(new.resource)[2:])

    def sweep(self, now: float) -> None:
        """Drop the oldest entries that have expired, a bounded number of them."""
        for _ in range(SWEEP):
            oldest = next(iter(self.entries.values()), None)
            if oldest is None or oldest.recorded > now - self.retention:
                break
            self.drop(oldest.resource.ref.id)

    def page(self, page: Page, now: float) -> list[Resource]:
        """Return a part of a list, newest first."""
        resources = (self.find(place[1], now) for place in self._walk(page))
        found = list(islice((one for one in resources if one is not None), max(0, page.limit)))
        return found if page.after is None else found[::-1]

    def _walk(self, page: Page) -> Iterable[Place]:
        """Go through the places that a page asks for, from where it begins."""
        low, high = span(page)
        keys = [(page.team,)] if page.statuses is None else [(page.team, status) for status in page.statuses]
        lists = (self._lists.get(key, []) for key in keys)
        newest_first = page.after is None
        walks = [_between(places, low, high, newest_first=newest_first) for places in lists]
        return heapq.merge(*walks, reverse=newest_first)

    def _list(self, resource: Resource, keys: Iterable[tuple[str | None, ...]]) -> None:
        place = resource.place
        for key in keys:
            insort(self._lists.setdefault(key, []), place)

    def _unlist(self, resource: Resource, keys: Iterable[tuple[str | None, ...]]) -> None:
        for key in keys:
            places = self._lists[key]
            del places[bisect_left(places, resource.place)]
            if not places:
                del self._lists[key]


def _list_keys(resource: Resource) -> tuple[tuple[str | None, ...], ...]:
    """Name the lists that a resource is in: its team's and everybody's, the latter two by status too."""
    team, status = resource.team, resource.status
    return (team,), (None,), (team, status), (None, status)


def _between(places: list[Place], low: Place | None, high: Place | None, *, newest_first: bool) -> Iterator[Place]:
    first = 0 if low is None else bisect_left(places, low)
    end = len(places) if high is None else bisect_left(places, high)
    numbers = range(end - 1, first - 1, -1) if newest_first else range(first, end)
    return (places[number] for number in numbers)


def span(page: Page) -> tuple[Place | None, Place | None]:
    """Return the first place that a page may show and the first one beyond it, None where there is no end.

    A resource is within when ``low <= place < high``, whichever of ``before``, ``after``, ``since`` and ``until`` the
    page has.
    """
    lows = [] if page.since is None else [(page.since, "")]
    if page.after is not None:
        lows.append((page.after[0], page.after[1] + "\0"))  # the next text in order
    highs = [] if page.until is None else [(page.until, "")]
    if page.before is not None:
        highs.append(page.before)
    return max(lows, default=None), min(highs, default=None)

"""Lists: what a caller wants of one, and what a provider knows about how its lists look. Values only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .resources import Resource

__all__ = ["ListQuery", "ListRules"]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a caller wants of a list.

    Attributes:
        limit: how many items at most.
        before: id of an item; only older ones are wanted.
        after: id of an item; only newer ones are wanted, the nearest.
        status: only items in this status.
        since: only items created at or after this Unix time.
        until: only items created before this Unix time.
        kept: the parameters that belong in the links to other pages, as pairs of text.
    """

    limit: int
    before: str | None = None
    after: str | None = None
    status: str | None = None
    since: float | None = None
    until: float | None = None
    kept: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ListRules:
    """How a provider's lists look.

    A *composed* list is made of what the store knows, brought up to date from upstream; a *filtered* one is upstream's
    own with other teams' items taken out.

    Attributes:
        composed: operation to the kind of resource that it lists, for composed lists.
        filtered: the same for filtered lists.
        unfinished: statuses that may still change; an item in another one is never asked about again.
        batch: id of an item, or None, to the raw query string that makes a composed list's operation give as many
            items as it can that are older than that one, or the newest.
        created: an item that upstream gave to its Unix time of creation.
        parse: raw query string to what is wanted; raises BadRequest with a sentence for what is out of range.
        items: a JSON object that upstream gave for a list, to its items.
        compose: query, items newest first, the ids that older and newer pages begin after (None: there are none), and
            own base URL, to the JSON body.
        filter: JSON objects that upstream gave, of one project each, and the ids to keep, to one JSON body.
    """

    composed: dict[str, str]
    filtered: dict[str, str]
    unfinished: frozenset[str]
    batch: Callable[[str | None], bytes]
    created: Callable[[dict[str, Any]], float]
    parse: Callable[[bytes], ListQuery]
    items: Callable[[dict[str, Any]], list[dict[str, Any]]]
    compose: Callable[[ListQuery, Sequence[Resource], str | None, str | None, str], bytes]
    filter: Callable[[Sequence[dict[str, Any]], frozenset[str]], bytes]

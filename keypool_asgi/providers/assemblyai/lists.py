"""AssemblyAI's lists: the parameters of ``GET /v2/transcript`` and the shape of its pages; agents and subscriptions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

from keypool_asgi.core.listing import ListQuery, ListRules
from keypool_asgi.core.resources import Resource
from keypool_asgi.errors import BadRequest

from .resources import UNFINISHED

__all__ = ["LIST_RULES", "batch", "compose", "created", "filter_lists", "items", "parse"]

_DEFAULT_LIMIT, _MAX_LIMIT = 10, 200
_STATUSES = ("queued", "processing", "completed", "error")
_CURSORS = ("before_id", "after_id")
_KEPT = ("status", "created_on")


def parse(query: bytes) -> ListQuery:
    """Read the parameters of a list of transcripts.

    Raises:
        BadRequest: one is out of its range.
    """
    given = dict(parse_qsl(query.decode("latin-1")))
    since, until = _day(given.get("created_on"))
    status = given.get("status")
    if status is not None and status not in _STATUSES:
        raise BadRequest(f"The parameter status must be one of {', '.join(_STATUSES)}.")
    if all(given.get(name) for name in _CURSORS):
        raise BadRequest("The parameters before_id and after_id cannot be combined.")
    return ListQuery(
        limit=_limit(given.get("limit")),
        before=given.get("before_id"),
        after=given.get("after_id"),
        status=status,
        since=since,
        until=until,
        kept=tuple((name, value) for name, value in given.items() if name in _KEPT),
    )


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not (len(text) <= 3 and text.isascii() and text.isdigit() and 1 <= int(text) <= _MAX_LIMIT):
        raise BadRequest(f"The parameter limit must be a number from 1 to {_MAX_LIMIT}.")
    return int(text)


def _day(text: str | None) -> tuple[float | None, float | None]:
    """Beginning and end of a UTC day, as Unix times."""
    if text is None:
        return None, None
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        return day.timestamp(), (day + timedelta(days=1)).timestamp()
    except (ValueError, OverflowError):
        raise BadRequest("The parameter created_on must be a date such as 2026-11-22.") from None


def items(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the items of a page of transcripts."""
    listed = found.get("transcripts")
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def batch(before: str | None) -> bytes:
    """Return the query for as many transcripts as upstream gives at once."""
    return f"limit={_MAX_LIMIT}{f'&before_id={before}' if before else ''}".encode()


def created(item: dict[str, Any]) -> float:
    """Return when a transcript was made, as a Unix time; 0 when upstream does not say. Times without a zone are UTC."""
    try:
        time = datetime.fromisoformat(str(item.get("created")))
    except ValueError:
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def compose(query: ListQuery, page: Sequence[Resource], older: str | None, newer: str | None, base: str) -> bytes:
    """Return a page of transcripts in upstream's shape, with links that stay on our base.

    ``prev_url`` leads to older items and ``next_url`` to newer ones, as upstream has it.
    """
    details = {
        "limit": query.limit,
        "result_count": len(page),
        "current_url": _link(base, query),
        "prev_url": _link(base, query, before_id=older) if older else None,
        "next_url": _link(base, query, after_id=newer) if newer else None,
    }
    return json.dumps({"page_details": details, "transcripts": [_item(one, base) for one in page]}).encode()


def _link(base: str, query: ListQuery, **cursor: str) -> str:
    if not cursor:
        cursor = {name: text for name, text in (("before_id", query.before), ("after_id", query.after)) if text}
    return f"{base}/v2/transcript?" + urlencode([("limit", query.limit), *query.kept, *cursor.items()])


def _item(one: Resource, base: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(one.created, UTC).isoformat(timespec="microseconds")
    return {
        "id": one.ref.id,
        "resource_url": f"{base}/v2/transcript/{one.ref.id}",
        "status": one.status,
        "created": created.removesuffix("+00:00"),
        **json.loads(one.summary),
    }


def filter_lists(found: Sequence[dict[str, Any]], ids: frozenset[str]) -> bytes:
    """Return upstream's lists as one, with only these ids in it. What stands beside a list may count others' items."""
    merged: dict[str, list[Any]] = {}
    for one in found:
        for name, value in one.items():
            if isinstance(value, list):
                own = [item for item in value if isinstance(item, dict) and str(item.get("id")) in ids]
                merged.setdefault(name, []).extend(own)
    return json.dumps(merged).encode()


LIST_RULES = ListRules(
    composed={"transcripts.list": "transcript"},
    filtered={"agents.list": "agent", "webhook_subscriptions.list": "webhook_subscription"},
    unfinished=UNFINISHED,
    batch=batch,
    created=created,
    parse=parse,
    items=items,
    compose=compose,
    filter=filter_lists,
)

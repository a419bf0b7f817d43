"""The errors in the document: our own by status, from the error table, beside upstream's, which pass through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keypool_asgi.errors import ERROR_TABLE, ErrorRow

from .pages import Schema
from .schemas import choice, integer, record, ref, text

__all__ = ["REFUSAL", "refusal_name", "refusals", "statuses"]

REFUSAL = record(
    "The pool's own answer, when it refuses a request or cannot serve it. `X-Request-Id` repeats the id.",
    required=("error", "code"),
    error=text("One or two sentences for people. Every official SDK shows them."),
    code=choice("For programs.", *ERROR_TABLE),
    request_id=text("What the operator's log knows this request by. A 404 has it in `X-Request-Id` only."),
)

# Upstream's 401 is about the operator's key, which a caller can do nothing about; it becomes a 503 of ours.
_OURS_ALONE = frozenset({401, 410})
_WITH_RETRY_AFTER = frozenset({429, 503})
_NOT_FOUND = 404
_GONE = 410
_BODY_TOO_LARGE = 413

_REQUEST_ID = {"schema": text("What the operator's log knows this request by.")}
_RETRY_AFTER = {"schema": integer("Whole seconds after which it is worth trying again, where known.", 1)}
_CHALLENGE = {"schema": choice("How to present a team token.", "Bearer")}


def statuses(*, gone: bool, body: bool) -> list[int]:
    """Return the statuses of our own that an operation can answer with.

    Args:
        gone: whether the endpoint is retired; then that is all it says, unless the path is not quite its own.
        body: whether requests have a body.
    """
    if gone:
        return [_NOT_FOUND, _GONE]
    every = sorted({row.status for row in ERROR_TABLE.values()} - {_GONE})
    return every if body else [status for status in every if status != _BODY_TOO_LARGE]


def refusal_name(status: int) -> str:
    """Return the name under which ``refusals`` has a status."""
    return f"Error{status}"


def refusals(provider: str, table: Mapping[str, ErrorRow] = ERROR_TABLE) -> dict[str, Any]:
    """Return the response objects of our own errors, one for each status, by ``refusal_name``.

    Args:
        provider: whose answers pass through with the same statuses.
        table: code to status and reason.
    """
    by_status: dict[int, dict[str, ErrorRow]] = {}
    for code, row in table.items():
        by_status.setdefault(row.status, {})[code] = row
    return {refusal_name(status): _response(provider, status, rows) for status, rows in sorted(by_status.items())}


def _response(provider: str, status: int, rows: Mapping[str, ErrorRow]) -> dict[str, Any]:
    reasons = [f"- `{code}`: {row.when}." for code, row in rows.items()]
    if status in _WITH_RETRY_AFTER:
        reasons.append("- `Retry-After` says in how many seconds to try again, where that is known.")
    if status not in _OURS_ALONE:
        reasons.append(f"- Without a `code`: {provider}'s own answer, passed through unchanged.")
    ours: Schema = ref("Refusal")
    return {
        "description": "\n".join(reasons),
        "headers": _headers(status),
        "content": {
            "application/json": {
                "schema": ours if status in _OURS_ALONE else {"anyOf": [ours, ref("UpstreamError")]},
                "examples": {code: _example(code, row) for code, row in rows.items()},
            }
        },
    }


def _headers(status: int) -> dict[str, Any]:
    headers: dict[str, Any] = {"X-Request-Id": _REQUEST_ID}
    if status in _WITH_RETRY_AFTER:
        headers["Retry-After"] = _RETRY_AFTER
    if status == 401:
        headers["WWW-Authenticate"] = _CHALLENGE
    return headers


def _example(code: str, row: ErrorRow) -> dict[str, Any]:
    value = {"error": f"{row.when[0].upper()}{row.when[1:]}.", "code": code}
    return {"summary": code, "value": value if row.status == 404 else {**value, "request_id": "5f1d0c7a9b3e4826"}}

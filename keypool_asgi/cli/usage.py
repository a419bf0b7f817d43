"""``keypool usage``: who has used what, of the account that a pool keeps in its ``state``."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from keypool_asgi.errors import ConfigurationError, StoreUnavailable

from .failures import Failed, WrongUse, wrong_use

if TYPE_CHECKING:
    from keypool_asgi.core.usage import UsageSum
    from keypool_asgi.stores.redis.ledger import RedisLedger
    from keypool_asgi.stores.sqlite_ledger import SqliteLedger

__all__ = ["add_parser", "run"]

_DIMENSIONS = ("team", "operation", "key", "account", "project", "day", "hour")

_UNITS = (
    "requests",
    "upload_bytes",
    "audio_seconds",
    "stream_seconds",
    "llm_tokens",
    "tts_characters",
    "cost",
    "request_bytes",
    "response_bytes",
)
"""The order of the columns."""

_AGO = re.compile(r"([1-9][0-9]{0,4})([hdw])\Z")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}

_TIMES = "a date or a whole hour in UTC (2026-11-01, 2026-11-01T13:00), or how long ago (36h, 7d, 4w)"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "usage",
        help="show who has used what",
        description="Adds up the account that pools with this state have kept. Usage counts in the hour in which it "
        "became known: a job's audio when the job was found to be done, a session's time when it was over.",
        epilog="The cost is in millionths of the price table's money in --csv and --json.",
    )
    parser.add_argument("--state", required=True, help="where the pool keeps its state, such as sqlite:///keypool.db")
    parser.add_argument("--team", metavar="ID", help="only this team's, as in Team(id)")
    parser.add_argument("--operation", metavar="NAME", help="only this operation's, such as transcripts.create")
    parser.add_argument("--key", metavar="ID", help="only this key's, as in UpstreamKey(id)")
    parser.add_argument("--since", metavar="TIME", help=f"from then on: {_TIMES}; default: the beginning of this month")
    parser.add_argument("--until", metavar="TIME", help="up to then, likewise; default: now")
    parser.add_argument(
        "--by",
        action="append",
        choices=_DIMENSIONS,
        help="one row for each of these; may be given several times (default: team, or operation with --team)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    form.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Add up, and print it."""
    from keypool_asgi.core.usage import Selection

    now = datetime.now(UTC)
    since = _time("--since", given.since, now) or now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    until = _time("--until", given.until, now)
    if until is not None and until <= since:
        raise WrongUse(f"--until must be after --since, which is {_shown(since)}")
    selection = Selection(
        team=given.team,
        operation=given.operation,
        key=given.key,
        since=since.timestamp(),
        until=None if until is None else until.timestamp(),
    )
    by = list(dict.fromkeys(given.by or (["operation"] if given.team else ["team"])))
    sums = asyncio.run(_sums(given.state, selection, by))
    if given.json:
        _print_json(sums, by, since, until)
    elif given.csv:
        _print_csv(sums, by)
    else:
        _print_table(sums, by, f"from {_shown(since)} to {'now' if until is None else _shown(until)}")
    return 0


def _time(option: str, text: str | None, now: datetime) -> datetime | None:
    """Read a time.

    Raises:
        WrongUse: it is none, or not a whole hour.
    """
    if text is None:
        return None
    ago = _AGO.match(text)
    if ago:
        whole = now.replace(minute=0, second=0, microsecond=0)
        return whole - timedelta(hours=int(ago[1]) * _HOURS[ago[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUse(f"{option}: {text!r} is not a time; give {_TIMES}") from None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    if found.minute or found.second or found.microsecond:
        raise WrongUse(f"{option}: the account is added up by whole hours of UTC, and {text!r} is not one")
    return found


def _shown(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC")


async def _sums(state: str, selection: Any, by: Sequence[str]) -> Sequence[UsageSum]:
    with wrong_use():
        ledger = _ledger(state)
    try:
        with _readable(state):
            return await ledger.sums(selection, by)
    finally:
        await ledger.aclose()


def _ledger(state: str) -> SqliteLedger | RedisLedger:
    """Make the ledger of a state URL.

    Raises:
        ConfigurationError: the URL is of no known kind, or its file does not exist.
    """
    scheme = state.partition("://")[0].lower()
    if scheme in ("redis", "rediss"):
        from keypool_asgi.stores.redis.ledger import RedisLedger

        return RedisLedger(state)
    if scheme != "sqlite":
        raise ConfigurationError("--state: must be sqlite:///keypool.db, or redis://host, as the pool's own state is")
    from keypool_asgi.stores.sqlite_file import sqlite_path
    from keypool_asgi.stores.sqlite_ledger import SqliteLedger

    path = sqlite_path(state).absolute()
    if not path.is_file():
        raise ConfigurationError(f"--state: there is no file {path}; the pool makes it when it is first used")
    return SqliteLedger(path)


@contextmanager
def _readable(state: str) -> Iterator[None]:
    """Say what is wrong with a state that cannot be read; a password in its URL is not a part of that."""
    try:
        yield
    except StoreUnavailable as error:
        name = re.sub(r"//[^/@]*@", "//***@", state.partition("?")[0])
        cause = error.__cause__ or error
        raise Failed(f"--state: {name} cannot be read: {type(cause).__name__}: {cause}") from None


# What is printed


def _print_json(sums: Sequence[UsageSum], by: Sequence[str], since: datetime, until: datetime | None) -> None:
    rows = [dict(zip(by, _names(one, by), strict=True)) | {"used": _ordered(one.used)} for one in sums]
    bounds = {"since": since.isoformat(), "until": None if until is None else until.isoformat()}
    print(json.dumps({**bounds, "by": by, "rows": rows, "total": _ordered(_total(sums))}, indent=2))


def _print_csv(sums: Sequence[UsageSum], by: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*by, *_UNITS])
    writer.writerows([[*map(_inert, _names(one, by)), *(one.used.get(unit, 0) for unit in _UNITS)] for one in sums])


def _print_table(sums: Sequence[UsageSum], by: Sequence[str], when: str) -> None:
    if not sums:
        print(f"Nothing was used {when}.")
        return
    total = _total(sums)
    units = [unit for unit in _ordered(total) if not unit.endswith("_bytes") or unit == "upload_bytes"]
    rows = [[*_names(one, by), *_amounts(one.used, units)] for one in sums]
    if len(rows) > 1:
        rows.append(["total", *[""] * (len(by) - 1), *_amounts(total, units)])
    head = [*by, *(unit.replace("_", " ") for unit in units)]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    print(f"Used {when}:\n")
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [
            cell.ljust(width) if number < len(by) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _names(one: UsageSum, by: Sequence[str]) -> list[str]:
    """The values of a group, as they are read: times as dates, and a dash for what there is not."""
    return [
        datetime.fromtimestamp(int(value), UTC).strftime("%Y-%m-%d" if dimension == "day" else "%Y-%m-%dT%H:00Z")
        if dimension in ("day", "hour")
        else value or "-"
        for dimension, value in zip(by, one.group, strict=True)
    ]


def _amounts(used: Mapping[str, int], units: Sequence[str]) -> list[str]:
    return [f"{used.get(unit, 0) / 10**6:,.2f}" if unit == "cost" else f"{used.get(unit, 0):,}" for unit in units]


def _total(sums: Sequence[UsageSum]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in sums:
        for unit, amount in one.used.items():
            total[unit] = total.get(unit, 0) + amount
    return total


def _ordered(used: Mapping[str, int]) -> dict[str, int]:
    """What was used, unit by unit in the order of the columns."""
    known = [unit for unit in _UNITS if unit in used]
    return {unit: used[unit] for unit in [*known, *sorted(used.keys() - set(known))]}


def _inert(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "@", "\t", "\r") or (text[:1] == "-" and text != "-") else text

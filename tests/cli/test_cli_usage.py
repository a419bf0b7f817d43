"""``keypool usage``: tables, forms, times, and what is said when something is wrong."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from harness import run
from harness.redis import redis_server

from keypool_asgi.cli import usage
from keypool_asgi.cli.failures import Failed, WrongUse
from keypool_asgi.core.usage import DIMENSIONS, HOUR, UsageRecord
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.stores.redis.ledger import RedisLedger
from keypool_asgi.stores.sqlite_ledger import SqliteLedger
from keypool_asgi.testing.ledger_contract import record

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC).timestamp()


def usage_of(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="keypool")
    usage.add_parser(parser.add_subparsers(required=True))
    given = parser.parse_args(["usage", *arguments])
    return int(given.run(given))


def records() -> Sequence[UsageRecord]:
    return [
        record("a", NOON, used={"requests": 1, "upload_bytes": 2_000_000}, operation="uploads.create"),
        record("b", NOON + 2 * HOUR, used={"requests": 1, "audio_seconds": 3600, "cost": 210_000}),
        record("c", NOON + 24 * HOUR, used={"requests": 1, "stream_seconds": 61}, key="k2"),
        record("d", NOON, used={"requests": 1}, team="team-b", key=None),
    ]


@pytest.fixture
def state(tmp_path: Path) -> str:
    async def fill() -> None:
        ledger = SqliteLedger(tmp_path / "keypool.db", keep_seconds=10_000 * 86400)
        await ledger.append(records())
        await ledger.aclose()

    run(fill())
    return f"sqlite:///{tmp_path / 'keypool.db'}"


def test_it_knows_every_dimension():
    assert usage._DIMENSIONS == DIMENSIONS


def test_a_table_has_the_units_that_were_used_and_a_total(state, capsys):
    assert usage_of("--state", state, "--since", "2026-11-01") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Used from 2026-11-01 00:00 UTC to now:"
    assert said[2].split() == ["team", "requests", "upload", "bytes", "audio", "seconds", "stream", "seconds", "cost"]
    assert [line.split() for line in said[4:]] == [
        ["team-a", "3", "2,000,000", "3,600", "61", "0.21"],
        ["team-b", "1", "0", "0", "0", "0.00"],
        ["total", "4", "2,000,000", "3,600", "61", "0.21"],
    ]
    assert len({len(line) for line in said[2:]}) == 1


def test_of_one_team_it_shows_the_operations(state, capsys):
    assert usage_of("--state", state, "--since", "2026-11-01", "--team", "team-a") == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[4:]]
    assert rows == ["transcripts.get", "uploads.create", "total"]


def test_rows_are_by_what_is_asked_for(state, capsys):
    assert usage_of("--state", state, "--since", "2026-11-01", "--by", "day", "--by", "key", "--csv") == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0][:3] == ["day", "key", "requests"]
    assert [row[:3] for row in rows[1:]] == [
        ["2026-11-05", "-", "1"],
        ["2026-11-05", "k1", "2"],
        ["2026-11-06", "k2", "1"],
    ]


def test_hours_are_shown_as_such(state, capsys):
    assert usage_of("--state", state, "--since", "2026-11-05", "--until", "2026-11-05T13:00", "--by", "hour") == 0
    assert "2026-11-05T12:00Z" in capsys.readouterr().out


def test_json_says_everything(state, capsys):
    bounds = ["--since", "2026-11-05T14:00+01:00", "--until", "2026-11-06"]
    assert usage_of("--state", state, *bounds, "--operation", "transcripts.get", "--key", "k1", "--json") == 0
    used = {"requests": 1, "audio_seconds": 3600, "cost": 210_000, "response_bytes": 10}
    assert json.loads(capsys.readouterr().out) == {
        "since": "2026-11-05T13:00:00+00:00",
        "until": "2026-11-06T00:00:00+00:00",
        "by": ["team"],
        "rows": [{"team": "team-a", "used": used}],
        "total": used,
    }


@pytest.mark.parametrize(("form", "expected"), [((), "Nothing was used from"), (("--csv",), "operation,requests,")])
def test_nothing_is_no_failure(state, capsys, form, expected):
    assert usage_of("--state", state, "--team", "nobody", *form) == 0
    assert capsys.readouterr().out.startswith(expected)


def test_no_spreadsheet_computes_the_name_of_a_team(tmp_path, capsys):
    async def fill() -> None:
        ledger = SqliteLedger(tmp_path / "keypool.db", keep_seconds=10_000 * 86400)
        await ledger.append([record("a", NOON, team="=1+1")])
        await ledger.aclose()

    run(fill())
    usage_of("--state", f"sqlite:///{tmp_path / 'keypool.db'}", "--since", "2026-11-01", "--csv")
    assert capsys.readouterr().out.splitlines()[1].startswith("'=1+1,")


def test_the_default_is_this_month_and_times_may_be_relative():
    now = datetime(2026, 11, 22, 13, 45, tzinfo=UTC)
    assert usage._time("--since", "36h", now) == datetime(2026, 11, 21, 1, tzinfo=UTC)
    assert usage._time("--since", "7d", now) == datetime(2026, 11, 15, 13, tzinfo=UTC)
    assert usage._time("--since", "2w", now) == now.replace(minute=0) - timedelta(days=14)
    assert usage._time("--since", None, now) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "yesterday"], "--since: 'yesterday' is not a time; give a date or a whole hour"),
        (["--since", "2026-11-01T12:30"], "--since: the account is added up by whole hours"),
        (["--until", "2026-11-01T12:00+05:30"], "--until: the account is added up by whole hours"),
        (["--since", "2026-11-02", "--until", "2026-11-01"], "--until must be after --since"),
    ],
)
def test_a_wrong_time_is_named(state, arguments, said):
    with pytest.raises(WrongUse, match=said):
        usage_of("--state", state, *arguments)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres://x", "--state: must be sqlite:///keypool.db, or redis://host"),
        ("keypool.db", "--state: must be sqlite:///keypool.db"),
        ("sqlite:///nowhere.db", "--state: there is no file .*nowhere.db"),
        ("sqlite://nowhere.db", "state: a SQLite URL has no host"),
        ("redis://", "state: a Redis URL"),
    ],
)
def test_a_wrong_state_is_named_and_nothing_is_made(url, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongUse, match=said):
        usage_of("--state", url)
    assert not list(tmp_path.iterdir())


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("this is not a database, however long it may be " * 100)
    with pytest.raises((Failed, ConfigurationError), match=r"notes\.txt"):
        usage_of("--state", f"sqlite:///{path}")


def test_a_server_that_is_away_is_told_without_its_password():
    with pytest.raises(Failed) as caught:
        usage_of("--state", "redis://user:hidden-word@127.0.0.1:1/0")
    assert "redis://***@127.0.0.1:1/0 cannot be read" in str(caught.value)
    assert "hidden-word" not in str(caught.value)


def test_the_account_in_redis_is_read_as_well(capsys):
    with redis_server() as server:

        async def fill() -> None:
            ledger = RedisLedger(server.url, keep_seconds=10_000 * 86400)
            await ledger.append(records())
            await ledger.aclose()

        run(fill())
        assert usage_of("--state", server.url, "--since", "2026-11-01", "--json") == 0
        assert json.loads(capsys.readouterr().out)["total"]["requests"] == 4

"""docs/quotas.md is true: its code runs, its table of units is the package's."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable

import assemblyai
import httpx
import pytest
from blocks import Blocks, rows, section
from harness import token
from readers import here, pool, submit  # noqa: F401 - a fixture

from keypool_asgi import cli
from keypool_asgi.core import limits, windows
from keypool_asgi.stages.quota_session import OUT_OF_QUOTA
from keypool_asgi.stores.ledger import KEEP_SECONDS, MemoryLedger
from keypool_asgi.testing import Simulator

DOCUMENT = "docs/quotas.md"
BLOCKS = Blocks(DOCUMENT)

Sdk = Callable[[str, str], assemblyai.Transcriber]


def test_every_block_has_a_check() -> None:
    BLOCKS.check(globals())


def test_block_limits(simulator: Simulator) -> None:
    with pool(BLOCKS.execute("limits")["pool"]) as base:
        answer = submit(base)
        assert answer.status_code == 200
        told = answer.headers["ratelimit"]
        asked = httpx.get(f"{base}/v2/transcript", headers={"authorization": token("research")})
    assert '"600 requests per minute";r=' in told
    assert '"360000 audio seconds per month (Europe/Berlin)";r=359400' in told  # the estimate is held
    assert f'"50000000 cost units per month (Europe/Berlin)";r={50_000_000 - 210_000 // 6}' in told
    assert "5 requests per second for transcripts.create" in told
    assert "x-ratelimit-remaining" in answer.headers
    assert "audio seconds" not in asked.headers["ratelimit"]  # a list uses none


def test_block_quotas() -> None:
    names = BLOCKS.execute("quotas")
    with pool(names["app"]) as base:
        answers = [submit(base) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["retry-after"] == "3600"
    assert names["spent"] == {"team:research": 2}
    assert "ratelimit" not in answers[0].headers
    assert "ratelimit" in answers[-1].headers


def finished_job(sdk: Sdk) -> None:
    """A job of the team's in the pool of the block, transcribed and paid."""
    names = BLOCKS.execute("account")
    with pool(names["app"]) as base:
        sdk(base, token("research")).transcribe("meeting.mp3")
        told = httpx.get(f"{base.removesuffix('/v1/assemblyai')}/internal/usage").json()
    used = {tuple(one["group"]): one["used"] for one in told}["research", "transcripts.create"]
    assert used.items() >= {"requests": 1, "audio_seconds": 2, "cost": 117}.items()
    assert {record.team for record in names["records"]} == {"research"}
    assert sum(record.used.get("audio_seconds", 0) for record in names["records"]) == 2


def test_block_account(sdk: Sdk) -> None:
    finished_job(sdk)


def test_block_usage(sdk: Sdk, capsys: pytest.CaptureFixture[str]) -> None:
    finished_job(sdk)
    program, *arguments = shlex.split(BLOCKS["usage"])
    assert program == "keypool"
    assert cli.main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["team"], row["operation"]) for row in rows} >= {("research", "transcripts.create")}
    assert sum(row["used"].get("audio_seconds", 0) for row in rows) == 2


def test_how_much_of_the_account_is_kept() -> None:
    told = section(DOCUMENT, "The account")
    assert f"kept for {KEEP_SECONDS / 86_400:g} days" in told
    most_records = inspect.signature(MemoryLedger).parameters["most_records"].default
    assert f"newest {most_records:,} records" in told


def test_the_units_are_the_packages() -> None:
    told = {unit.strip("`"): window for unit, _, window in rows(section(DOCUMENT, "Units"))}
    assert told == dict.fromkeys(limits.WINDOWED_UNITS, "yes") | dict.fromkeys(limits.HELD_UNITS, "no")


def test_the_windows_are_the_packages() -> None:
    rates, budgets, *_ = section(DOCUMENT, "Windows").strip().split("\n- ")
    assert all(f"`{window}`" in rates for window in limits._RATE_SECONDS)
    assert all(f"`{window}`" in budgets for window in windows.CALENDAR_WINDOWS)


def test_the_close_code_of_a_session_without_quota_is_the_packages() -> None:
    assert f"close code {OUT_OF_QUOTA}" in section(DOCUMENT, "What is charged when")

"""The README is true: its code runs, its tables are the package's, its links lead somewhere."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import keypool_asgi
from keypool_asgi.core import headers
from keypool_asgi.errors import ERROR_TABLE
from keypool_asgi.assembly import assemble
from keypool_asgi.stack import KeyPoolMiddleware, Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = {number for number, row in enumerate(cells) if set("".join(row)) <= set("-| ")}
    return [row for number, row in enumerate(cells) if number not in rules and number + 1 not in rules]


def test_the_table_of_errors_is_the_packages() -> None:
    told = {code.strip("`"): (int(status), when) for status, code, when in rows(section("Errors"))}
    assert told == {code: (row.status, row.when) for code, row in ERROR_TABLE.items()}


def told_settings() -> dict[str, str]:
    return {row[0].strip("`"): row[1].strip("`|").strip() for row in rows(section("Settings"))}


def test_every_setting_is_told_and_no_other() -> None:
    required = [
        name for name, kind in inspect.signature(KeyPoolMiddleware).parameters.items() if kind.name != "settings"
    ]
    assert sorted(told_settings()) == sorted([*Settings.__annotations__, *(set(required) - {"app"})])


@pytest.mark.parametrize("name", Settings.__annotations__)
def test_the_default_of_a_setting_is_the_real_one(name: str) -> None:
    told = eval(told_settings()[name], {public: getattr(keypool_asgi, public) for public in keypool_asgi.__all__})
    real = inspect.signature(assemble).parameters[name].default
    policies = (keypool_asgi.HealthPolicy(), keypool_asgi.Timeouts(), keypool_asgi.SessionLimits())
    assert told == real or (real is None and told in policies)


def quoted(text: str) -> set[bytes]:
    return {name.lower().encode() for name in re.findall(r"`([A-Za-z0-9-]+)`", text)}


def bullet(start: str) -> str:
    """The bullet of the section on header fields that begins so, up to its first full stop."""
    text = " ".join(section("What crosses the pool").split())
    return text.partition(f"- {start}:")[2].partition(". ")[0].partition(" - ")[0].partition(", and the fields")[0]


def test_the_fields_that_do_not_cross_are_the_packages() -> None:
    written_anew = {b"authorization", b"host", b"content-length", b"via"}
    assert quoted(bullet("Ended here, in both directions")) == headers._HOP_BY_HOP
    assert quoted(bullet("Not sent to AssemblyAI")) == headers._NOT_FOR_UPSTREAM - headers._HOP_BY_HOP - written_anew
    assert quoted(bullet("Not sent to callers")) == headers._NOT_FOR_CALLERS - headers._HOP_BY_HOP
    parameters = {name.decode() for name in headers._CREDENTIAL_PARAMETERS}
    assert {name for name in parameters if f"`{name}`" in section("What crosses the pool")} == parameters


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md"])
def test_relative_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / document).read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (ROOT / link.partition("#")[0]).exists()]
    assert broken == []


def test_the_minutes_told_for_bad_keys_are_the_real_ones() -> None:
    told = re.search(r"left alone for (\d+) minutes", section("How keys stay healthy"))
    assert told
    policy = keypool_asgi.HealthPolicy()
    assert policy.exhausted_seconds == policy.rejected_seconds == 60 * int(told[1])

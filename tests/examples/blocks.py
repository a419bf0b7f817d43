"""What a document says: its tables, and its code blocks, each with a name above it (``<!-- block: name -->``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["DOCUMENTS", "ROOT", "Blocks", "cells", "rows", "section"]

ROOT = Path(__file__).resolve().parents[2]

DOCUMENTS = ["README.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]

Namespace = dict[str, Any]


class Blocks(dict[str, str]):
    """Name to code.

    Args:
        document: path from the root of the repository.
        commands: blocks without a name, which CI runs itself.
    """

    def __init__(self, document: str, *, commands: int = 0) -> None:
        text = (ROOT / document).read_text(encoding="utf-8")
        super().__init__(re.findall(r"^<!-- block: ([\w-]+) -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        self.document = document
        assert len(self) == len(re.findall(r"^```(\w+)$", text, re.MULTILINE)) - commands, "a block has no name"

    def execute(self, name: str, **names: Any) -> Namespace:
        """Run Python as a module would be, for annotations to resolve; a traceback says which block it was."""
        namespace: Namespace = {"__name__": f"block_{name}", **names}
        exec(compile(self[name], f"{self.document}, {name}", "exec"), namespace)
        return namespace

    def check(self, tests: dict[str, Any]) -> None:
        """Assert that every block has its test ``test_block_<name>`` among these, and no test lacks its block."""
        names = {name.removeprefix("test_block_").replace("_", "-") for name in tests if name.startswith("test_block_")}
        assert names == set(self)


def section(document: str, title: str) -> str:
    """The text below a heading, up to the next one that is not lower."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.search(rf"^(##+) {re.escape(title)}\n(.*?)(?=^##? |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no section {title!r}"
    return found[2]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = {number for number, row in enumerate(table) if set("".join(row)) <= set("-| ")}
    return [row for number, row in enumerate(table) if number not in rules and number + 1 not in rules]


def cells(text: str) -> dict[str, str]:
    """First cell to second one of every row, without the marks of code: such as names and their defaults."""
    return {row[0].strip("`"): row[1].strip("`|").strip() for row in rows(text)}

"""The code blocks of a document. Each has a name in a comment above it: ``<!-- block: name -->``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Blocks"]

ROOT = Path(__file__).resolve().parents[2]

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

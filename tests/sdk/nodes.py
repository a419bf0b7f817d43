"""The official Node SDKs from Python: calls go to ``node/driver.mjs`` as JSON lines, and outcomes come back so."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

from harness import need

__all__ = ["Node", "NodeError", "buffer", "stream"]

DRIVER = Path(__file__).with_name("node") / "driver.mjs"
ANSWER_SECONDS = 20.0


class NodeError(Exception):
    """What the SDK threw.

    Attributes:
        fields: the error's own properties that JSON can hold, such as ``status``.
    """

    def __init__(self, message: str, fields: dict[str, Any]) -> None:
        super().__init__(message)
        self.fields = fields


def buffer(path: Path) -> dict[str, str]:
    """A file's content as a ``Buffer``."""
    return {"$buffer": str(path)}


def stream(path: Path) -> dict[str, str]:
    """A file as a Node stream."""
    return {"$stream": str(path)}


class Node:
    """One Node process; use it as a context manager."""

    def __enter__(self) -> Self:
        need("node", "npm:assemblyai", "npm:ai", "npm:@ai-sdk/assemblyai")
        self._process = subprocess.Popen(
            ["node", DRIVER.name], cwd=DRIVER.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(ANSWER_SECONDS)
        self._reader.join(ANSWER_SECONDS)
        self._process.stdout.close()

    def call(self, options: dict[str, Any], method: str, *args: Any) -> Any:
        """Make a client with these options and call one of its methods, such as ``transcripts.list``.

        Raises:
            NodeError: the SDK threw.
        """
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"options": options, "method": method, "args": args}) + "\n")
        self._process.stdin.flush()
        line = self._answers.get(timeout=ANSWER_SECONDS)
        assert line is not None, "the driver ended"
        answer = json.loads(line)
        if "error" in answer:
            raise NodeError(answer["error"], answer["fields"])
        return answer["result"]

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

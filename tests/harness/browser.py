"""A real Chromium, headless, step by step: calls go to ``tests/browser/driver.mjs`` as JSON lines.

::

    with Browser() as browser:
        browser.open(served.url + "/page")
        browser.fill("#token", TOKEN)
        browser.click("text=Start")
        browser.wait_for_text("#status", "Closed with 1000")
        assert not browser.seen().elsewhere(served.url)
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from .tools import need

__all__ = ["Browser", "BrowserError", "Seen", "artifacts"]

DRIVER = Path(__file__).resolve().parents[1] / "browser" / "driver.mjs"
ANSWER_SECONDS = 60.0
ARTIFACTS = "KEYPOOL_ARTIFACTS"


class BrowserError(Exception):
    """A step failed; the message is Playwright's."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened in the page so far.

    Attributes:
        requests: URLs that it asked for, WebSockets included.
        console: its warnings and errors on the console.
        errors: exceptions that nothing caught.
        violations: what its Content-Security-Policy forbade.
    """

    requests: list[str]
    console: list[str]
    errors: list[str]
    violations: list[str]

    def elsewhere(self, *urls: str) -> list[str]:
        """Return the requests to other hosts than those of ``urls``."""
        hosts = {urlsplit(url).netloc for url in urls}
        inside = ("data", "blob", "about")
        parsed = [(url, urlsplit(url)) for url in self.requests]
        return [url for url, parts in parsed if parts.scheme not in inside and parts.netloc not in hosts]


def artifacts(name: str) -> Path:
    """Return a folder for screenshots, below $KEYPOOL_ARTIFACTS or a temporary folder; they stay for a look."""
    folder = Path(os.environ.get(ARTIFACTS) or Path(tempfile.gettempdir()) / "keypool-artifacts") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Browser:
    """One browser with one page; use it as a context manager. Skips where Chromium, Node or Playwright is missing.

    Its microphone is a fake one that beeps, and is always permitted.

    Args:
        flags: more flags for Chromium.
    """

    def __init__(self, *flags: str) -> None:
        self._flags = flags

    def __enter__(self) -> Self:
        need("chromium", "node", "npm:playwright-core")
        self._profile = tempfile.TemporaryDirectory(prefix="keypool-chromium-", ignore_cleanup_errors=True)
        command = ["node", str(DRIVER), str(shutil.which("chromium")), self._profile.name, *self._flags]
        self._process = subprocess.Popen(
            command, cwd=DRIVER.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._reader.join(ANSWER_SECONDS)
            self._process.stdout.close()
            self._profile.cleanup()

    def open(self, url: str) -> int:
        """Load a page and return its HTTP status."""
        return int(self._call("open", url))

    def click(self, selector: str) -> None:
        """Click the first element that fits, once it can be clicked."""
        self._call("click", selector)

    def fill(self, selector: str, value: str) -> None:
        """Type into a field, in place of what is in it."""
        self._call("fill", selector, value)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a select."""
        self._call("choose", selector, value)

    def attach(self, selector: str, path: Path) -> None:
        """Choose a file in a file field."""
        self._call("attach", selector, str(path))

    def wait(self, selector: str, state: str = "visible") -> None:
        """Wait until an element is ``visible``, ``hidden``, ``attached`` or ``detached``."""
        self._call("wait", selector, state)

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element that fits the CSS selector has ``text`` in it."""
        self._call("waitForText", selector, text)

    def text(self, selector: str) -> str:
        """Return an element's text as it is shown."""
        return str(self._call("text", selector))

    def count(self, selector: str) -> int:
        """Return how many elements fit."""
        return int(self._call("count", selector))

    def evaluate(self, source: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        return self._call("evaluate", source)

    def resize(self, width: int, height: int) -> None:
        """Change the size of the window, in CSS pixels."""
        self._call("viewport", width, height)

    def prefer(self, scheme: str) -> None:
        """Say that the reader prefers ``light`` or ``dark``."""
        self._call("scheme", scheme)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save what is to be seen, or the whole page, as PNG."""
        self._call("screenshot", str(path), whole)

    def seen(self) -> Seen:
        """Return what happened in the page so far."""
        return Seen(**self._call("seen"))

    def _call(self, method: str, *args: Any) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"method": method, "args": args}) + "\n")
        self._process.stdin.flush()
        line = self._answers.get(timeout=ANSWER_SECONDS)
        assert line is not None, "the driver ended"
        answer = json.loads(line)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

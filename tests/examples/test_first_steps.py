"""The README's first command as a new user runs it: in a checkout, in a new environment with nothing else in it.

It installs from the package index, so it runs only where KEYPOOL_TESTS_REQUIRE_ALL=1, as in ``.ci/run``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from blocks import ROOT
from demo_process import started
from harness import need

WITHIN_SECONDS = 300.0


def first_command() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert found
    return found[1].strip()


def environment_of(venv: Path) -> dict[str, str]:
    """As after ``source bin/activate``, with nothing of the tests' own environment and nothing downloaded before."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KEYPOOL_"))}
    path = os.pathsep.join([str(venv / "bin"), os.environ["PATH"]])
    return {**plain, "PATH": path, "VIRTUAL_ENV": str(venv), "PIP_NO_CACHE_DIR": "1"}


def test_the_first_command_ends_in_a_transcript_within_minutes(tmp_path: Path) -> None:
    if os.environ.get("KEYPOOL_TESTS_REQUIRE_ALL") != "1":
        pytest.skip("installs from the package index (KEYPOOL_TESTS_REQUIRE_ALL=1 runs it)")
    need("bash", "curl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    with started(["bash", "-c", first_command()], environment_of(venv)) as running:
        running.wait_for("/notes\n", WITHIN_SECONDS)
        (fetch,) = [line for line in running.lines if re.search(r"curl .*/v2/transcript/[\w-]+$", line)]
        job = json.loads(subprocess.run(["bash", "-c", fetch], capture_output=True, check=True, timeout=20).stdout)
        assert (job["status"], bool(job["text"])) == ("completed", True)
        (page,) = [line.strip() for line in running.lines if line.endswith("/reference")]
        assert httpx.get(page, timeout=30).status_code == 200
        os.killpg(running.process.pid, signal.SIGINT)  # Ctrl-C
        running.end()
    assert running.lines[-1] == "Stopped."
    assert "Traceback" not in running.output

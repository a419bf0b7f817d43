"""The demo as its reader runs it: a process of its own, its output, its curl lines, and Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from demo_process import Demo, demo
from harness import need, secret

from keypool_asgi.testing import Simulator, tone_wav


def check_steps(running: Demo) -> None:
    output = running.output
    assert len([line for line in running.lines if re.match(r"\d+\. ", line)]) == 6
    assert "uploads.create         200  key old-1 was refused, key prod-1 served" in output
    assert "transcripts.create     200  key prod-1 served" in output
    assert 'The text: "' in output
    assert "| 00:00:00,000 --> " in output
    assert "key prod-1 was refused, key prod-2 served" in output
    assert "transcripts.sentences  200  key prod-1 served" in output.partition("UPDATE keys")[2]
    assert "401  refused by the pool: UNAUTHORIZED" in output
    assert "403  refused by the pool: FORBIDDEN" in output
    assert "/notes [{" in output
    assert "All steps are done." in output


def curl(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=20)


def test_its_steps_and_curl_lines_work_and_ctrl_c_ends_it_cleanly() -> None:
    need("bash", "curl")
    with demo("--port", "0") as running:
        running.wait_for("Ask the notes service:\n    curl ")
        running.wait_for("/notes\n")
        check_steps(running)
        lines = [line.strip() for line in running.lines if line.startswith("    curl ")]
        answers = [curl(line).stdout for line in lines]
        listed, fetched, uploaded, refused, notes = answers
        assert len(json.loads(listed)["transcripts"]) == 1
        assert json.loads(fetched)["status"] == "completed"
        assert json.loads(uploaded)["upload_url"]
        assert refused.startswith("HTTP/1.1 401")
        assert json.loads(refused.splitlines()[-1])["code"] == "UNAUTHORIZED"
        assert json.loads(notes)[0]["title"] == "Weekly meeting"
        (page,) = [line.strip() for line in running.lines if line.endswith("/reference")]
        assert httpx.get(page, timeout=30).status_code == 200
        running.wait_for("refused by the pool: UNAUTHORIZED")
        running.process.send_signal(signal.SIGINT)
        assert running.end() == 0, running.output
    assert running.lines[-1] == "Stopped."
    assert "Traceback" not in running.output
    assert "simulated-" not in running.output, "a key's secret"


def test_sigterm_ends_it_as_well() -> None:
    with demo("--port", "0") as running:
        running.wait_for("2. Upload")
        running.process.terminate()
        assert running.end() == 0, running.output
    assert "Traceback" not in running.output


def test_with_a_key_of_the_readers_it_uses_the_service_that_the_key_is_for(tmp_path: Path) -> None:
    recording = tmp_path / "interview.wav"
    recording.write_bytes(tone_wav(1))
    with Simulator({secret("reader"): "account/mine"}).running() as service:
        environment = {"ASSEMBLYAI_API_KEY": secret("reader"), "KEYPOOL_API_ORIGIN": service.url}
        with demo("--once", "--port", "0", "--file", str(recording), **environment) as running:
            assert running.end() == 0, running.output
        assert [upload.size for upload in service.uploads] == [recording.stat().st_size]
        assert len(service.transcripts) == 1
    assert "transcripts.create     200  key yours served" in running.output
    assert secret("reader") not in running.output


def test_a_refused_key_of_the_readers_is_told_plainly() -> None:
    with Simulator().running() as service:
        environment = {"ASSEMBLYAI_API_KEY": secret("wrong"), "KEYPOOL_API_ORIGIN": service.url}
        with demo("--once", "--port", "0", **environment) as running:
            assert running.end() == 1, running.output
    assert "NO_AVAILABLE_KEYS" in running.output
    assert "The demo could not go on: " in running.output
    assert "Traceback" not in running.output
    assert secret("wrong") not in running.output


def test_a_port_that_is_taken_is_told_plainly() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with demo("--once", "--port", port) as running:
            assert running.end() == 1
    assert f"Port {port} cannot be used" in running.output
    assert "Traceback" not in running.output


@pytest.mark.parametrize("module", ["fastapi", "assemblyai", "fastapi_offline"])
def test_a_missing_package_is_named_with_what_to_install(tmp_path: Path, module: str) -> None:
    # As if it were not installed: the import system is told so before the demo starts.
    hide = tmp_path / "sitecustomize.py"
    hide.write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    with demo("--once", PYTHONPATH=str(tmp_path)) as running:
        assert running.end() == 1
    assert running.lines[0] == f"Not installed: {module}."
    assert running.lines[-1].strip() == f"{sys.executable} -m pip install '.[demo]'"

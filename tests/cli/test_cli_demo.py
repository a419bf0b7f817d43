"""``keypool demo``: what an installed package shows, its curl lines, and Ctrl-C."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
from pathlib import Path

from cli_rig import ROOT, keypool, running
from harness import need


def test_its_steps_and_curl_lines_work_and_ctrl_c_ends_it() -> None:
    need("curl")
    with running("demo", "--port", "0") as demo:
        demo.wait_for("curl -i ")
        lines = [line.strip() for line in demo.lines if line.strip().startswith("curl ")]
        answers = [
            subprocess.run(shlex.split(line), capture_output=True, text=True, check=True, timeout=20).stdout
            for line in lines
        ]
        listed, fetched, refused = answers
        assert len(json.loads(listed)["transcripts"]) == 1
        assert json.loads(fetched)["status"] == "completed"
        assert refused.startswith("HTTP/1.1 401")
        demo.process.send_signal(signal.SIGINT)
        assert demo.end() == 0, demo.output
    assert demo.lines[-1] == "Stopped."
    assert "Traceback" not in demo.output
    assert "simulated-" not in demo.output, "a key's secret"


def test_once_it_ends_by_itself() -> None:
    done = keypool("demo", "--once", "--port", "0")
    assert "The text: " in done.stdout
    assert "UNAUTHORIZED: The team token is unknown" in done.stdout
    assert "demo uploads.create 200 keys=old-1,prod-1" in done.stderr
    assert "/reference" in done.stdout


def test_the_reference_is_told_how_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['fastapi_offline'] = None\n")
    done = keypool("demo", "--once", "--port", "0", PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert "pip install 'keypool-asgi[reference]'" in done.stdout


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = keypool("demo", "--once", "--port", port, code=1)
    assert f"127.0.0.1, port {port}, cannot be listened on" in done.stderr

"""docs/operating.md is true: its commands serve, its code runs, its tables are the package's."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import httpx
import pytest
from blocks import ROOT, Blocks, rows, section
from harness import free_port, need
from readers import answer_of, here, pool, process, submit  # noqa: F401 - a fixture

from keypool_asgi import cli
from keypool_asgi.testing import Simulator

DOCUMENT = "docs/operating.md"
BLOCKS = Blocks(DOCUMENT)

APP = """
import os
from keypool_asgi import KeyPool, Team, UpstreamKey

app = KeyPool(
    keys=[UpstreamKey("prod-1", os.environ["ASSEMBLYAI_KEY_1"])],
    teams={os.environ["RESEARCH_TOKEN"]: Team("research")},
    origins=ORIGINS,
    streaming_tokens="keypool",
    streaming_token_secret=bytes(range(32)),
)
"""


def test_every_block_has_a_check() -> None:
    BLOCKS.check(globals())


def log_of_a_session(simulator: Simulator, command: list[str]) -> tuple[str, str]:
    """Serve by a command and open a session with a temporary token in the URL; return that and what was logged."""
    need("websockets")
    from websockets.sync.client import connect

    Path("app.py").write_text(APP.replace("ORIGINS", json.dumps(dict(simulator.origins))))
    port, log = free_port(), Path("server.log")
    with process([*command, "--port", str(port)], log):
        base = f"127.0.0.1:{port}/v1/assemblyai"
        temporary = answer_of(f"http://{base}/v3/token?expires_in_seconds=60").json()["token"]
        with connect(f"ws://{base}/v3/ws?sample_rate=16000&token={temporary}") as session:
            assert json.loads(session.recv())["type"] == "Begin"
            session.send('{"type": "Terminate"}')
            assert json.loads(session.recv())["type"] == "Termination"
    return temporary, log.read_text()


def test_block_uvicorn(simulator: Simulator) -> None:
    temporary, log = log_of_a_session(simulator, shlex.split(BLOCKS["uvicorn"]))
    assert temporary not in log
    assert "Traceback" not in log


def test_without_its_log_level_uvicorn_logs_temporary_tokens(simulator: Simulator) -> None:
    command = BLOCKS["uvicorn"].replace("--log-level warning", "--log-level info")
    temporary, log = log_of_a_session(simulator, shlex.split(command))
    assert temporary in log


def configure(simulator: Simulator) -> None:
    origins = "\n[origins]\n" + "".join(f'{name} = "{url}"\n' for name, url in simulator.origins.items())
    Path("keypool.toml").write_text(BLOCKS["config"] + origins)


def test_block_config(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    configure(simulator)
    assert cli.main(["check"]) == 0
    assert "prod-1" in capsys.readouterr().out


def test_block_serve(simulator: Simulator) -> None:
    configure(simulator)
    program, *arguments = shlex.split(BLOCKS["serve"])
    assert program == "keypool"
    port, log = free_port(), Path("server.log")
    with process(["keypool_asgi", *arguments, "--port", str(port)], log):
        base = f"http://127.0.0.1:{port}/v1/assemblyai"
        assert answer_of(f"{base}/v2/transcript").status_code == 200
        assert submit(base).status_code == 200
    said = log.read_text()
    assert "keypool_asgi.exchanges: research transcripts.create 200 keys=prod-1" in said
    assert "/v2/" not in said


def test_block_from_config(simulator: Simulator) -> None:
    configure(simulator)
    with pool(BLOCKS.execute("from-config")["app"]) as base:
        answer = submit(base)
    assert answer.status_code == 200
    assert '"600 requests per minute"' in answer.headers["ratelimit"]


def test_block_metrics() -> None:
    names = BLOCKS.execute("metrics")
    with pool(names["app"]) as base:
        submit(base)
        submit(base, "unknown")
    assert names["exchanges"] == {("research", "transcripts.create", 200): 1, (None, "transcripts.create", 401): 1}


def test_block_reference() -> None:
    need("fastapi_offline")
    with pool(BLOCKS.execute("reference")["app"]) as base:
        own = httpx.get(f"{base.removesuffix('/v1/assemblyai')}/openapi.json").json()
        assert "/v1/assemblyai/v2/transcript" in own["paths"]
        assert httpx.get(f"{base}/openapi.json").json()["paths"]
        assert "text/html" in httpx.get(f"{base}/reference").headers["content-type"]


def test_block_reference_litestar() -> None:
    need("litestar")
    with pool(BLOCKS.execute("reference-litestar")["app"]) as base:
        own = httpx.get(f"{base.removesuffix('/v1/assemblyai')}/schema/openapi.json").json()
    assert "/v1/assemblyai/v2/transcript" in own["paths"]


def test_the_commands_are_the_packages() -> None:
    told = {name.strip("`").split()[1] for name, _ in rows(section(DOCUMENT, "A configuration file"))}
    usage = cli._parser().format_help()
    assert told == set(re.findall(r"^    (\w+) ", usage, re.MULTILINE))


def test_the_loggers_are_the_packages() -> None:
    told = {name.strip("`") for name, _ in rows(section(DOCUMENT, "Logs"))}
    sources = [path for path in (ROOT / "keypool_asgi").rglob("*.py") if "testing" not in path.parts]
    real = {name for path in sources for name in re.findall(r'getLogger\("([\w.]+)"\)', path.read_text("utf-8"))}
    assert told == real

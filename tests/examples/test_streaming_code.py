"""Every code block of docs/streaming.md runs, over TLS, with the real SDKs and a real browser; its tables are true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from blocks import ROOT, Blocks
from harness import Served, need, secret, serve, token
from harness.browser import Browser
from harness.tools import _node_modules

from keypool_asgi import KeyPool, SessionLimits, Team, UpstreamKey
from keypool_asgi.core import close_codes
from keypool_asgi.errors import ERROR_TABLE
from keypool_asgi.testing import Simulator, tone_wav

DOCUMENT = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
BLOCKS = Blocks("docs/streaming.md")


def pool_over(simulator: Simulator) -> KeyPool:
    return KeyPool(
        keys=[UpstreamKey("prod-1", secret("good"))],
        teams={token("research"): Team("research")},
        origins=simulator.origins,
    )


@pytest.fixture
def plain(simulator: Simulator) -> Iterator[Served]:
    """Without TLS, for the browser, which would keep its connections open when the server stops."""
    with serve(pool_over(simulator)) as served:
        yield served
    assert simulator.violations == []


@pytest.fixture
def served(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    pool = pool_over(simulator)
    monkeypatch.setenv("TEAM_TOKEN", token("research"))
    monkeypatch.chdir(tmp_path)
    with serve(pool, tls=True) as served:
        monkeypatch.setenv("SSL_CERT_FILE", str(served.ca))
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(served.ca))
        yield served
    assert simulator.violations == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def here(name: str, served: Served) -> str:
    """The block, with the served pool where the document has a host of its own."""
    return BLOCKS[name].replace("notes.example.com", served.url.partition("://")[2])


def test_every_block_has_a_check() -> None:
    BLOCKS.check(globals())


def test_block_python_streaming(served: Served, simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    with wave.open("meeting.wav", "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(16_000)
        recording.writeframes(tone_wav(1)[44:])
    exec(compile(here("python-streaming", served), "docs/streaming.md, python-streaming", "exec"), {})
    assert capsys.readouterr().out.split()
    assert simulator.sessions[-1].state == "terminated"


def test_block_typescript_streaming(served: Served, simulator: Simulator, tmp_path: Path) -> None:
    need("node", "npm:assemblyai")
    modules = next(folder for folder in _node_modules() if (folder / "assemblyai").is_dir())
    (tmp_path / "node_modules").symlink_to(modules)
    # TypeScript's own syntax in it is one operator, which Node need not see.
    (tmp_path / "live.mjs").write_text(here("typescript-streaming", served).replace("TEAM_TOKEN!", "TEAM_TOKEN"))
    subprocess.run(["node", "live.mjs"], check=True, timeout=60, env=dict(os.environ))
    simulator.wait_until(lambda sim: sim.sessions[-1].state == "terminated")


def test_block_browser(plain: Served, simulator: Simulator, browser: Browser) -> None:
    browser.open(f"{plain.url}/v1/assemblyai/v2/transcript")  # any page of this origin
    code = here("browser", plain).replace("wss:", "ws:").replace("${token}", token("research"))
    browser.evaluate(f"(() => {{ {code} globalThis.live = socket; return null; }})()")
    simulator.wait_until(lambda _: browser.evaluate("live.readyState === WebSocket.OPEN"))
    assert browser.evaluate("live.protocol") == "keypool"
    browser.evaluate("(() => { live.close(); return null; })()")
    simulator.wait_until(lambda sim: sim.sessions[-1].state == "terminated")


def test_block_live_token(plain: Served, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_TOKEN", token("research"))
    names: dict[str, Any] = {"__name__": "live_token"}
    exec(BLOCKS["live-token"].replace("https://notes.example.com", plain.url), names)
    with serve(names["app"]) as backend:
        given = httpx.get(f"{backend.url}/live-token").json()
    assert set(given) >= {"token"}
    assert token("research") not in given["token"]


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert section
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_limits_are_the_packages() -> None:
    limits = SessionLimits()
    assert {name: float(default) for name, default, _ in rows("Limits")} == {
        name: float(getattr(limits, name)) for name in SessionLimits.__dataclass_fields__
    }


def test_the_codes_of_refusals_are_the_packages() -> None:
    told = {int(status): int(code) for _, statuses, code in rows("Refusals") for status in statuses.split(", ")}
    assert told == {status: close_codes.refusal_code(status) for status in told}
    bodies = {413}  # of requests; a socket has none
    assert set(told) == {row.status for row in ERROR_TABLE.values()} - bodies


def test_the_codes_of_endings_are_the_packages() -> None:
    told = {code for code, _ in rows("How sessions end")}
    ours = {close_codes.DRAINING, close_codes.IDLE, close_codes.TOO_LONG}
    assert {str(close.code) for close in ours} < told


def test_a_refusal_in_band_is_as_it_is_told(plain: Served, browser: Browser) -> None:
    browser.open(f"{plain.url}/v1/assemblyai/v2/transcript")
    url = plain.url.replace("http", "ws") + "/v1/assemblyai/v3/ws"
    browser.evaluate(
        f"(() => {{ globalThis.told = []; const s = new WebSocket('{url}', ['keypool', 'keypool-token.x']);"
        " s.onmessage = (m) => told.push(m.data); s.onclose = (c) => told.push(c.code); return null; })()"
    )
    deadline = time.monotonic() + 20
    while len(told := browser.evaluate("told")) < 2:
        assert time.monotonic() < deadline
    assert json.loads(told[0])["code"] == "UNAUTHORIZED"
    assert json.loads(told[0])["error_code"] == told[1] == 4001

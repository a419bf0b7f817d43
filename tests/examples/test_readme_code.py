"""Every code block of the README runs, over real sockets, with the simulator where AssemblyAI would be.

Each has a check of its name here.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from hmac import digest
from pathlib import Path
from typing import Any

import assemblyai
import httpx
import pytest
from blocks import Blocks
from harness import need, secret, serve, token
from harness.browser import Browser
from harness.redis import redis_server
from harness.tools import _node_modules
from readers import PEPPER, here, pool, submit  # noqa: F401 - a fixture

from keypool_asgi.testing import Simulator, silence_wav

BLOCKS = Blocks("README.md", commands=2)  # the two of "Two commands"

Namespace = dict[str, Any]
Sdk = Callable[[str, str], assemblyai.Transcriber]


def test_every_block_has_a_check() -> None:
    BLOCKS.check(globals())


def test_block_wrap(sdk: Sdk) -> None:
    with pool(BLOCKS.execute("wrap")["app"]) as base:
        assert httpx.get(base.removesuffix("/v1/assemblyai")).json() == {"service": "meeting notes"}
        assert sdk(base, token("research")).transcribe("meeting.mp3").text
        assert submit(base, "archive").status_code == 403
        assert httpx.get(f"{base}/v2/transcript", headers={"authorization": token("archive")}).status_code == 200


def mounted(name: str, sdk: Sdk, **above: Any) -> None:
    names = BLOCKS.execute(name, **above)
    with pool(names["app"]) as base:
        assert sdk(base, token("research")).transcribe("meeting.mp3").text
    assert names["pool"]._parts.gate.draining


def test_block_starlette(sdk: Sdk) -> None:
    mounted("starlette", sdk)


def test_block_litestar(sdk: Sdk) -> None:
    need("litestar")
    above = BLOCKS.execute("starlette")
    mounted("litestar", sdk, pool=above["pool"], lifespan=above["lifespan"])


def test_block_callables() -> None:
    with closing(sqlite3.connect("keys.db")) as db, db:
        db.execute("CREATE TABLE keys (id, secret, project)")
        db.execute("CREATE TABLE tokens (digest, team)")
        db.execute("INSERT INTO keys VALUES ('prod-1', ?, 'prod')", (secret("good"),))
        db.execute(
            "INSERT INTO tokens VALUES (?, 'research')", (digest(PEPPER.encode(), token("research").encode(), sha256),)
        )
    with pool(BLOCKS.execute("callables")["app"]) as base:
        assert submit(base).status_code == 200
        assert submit(base, "unknown").status_code == 401


def test_block_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes' pools, as far as Redis can tell."""
    with redis_server(appendonly="yes") as server:
        monkeypatch.setenv("KEYPOOL_STATE", server.url)
        with pool(BLOCKS.execute("redis")["app"]) as one, pool(BLOCKS.execute("redis")["app"]) as other:
            made = submit(one)
            got = httpx.get(f"{other}/v2/transcript/{made.json()['id']}", headers={"authorization": token("research")})
    assert [made.status_code, got.status_code] == [200, 200]
    assert "r=9999" in made.headers["ratelimit"]
    assert "r=9998" in got.headers["ratelimit"]


@pytest.fixture
def notes_example_com() -> Iterator[str]:
    """The pool that the README's callers talk to."""
    with pool(BLOCKS.execute("wrap")["app"]) as base:
        yield base


@pytest.fixture
def fresh_sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The SDK's module-wide settings and client, as in a new process."""
    monkeypatch.setattr(assemblyai, "settings", assemblyai.Settings())
    monkeypatch.setattr(assemblyai.Client, "_default", None)
    yield
    if assemblyai.Client._default is not None:
        assemblyai.Client._default.http_client.close()


def at(name: str, base: str, blocks: Blocks = BLOCKS) -> str:
    """A caller's block, with the address of the served pool in it."""
    block = blocks[name]
    assert "https://notes.example.com/v1/assemblyai" in block
    return block.replace("https://notes.example.com/v1/assemblyai", base)


@pytest.mark.usefixtures("fresh_sdk")
def test_block_python_sdk(notes_example_com: str, simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    exec(at("python-sdk", notes_example_com), {})
    assert capsys.readouterr().out.strip()
    assert assemblyai.SyncTranscriber().transcribe(silence_wav(1)).text
    llm = assemblyai.LLMGateway()
    messages = [{"role": "user", "content": "What was said?"}]
    assert llm.chat.completions.create(model=llm.models.list().data[0].id, messages=messages).choices
    assert {request.service for request in simulator.requests} == {"api", "sync", "llm_gateway"}


@pytest.mark.usefixtures("fresh_sdk")
def test_the_environment_sets_up_the_python_sdk(notes_example_com: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSEMBLYAI_BASE_URL", notes_example_com)
    monkeypatch.setenv("ASSEMBLYAI_API_KEY", token("research"))
    monkeypatch.setattr(assemblyai, "settings", assemblyai.Settings())
    assert assemblyai.Transcriber().transcribe("meeting.mp3").text


def test_block_typescript(notes_example_com: str, tmp_path: Path) -> None:
    need("node", "npm:assemblyai")
    modules = next(folder for folder in _node_modules() if (folder / "assemblyai").is_dir())
    (tmp_path / "node_modules").symlink_to(modules)
    # Without its one word of TypeScript it is a module that every Node runs.
    (tmp_path / "block.mjs").write_text(at("typescript", notes_example_com).replace("TEAM_TOKEN!", "TEAM_TOKEN"))
    done = subprocess.run(["node", "block.mjs"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_block_curl(notes_example_com: str, simulator: Simulator) -> None:
    need("curl")
    command = [os.path.expandvars(word) for word in shlex.split(at("curl", notes_example_com))]
    done = subprocess.run([*command, "--silent", "--fail"], capture_output=True, text=True, check=True, timeout=20)
    assert "upload_url" in done.stdout
    assert len(simulator.uploads) == 1


def test_block_browser(notes_example_com: str, simulator: Simulator) -> None:
    """On a page of the reader's own backend, which makes the tokens."""
    backend = Blocks("docs/streaming.md")["live-token"].replace(
        "https://notes.example.com/v1/assemblyai", notes_example_com
    )
    names: Namespace = {"__name__": "backend"}
    exec(backend, names)
    code = BLOCKS["browser"].replace("wss://notes.example.com/v1/assemblyai", notes_example_com.replace("http", "ws"))
    with Browser() as browser, serve(names["app"]) as own:
        browser.open(f"{own.url}/live-token")
        browser.evaluate(f"(async () => {{ {code} globalThis.live = socket; }})()")
        simulator.wait_until(lambda _: browser.evaluate("globalThis.live?.readyState === WebSocket.OPEN"))
        browser.evaluate("""(() => { live.send('{"type": "Terminate"}'); return null; })()""")
        simulator.wait_until(lambda sim: sim.sessions[-1].state == "terminated")

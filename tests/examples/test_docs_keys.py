"""docs/keys.md is true: its code runs, its tables are the package's."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from blocks import ROOT, Blocks, cells, section
from harness import secret
from readers import here, pool, submit  # noqa: F401 - a fixture

from keypool_asgi import HealthPolicy, UpstreamKey, cli
from keypool_asgi.providers import assemblyai
from keypool_asgi.testing import Simulator

DOCUMENT = "docs/keys.md"
BLOCKS = Blocks(DOCUMENT)


def test_every_block_has_a_check() -> None:
    BLOCKS.check(globals())


def test_block_check(simulator: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(assemblyai, "ASSEMBLYAI", assemblyai.ASSEMBLYAI.with_origins(simulator.origins))
    program, *arguments = shlex.split(BLOCKS["check"])
    assert program == "keypool"
    assert cli.main(arguments) == 0
    assert "ASSEMBLYAI_KEY_2" in capsys.readouterr().out
    simulator.revoke_key(secret("spare"))
    assert cli.main(arguments) == 1


def test_block_inspect() -> None:
    names = BLOCKS.execute("inspect")
    with pool(names["app"]) as base:
        assert submit(base).status_code == 200
        outside = base.removesuffix("/v1/assemblyai")
        (key,) = httpx.get(f"{outside}/internal/keys").json()
        assert (key["id"], key["in_flight"]) == ("prod-1", 0)
        assert key["health"]["api"] in ("active", "ramp")
        assert httpx.post(f"{outside}/internal/keys/reload").status_code == 200
        httpx.get(f"{outside}/internal/keys").raise_for_status()


class Vault(BaseHTTPRequestHandler):
    """The one secret of a KV store, version 2, as HashiCorp's API has it."""

    def do_GET(self) -> None:
        allowed = self.path == "/v1/secret/data/assemblyai" and self.headers["x-vault-token"] == "of-the-tests"
        body = json.dumps({"data": {"data": {"prod-1": secret("good")}, "metadata": {"version": 1}}}).encode()
        self.send_response(200 if allowed else 403)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Write no log."""


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", 0), Vault) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("VAULT_TOKEN", "of-the-tests")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("vault")
def test_block_vault(simulator: Simulator) -> None:
    with pool(BLOCKS.execute("vault")["app"]) as base:
        assert submit(base).status_code == 200
    assert len(simulator.transcripts) == 1


def test_a_secret_manager_that_refuses_is_a_503(monkeypatch: pytest.MonkeyPatch, vault: None) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "another")
    with pool(BLOCKS.execute("vault")["app"]) as base:
        assert submit(base).json()["code"] == "STORE_UNAVAILABLE"


def test_the_arguments_of_a_key_are_the_packages() -> None:
    parameters = inspect.signature(UpstreamKey).parameters
    told = cells((ROOT / DOCUMENT).read_text(encoding="utf-8").partition("\n## ")[0])
    assert list(told) == list(parameters)
    for name in ("region", "weight", "priority", "max_in_flight"):
        assert eval(told[name]) == parameters[name].default


def test_the_durations_of_health_are_the_packages() -> None:
    policy = HealthPolicy()
    told = cells(section(DOCUMENT, "Health"))
    assert {name: float(default) for name, default in told.items()} == {
        name: float(getattr(policy, name)) for name in HealthPolicy.__dataclass_fields__
    }


def test_the_minutes_told_for_bad_keys_are_the_real_ones() -> None:
    told = re.search(r"left alone for (\d+) minutes", section(DOCUMENT, "Health"))
    assert told
    policy = HealthPolicy()
    assert policy.exhausted_seconds == policy.rejected_seconds == 60 * int(told[1])

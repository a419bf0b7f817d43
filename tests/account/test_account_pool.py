"""The account of a whole pool: kept in its state, told to ``on_usage``, read by ``usage()`` and by the command."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from account.rig import client_of, keys_of, teams_of
from harness import run, secret, serve, token
from harness.hosts import PREFIX
from matrix.session_tools import AUDIO, STREAMING, TERMINATE, dial, kinds_until_close, read_json

from keypool_asgi import KeyPool, UsageRecord
from keypool_asgi.cli import main
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.stores.ledger import MemoryLedger
from keypool_asgi.testing import Simulator


def play(served: Any) -> None:
    """A job that is polled, and a session."""
    with client_of(served, "red") as client:
        body = {"audio_url": "https://example.com/a.mp3"}
        job = client.post("/v2/transcript", json=body).raise_for_status().json()["id"]
        assert client.get(f"/v2/transcript/{job}").json()["status"] == "completed"
    with dial(served.ws_url + PREFIX, STREAMING, team=token("red")) as ws:
        assert read_json(ws)["type"] == "Begin"
        ws.send(AUDIO)
        ws.send(TERMINATE)
        kinds_until_close(ws)


def test_a_pool_keeps_its_account(tmp_path, capsys):
    told: list[UsageRecord] = []
    simulator = Simulator({secret("a1"): "account-a/project-a1"})
    state = f"sqlite:///{tmp_path / 'keypool.db'}"
    with simulator.running():
        pool = KeyPool(
            keys=keys_of("a1"),
            teams=teams_of("red"),
            origins=simulator.origins,
            state=state,
            on_usage=told.append,
        )
        with serve(pool, "uvicorn-websockets-sansio") as served:
            play(served)
            simulator.wait_until(lambda _: not pool.open_exchanges)
            (total,) = served.call(pool.usage)
            assert total.used["audio_seconds"] == simulator.billed("audio_seconds") == 30
            assert abs(total.used.get("stream_seconds", 0) - simulator.billed("stream_seconds")) <= 1
            assert [one.group for one in served.call(pool.usage, "team", "key")] == [("red", "a1")]
        assert sorted(one.operation for one in told) == [
            "streaming.session",
            "transcripts.create",
            "transcripts.create",
            "transcripts.get",
        ]
    assert main(["usage", "--state", state, "--since", "24h", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == dict(total.used)


def test_a_ledger_of_the_users_own_is_used():
    ledger = MemoryLedger()
    simulator = Simulator({secret("a1"): "account-a/project-a1"})
    with simulator.running():
        pool = KeyPool(keys=keys_of("a1"), teams=teams_of("red"), origins=simulator.origins, ledger=ledger)
        with serve(pool, "uvicorn-websockets-sansio") as served:
            play(served)
    assert len(ledger._records) == 4


@pytest.mark.parametrize("seconds", [None, 0])
def test_reconciling_may_be_off(seconds):
    pool = KeyPool(keys=keys_of("a1"), teams=teams_of("red"), reconcile_seconds=seconds)
    assert pool._parts.reconciler is None


def test_it_begins_with_the_lifespan_and_stops():
    async def scenario() -> None:
        pool = KeyPool(keys=keys_of("a1"), teams=teams_of("red"))
        await pool._open()
        assert pool._parts.reconciler._timer is not None
        await pool.aclose()
        assert pool._parts.reconciler._timer is None
        await asyncio.sleep(0)

    run(scenario())


def test_wrong_settings_are_named():
    with pytest.raises(ConfigurationError, match="reconcile_seconds"):
        KeyPool(keys=keys_of("a1"), teams=teams_of("red"), reconcile_seconds=-1)
    with pytest.raises(ConfigurationError, match="ledger: object has no append"):
        KeyPool(keys=keys_of("a1"), teams=teams_of("red"), ledger=object())

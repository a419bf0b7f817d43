"""An orderly shutdown of a real server loses nothing of the account, open sessions included."""

from __future__ import annotations

import pytest
from account.rig import Clock, Stack, client_of, keys_of, served, simulated, teams_of
from harness import run, token
from harness.hosts import PREFIX
from matrix.session_tools import AUDIO, STREAMING, dial, kinds_until_close, read_json

from keypool_asgi.core.usage import Selection
from keypool_asgi.stores.sqlite_ledger import SqliteLedger

REQUESTS = 25


@pytest.mark.parametrize("server", ["uvicorn-websockets-sansio", "hypercorn"])
def test_what_waits_is_written_and_open_sessions_are_ended_and_recorded(server, tmp_path):
    """Nothing would be written for an hour; the server is stopped at once, with a session open."""
    clock = Clock()
    simulator = simulated(clock, "a1", processing_seconds=60)
    ledger = SqliteLedger(tmp_path / "keypool.db", clock=clock)
    with simulator.running():
        stack = Stack(simulator, clock, keys=keys_of("a1"), teams=teams_of("red"), ledger=ledger, write_seconds=3600)
        with served(stack, server) as running:
            with client_of(running, "red") as client:
                for _ in range(REQUESTS):
                    client.get("/v2/transcript").raise_for_status()
            with dial(running.ws_url + PREFIX, STREAMING, team=token("red")) as ws:
                assert read_json(ws)["type"] == "Begin"
                ws.send(AUDIO)
                assert stack.books.waiting == REQUESTS
                running.call(stack.gate.drain, 5)
                kinds, (code, _) = kinds_until_close(ws)
                assert "Termination" in kinds
                assert code == 1012
        assert simulator.open_sessions == 0

    async def kept():
        found = await ledger.page(Selection(), 1000)
        await ledger.aclose()
        return found

    found = run(kept())
    assert stack.books.waiting == 0
    assert [one.operation for one in found].count("transcripts.list") == REQUESTS
    (session,) = [one for one in found if one.operation == "streaming.session"]
    assert (session.close_code, session.estimated) == (1012, False)
    assert session.used["stream_seconds"] >= session.clocked_seconds - 1

"""A day of mixed traffic over real sockets: the account says what upstream bills, per team.

The clock of the simulator and of the stack jumps by an hour between two bursts of traffic. Sessions run in real time
within a burst, for their length is measured by a monotonic clock.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from account.rig import Clock, Stack, client_of, keys_of, served, simulated, teams_of
from harness import secret, token
from harness.hosts import PREFIX
from matrix.session_tools import AUDIO, STREAMING, TERMINATE, RawSession, dial, kinds_until_close, read_json

from keypool_asgi import Limit
from keypool_asgi.core.limits import Charge
from keypool_asgi.core.reservations import remaining
from keypool_asgi.core.usage import HOUR
from keypool_asgi.stores.sqlite import SqliteResources
from keypool_asgi.stores.sqlite_file import SqliteFile
from keypool_asgi.stores.sqlite_ledger import SqliteLedger
from keypool_asgi.stores.sqlite_schema import SCHEMA
from keypool_asgi.testing import SocketFault, silence_wav

TEAMS = ("red", "green", "blue")
KEYS = ("a1", "a2", "b1")
HOURS = 24
LIMIT = Limit("audio_seconds", 100_000, per="month")


class Day:
    """Plays the day, and remembers whose everything was."""

    def __init__(self, simulator: Any, stack: Stack, running: Any, clock: Clock) -> None:
        self.simulator, self.stack, self.running, self.clock = simulator, stack, running, clock
        self.chance = random.Random(11)
        self.owner: dict[str, str] = {}
        self.clients = {team: client_of(running, team) for team in TEAMS}

    # Jobs

    def submit(self, team: str, **more: Any) -> str:
        """Upload a recording of some whole seconds, and submit it."""
        client = self.clients[team]
        wav = silence_wav(self.chance.randint(1, 4), sample_rate=8000)
        url = client.post("/v2/upload", content=wav).raise_for_status().json()["upload_url"]
        return self.accept(team, client.post("/v2/transcript", json={"audio_url": url, **more}))

    def submit_external(self, team: str, url: str = "https://example.com/a.mp3") -> str:
        return self.accept(team, self.clients[team].post("/v2/transcript", json={"audio_url": url}))

    def accept(self, team: str, answer: Any) -> str:
        job = answer.raise_for_status().json()["id"]
        self.owner[job] = team
        return job

    def poll(self, team: str, job: str) -> dict[str, Any]:
        return self.clients[team].get(f"/v2/transcript/{job}").raise_for_status().json()

    # Sessions

    def session(self, team: str, how: str) -> None:
        """One streaming session of about a second, ended in one way or another. Upstream knows the team by a prompt."""
        path = f"{STREAMING}&prompt={team}"
        if how == "killed":
            fields = f"Authorization: {token(team)}"
            raw = RawSession(self.running.url, PREFIX + path, fields)
            raw.read_until(b"Begin")
            time.sleep(0.7)
            raw.vanish("reset")
            return
        with dial(self.running.ws_url + PREFIX, path, team=token(team)) as ws:
            assert read_json(ws)["type"] == "Begin"
            for _ in range(2 if how == "cut" else 3):
                ws.send(AUDIO)
                time.sleep(0.3)
            if how == "well":
                ws.send(TERMINATE)
                kinds_until_close(ws)
            elif how == "cut":
                kinds_until_close(ws)

    def hour(self, number: int) -> None:
        team, other = TEAMS[number % 3], TEAMS[(number + 1) % 3]
        polled = self.submit(team)
        self.submit(other, webhook_url="https://example.com/hook")  # never polled
        external = self.submit_external(team)
        failing = self.submit_external(other, "https://example.com/fail.mp3")
        listed = self.submit(team)
        deleted = self.submit(other)
        unfinished = self.submit(team)
        self.clients[team].delete(f"/v2/transcript/{unfinished}").raise_for_status()
        self.clock.advance(120)  # they are done
        for job in (polled, external):
            for _ in range(2):
                assert self.poll(team, job)["status"] == "completed"
        assert self.poll(other, failing)["status"] == "error"
        page = self.clients[team].get("/v2/transcript").raise_for_status().json()
        assert listed in {item["id"] for item in page["transcripts"]}
        self.clients[other].delete(f"/v2/transcript/{deleted}").raise_for_status()
        body = {"model": "claude-sonnet-5", "messages": [{"role": "user", "content": "hi"}]}
        self.clients[team].post("/v1/chat/completions", json=body).raise_for_status()
        if number % 8 == 0:
            self.sessions(number)
        self.clock.advance(HOUR - 120)

    def sessions(self, number: int) -> None:
        plan = [(TEAMS[0], "well"), (TEAMS[1], "dropped"), (TEAMS[2], "killed"), (TEAMS[number % 3], "well")]
        with ThreadPoolExecutor(len(plan)) as threads:
            list(threads.map(lambda one: self.session(*one), plan))
        rule = self.simulator.fail(SocketFault.dropped(after=2), path="/v3/ws", times=1)
        self.session(TEAMS[1], "cut")
        self.simulator.heal(rule)

    def call(self, function: Any, *args: Any, **conditions: Any) -> Any:
        """Call an async function in the server's own loop."""
        return self.running.call(partial(function, *args, **conditions))

    async def left(self, team: str) -> int | None:
        """Audio seconds that a team may still have transcribed this month."""
        charges = [Charge(f"team:{team}", LIMIT)]
        levels = await self.stack.quotas.levels(charges)
        return remaining(levels, charges, LIMIT.unit, int(self.clock() * 1e6))

    def settled(self) -> None:
        """Let everything come to its end: sessions, and jobs that only the reconciler asks about."""
        self.simulator.wait_until(lambda simulator: not simulator.open_requests, 10)
        for _ in range(5):
            self.running.call(self.stack.reconciler.round)
            self.clock.advance(400)

    def billed_jobs(self) -> dict[str, int]:
        """Audio seconds on upstream's bill, by the team whose job it was."""
        bill: defaultdict[str, int] = defaultdict(int)
        for line in self.simulator.bill:
            if line.product == "prerecorded":
                bill[self.owner[line.resource]] += round(line.quantity)
        return dict(bill)


@pytest.fixture(params=["memory", "sqlite"])
def day(request, tmp_path):
    clock = Clock()
    simulator = simulated(clock, *KEYS, processing_seconds=60, external_audio_seconds=30.0)
    stores: dict[str, Any] = {}
    if request.param == "sqlite":
        file = SqliteFile(tmp_path / "keypool.db", SCHEMA)
        stores = {"ledger": SqliteLedger(file, clock=clock), "resources": SqliteResources(file, clock=clock)}
    with simulator.running():
        limits = [LIMIT, Limit("stream_seconds", 100_000, per="month")]
        stack = Stack(simulator, clock, keys=keys_of(*KEYS), teams=teams_of(*TEAMS, limits=limits), **stores)
        with served(stack, "uvicorn-websockets-sansio") as running:
            day = Day(simulator, stack, running, clock)
            try:
                yield day
            finally:
                for client in day.clients.values():
                    client.close()
            if stores:
                running.call(file.aclose)


def test_the_account_of_a_day_is_upstreams_bill(day):
    for number in range(HOURS):
        day.hour(number)
    day.settled()
    stack, call = day.stack, day.call

    # Jobs: exactly, per team, and per key.
    sums = call(stack.sums, "team")
    assert {team: sums[(team,)]["audio_seconds"] for team in TEAMS} == day.billed_jobs()
    by_key = {key: used.get("audio_seconds", 0) for (key,), used in call(stack.sums, "key").items()}
    for key in KEYS:
        assert by_key.get(key, 0) == round(day.simulator.billed("audio_seconds", key=secret(key)))
    assert not by_key.get("")

    # The quota says the same: each job's permit has ended, once.
    for team in TEAMS:
        assert call(day.left, team) == LIMIT.amount - sums[team,]["audio_seconds"]

    # Sessions: within one second each, per team.
    records = call(stack.records, operation="streaming.session")
    sessions = [one for one in day.simulator.sessions if one.ended is not None]
    assert len(records) == len(sessions) == 5 * HOURS / 8
    for team in TEAMS:
        ours = [one for one in records if one.team == team]
        theirs = [one for one in sessions if one.query["prompt"] == team]
        assert len(ours) == len(theirs)
        charged, billed = sum(one.used["stream_seconds"] for one in ours), sum(one.seconds for one in theirs)
        assert abs(charged - billed) <= len(ours)
        pairs = zip(sorted(one.clocked_seconds for one in ours), sorted(one.seconds for one in theirs), strict=True)
        assert all(abs(clocked - seconds) < 0.5 for clocked, seconds in pairs)
    assert day.simulator.open_sessions == 0
    # Upstream's own word where it had one: all but the sessions that it cut.
    assert sum(one.estimated for one in records) == HOURS / 8

    # Tokens, and what is left open: nothing.
    tokens = day.simulator.billed("input_tokens") + day.simulator.billed("output_tokens")
    assert sum(used["llm_tokens"] for used in call(stack.sums, "team", operation="llm.chat").values()) == tokens
    everything = call(stack.records)
    begun = {one.id for one in everything if one.operation == "transcripts.create" and not one.corrects}
    assert {one.corrects for one in everything if one.corrects} == begun
    assert len(begun) == 7 * HOURS
    assert len({one.id for one in everything}) == len(everything)

    # It is spread over the day as the traffic was.
    hours = [int(hour) for (hour,) in call(stack.sums, "hour", operation="transcripts.create")]
    assert hours[-1] - hours[0] >= (HOURS - 1) * HOUR

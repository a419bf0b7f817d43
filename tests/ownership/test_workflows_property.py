"""Workflows stay on their project and teams stay apart, whatever happens to keys, accounts and the process (I3)."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from harness import secret, token
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from keypool_asgi import HealthPolicy, KeyPool, Team, UpstreamKey
from keypool_asgi.testing import Simulator, tone_wav

ACCOUNT_OF = {"p1": "acme", "p2": "acme", "p3": "other"}
TEAMS = ("red", "green", "blue")
RECORDING = tone_wav(0.5)
# Keys come back as soon as they are healed, so that the model need not know how long they stay down.
AT_ONCE = HealthPolicy(
    cooling_first_seconds=1e-6,
    cooling_max_seconds=1e-6,
    exhausted_seconds=1e-6,
    rejected_seconds=1e-6,
    unproven_seconds=1e-6,
)
MISSING = "00000000-0000-4000-8000-000000000000"


@dataclass
class Thing:
    """An upload or a transcript that a team has made, and the project that the simulator saw it made on."""

    team: str
    project: str
    name: str
    upload: Thing | None = None
    deleted: bool = field(default=False)


class Workflows(RuleBasedStateMachine):
    uploads = Bundle("uploads")
    transcripts = Bundle("transcripts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.serial = 0
        self.pick = 0
        self.dead: set[str] = set()
        self.poor: set[str] = set()
        self.made: list[Thing] = []
        names = {f"{project}-{number}": project for project in ACCOUNT_OF for number in (1, 2)}
        self.keys = {name: self.key(name, project) for name, project in names.items()}
        self.simulator = Simulator(
            {key.secret.reveal(): f"{key.account}/{key.project}" for key in self.keys.values()}, keep_requests=200
        )
        self.simulator.start()

    def key(self, name: str, project: str) -> UpstreamKey:
        self.serial += 1
        return UpstreamKey(name, secret(f"{name}-{self.serial}"), project=project, account=ACCOUNT_OF[project])

    @initialize()
    def start(self) -> None:
        self.pool = KeyPool(
            keys=lambda: list(self.keys.values()),
            teams={token(team): Team(team) for team in TEAMS},
            origins=self.simulator.origins,
            state=f"sqlite:///{Path(self.folder.name) / 'owners.db'}",
            health=AT_ONCE,
            key_wait_seconds=0.05,
            reconcile_seconds=None,  # its errands are upstream requests that no rule has made
            select=lambda offers, need: offers[self.pick % len(offers)].id,  # chance is hypothesis's
        )

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.wait(self.pool.aclose())
        self.simulator.stop()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def send(self, team: str, method: str, path: str, **more: Any) -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.pool)
            headers = {"authorization": token(team)}
            async with httpx.AsyncClient(transport=transport, base_url="http://pool/v1/assemblyai") as client:
                return await client.request(method, path, headers=headers, **more)

        return self.wait(sent())

    def serves(self, project: str, *, paid: bool = False) -> bool:
        """Whether a key of a project lives, and its account has funds where the request needs them."""
        alive = any(key.project == project for name, key in self.keys.items() if name not in self.dead)
        return alive and not (paid and ACCOUNT_OF[project] in self.poor)

    def expect(self, response: httpx.Response, *, served: bool) -> bool:
        if served:
            assert response.status_code == 200, response.text
        else:
            assert response.status_code == 503, response.text
            assert response.json()["code"] == "NO_AVAILABLE_KEYS"
            assert int(response.headers["retry-after"]) >= 1
        return served

    @rule(target=uploads, team=st.sampled_from(TEAMS), pick=st.integers(0, 5))
    def upload(self, team: str, pick: int) -> Any:
        self.pick = pick
        response = self.send(team, "POST", "/v2/upload", content=RECORDING)
        if not self.expect(response, served=any(self.serves(project, paid=True) for project in ACCOUNT_OF)):
            return multiple()
        return Thing(team, self.simulator.uploads[-1].project.name, response.json()["upload_url"])

    @rule(target=transcripts, upload=uploads)
    def transcribe(self, upload: Thing) -> Any:
        if upload.deleted:
            return multiple()
        response = self.send(upload.team, "POST", "/v2/transcript", json={"audio_url": upload.name})
        if not self.expect(response, served=self.serves(upload.project, paid=True)):
            return multiple()
        made = Thing(upload.team, upload.project, response.json()["id"], upload)
        self.made.append(made)
        return made

    @rule(transcript=transcripts, part=st.sampled_from(("", "/srt", "/sentences", "/word-search?words=a")))
    def read(self, transcript: Thing, part: str) -> None:
        if transcript.deleted:
            return
        response = self.send(transcript.team, "GET", f"/v2/transcript/{transcript.name}")
        served = self.expect(response, served=self.serves(transcript.project))
        # Without funds an account does one job at a time, so a later one may still wait.
        if served and part and response.json()["status"] == "completed":
            assert self.send(transcript.team, "GET", f"/v2/transcript/{transcript.name}{part}").status_code == 200

    @rule(transcript=transcripts)
    def delete(self, transcript: Thing) -> None:
        if transcript.deleted:
            return
        response = self.send(transcript.team, "DELETE", f"/v2/transcript/{transcript.name}")
        transcript.deleted = self.expect(response, served=self.serves(transcript.project))
        assert transcript.upload is not None
        transcript.upload.deleted |= transcript.deleted  # upstream deletes the recording with its transcript

    @rule(transcript=transcripts, team=st.sampled_from(TEAMS), method=st.sampled_from(("GET", "DELETE")))
    def trespass(self, transcript: Thing, team: str, method: str) -> None:
        """A foreign id and an unknown one get the same bytes, and upstream hears of neither."""
        if team == transcript.team:
            return
        before = len(self.simulator.requests)
        foreign = self.send(team, method, f"/v2/transcript/{transcript.name}")
        unknown = self.send(team, method, f"/v2/transcript/{MISSING}")
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.content == unknown.content
        assert len(self.simulator.requests) == before

    @rule(upload=uploads, team=st.sampled_from(TEAMS))
    def transcribe_what_is_not_ours(self, upload: Thing, team: str) -> None:
        if team != upload.team:
            response = self.send(team, "POST", "/v2/transcript", json={"audio_url": upload.name})
            assert response.status_code == 404

    @rule(team=st.sampled_from(TEAMS), limit=st.sampled_from((1, 2, 3, 200)))
    def list_all(self, team: str, limit: int) -> None:
        """Page after page, exactly the team's own, newest first."""
        seen: list[str] = []
        path = f"/v2/transcript?limit={limit}"
        while path:
            page = self.send(team, "GET", path).json()
            assert len(page["transcripts"]) <= limit
            seen += [item["id"] for item in page["transcripts"]]
            path = page["page_details"]["prev_url"]
        assert seen == [made.name for made in reversed(self.made) if made.team == team and not made.deleted]

    @rule(name=st.sampled_from([f"p{project}-{number}" for project in (1, 2, 3) for number in (1, 2)]))
    def turn_a_key(self, name: str) -> None:
        """Revoke a key that lives, restore one that does not."""
        self.dead ^= {name}
        change = self.simulator.revoke_key if name in self.dead else self.simulator.restore_key
        change(self.keys[name].secret.reveal())

    @rule(account=st.sampled_from(("acme", "other")))
    def turn_an_account(self, account: str) -> None:
        self.poor ^= {account}
        self.simulator.set_balance(account, -1.0 if account in self.poor else 100.0)

    @rule(name=st.sampled_from([f"p{project}-{number}" for project in (1, 2, 3) for number in (1, 2)]))
    def rotate(self, name: str) -> None:
        """Replace a key by another of its project, without a restart."""
        old = self.keys[name]
        self.keys[name] = new = self.key(name, old.project)
        self.simulator.add_key(new.secret.reveal(), project=old.project)
        self.dead.discard(name)
        self.wait(self.pool.reload_keys())
        self.simulator.revoke_key(old.secret.reveal())

    @rule()
    def restart(self) -> None:
        self.wait(self.pool.aclose())
        self.start()

    @invariant()
    def nothing_went_to_a_foreign_project(self) -> None:
        assert self.simulator.foreign_requests == []
        assert self.simulator.violations == []


Workflows.TestCase.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestWorkflows = Workflows.TestCase

"""What the demo does, step by step, with the official Python SDK and httpx."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import assemblyai as aai
import httpx

from examples.fastapi_app.store import Store

from .output import Journal, progress, say
from .upstream import Upstream

__all__ = ["Steps"]


class Steps:
    """The steps; each prints what it does and what came of it.

    Args:
        url: where the notes service is served.
        tokens: team to token.
        store: where the keys are.
        upstream: what they are keys of.
        journal: what prints the exchanges.
    """

    def __init__(self, url: str, tokens: dict[str, str], store: Store, upstream: Upstream, journal: Journal) -> None:
        self.base = f"{url}/v1/assemblyai"
        self.tokens = tokens
        self.store = store
        self.upstream = upstream
        self.journal = journal
        self.http = httpx.Client(base_url=url)
        self.sent = 0
        self._numbers = count(1)

    def run(self, recording: Path, *, own: bool) -> str:
        """Do all of them with a recording, and return the transcript's id.

        Args:
            recording: the file to upload.
            own: whether it is the reader's own, and not a generated tone.
        """
        with self.http, self._sdk("research") as client:
            self._host()
            upload_url = self._upload(client, recording)
            sample = None if own else self.upstream.sample
            transcript = self._transcribe(client, sample or upload_url)
            self._subtitles(transcript)
            if self.upstream.simulator is not None:
                self._rotate(transcript)
            self._refusals(recording)
        return str(transcript.id)

    def _host(self) -> None:
        self._step("The notes service answers as before")
        self.http.post("/notes", json={"title": "Weekly meeting"}).raise_for_status()
        say(f"     GET /      {self.http.get('/').raise_for_status().text}")
        say(f"     GET /notes {self.http.get('/notes').raise_for_status().text}")

    def _upload(self, client: aai.Client, recording: Path) -> str:
        self._step(f"Upload {recording.name} ({recording.stat().st_size:,} bytes) with the official SDK")
        with progress("uploading"):
            url = aai.Transcriber(client=client).upload_file(str(recording))
        self.journal.wait_for(self.sent)
        return url

    def _transcribe(self, client: aai.Client, url: str) -> aai.Transcript:
        self._step(f"Transcribe {url}")
        with progress("transcribing"):
            transcript = aai.Transcriber(client=client).transcribe(url)
        self.journal.wait_for(self.sent)
        if transcript.error:
            raise aai.TranscriptError(transcript.error)
        say(f'     The text: "{_cut(transcript.text or "")}"')
        return transcript

    def _subtitles(self, transcript: aai.Transcript) -> None:
        self._step("Fetch subtitles")
        lines = transcript.export_subtitles_srt().splitlines()
        self.journal.wait_for(self.sent)
        for line in lines[:3]:
            say(f"     | {_cut(line)}")

    def _rotate(self, transcript: aai.Transcript) -> None:
        self._step("Replace the secret of key prod-1 while all of this runs")
        simulator = self.upstream.simulator
        assert simulator is not None
        (old,) = [key for key in self.store.load_keys() if key.id == "prod-1"]
        simulator.revoke_key(old.secret.reveal())
        say("     AssemblyAI does not accept the old secret any more; another key takes over:")
        self._fetch(transcript)
        self.store.rotate_key("prod-1", simulator.add_key(project="prod"))
        say("     UPDATE keys SET secret = ... WHERE id = 'prod-1', and within a second it serves again:")
        ends = time.monotonic() + 10
        while self.journal.last.keys != ("prod-1",) and time.monotonic() < ends:
            time.sleep(0.6)
            self._fetch(transcript)

    def _fetch(self, transcript: aai.Transcript) -> None:
        transcript.get_sentences()
        self.journal.wait_for(self.sent)

    def _refusals(self, recording: Path) -> None:
        self._step("What is refused: a token that nobody has, and an upload by a team that may only read")
        for token in ("not-a-token", self.tokens["archive"]):
            with self._sdk("", token) as client:
                try:
                    aai.Transcriber(client=client).upload_file(str(recording))
                except aai.AssemblyAIError as error:
                    self.journal.wait_for(self.sent)
                    say(f"     The SDK raises: {error}")

    def _step(self, what: str) -> None:
        say(f"\n{next(self._numbers)}. {what}")

    @contextmanager
    def _sdk(self, team: str, token: str | None = None) -> Iterator[aai.Client]:
        """The official SDK as any caller would set it up; it counts its requests."""
        client = aai.Client(
            settings=aai.Settings(
                api_key=token or self.tokens[team],
                base_url=self.base,
                polling_interval=self.upstream.polling_seconds,
            )
        )
        client.http_client.event_hooks["request"].append(self._count)
        try:
            yield client
        finally:
            client.http_client.close()

    def _count(self, _request: httpx.Request) -> None:
        self.sent += 1


def _cut(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."

"""What AssemblyAI knows: accounts, projects, keys, what they own, and what they are charged.

Plain state and rules without I/O; time is an argument. Data is visible within a *project*, limits and funds are
shared by an *account*, and an account lives in one *region* (``us`` or ``eu``). The caller holds the lock.
"""

from __future__ import annotations

import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "Account",
    "BillLine",
    "ForeignRequest",
    "Key",
    "Project",
    "Throttle",
    "Token",
    "Transcript",
    "Upload",
    "World",
]

FREE_JOBS, PAID_JOBS, BROKE_JOBS = 5, 200, 1
"""How many jobs of one account are worked on at a time; the others wait in a queue, and no error tells of it."""

UPLOAD_BASE = "https://cdn.assemblyai.com/upload/"

PRICES = {
    ("prerecorded", "audio_seconds"): 0.21 / 3600,
    ("sync", "audio_seconds"): 0.30 / 3600,
    ("dictation", "audio_seconds"): 0.30 / 3600,
    ("llm_gateway", "input_tokens"): 3e-6,
    ("llm_gateway", "output_tokens"): 15e-6,
    ("tts", "characters"): 30e-6,
    ("streaming", "stream_seconds"): 0.45 / 3600,
    ("agents", "stream_seconds"): 4.50 / 3600,
}
"""Dollars for one unit; believable, not AssemblyAI's price list."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """How an account that sends too much is refused.

    Attributes:
        status: 429 as documented, or 403 as it has been seen.
        retry_after: seconds, for ``Retry-After``; None leaves the field out.
        http_date: write ``Retry-After`` as a date instead of as seconds.
        error: the text of the answer.
        service: only this service is throttled; None for all of them.
    """

    status: Literal[429, 403] = 429
    retry_after: float | None = 1.0
    http_date: bool = False
    error: str = "Too Many Requests"
    service: str | None = None


@dataclass(slots=True)
class Account:
    """One customer of AssemblyAI.

    Attributes:
        name: printable.
        region: ``us`` or ``eu``; its keys are unknown to the hosts of the other region.
        balance: dollars; nothing new is accepted below zero.
        free: a free account has no LLM gateway and fewer jobs at a time.
        disabled: all its keys are refused.
        sessions_at_once: over WebSocket, counting those that were dropped and still run; None for no limit.
        sessions_per_minute: that may begin; None for no limit.
        throttle: set while the account is refused for sending too much.
        rate_limit: requests in so many seconds, such as ``(20_000, 300)``; None for no limit.
        recent: when the requests that count against ``rate_limit`` came.
    """

    name: str
    region: str = "us"
    balance: float = 100.0
    free: bool = False
    disabled: bool = False
    sessions_at_once: int | None = None
    sessions_per_minute: int | None = None
    throttle: Throttle | None = None
    rate_limit: tuple[int, float] | None = None
    recent: deque[float] = field(default_factory=deque)

    @property
    def jobs(self) -> int:
        """How many jobs are worked on at a time."""
        if self.balance < 0:
            return BROKE_JOBS
        return FREE_JOBS if self.free else PAID_JOBS

    def wait(self, now: float) -> float | None:
        """Count a request against the rate limit: the seconds to wait if it is over it, else None."""
        if self.rate_limit is None:
            return None
        most, window = self.rate_limit
        while self.recent and self.recent[0] <= now - window:
            self.recent.popleft()
        if len(self.recent) >= most:
            return self.recent[0] + window - now
        self.recent.append(now)
        return None


@dataclass(frozen=True, slots=True)
class Project:
    """A part of an account: uploads and transcripts are visible inside it only."""

    name: str
    account: Account


@dataclass(slots=True)
class Key:
    """An API key; ``secret`` is kept out of its repr."""

    secret: str = field(repr=False)
    project: Project
    revoked: bool = False

    @property
    def account(self) -> Account:
        """The account that pays for this key."""
        return self.project.account


@dataclass(frozen=True, slots=True)
class Upload:
    """A complete upload. ``seconds`` is the length of its audio; ``playable`` is False for what cannot be audio."""

    id: str
    project: Project
    size: int
    sha256: str
    seconds: float
    playable: bool
    created: float

    @property
    def url(self) -> str:
        """What ``POST /v2/upload`` answers."""
        return UPLOAD_BASE + self.id


@dataclass(slots=True)
class Transcript:
    """A job and its result. ``number`` orders jobs by age, ``seed`` makes their words."""

    id: str
    number: int
    key: Key
    request: dict[str, Any]
    created: float
    seconds: float
    seed: str
    upload: str | None = None
    failure: str | None = None
    status: Literal["queued", "processing", "completed", "error"] = "queued"
    throttled: bool = False
    polls: int = 0
    started: float | None = None
    completed: float | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A temporary token for opening a stream. It stands for the key that minted it; times are Unix seconds."""

    value: str = field(repr=False)
    key: Key
    service: str
    expires: float
    max_session_seconds: int


@dataclass(frozen=True, slots=True)
class BillLine:
    """One thing that upstream charges for. ``key`` is the secret of the key that caused it."""

    account: str
    project: str
    key: str = field(repr=False)
    product: str
    unit: str
    quantity: float
    resource: str


@dataclass(frozen=True, slots=True)
class ForeignRequest:
    """A request that named a resource of another project (or account): a proxy that routes by owner makes none.

    Attributes:
        number: of the request's record.
        kind: ``upload``, ``transcript``, ``agent``...
        id: of the resource.
        owner: the project that owns it.
        caller: the project whose key was used.
    """

    number: int
    kind: str
    id: str
    owner: str
    caller: str


@dataclass(slots=True)
class World:
    """Everything there is. ``completes_after_polls`` and ``processing_seconds`` say when a job is done."""

    completes_after_polls: int = 1
    processing_seconds: float | None = None
    external_audio_seconds: float = 30.0
    stream_interval: float = 0.01
    accounts: dict[str, Account] = field(default_factory=dict)
    projects: dict[str, Project] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    transcripts: dict[str, Transcript] = field(default_factory=dict)
    unfinished: dict[str, Transcript] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    documents: dict[tuple[str, str], tuple[Project, dict[str, Any]]] = field(default_factory=dict)
    bill: list[BillLine] = field(default_factory=list)
    foreign: list[ForeignRequest] = field(default_factory=list)
    next_failures: list[str] = field(default_factory=list)

    def store(self, upload: Upload) -> None:
        """Keep a complete upload."""
        self.uploads[upload.id] = upload

    def submit(self, key: Key, request: dict[str, Any], *, now: float, upload: Upload | None = None) -> Transcript:
        """Accept a job; it is queued."""
        job = Transcript(
            id=str(uuid.uuid4()),
            number=len(self.transcripts) + 1,
            key=key,
            request=request,
            created=now,
            seconds=self.external_audio_seconds if upload is None else upload.seconds,
            seed=request["audio_url"] if upload is None else upload.sha256,
            upload=None if upload is None else upload.id,
            failure=self._failure(request["audio_url"], upload),
        )
        self.transcripts[job.id] = self.unfinished[job.id] = job
        self.advance(key.account, now)
        return job

    def _failure(self, audio_url: str, upload: Upload | None) -> str | None:
        if self.next_failures:
            return self.next_failures.pop(0)
        if "fail" in audio_url:
            return f"Download error, unable to download {audio_url}. Please make sure the file exists."
        if upload is not None and not upload.playable:
            return "Transcoding failed. File does not appear to contain audio. File type is text/plain"
        return None

    def advance(self, account: Account, now: float) -> None:
        """Bring the account's jobs up to ``now``: first in, first out, so many at a time."""
        waiting = [job for job in self.unfinished.values() if job.key.account is account]
        for place, job in enumerate(waiting):
            job.throttled = place >= account.jobs
            if not job.throttled:
                self._work(job, now)

    def _work(self, job: Transcript, now: float) -> None:
        job.started = now if job.started is None else job.started
        if self.processing_seconds is None:
            done = job.polls >= self.completes_after_polls
            job.status = "processing" if job.polls else "queued"
        else:
            done = now - job.started >= self.processing_seconds
            job.status = "processing" if now > job.started else "queued"
        if done:
            self.finish(job, now)

    def finish(self, job: Transcript, now: float) -> None:
        """End a job. A failed one costs nothing."""
        del self.unfinished[job.id]
        job.status, job.completed = ("completed" if job.failure is None else "error"), now
        if job.failure is None:
            self.charge(job.key, "prerecorded", "audio_seconds", job.seconds, job.id)

    def delete(self, job: Transcript) -> None:
        """Forget a job's data, and the file that it was made from. A job that is not done never will be."""
        job.deleted = True
        if self.unfinished.pop(job.id, None) is not None:
            job.status, job.failure = "error", "Deleted by user."
        if job.upload is not None:
            self.uploads.pop(job.upload, None)

    def charge(self, key: Key, product: str, unit: str, quantity: float, resource: str) -> None:
        """Write a line on the bill and take its price off the account's balance."""
        line = BillLine(key.account.name, key.project.name, key.secret, product, unit, quantity, resource)
        self.bill.append(line)
        key.account.balance -= PRICES.get((product, unit), 0.0) * quantity

    def note_foreign(self, number: int, kind: str, ident: str, owner: Project, caller: Key) -> None:
        """Remember that a request named what belongs to somebody else."""
        self.foreign.append(ForeignRequest(number, kind, ident, owner.name, caller.project.name))

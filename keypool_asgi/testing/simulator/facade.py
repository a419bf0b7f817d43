"""The simulator as tests and demos see it. Every method may be called from any thread."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

from .faults import Fault, Rule, Rules
from .records import Recorded, Recorder
from .routes import REGIONS, SERVICES
from .runner import Runner
from .server import Server, Settings
from .values import Service
from .world import Account, BillLine, ForeignRequest, Key, Project, Throttle, Token, Transcript, Upload, World

__all__ = ["Simulator"]

DEFAULT_KEY = "simulator-key-1"


class Simulator:
    """AssemblyAI over a real socket, strict about what it is sent.

    Start it with ``running()`` (in a thread of its own, for synchronous tests), with ``serving()`` (in the event loop
    that is running), or with ``start()`` and ``stop()``. What it knows outlives a stop; it starts again on the same
    port, so that an outage can be played.

    Args:
        keys: secrets of keys, each with ``"account/project"``, which are made as needed. Without it there is one
            account, one project and one key, whose secret is ``Simulator.key``.
        host: the address to listen on; ``Host`` must name it.
        port: 0 takes a free one.
        completes_after_polls: the so-many-th poll of a job finds it completed (0: it is so at once).
        processing_seconds: a job is completed so many seconds after work on it began, however often it is polled.
        external_audio_seconds: the length of an audio that was not uploaded here.
        stream_interval: seconds between two pieces of a streamed reply (chat completions, speech).
        clock: returns Unix time in seconds.
        keep_requests: how many records are kept; None keeps all.
        keep_body, keep_alive, compress, chunked: conduct of the server, see ``Settings``.
    """

    def __init__(
        self,
        keys: Mapping[str, str] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        completes_after_polls: int = 1,
        processing_seconds: float | None = None,
        external_audio_seconds: float = 30.0,
        stream_interval: float = 0.01,
        clock: Callable[[], float] = time.time,
        keep_requests: int | None = None,
        keep_body: int = 65_536,
        keep_alive: float = 60.0,
        compress: bool = False,
        chunked: bool = False,
    ) -> None:
        self._lock = threading.RLock()
        self._world = World(completes_after_polls, processing_seconds, external_audio_seconds, stream_interval)
        self._rules = Rules()
        self._recorder = Recorder(keep_requests)
        self.settings = Settings(clock, keep_body, keep_alive, compress, chunked)
        self._runner = Runner(self._make_server, host=host, port=port)
        for secret, place in ({DEFAULT_KEY: "account-1/project-1"} if keys is None else keys).items():
            account, _, project = place.partition("/")
            if account not in self._world.accounts:
                self.add_account(account)
            if project not in self._world.projects:
                self.add_project(project, account=account)
            self.add_key(secret, project=project)

    # Starting and stopping

    @contextmanager
    def running(self) -> Iterator[Simulator]:
        """Run in a thread with an event loop of its own."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[dict[Service, str]]:
        """Run in the current event loop; yields ``origins``."""
        async with self._runner.serving():
            yield self.origins

    def start(self) -> None:
        """Start in a thread with an event loop of its own; returns when it listens."""
        self._runner.start()

    def stop(self) -> None:
        """Stop the thread; connections are cut. Idempotent."""
        self._runner.stop()

    @property
    def url(self) -> str:
        """The base URL of the pre-recorded API, at which an official SDK can be pointed."""
        return self.origins["api"]

    @property
    def origins(self) -> dict[Service, str]:
        """The base URL of each service, for accounts in the US."""
        return self.origins_in("us")

    def origins_in(self, region: str) -> dict[Service, str]:
        """Return the base URL of each service in a region (``us`` or ``eu``)."""
        server = self._runner.server
        return {service: server.base(service, region) for service in SERVICES}

    # Accounts, projects and keys

    @property
    def key(self) -> str:
        """The secret of the first key."""
        with self._lock:
            return next(iter(self._world.keys))

    def add_account(
        self,
        name: str,
        *,
        region: str = "us",
        balance: float = 100.0,
        free: bool = False,
        rate_limit: tuple[int, float] | None = None,
    ) -> Account:
        """Add an account; ``balance`` is in dollars, ``rate_limit`` is requests in so many seconds."""
        if region not in REGIONS:
            raise ValueError(f"region is {region!r}, one of {REGIONS} is expected")
        with self._lock:
            self._new(name, self._world.accounts)
            account = self._world.accounts[name] = Account(name, region, balance, free, rate_limit=rate_limit)
            return account

    def add_project(self, name: str, *, account: str) -> Project:
        """Add a project to an account."""
        with self._lock:
            self._new(name, self._world.projects)
            project = self._world.projects[name] = Project(name, self._world.accounts[account])
            return project

    def add_key(self, secret: str | None = None, *, project: str) -> str:
        """Add a key to a project; returns its secret, which is made up if it is not given."""
        secret = secret or uuid.uuid4().hex
        with self._lock:
            self._new(secret, self._world.keys)
            self._world.keys[secret] = Key(secret, self._world.projects[project])
        return secret

    def revoke_key(self, secret: str) -> None:
        """Have a key refused from now on."""
        with self._lock:
            self._world.keys[secret].revoked = True

    def restore_key(self, secret: str) -> None:
        """Have a revoked key accepted again."""
        with self._lock:
            self._world.keys[secret].revoked = False

    def set_balance(self, account: str, balance: float) -> None:
        """Put an account out of funds (below zero), or top it up."""
        with self._lock:
            self._world.accounts[account].balance = balance

    def throttle(
        self,
        account: str,
        *,
        status: Literal[429, 403] = 429,
        retry_after: float | None = 1.0,
        http_date: bool = False,
        error: str = "Too Many Requests",
        service: Service | None = None,
    ) -> None:
        """Refuse an account for sending too much, until ``unthrottle``; the arguments are those of ``Throttle``."""
        with self._lock:
            self._world.accounts[account].throttle = Throttle(status, retry_after, http_date, error, service)

    def unthrottle(self, account: str) -> None:
        """Accept an account's requests again."""
        with self._lock:
            self._world.accounts[account].throttle = None

    # Jobs

    def finish_jobs(self) -> None:
        """Complete every job now."""
        with self._lock:
            for job in list(self._world.unfinished.values()):
                self._world.finish(job, self.settings.clock())

    def fail_job(self, transcript_id: str | None = None, error: str = "Transcoding failed.") -> None:
        """Have a job that is in progress end in an error, or the next one that is submitted."""
        with self._lock:
            if transcript_id is None:
                self._world.next_failures.append(error)
            else:
                self._world.unfinished[transcript_id].failure = error

    @property
    def uploads(self) -> list[Upload]:
        """Complete uploads that are still there, oldest first."""
        with self._lock:
            return list(self._world.uploads.values())

    @property
    def transcripts(self) -> list[Transcript]:
        """Every job that was accepted, oldest first."""
        with self._lock:
            return list(self._world.transcripts.values())

    @property
    def tokens(self) -> list[Token]:
        """Every temporary token that was minted, oldest first."""
        with self._lock:
            return list(self._world.tokens.values())

    # What reached it

    @property
    def requests(self) -> list[Recorded]:
        """Every request, oldest first."""
        return self._recorder.requests

    @property
    def open_requests(self) -> int:
        """How many requests are in progress."""
        return self._recorder.open

    @property
    def connections(self) -> int:
        """How many connections have been made."""
        return self._recorder.connections

    @property
    def violations(self) -> list[str]:
        """What was sent that no sane proxy sends; each was answered with a 400."""
        return self._recorder.violations

    @property
    def foreign_requests(self) -> list[ForeignRequest]:
        """Requests that named a resource of another project than the key's."""
        with self._lock:
            return list(self._world.foreign)

    def watch(self, needle: bytes | str) -> None:
        """Search the whole bodies of all requests from now on for ``needle``; ``saw`` tells where it was found."""
        self._recorder.watch(_bytes(needle))

    def saw(self, needle: bytes | str) -> list[Recorded]:
        """Return the requests whose bytes contain ``needle``: target, fields, body, trailers.

        Raises:
            LookupError: a body was longer than what is kept of it, and the needle was not watched when it came.
        """
        return [record for record in self._recorder.requests if record.contains(_bytes(needle))]

    def forget(self) -> None:
        """Drop what was recorded: requests, violations, foreign requests, the bill."""
        with self._lock:
            self._recorder.forget()
            self._world.foreign.clear()
            self._world.bill.clear()

    def wait_until(self, condition: Callable[[Simulator], object], seconds: float = 5.0) -> None:
        """Wait until ``condition(simulator)`` is true. Blocks: not for the event loop that the simulator runs in.

        Raises:
            TimeoutError: it was not within ``seconds``.
        """
        end = time.monotonic() + seconds
        while not condition(self):
            if time.monotonic() > end:
                raise TimeoutError(f"the condition did not come true within {seconds} s")
            time.sleep(0.002)

    # The bill

    @property
    def bill(self) -> list[BillLine]:
        """What upstream charges for, oldest first."""
        with self._lock:
            return list(self._world.bill)

    def billed(
        self, unit: str, *, account: str | None = None, project: str | None = None, key: str | None = None
    ) -> float:
        """Return the total of a unit: ``audio_seconds``, ``input_tokens``, ``output_tokens`` or ``characters``."""
        return sum(
            line.quantity
            for line in self.bill
            if line.unit == unit
            and account in (None, line.account)
            and project in (None, line.project)
            and key in (None, line.key)
        )

    # Faults

    def fail(
        self,
        fault: Fault,
        *,
        key: str | None = None,
        service: Service | None = None,
        method: str | None = None,
        path: str = "*",
        nth: int | None = None,
        times: int | None = None,
    ) -> Rule:
        """Play a fault on the requests that match; the arguments are those of ``Rule``, earlier rules go first."""
        rule = Rule(fault, key, service, method, path, nth, times)
        self._rules.add(rule)
        return rule

    def heal(self, rule: Rule | None = None) -> None:
        """Take one rule out of force, or all of them."""
        if rule is None:
            self._rules.clear()
        else:
            self._rules.remove(rule)

    def drop_connections(self, times: int = 1, how: Literal["reset", "fin"] = "reset") -> None:
        """End the next connections as soon as they are made, before anything is read."""
        self._rules.drop_connections(times, how)

    def close_idle(self) -> None:
        """Close the connections that are between two requests, as a server may do at any time."""
        self._runner.server.close_idle()

    def release(self) -> None:
        """Let every stalled exchange go on."""
        self._runner.server.gate.open()

    def _make_server(self) -> Server:
        return Server(self._world, settings=self.settings, recorder=self._recorder, rules=self._rules, lock=self._lock)

    @staticmethod
    def _new(name: str, known: Mapping[str, object]) -> None:
        if name in known:
            raise ValueError("there is one of that name already")


def _bytes(needle: bytes | str) -> bytes:
    return needle.encode() if isinstance(needle, str) else needle

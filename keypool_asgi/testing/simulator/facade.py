"""The simulator as tests and demos see it. Every method may be called from any thread."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal

from .faults import Fault, Rule, Rules
from .holdings import Holdings
from .records import Recorded, Recorder
from .routes import SERVICES
from .runner import Runner
from .server import Server, Settings
from .sockets.faults import SocketFault
from .sockets.sessions import Ledger, Session
from .values import Service
from .world import BillLine, ForeignRequest, Transcript, Upload, World

__all__ = ["Simulator"]

DEFAULT_KEY = "simulator-key-1"


class Simulator(Holdings):
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
        keep_requests: how many records of requests, and of sessions, are kept; None keeps all.
        keep_body, keep_alive, compress, chunked, echo: conduct of the server; for these and more see ``Settings``,
            which may be changed at any time (``simulator.settings.deflate = True``).
        tls: the files of a certificate and of its key, or a context; the origins are then ``https`` and ``wss``.
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
        echo: bool = False,
        tls: tuple[str | Path, str | Path] | ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(World(completes_after_polls, processing_seconds, external_audio_seconds, stream_interval))
        self._ledger = Ledger(self._world, keep_requests)
        self._rules = Rules()
        self._recorder = Recorder(keep_requests)
        self.settings = Settings(clock, keep_body, keep_alive, compress, chunked, echo)
        self._tls = _context(*tls) if isinstance(tls, tuple) else tls
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

    @property
    def socket_origins(self) -> dict[Service, str]:
        """The base URL of each service as ``ws`` or ``wss``; sessions begin at ``/v3/ws`` or ``/v1/ws`` under it."""
        return {service: origin.replace("http", "ws", 1) for service, origin in self.origins.items()}

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

    # What reached it

    @property
    def requests(self) -> list[Recorded]:
        """Every request, oldest first."""
        return self._recorder.requests

    @property
    def open_requests(self) -> int:
        """How many requests are in progress; one that began a session is so while it is connected."""
        return self._recorder.open

    @property
    def sessions(self) -> list[Session]:
        """Every session over WebSocket, oldest first, as it is now."""
        with self._lock:
            return self._ledger.told(self.settings.clock())

    @property
    def open_sessions(self) -> int:
        """How many sessions run, and cost, by now; also those whose client has left without ending them."""
        with self._lock:
            return len(self._ledger.running(self.settings.clock()))

    @property
    def connections(self) -> int:
        """How many connections have been made."""
        return self._recorder.connections

    @property
    def violations(self) -> list[str]:
        """What was sent that no sane proxy sends; each was answered with a 400 (or, within a session, a close)."""
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
        """Return the requests whose bytes contain ``needle``: target, fields, body (messages of a session), trailers.

        Raises:
            LookupError: a body was longer than what is kept of it, and the needle was not watched when it came.
        """
        return [record for record in self._recorder.requests if record.contains(_bytes(needle))]

    def forget(self) -> None:
        """Drop what was recorded: requests, sessions that are not open, violations, foreign requests, the bill."""
        with self._lock:
            self._ledger.forget()
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
        """What upstream charges for, oldest first. Sessions are on it once they have ended."""
        with self._lock:
            self._ledger.settle(self.settings.clock())
            return list(self._world.bill)

    def billed(
        self, unit: str, *, account: str | None = None, project: str | None = None, key: str | None = None
    ) -> float:
        """Return the total of a unit.

        Units are ``audio_seconds``, ``stream_seconds``, ``input_tokens``, ``output_tokens`` and ``characters``.
        """
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
        fault: Fault | SocketFault,
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
        return Server(
            self._world,
            settings=self.settings,
            recorder=self._recorder,
            ledger=self._ledger,
            rules=self._rules,
            lock=self._lock,
            tls=self._tls,
        )


def _bytes(needle: bytes | str) -> bytes:
    return needle.encode() if isinstance(needle, str) else needle


def _context(certificate: str | Path, key: str | Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context

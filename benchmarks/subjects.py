"""Servers under test: started side by side, asked in turn, round by round, and compared."""

from __future__ import annotations

import json
import math
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from . import nginx, proc
from .answers import PREFIX, TOKEN, TRANSCRIPT_ID
from .fleet import Child, Fleet
from .load import Load, answer_head, latencies, request, saturate
from .peers import interpreter
from .stats import amount, ratio

__all__ = ["REQUEST", "Plan", "Subject", "columns", "compare", "saturated", "start"]

TARGET = f"{PREFIX}/v2/transcript/{TRANSCRIPT_ID}"
REQUEST = request(TARGET, TOKEN)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. Rounds are interleaved: A B C, A B C, ..."""

    connections: Sequence[int] = (16, 64, 256, 1000)
    rounds: int = 5
    seconds: float = 2.0
    one_by_one: int = 200
    burst_seconds: float = 2.0

    @classmethod
    def quick(cls) -> Plan:
        """Return one that only shows that it works."""
        return cls(rounds=1, seconds=1.0, one_by_one=100, burst_seconds=1.0)


@dataclass(slots=True)
class Subject:
    """A server under test, and what one series of rounds has measured of it."""

    name: str
    child: Child
    loads: list[Load] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, fleet: Fleet, connections: int, seconds: float) -> None:
        """Do one round, once the server has nothing left to do."""
        proc.rest(self.child.pid)
        before = proc.cpu_seconds(self.child.pid)
        load = saturate(self.child.port, TARGET, TOKEN, connections=connections, seconds=seconds, folder=fleet.folder)
        self.loads.append(load)
        spent = proc.cpu_seconds(self.child.pid) - before
        self.cpu.append(spent / load.requests if load.requests else math.inf)

    def answers(self, ask: Callable[[int], list[float]]) -> list[float]:
        """Measure how long answers take. A proxy that fails ends nothing: it takes for ever then."""
        try:
            return ask(self.child.port)
        except (OSError, ValueError) as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return [math.inf]

    @property
    def rates(self) -> list[float]:
        """Answers per second of each round."""
        return [load.per_second for load in self.loads]

    @property
    def errors(self) -> int:
        """Requests of all rounds that were not answered with success."""
        return sum(load.errors for load in self.loads)


def start(fleet: Fleet, names: Iterable[str], profile: Path | None = None) -> list[Subject]:
    """Start what is compared: the upstream itself, nginx if there is one, and the apps, profiled into a file if so.

    Apps whose needs are not installed are left out.
    """
    load_cpu, server_cpu = proc.processors()
    has_nginx = nginx.installed()
    stub = fleet.nginx(nginx.stub(), on=load_cpu) if has_nginx else fleet.python("upstream", on=load_cpu)
    subjects = [Subject("no proxy", stub)]
    if has_nginx:
        subjects.append(Subject("nginx", fleet.nginx(nginx.proxy(stub.port), on=server_cpu)))
    more = ["--upstream", f"http://127.0.0.1:{stub.port}", "--folder", str(fleet.folder)]
    more += ["--profile", str(profile)] if profile else []
    for name in names:
        python = interpreter(name)
        if python is not None:
            subjects.append(Subject(name, fleet.python(name, *more, on=server_cpu, interpreter=python)))
    for subject in subjects:
        _submit_transcript(subject.child.port)
        latencies(subject.child.port, REQUEST, 20)
    return subjects


def saturated(fleet: Fleet, series: Mapping[int, Sequence[Subject]], plan: Plan) -> None:
    """Measure every subject in turn, round by round, each series with its number of connections."""
    for _ in range(plan.rounds):
        for connections, subjects in series.items():
            for subject in subjects:
                subject.measure(fleet, connections, plan.seconds)


def compare(subjects: Sequence[Subject], reference: str) -> list[list[str]]:
    """Return a row for each subject, with the ratios to one of them."""
    against = next(subject for subject in subjects if subject.name == reference)
    return [
        [
            subject.name,
            amount(median(subject.rates)),
            amount(ratio(subject.rates, against.rates)),
            amount(median(subject.cpu) * 1e6),
            amount(ratio(subject.cpu, against.cpu)),
            amount(median([load.p50 for load in subject.loads])),
            amount(median([load.p99 for load in subject.loads])),
            str(subject.errors),
        ]
        for subject in subjects
    ]


def columns(reference: str) -> list[str]:
    """Return the heads of the columns of ``compare``."""
    return ["proxy", "req/s", f"x {reference}", "CPU us/req", f"CPU x {reference}", "p50 ms", "p99 ms", "errors"]


def _submit_transcript(port: int) -> None:
    """Create the transcript that is read, so that it is ours to read."""
    body = json.dumps({"audio_url": "https://example.com/recording.wav"}).encode()
    head = f"POST {PREFIX}/v2/transcript HTTP/1.1\r\nHost: bench\r\nAuthorization: {TOKEN}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(head.encode() + body)
        answer, _ = answer_head(sock)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"the transcript could not be submitted: {answer[:60]!r}")

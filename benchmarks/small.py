"""``http``: small GETs through the whole stack, beside nginx, a null app and other proxies."""

from __future__ import annotations

import json
import math
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median

from . import nginx, proc
from .answers import PREFIX, TOKEN, TRANSCRIPT_ID
from .apps import available
from .fleet import Child, Fleet
from .load import Load, answer_head, burst, latencies, request, saturate
from .profiling import counted, sampled, sampler
from .stats import amount, percentile, ratio, table

__all__ = ["Plan", "Subject", "compare", "run", "saturated", "start"]

APPS = ("null", "keypool", "keypool-httpx", "fastapi-proxy-lib", "asgiproxy")
TARGET = f"{PREFIX}/v2/transcript/{TRANSCRIPT_ID}"
REQUEST = request(TARGET, TOKEN)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. Rounds are interleaved: A B C, A B C, ..."""

    connections: Sequence[int] = (16, 64, 256)
    rounds: int = 5
    seconds: float = 2.0
    one_by_one: int = 300
    burst_seconds: float = 3.0

    @classmethod
    def quick(cls) -> Plan:
        """Return one that only shows that it works."""
        return cls(connections=(16,), rounds=2, seconds=1.0, one_by_one=100, burst_seconds=1.0)


@dataclass(slots=True)
class Subject:
    """A server under test, and what one series of rounds has measured of it."""

    name: str
    child: Child
    loads: list[Load] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, fleet: Fleet, connections: int, seconds: float) -> None:
        """Do one round."""
        before = proc.cpu_seconds(self.child.pid)
        load = saturate(self.child.port, TARGET, TOKEN, connections=connections, seconds=seconds, folder=fleet.folder)
        self.loads.append(load)
        self.cpu.append((proc.cpu_seconds(self.child.pid) - before) / max(1, load.requests))

    def answers(self, ask: Callable[[int], list[float]]) -> list[float]:
        """Measure how long answers take. A proxy that fails ends nothing: it takes for ever then."""
        try:
            return ask(self.child.port)
        except (OSError, ValueError) as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return [math.inf]

    def forget(self) -> None:
        """Begin another series."""
        self.loads, self.cpu = [], []


def run(*, quick: bool, profile: bool) -> Iterator[str]:
    """Measure, and give out the tables."""
    plan = Plan.quick() if quick else Plan()
    with Fleet() as fleet:
        if profile:
            yield from _profiled(fleet, plan)
            return
        subjects = start(fleet, [name for name in APPS if available(name)])
        yield _one_by_one(subjects, plan)
        yield _bursts(subjects, plan)
        for connections in plan.connections:  # in the end: some proxies take long to recover from this
            yield _saturation(fleet, subjects, plan, connections)


def start(fleet: Fleet, names: Sequence[str], profile: Path | None = None) -> list[Subject]:
    """Start what is compared: the upstream itself, nginx if there is one, and the apps, profiled into a file if so."""
    load_cpu, server_cpu = proc.processors()
    has_nginx = nginx.installed()
    stub = fleet.nginx(nginx.stub(), on=load_cpu) if has_nginx else fleet.python("upstream", on=load_cpu)
    subjects = [Subject("no proxy", stub)]
    if has_nginx:
        subjects.append(Subject("nginx", fleet.nginx(nginx.proxy(stub.port), on=server_cpu)))
    more = ["--upstream", f"http://127.0.0.1:{stub.port}", *(["--profile", str(profile)] if profile else [])]
    subjects += [Subject(name, fleet.python(name, *more, on=server_cpu)) for name in names]
    for subject in subjects:
        submit_transcript(subject.child.port)
        latencies(subject.child.port, REQUEST, 20)
    return subjects


def submit_transcript(port: int) -> None:
    """Create the transcript that is read, so that it is ours to read."""
    body = json.dumps({"audio_url": "https://example.com/recording.wav"}).encode()
    head = f"POST {PREFIX}/v2/transcript HTTP/1.1\r\nHost: bench\r\nAuthorization: {TOKEN}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(head.encode() + body)
        answer, _ = answer_head(sock)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"the transcript could not be submitted: {answer[:60]!r}")


def saturated(fleet: Fleet, subjects: Sequence[Subject], plan: Plan, connections: int) -> None:
    """Measure every subject in turn, round by round."""
    for subject in subjects:
        subject.forget()
    for _ in range(plan.rounds):
        for subject in subjects:
            subject.measure(fleet, connections, plan.seconds)


def compare(subjects: Sequence[Subject], reference: str) -> list[list[str]]:
    """Return a row for each subject, with the ratios to one of them."""
    against = next(subject for subject in subjects if subject.name == reference)
    rates = [load.per_second for load in against.loads]
    rows = []
    for subject in subjects:
        loads = subject.loads
        rows.append(
            [
                subject.name,
                amount(median([load.per_second for load in loads])),
                amount(ratio([load.per_second for load in loads], rates)),
                amount(median(subject.cpu) * 1e6),
                amount(ratio(subject.cpu, against.cpu)),
                amount(median([load.p50 for load in loads])),
                amount(median([load.p99 for load in loads])),
                str(sum(load.errors for load in loads)),
            ]
        )
    return rows


def columns(reference: str) -> list[str]:
    """Return the heads of the columns of ``compare``."""
    return ["proxy", "req/s", f"x {reference}", "CPU us/req", f"CPU x {reference}", "p50 ms", "p99 ms", "errors"]


def _saturation(fleet: Fleet, subjects: Sequence[Subject], plan: Plan, connections: int) -> str:
    reference = "nginx" if nginx.installed() else "null"
    saturated(fleet, subjects, plan, connections)
    rows = compare(subjects, reference)
    null = next(subject for subject in subjects if subject.name == "null")
    for subject, row in zip(subjects, rows, strict=True):
        row.append(amount(ratio(subject.cpu, null.cpu)))
    title = f"http: small GETs, {connections} connections ({plan.rounds} rounds of {plan.seconds:g} s)"
    return table(title, [*columns(reference), "CPU x null app"], rows)


def _one_by_one(subjects: Sequence[Subject], plan: Plan) -> str:
    found: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for _ in range(plan.rounds):
        for subject in subjects:
            times = subject.answers(lambda port: latencies(port, REQUEST, plan.one_by_one))
            found[subject.name].append(median(times) * 1e3)
    direct = found["no proxy"]
    rows = []
    for name, values in found.items():
        added = median([value - other for value, other in zip(values, direct, strict=True)])
        rows.append([name, f"{median(values):.3f}", f"{added:.3f}"])
    return table("http: one request at a time", ["proxy", "p50 ms", "added p50 ms"], rows)


def _bursts(subjects: Sequence[Subject], plan: Plan) -> str:
    found: dict[str, list[list[float]]] = {subject.name: [] for subject in subjects}
    for _ in range(min(3, plan.rounds)):
        for subject in subjects:
            times = subject.answers(
                lambda port: burst(port, REQUEST, at_once=16, per_second=200, seconds=plan.burst_seconds)
            )
            found[subject.name].append(times)
    rows = []
    for name, rounds in found.items():
        p99 = median([percentile(times, 99) for times in rounds])
        rows.append([name, amount(percentile([*chain(*rounds)], 50) * 1e3), amount(p99 * 1e3)])
    return table("http: bursts of 16 at once, 200 requests/s", ["proxy", "p50 ms", "p99 ms"], rows)


def _profiled(fleet: Fleet, plan: Plan) -> Iterator[str]:
    """Load the stack, and say where the time goes: by samples if there is a sampler, and in another run by calls."""
    seconds = plan.seconds * plan.rounds
    samples, calls = fleet.folder / "samples", fleet.folder / "calls"
    subject = start(fleet, ["keypool"])[-1]
    running = sampler(subject.child.pid, seconds, samples)
    subject.measure(fleet, 16, seconds)
    if running is not None and running.wait(60) == 0:
        yield sampled(samples, subject.cpu[0] * 1e6)
    fleet.stop(subject.child)
    subject = start(fleet, ["keypool"], profile=calls)[-1]
    subject.measure(fleet, 16, seconds)
    fleet.stop(subject.child)
    yield counted(calls, subject.loads[0].requests)

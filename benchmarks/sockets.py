"""``sockets``: WebSocket sessions through the whole stack, beside nginx relaying the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from . import loops, nginx, proc
from .fleet import Child, Fleet
from .goals import Goal, goals
from .profiling import counted, sampled, sampler
from .sockets_load import Tally, opened, pump, push, real_time, swallow
from .stats import amount, percentile, ratio, table

__all__ = ["Plan", "run"]

_MIB, _KIB = 1024**2, 1024
_SIZES = (1600, 2400, 3200)
_ENTRY = "benchmarks.sockets_serve"
_HUNDRED_MS = (3200,)  # of 16-bit samples, 16,000 a second


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. Rounds are interleaved: A B C, A B C, ..."""

    rounds: int = 3
    seconds: float = 3.0
    speaking: int = 200
    speaking_seconds: float = 10.0
    many: int = 500
    many_seconds: float = 60.0
    idle: int = 1000
    pushed: int = 64 * _MIB
    pause: float = 3.0

    @classmethod
    def quick(cls) -> Plan:
        """Return one that only shows that it works."""
        return cls(rounds=2, seconds=1.0, speaking_seconds=2.0, many_seconds=5.0, idle=300, pushed=16 * _MIB, pause=1.0)


class Sockets(Fleet):
    """The processes of this benchmark: an upstream, and what is compared, each on its processor."""

    def __enter__(self) -> Sockets:
        """Start the upstream."""
        super().__enter__()
        self.load_cpu, self.server_cpu = proc.processors()
        self.upstream = self.python("upstream", on=self.load_cpu, entry=_ENTRY)
        return self

    def relay(self, name: str, *, profile: Path | None = None) -> Child:
        """Start nginx, or the stack, profiled into a file if so; or return the upstream itself."""
        if name == "no proxy":
            return self.upstream
        if name == "nginx":
            # As for HTTP, but for the fields of the upgrade.
            configuration = nginx.proxy(self.upstream.port).replace(
                'proxy_set_header Connection "";',
                'proxy_set_header Connection "Upgrade"; proxy_set_header Upgrade $http_upgrade;',
            )
            return self.nginx(configuration, on=self.server_cpu)
        more = ["--profile", str(profile)] if profile else []
        upstream = f"http://127.0.0.1:{self.upstream.port}"
        return self.python("keypool", "--upstream", upstream, *more, on=self.server_cpu, entry=_ENTRY)


def run(*, quick: bool, profile: bool) -> Iterator[str]:
    """Measure, and give out the tables."""
    plan = Plan.quick() if quick else Plan()
    relays = ["nginx", "keypool"] if nginx.installed() else ["keypool"]
    figures: dict[str, float] = {}
    with Sockets() as fleet:
        if profile:
            yield from _profiled(fleet, plan)
            return
        yield _idle(fleet, relays, plan, figures)
        yield _stalled(fleet, relays, plan, figures)
        children = {name: fleet.relay(name) for name in ("no proxy", *relays)}
        what = "pump: 40 messages of 3,200 bytes under way, a text for 10"
        yield _saturated(children, plan, what, figures, window=40, every=10)
        what = "ping-pong: 3,200 bytes there and back"
        yield _saturated(children, plan, what, figures, window=1, every=1)
        title = (
            f"sockets: {plan.speaking} sessions in real time, 20 messages/s up and 2 down, {plan.speaking_seconds:g} s"
        )
        how = (plan.speaking, plan.speaking_seconds, 20, _SIZES, 10)
        yield _in_real_time(children, title, plan.rounds, how, figures, memory=False)
        title = f"sockets: {plan.many} sessions in real time, 100 ms each message, {plan.many_seconds:g} s"
        how = (plan.many, plan.many_seconds, 10, _HUNDRED_MS, 10)
        yield _in_real_time(children, title, 1, how, figures, memory=True)
    yield goals(
        "sockets",
        Goal("CPU a message of the pump, x nginx", figures.get("pump"), 3),
        Goal(f"cores, {plan.speaking} sessions", figures.get(f"cores {plan.speaking}"), 0.35),
        Goal(f"added p50 ms, {plan.speaking} sessions", figures.get(f"p50 {plan.speaking}"), 0.5),
        Goal(f"added p99 ms, {plan.many} sessions", figures.get(f"p99 {plan.many}"), 20),
        Goal(f"KiB a session, {plan.idle} idle ones", figures.get("KiB"), 40),
        Goal("MiB of growth, 64 pushed at a stalled side", figures.get("growth"), 2),
    )


# Saturation


def _saturated(
    children: dict[str, Child], plan: Plan, what: str, figures: dict[str, float], *, window: int, every: int
) -> str:
    cpu: dict[str, list[float]] = {name: [] for name in children}
    rates: dict[str, list[float]] = {name: [] for name in children}
    tallies: dict[str, list[Tally]] = {name: [] for name in children}
    for _ in range(plan.rounds):
        for name, child in children.items():
            before = proc.cpu_seconds(child.pid)
            tally, took = loops.run(pump(child.port, 16, plan.seconds, size=3200, window=window, every=every))
            cpu[name].append((proc.cpu_seconds(child.pid) - before) / max(1, tally.messages))
            rates[name].append(tally.messages / took)
            tallies[name].append(tally)
    reference = "nginx" if "nginx" in children else "no proxy"
    if reference == "nginx":
        figures[what.partition(":")[0]] = ratio(cpu["keypool"], cpu[reference])
    rows = [
        [
            name,
            amount(median(rates[name])),
            amount(median(cpu[name]) * 1e6),
            amount(ratio(cpu[name], cpu[reference])),
            *_latency(tallies[name]),
            _whole(tallies[name]),
        ]
        for name in children
    ]
    columns = ["relay", "msg/s", "CPU us/msg", f"CPU x {reference}", "p50 ms", "p99 ms", "lost, swapped"]
    return table(f"sockets: 16 sessions, {what} ({plan.rounds} rounds of {plan.seconds:g} s)", columns, rows)


# Real time


def _in_real_time(
    children: dict[str, Child],
    title: str,
    rounds: int,
    how: tuple[int, float, float, tuple[int, ...], int],
    figures: dict[str, float],
    *,
    memory: bool,
) -> str:
    count, seconds, per_second, sizes, every = how
    tallies: dict[str, list[Tally]] = {name: [] for name in children}
    cores: dict[str, list[float]] = {name: [] for name in children}
    sizes_seen: dict[str, list[int]] = {name: [] for name in children}
    for _ in range(rounds):
        for name, child in children.items():
            looks: list[tuple[float, float, int]] = []

            def look(child: Child = child, looks: list[tuple[float, float, int]] = looks) -> None:
                looks.append((time.perf_counter(), proc.cpu_seconds(child.pid), proc.resident_bytes(child.pid)))

            idle = proc.resident_bytes(child.pid)
            speak = real_time(child.port, count, seconds, per_second=per_second, sizes=sizes, every=every, look=look)
            tallies[name].append(loops.run(speak))
            (began, cpu_before, opened_with), (_, _, later_with), (ended, cpu_after, ended_with) = looks
            cores[name].append((cpu_after - cpu_before) / (ended - began))
            sizes_seen[name] = [seen - idle for seen in (opened_with, later_with, ended_with)]
    rows = []
    for name, measured in tallies.items():
        added = _added_ms(measured, tallies["no proxy"], 50)
        cpu = [core * seconds / tally.messages for core, tally in zip(cores[name], measured, strict=True)]
        row = [name, f"{median(cores[name]):.3f}", amount(median(cpu) * 1e6), *_latency(measured), f"{added:.2f}"]
        if memory:
            row += [f"{seen / count / _KIB:.1f}" for seen in sizes_seen[name]]
        rows.append([*row, _whole(measured)])
    figures[f"cores {count}"] = median(cores["keypool"])
    for percent in (50, 99):
        figures[f"p{percent} {count}"] = _added_ms(tallies["keypool"], tallies["no proxy"], percent)
    columns = ["relay", "cores", "CPU us/msg", "p50 ms", "p99 ms", "added p50 ms"]
    columns += ["KiB/session opened", "after 1/4", "at the end"] if memory else []
    return table(title, [*columns, "lost, swapped"], rows)


def _added_ms(tallies: list[Tally], direct: list[Tally], percent: int) -> float:
    """Milliseconds beyond what the upstream alone takes, round by round."""
    pairs = zip(tallies, direct, strict=True)
    return median([percentile(one.seconds, percent) - percentile(other.seconds, percent) for one, other in pairs]) * 1e3


# Memory


def _idle(fleet: Sockets, relays: list[str], plan: Plan, figures: dict[str, float]) -> str:
    rows = []
    for name in relays:
        child = fleet.relay(name)
        loops.run(_hold(child, 1, 0.3))
        before = proc.resident_bytes(child.pid)
        after, cores = loops.run(_hold(child, plan.idle, 2.0))
        each = (after - before) / plan.idle / _KIB
        rows.append([name, f"{before / _MIB:.1f}", f"{each:.1f}", f"{cores:.3f}"])
        if name == "keypool":
            figures["KiB"] = each
        fleet.stop(child)
    return table(f"sockets: {plan.idle} idle sessions, fresh processes", ["relay", "MiB", "KiB/session", "cores"], rows)


async def _hold(child: Child, count: int, seconds: float) -> tuple[int, float]:
    """Keep sessions open without a word; return the memory then, and the cores that are busy."""
    async with opened(child.port, count, "", Tally()):
        await asyncio.sleep(1.0)
        before = proc.cpu_seconds(child.pid)
        await asyncio.sleep(seconds)
        return proc.resident_bytes(child.pid), (proc.cpu_seconds(child.pid) - before) / seconds


def _stalled(fleet: Sockets, relays: list[str], plan: Plan, figures: dict[str, float]) -> str:
    rows = []
    transfers: dict[str, Callable[..., None]] = {"caller that does not read": swallow, "upstream that does not": push}
    for what, transfer in transfers.items():
        for name in relays:
            child = fleet.relay(name)
            transfer(child.port, _MIB, pause=0.1)
            time.sleep(0.3)
            before = proc.resident_bytes(child.pid)
            with proc.peak_of(child.pid) as most:
                transfer(child.port, plan.pushed, pause=plan.pause)
            growth = (most[0] - before) / _MIB
            rows.append([what, name, f"{before / _MIB:.1f}", f"{growth:.2f}"])
            if name == "keypool":
                figures["growth"] = max(growth, figures.get("growth", 0.0))
            fleet.stop(child)
    title = f"sockets: {plan.pushed // _MIB} MiB pushed at a side that reads nothing for {plan.pause:g} s"
    return table(title, ["side", "relay", "idle MiB", "growth MiB"], rows)


# Where the time goes


def _profiled(fleet: Sockets, plan: Plan) -> Iterator[str]:
    """Load the stack, and say where the time of a message goes, as ``http`` does for a request."""
    seconds = plan.seconds * plan.rounds
    samples, calls = fleet.folder / "samples", fleet.folder / "calls"
    child = fleet.relay("keypool")
    before = proc.cpu_seconds(child.pid)
    running = sampler(child.pid, seconds, samples)
    tally, _ = loops.run(pump(child.port, 16, seconds, size=3200, window=40, every=10))
    micros = (proc.cpu_seconds(child.pid) - before) / tally.messages * 1e6
    if running is not None and running.wait(60) == 0:
        yield sampled(samples, micros)
    fleet.stop(child)
    child = fleet.relay("keypool", profile=calls)
    tally, _ = loops.run(pump(child.port, 16, seconds, size=3200, window=40, every=10))
    fleet.stop(child)
    yield counted(calls, tally.messages)


def _latency(tallies: list[Tally]) -> list[str]:
    return [amount(median([percentile(tally.seconds, percent) for tally in tallies]) * 1e3) for percent in (50, 99)]


def _whole(tallies: list[Tally]) -> str:
    return f"{sum(tally.lost for tally in tallies)}, {sum(tally.wrong for tally in tallies)}"

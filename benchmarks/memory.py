"""``memory``: large uploads and downloads through the whole stack: what they occupy, and how fast they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import NamedTuple

from . import nginx, proc
from .fleet import Child, Fleet
from .goals import Goal, goals
from .stats import amount, ratio, table
from .transfers import Transfer, play

__all__ = ["run"]

_MIB = 1024**2
_GROWTH_MIB = 4.0
_UP_RATE, _DOWN_RATE = 0.95, 0.9

_LONG, _USUAL = 2_000_000_000, 500_000_000

TRANSFERS = (
    Transfer(upload=True, size=_LONG),
    Transfer(upload=True, size=_LONG, peer="stalled"),
    Transfer(upload=True, size=75_000_000, peer="slow"),
    Transfer(upload=True, size=_USUAL, chunked=True),
    Transfer(upload=False, size=_LONG),
    Transfer(upload=False, size=_LONG, peer="stalled"),
    Transfer(upload=False, size=75_000_000, peer="slow"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to send."""

    share: float = 1.0
    rounds: int = 5

    @classmethod
    def quick(cls) -> Plan:
        """Return one that only shows that it works."""
        return cls(share=0.05, rounds=2)

    def sized(self, transfer: Transfer, most: int = _LONG) -> Transfer:
        """Return a transfer of the size that is meant here."""
        return replace(transfer, size=int(min(transfer.size, most) * self.share))


@dataclass(slots=True)
class Pace:
    """How fast a server has moved a body, round by round, and what that cost."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, child: Child, transfer: Transfer) -> None:
        """Move the body once."""
        cpu, began = proc.cpu_seconds(child.pid), time.perf_counter()
        play(child.port, transfer)
        self.rates.append(transfer.size / 1e6 / (time.perf_counter() - began))
        self.cpu.append((proc.cpu_seconds(child.pid) - cpu) / (transfer.size / 1e9))


class Occupation(NamedTuple):
    """What a server has occupied during a transfer, in bytes."""

    server: str
    transfer: Transfer
    idle: int
    peak: int
    pace: Pace

    @property
    def growth(self) -> float:
        """The peak above idle, in MiB."""
        return (self.peak - self.idle) / _MIB


def run(*, quick: bool, profile: bool) -> Iterator[str]:  # noqa: ARG001 - every benchmark is called alike
    """Measure, and give out the tables."""
    plan = Plan.quick() if quick else Plan()
    with Fleet() as fleet:
        children = _started(fleet)
        proxies = {name: child for name, child in children.items() if name != "discard"}
        occupied = _occupied(proxies, plan)
        yield _memory(occupied)
        takers = {name: child for name, child in children.items() if name != "keypool-httpx"}
        up = _paces(takers, plan.sized(Transfer(upload=True, size=_USUAL)), plan.rounds)
        yield _rates(f"memory: upload rates, {plan.rounds} rounds", up, "discard")
        down = _paces(proxies, plan.sized(Transfer(upload=False, size=_USUAL)), plan.rounds)
        yield _rates(f"memory: download rates, {plan.rounds} rounds", down, "nginx" if "nginx" in down else "keypool")
        yield goals(
            "memory",
            *[
                Goal(f"growth MiB, {one.transfer.name}", one.growth, _GROWTH_MIB)
                for one in occupied
                if one.server == "keypool"
            ],
            Goal("upload MB/s, x an app that discards", _rate(up, "discard"), _UP_RATE, at_least=True),
            Goal("download MB/s, x nginx", _rate(down, "nginx"), _DOWN_RATE, at_least=True),
        )


def _started(fleet: Fleet) -> dict[str, Child]:
    load_cpu, server_cpu = proc.processors()
    upstream = fleet.python("upstream", on=load_cpu)
    url = f"http://127.0.0.1:{upstream.port}"
    apps = ("discard", "keypool", "keypool-httpx")
    children = {name: fleet.python(name, "--upstream", url, on=server_cpu) for name in apps}
    if nginx.installed():
        children["nginx"] = fleet.nginx(nginx.proxy(upstream.port), on=server_cpu)
    return children


def _occupied(children: Mapping[str, Child], plan: Plan) -> list[Occupation]:
    idle = {name: _idle(child) for name, child in children.items()}
    found = []
    for transfer in TRANSFERS:
        for name, child in children.items():
            # httpx takes its time, and what it occupies is known sooner.
            sized, pace = plan.sized(transfer, _USUAL if name == "keypool-httpx" else _LONG), Pace()
            with proc.peak_of(child.pid) as most:
                pace.measure(child, sized)
            found.append(Occupation(name, sized, idle[name], most[0], pace))
    return found


def _idle(child: Child) -> int:
    """Return the memory of a server that has loaded what is loaded once, and come to rest. It is taken only once.

    What one transfer leaves behind therefore counts in those after it.
    """
    for upload in (True, False):
        play(child.port, Transfer(upload, 100_000))
    time.sleep(0.5)
    return proc.resident_bytes(child.pid)


def _paces(children: Mapping[str, Child], transfer: Transfer, rounds: int) -> dict[str, Pace]:
    """Have every server move the same body in turn."""
    paces = {name: Pace() for name in children}
    for _ in range(rounds):
        for name, child in children.items():
            paces[name].measure(child, transfer)
    return paces


def _rate(paces: Mapping[str, Pace], reference: str) -> float | None:
    return ratio(paces["keypool"].rates, paces[reference].rates) if reference in paces else None


def _memory(occupied: list[Occupation]) -> str:
    rows = [
        [
            one.transfer.name,
            one.server,
            *map(amount, (one.transfer.size / 1e6, *one.pace.rates, *one.pace.cpu)),
            *(f"{mebibytes:.1f}" for mebibytes in (one.idle / _MIB, one.peak / _MIB, one.growth)),
        ]
        for one in occupied
    ]
    columns = ["transfer", "proxy", "MB", "MB/s", "CPU s/GB", "idle MiB", "peak MiB", "growth MiB"]
    return table("memory: peak RSS above idle", columns, rows)


def _rates(title: str, paces: Mapping[str, Pace], reference: str) -> str:
    against = paces[reference]
    rows = [
        [
            name,
            amount(median(pace.rates)),
            amount(ratio(pace.rates, against.rates)),
            amount(median(pace.cpu)),
            amount(ratio(pace.cpu, against.cpu)),
        ]
        for name, pace in paces.items()
    ]
    return table(title, ["server", "MB/s", f"x {reference}", "CPU s/GB", f"CPU x {reference}"], rows)

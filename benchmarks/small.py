"""``http``: small GETs through the whole stack, beside nginx, a null app and other proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from statistics import median

from . import nginx
from .fleet import Fleet
from .goals import goals
from .load import burst, latencies
from .peers import PEERS, present
from .profiling import counted, sampled, sampler
from .small_goals import Rounds, added, growth, http_goals, p50s, p99
from .stats import amount, percentile, ratio, table
from .subjects import REQUEST, Plan, Subject, columns, compare, saturated, start

__all__ = ["run"]

_APPS = ("null", "keypool", "keypool-httpx", *PEERS)

# With more connections they take minutes to recover, and tell nothing new.
_SLOW = ("keypool-httpx", "fastapi-proxy-lib", "litellm")
_WITH_SLOW = 64


def run(*, quick: bool, profile: bool) -> Iterator[str]:
    """Measure, and give out the tables."""
    plan = Plan.quick() if quick else Plan()
    with Fleet() as fleet:
        if profile:
            yield from _profiled(fleet, plan)
            return
        yield present()
        subjects = start(fleet, _APPS)
        alone = _asked(subjects, plan.rounds, lambda port: latencies(port, REQUEST, plan.one_by_one))
        yield _one_by_one(alone)
        fast = [subject for subject in subjects if subject.name not in _SLOW]
        bursts = _asked(
            fast,
            min(3, plan.rounds),
            lambda port: burst(port, REQUEST, at_once=16, per_second=200, seconds=plan.burst_seconds),
        )
        yield _bursts(bursts)
        series = {
            connections: [Subject(one.name, one.child) for one in (subjects if connections == _WITH_SLOW else fast)]
            for connections in plan.connections
        }
        saturated(fleet, series, plan)
        for connections, compared in series.items():
            yield _saturation(compared, plan, connections)
        yield _flatness(series)
        yield goals("http", *http_goals(series, alone, bursts))


def _asked(subjects: Sequence[Subject], rounds: int, ask: Callable[[int], list[float]]) -> Rounds:
    found: dict[str, list[list[float]]] = {subject.name: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            found[subject.name].append(subject.answers(ask))
    return found


def _one_by_one(alone: Rounds) -> str:
    rows = [
        [name, *(f"{seconds * 1e3:.3f}" for seconds in (median(p50s(rounds)), added(alone, name, "no proxy")))]
        for name, rounds in alone.items()
    ]
    return table("http: one request at a time", ["proxy", "p50 ms", "added p50 ms"], rows)


def _bursts(bursts: Rounds) -> str:
    rows = [
        [name, amount(percentile([*chain(*rounds)], 50) * 1e3), amount(p99(rounds) * 1e3)]
        for name, rounds in bursts.items()
    ]
    return table("http: bursts of 16 at once, 200 requests/s", ["proxy", "p50 ms", "p99 ms"], rows)


def _saturation(subjects: Sequence[Subject], plan: Plan, connections: int) -> str:
    reference = "nginx" if nginx.installed() else "null"
    rows = compare(subjects, reference)
    null = next(subject for subject in subjects if subject.name == "null")
    for subject, row in zip(subjects, rows, strict=True):
        row.append(amount(ratio(subject.cpu, null.cpu)))
    title = f"http: small GETs, {connections:,} connections ({plan.rounds} rounds of {plan.seconds:g} s)"
    return table(title, [*columns(reference), "CPU x null app"], rows)


def _flatness(series: Mapping[int, Sequence[Subject]]) -> str:
    """What a request costs, by the number of connections."""
    nginx_growth = growth(series, "nginx")
    rows = []
    for name in [subject.name for subject in next(iter(series.values()))]:
        same = [subject for subjects in series.values() for subject in subjects if subject.name == name]
        own_growth = growth(series, name)
        rows.append([name, *(amount(median(subject.cpu) * 1e6) for subject in same)])
        rows[-1].append(amount(median(own_growth)) if own_growth else "")
        rows[-1].append(amount(ratio(own_growth, nginx_growth)) if own_growth and nginx_growth else "")
    heads = [f"{connections:,}" for connections in series]
    return table("http: CPU us/req by connections", ["proxy", *heads, "256 / 16", "x nginx's"], rows)


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

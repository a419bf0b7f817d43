"""What ``http`` is to reach, from what its rounds have measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from .goals import Goal
from .stats import percentile, ratio
from .subjects import Subject

__all__ = ["Rounds", "added", "growth", "http_goals", "p50s", "p99"]

Rounds = Mapping[str, Sequence[Sequence[float]]]
"""By the server's name, for each round: how many seconds each answer took."""

_FEW, _USUAL, _MANY, _FLOOD = 16, 64, 256, 1000


def http_goals(series: Mapping[int, Sequence[Subject]], alone: Rounds, bursts: Rounds) -> list[Goal]:
    """Return the goals with their figures."""
    usual = {subject.name: subject for subject in series[_USUAL]}
    own = usual["keypool"]
    lines = [
        Goal(f"CPU a request, x {name}, {_USUAL} connections", _cpu(own, usual.get(name)), limit)
        for name, limit in (("nginx", 8.0), ("asgiproxy", 0.65))
    ]
    lines += [
        Goal(f"req/s, x {name}, {_USUAL} connections", _rate(own, usual.get(name)), 40.0, at_least=True)
        for name in ("fastapi-proxy-lib", "litellm")
    ]
    flood = next(subject for subject in series[_FLOOD] if subject.name == "keypool")
    return [
        *lines,
        Goal(f"CPU a request, {_MANY} to {_FEW} connections, x nginx's change", _steadiness(series), 1.5),
        Goal(f"req/s, {_FLOOD} to {_USUAL} connections", ratio(flood.rates, own.rates), 0.5, at_least=True),
        Goal(f"errors, {_FLOOD} connections", flood.errors, 0),
        Goal("added p50 ms over nginx's, one at a time", _added_ms(alone), 0.35),
        Goal("p99 ms of bursts of 16", p99(bursts["keypool"]) * 1e3, 10.0),
    ]


def growth(series: Mapping[int, Sequence[Subject]], name: str) -> list[float] | None:
    """Return, round by round, what a request costs with many connections by what it costs with few."""
    found = {count: subject for count, subjects in series.items() for subject in subjects if subject.name == name}
    if not {_FEW, _MANY} <= found.keys():
        return None
    return [many / few for many, few in zip(found[_MANY].cpu, found[_FEW].cpu, strict=True)]


def p50s(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return the median of each round."""
    return [percentile(seconds, 50) for seconds in rounds]


def p99(rounds: Sequence[Sequence[float]]) -> float:
    """Return the median of what 99 of 100 answers of a round did not exceed."""
    return median([percentile(seconds, 99) for seconds in rounds])


def added(rounds: Rounds, name: str, other: str) -> float:
    """Return what the median answer takes longer than another's, taken round by round."""
    return median([ours - theirs for ours, theirs in zip(p50s(rounds[name]), p50s(rounds[other]), strict=True)])


def _cpu(own: Subject, other: Subject | None) -> float | None:
    return None if other is None else ratio(own.cpu, other.cpu)


def _rate(own: Subject, other: Subject | None) -> float | None:
    return None if other is None else ratio(own.rates, other.rates)


def _steadiness(series: Mapping[int, Sequence[Subject]]) -> float | None:
    own, nginx = growth(series, "keypool"), growth(series, "nginx")
    return None if own is None or nginx is None else ratio(own, nginx)


def _added_ms(alone: Rounds) -> float | None:
    return added(alone, "keypool", "nginx") * 1e3 if "nginx" in alone else None

"""Medians, ratios and tables."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median

__all__ = ["amount", "machine", "percentile", "ratio", "table"]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median of the ratios, taken round by round: what disturbs a round disturbs both of its numbers."""
    return median([value / other if other else math.inf for value, other in zip(values, reference, strict=True)])


def amount(value: float) -> str:
    """Write a number with three digits that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, aligned for reading in a terminal, too."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([f"\n### {title}\n", *texts])


def machine() -> str:
    """Say what this was measured on."""
    load = os.getloadavg()[0]
    names = ("keypool-asgi", "uvicorn", "httptools", "uvloop", "httpx", "websockets")
    versions = ", ".join(f"{name} {found}" for name in names if (found := _version(name)))
    return (
        f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{len(os.sched_getaffinity(0))} processors, load average {load:.1f} at the start; {versions}"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

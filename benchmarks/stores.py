"""``stores``: small GETs with each way of keeping state (``apps.STORES``), as ratios to memory."""

from __future__ import annotations

from collections.abc import Iterator

from .apps import STORES
from .fleet import Fleet
from .stats import table
from .subjects import Plan, columns, compare, saturated, start

__all__ = ["run"]

_CONNECTIONS = 16


def run(*, quick: bool, profile: bool) -> Iterator[str]:  # noqa: ARG001 - every benchmark is called alike
    """Measure, and give out the table."""
    plan = Plan.quick() if quick else Plan()
    with Fleet() as fleet:
        subjects = start(fleet, [f"store:{name}" for name in STORES])
        subjects = [subject for subject in subjects if subject.name.startswith("store:")]
        saturated(fleet, {_CONNECTIONS: subjects}, plan)
        yield table(
            f"stores: small GETs, {_CONNECTIONS} connections",
            columns("store:memory"),
            compare(subjects, "store:memory"),
        )

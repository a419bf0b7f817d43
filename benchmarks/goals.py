"""Goals: what a figure is to be at most, or at least, and whether this run's is."""

from __future__ import annotations

from typing import NamedTuple

from .stats import amount, table

__all__ = ["Goal", "goals"]


class Goal(NamedTuple):
    """One line of the table. There is no figure where what it compares with is not installed."""

    what: str
    figure: float | None
    limit: float
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """Whether it is reached."""
        if self.figure is None:
            return "not measured"
        return "yes" if (self.figure >= self.limit if self.at_least else self.figure <= self.limit) else "NO"

    @property
    def row(self) -> list[str]:
        """The line."""
        figure = "" if self.figure is None else amount(self.figure)
        return [self.what, figure, f"{'at least' if self.at_least else 'at most'} {self.limit:g}", self.verdict]


def goals(part: str, *lines: Goal) -> str:
    """Return the table that ends a benchmark."""
    return table(f"{part}: goals", ["goal", "figure", "is to be", "reached"], [line.row for line in lines])

"""The operator's price table: what units cost, by operation and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from keypool_asgi.errors import ConfigurationError

from .limits import WINDOWED_UNITS

__all__ = ["NO_PRICES", "Price", "PriceTable", "Prices"]


@dataclass(frozen=True, slots=True)
class Price:
    """``micros`` millionths of the operator's money for every ``per`` units.

    ``Price(210_000, per=3600)`` of a second is 0.21 an hour.

    Raises:
        ConfigurationError: a number is not whole, or out of its range.
    """

    micros: int
    per: int = 1

    def __post_init__(self) -> None:
        for name, least in (("micros", 0), ("per", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(f"Price: {name} must be a whole number of at least {least}, not {value!r}")

    def of(self, amount: int) -> int:
        """What an amount costs, in millionths, rounded up."""
        return -(-amount * self.micros // self.per)


_Row = tuple[str | None, Mapping[str, Price]]

PriceTable = Mapping[str, Mapping[str, Price]]
"""Name or glob of operations, and after an ``@`` of models, to unit to price."""


class Prices:
    """What units cost, for limits of the unit ``"cost"``.

    ::

        Prices({
            "transcripts.create": {"audio_seconds": Price(210_000, per=3600)},
            "llm.chat@claude-*": {"llm_tokens": Price(9)},
            "llm.*": {"llm_tokens": Price(3), "requests": Price(100)},
        })

    Args:
        table: name or glob of operations, and after an ``@`` of models, to unit to price. The first row that fits
            counts. Before the model is known, what can be dearest does.

    Raises:
        ConfigurationError: an unknown unit, or something that is no price.
    """

    def __init__(self, table: PriceTable) -> None:
        self._rows: list[tuple[str, str | None, Mapping[str, Price]]] = []
        for row, prices in table.items():
            _check(row, prices)
            operations, at, models = row.partition("@")
            self._rows.append((operations, models if at else None, dict(prices)))
        self._rows_of: dict[str, Sequence[_Row]] = {}

    def cost(self, operation: str, used: Mapping[str, int], model: str | None = None) -> int:
        """What an operation costs that has used this by unit, in millionths. An unknown model is None."""
        return max((_sum(prices, used) for prices in self._fitting(operation, model)), default=0)

    def has(self, operation: str, units: Iterable[str]) -> bool:
        """Whether any of these units has a price in an operation."""
        units = set(units)
        return any(not units.isdisjoint(prices) for prices in self._fitting(operation, None))

    def _fitting(self, operation: str, model: str | None) -> Iterable[Mapping[str, Price]]:
        for models, prices in self._priced(operation):
            if models is None or (model is not None and fnmatchcase(model, models)):
                yield prices
                return
            if model is None:
                yield prices

    def _priced(self, operation: str) -> Sequence[_Row]:
        """Rows of an operation; of its name alone, so they are looked for once."""
        rows = self._rows_of.get(operation)
        if rows is None:
            rows = [(models, prices) for operations, models, prices in self._rows if fnmatchcase(operation, operations)]
            self._rows_of[operation] = rows
        return rows


def _check(row: str, prices: Mapping[str, Price]) -> None:
    for unit, price in prices.items():
        if unit not in WINDOWED_UNITS or unit == "cost":
            raise ConfigurationError(f"prices[{row!r}]: {unit!r} has no price; {', '.join(WINDOWED_UNITS)} have")
        if not isinstance(price, Price):
            raise ConfigurationError(f"prices[{row!r}][{unit!r}] must be a Price, not {type(price).__name__}")


def _sum(prices: Mapping[str, Price], used: Mapping[str, int]) -> int:
    return sum(price.of(used.get(unit, 0)) for unit, price in prices.items())


NO_PRICES = Prices({})
"""Nothing costs anything."""

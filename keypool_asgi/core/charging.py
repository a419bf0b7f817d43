"""What an exchange is charged: the limits of a team that an operation touches, and what is held of them before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from keypool_asgi.errors import ConfigurationError

from .limits import WINDOWED_UNITS, Charge, Limit
from .metering import Figures, Metering, job_in
from .operations import SOCKET, Operation
from .prices import NO_PRICES, Prices
from .rate_fields import RateFields

__all__ = ["NOTHING_METERED", "Estimates", "Plan", "Tariff", "subject_of"]

NOTHING_METERED = Metering()

Estimates = Mapping[str, Mapping[str, int]]
"""Name or glob of operations to unit to what is held of it while the figure is unknown."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one operation of one team is charged.

    Attributes:
        team: whose plan it is.
        operation: name of the operation.
        metering: what the operation uses up.
        limits: every limit that it touches, as charges of one unit; for asking how they stand.
        held: what is held from the beginning to the end of the exchange.
        job: what is held until the figure of the job is known that the exchange begins.
        body: limits that the bytes of the request body count against, as charges of one byte.
        session: limits that a session's seconds count against, as charges of one second; those on cost among them.
        settles: units whose figure the answer of this operation has.
        finishes: whether the answer may have the figure of a job that one of the limits counts.
        wanted: what is looked for in the body of the answer, None for nothing.
        fixed: whether the exchange itself is settled as it is held, whatever passes by.
        rate_fields: says how the limits stand.
    """

    team: object
    operation: str
    metering: Metering
    limits: tuple[Charge, ...]
    held: tuple[Charge, ...]
    job: tuple[Charge, ...]
    body: tuple[Charge, ...]
    session: tuple[Charge, ...]
    settles: frozenset[str]
    finishes: bool
    wanted: Figures | None = field(init=False)
    fixed: bool = field(init=False)
    rate_fields: RateFields = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        later = self.job or self.body or self.session or self.settles
        object.__setattr__(self, "wanted", self._wanted())
        object.__setattr__(self, "fixed", not later and self.metering.lasts is None)
        object.__setattr__(self, "rate_fields", RateFields({one.slot: one.limit for one in self.limits}))

    def _wanted(self) -> Figures | None:
        if self.job and self.metering.begins is not None:
            return job_in(self.metering.begins)
        return self.metering.figures if self.settles or self.finishes else None


class Tariff:
    """How exchanges are charged.

    Args:
        metering: operation to what it uses up.
        prices: what that costs.
        estimates: what is held of a unit while its figure is unknown. Where there is none, 1: a limit that is used up
            refuses then, one that is not lets pass, and what is used beyond it is owed.

    Raises:
        ConfigurationError: an estimate for something that is not used up, or that is not a whole number of at least 1.
    """

    def __init__(
        self,
        metering: Mapping[str, Metering] | None = None,
        *,
        prices: Prices = NO_PRICES,
        estimates: Estimates | None = None,
    ) -> None:
        self.metering = metering or {}
        self.prices = prices
        self._estimates = {row: dict(units) for row, units in (estimates or {}).items()}
        for row, units in self._estimates.items():
            for unit, amount in units.items():
                if unit not in WINDOWED_UNITS or isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
                    raise ConfigurationError(f"estimates[{row!r}]: {unit!r}: {amount!r} is no estimate")

    def plan(
        self, team: object, subject: str, limits: Sequence[Limit], operation: Operation, *, shared: bool = False
    ) -> Plan:
        """Make the plan of an operation for whom these limits count.

        Args:
            team: whose plan it is.
            subject: whom its limits count.
            limits: the limits.
            operation: what is planned.
            shared: whether its answer may be about another team's job.
        """
        name = operation.name
        metering = self.metering.get(name, NOTHING_METERED)
        held: list[Charge] = []
        job: list[Charge] = []
        body: list[Charge] = []
        session: list[Charge] = []
        for limit in limits:
            if not _counts(limit, name):
                continue
            if _is_of_every(limit, operation):
                held.append(Charge(subject, limit))
            elif limit.unit in metering.units:
                amount = self.estimate(name, limit.unit)
                (job if metering.begins else held).append(Charge(subject, limit, amount))
            elif limit.unit == metering.body:
                body.append(Charge(subject, limit))
            elif limit.unit == metering.session:
                session.append(Charge(subject, limit))
            elif limit.unit == "cost":
                self._plan_cost(Charge(subject, limit), name, metering, (held, job, session))
        touched = [Charge(one.subject, one.limit) for one in (*held, *job, *body, *session)]
        settles = frozenset(charge.limit.unit for charge in held) & {*metering.units, "cost"}
        return Plan(
            team=team,
            operation=name,
            metering=metering,
            limits=tuple(touched),
            held=tuple(held),
            job=tuple(job),
            body=tuple(body),
            session=tuple(session),
            settles=settles,
            finishes=self._finishes(metering, limits) or (shared and metering.ends is not None),
        )

    def _finishes(self, metering: Metering, limits: Iterable[Limit]) -> bool:
        begun = self.metering.get(metering.begun_by)
        if begun is None:
            return False
        priced = ("cost",) if self.prices.has(metering.begun_by, WINDOWED_UNITS) else ()
        return any(limit.unit in (*begun.units, *priced) and _counts(limit, metering.begun_by) for limit in limits)

    def _plan_cost(
        self, charge: Charge, name: str, metering: Metering, places: tuple[list[Charge], list[Charge], list[Charge]]
    ) -> None:
        held, job, session = places
        if metering.session is not None:
            if self.prices.has(name, (metering.session,)):
                session.append(charge)
        elif self.prices.has(name, WINDOWED_UNITS):
            expected = {unit: self.estimate(name, unit) for unit in metering.units}
            cost = self.prices.cost(name, {"requests": 1, **expected})
            (job if metering.begins else held).append(Charge(charge.subject, charge.limit, max(1, cost)))

    def estimate(self, operation: str, unit: str) -> int:
        """What is held of a unit while its figure is unknown."""
        for row, units in self._estimates.items():
            if unit in units and fnmatchcase(operation, row):
                return units[unit]
        return 1

    def used(self, operation: str, figures: Mapping[str, int], model: str | None = None) -> dict[str, int]:
        """What to settle by: the figures of one exchange or job, and what they cost."""
        return {**figures, "cost": self.prices.cost(operation, {"requests": 1, **figures}, model)}


def subject_of(kind: str, name: str) -> str:
    """Whom limits count: a ``"team"``, a ``"key"`` or an ``"account"`` of this name."""
    return f"{kind}:{name}"


def _is_of_every(limit: Limit, operation: Operation) -> bool:
    """Whether every such operation uses one of the limit's unit."""
    return limit.unit in ("requests", "concurrency") or (limit.unit == "streams" and operation.method == SOCKET)


def _counts(limit: Limit, operation: str) -> bool:
    return limit.operations is None or any(fnmatchcase(operation, pattern) for pattern in limit.operations)

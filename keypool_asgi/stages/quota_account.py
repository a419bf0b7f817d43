"""What one exchange holds: its permits, and settling them when it is over.

An exchange may hold several permits: ``<request id>`` from its beginning to its end; ``<request id>/job`` until the
job that it begins has an id of its own; ``<request id>/2`` and so on for each further part of a quantity that is
admitted step by step, such as the next half minute of a session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from keypool_asgi.core.charging import Plan, Tariff
from keypool_asgi.core.limits import Charge, Denial
from keypool_asgi.errors import Refusal
from keypool_asgi.ports import QuotaKeeper

from .ticker import Ticker

__all__ = ["Account", "Parts", "job_permit"]


def job_permit(operation: str, job_id: str) -> str:
    """The permit of a job that an operation has begun."""
    return f"{operation}:{job_id}"


class Parts:
    """A quantity that is held by several permits, one after the other.

    Attributes:
        unit: what is counted.
        admitted: how much of it has been held so far.
        last: number of the last part; the first one is the exchange's own permit.
    """

    def __init__(self, unit: str, admitted: int) -> None:
        self.unit = unit
        self.admitted = admitted
        self.last = 1
        self._open: list[tuple[int, int]] = [(1, admitted)]

    def add(self, amount: int) -> None:
        """Note the next part."""
        self.last += 1
        self.admitted += amount
        self._open.append((self.last, amount))

    def passed(self) -> list[int]:
        """Take out the parts between the first and the last one, which are used up."""
        passed = [number for number, _ in self._open[1:-1]]
        del self._open[1:-1]
        return passed

    def shares(self, total: int) -> list[tuple[int, int]]:
        """Share out what was used among the parts that are open; what is beyond all of them is the last one's."""
        settled = self.admitted - sum(amount for _, amount in self._open)
        left = max(0, total - settled)
        shares = []
        for number, amount in self._open:
            shares.append((number, min(left, amount)))
            left -= shares[-1][1]
        number, share = shares.pop()
        return [*shares, (number, share + left)]


class Account:
    """The permits of one exchange.

    Args:
        quotas: the store.
        tariff: what things cost.
        plan: what the exchange is charged.
        permit_id: the exchange's own permit.
        renewing: keeps open permits alive.

    Attributes:
        denial: the last one.
        parts: what is admitted step by step, if anything is.
    """

    __slots__ = ("_open", "_quotas", "_renewing", "denial", "parts", "permit_id", "plan", "tariff")

    def __init__(self, quotas: QuotaKeeper, tariff: Tariff, plan: Plan, permit_id: str, renewing: Ticker[str]) -> None:
        self._quotas = quotas
        self._renewing = renewing
        self._open: list[str] = []
        self.tariff = tariff
        self.plan = plan
        self.permit_id = permit_id
        self.denial: Denial | None = None
        self.parts: Parts | None = None

    @property
    def job(self) -> str:
        """The permit for what the exchange's job may cost."""
        return f"{self.permit_id}/job"

    async def reserve(self, charges: Sequence[Charge], permit_id: str | None = None) -> bool:
        """Hold charges under a permit, the exchange's own by default. Returns whether they fit.

        Raises:
            StoreUnavailable: nobody can say.
        """
        permit_id = permit_id or self.permit_id
        # Before it is held: if this task is cancelled meanwhile, nobody knows whether it is, and it must be ended.
        self._open.append(permit_id)
        self._renewing.add(permit_id)
        denial = self.denial = await self._quotas.reserve(permit_id, charges)
        if denial is None:
            return True
        self._forget(permit_id)
        return False

    async def reserve_part(self, charges: Iterable[Charge], amounts: Iterable[int]) -> bool:
        """Hold the next part: as much as fits of these amounts, tried in turn.

        Args:
            charges: of one unit each; those on cost are held for what the amount costs.
            amounts: what to try.
        """
        parts = self.parts
        if parts is None:
            return False
        for amount in amounts:
            if await self.reserve(self.of_amount(charges, parts.unit, amount), self._part(parts.last + 1)):
                parts.add(amount)
                return True
        return False

    def of_amount(self, charges: Iterable[Charge], unit: str, amount: int) -> list[Charge]:
        """Charges of one unit made into charges of an amount; those on cost, of what that costs."""
        cost = self.tariff.prices.cost(self.plan.operation, {unit: amount})
        return [Charge(one.subject, one.limit, amount if one.limit.unit == unit else cost) for one in charges]

    async def settle_passed(self) -> None:
        """Settle the parts that are used up, so that a long session does not hold ever more permits."""
        if self.parts is not None:
            for number in self.parts.passed():
                await self.settle(self._part(number), {})

    async def hand_over(self, new_id: str, ttl_seconds: float) -> None:
        """Let what the job may cost be held under the job's own name."""
        if self.job in self._open:
            await self._quotas.rename(self.job, new_id, ttl_seconds)
            self._forget(self.job)

    async def settle(self, permit_id: str, used: Mapping[str, int]) -> None:
        """Settle one permit, if it is open. A store that fails has logged it; the permit then expires by itself."""
        if permit_id in self._open:
            self._forget(permit_id)
            try:
                await self._quotas.settle(permit_id, used)
            except Refusal:
                return

    async def release(self) -> None:
        """End every permit as if nothing had been used."""
        while self._open:
            permit_id = self._open[-1]
            self._forget(permit_id)
            try:
                await self._quotas.release(permit_id)
            except Refusal:
                continue  # logged, and it expires by itself

    async def settle_all(self, used: Mapping[str, int], total: int = 0) -> None:
        """End every permit by what was used.

        Args:
            used: by the exchange's own permit, beside its part.
            total: how much was used of what was admitted in parts.
        """
        if self.parts is not None:
            for number, share in self.parts.shares(total):
                if number > 1:
                    await self.settle(self._part(number), self._of_part(share))
                else:
                    used = self._with_part(used, share)
        await self.settle(self.permit_id, used)
        while self._open:
            await self.settle(self._open[0], {})

    def _with_part(self, used: Mapping[str, int], share: int) -> dict[str, int]:
        part = self._of_part(share)
        if "cost" in part:
            part["cost"] += used.get("cost", 0)
        return {**used, **part}

    def _of_part(self, share: int) -> dict[str, int]:
        unit = self.parts.unit if self.parts is not None else ""
        if not self.plan.session:
            return {unit: share}
        return {unit: share, "cost": self.tariff.prices.cost(self.plan.operation, {unit: share})}

    def _part(self, number: int) -> str:
        return f"{self.permit_id}/{number}"

    def _forget(self, permit_id: str) -> None:
        self._open.remove(permit_id)
        self._renewing.discard(permit_id)

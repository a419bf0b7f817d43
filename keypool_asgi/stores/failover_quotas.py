"""What becomes of reservations while the quota store cannot be reached, if the operator wants more than a refusal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

from keypool_asgi.core.limits import Charge, Denial, Limit
from keypool_asgi.core.reservations import Levels
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.ports import QuotaKeeper

from .quotas import MemoryQuotas
from .resources import BuiltIn

__all__ = ["FailoverQuotas", "OnStoreFailure", "with_failover"]

log = logging.getLogger("keypool_asgi.stores")

OnStoreFailure = Literal["refuse", "allow", "share"]
"""What becomes of a reservation while the store cannot be reached.

- ``"refuse"``: 503, the default (invariant I9).
- ``"allow"``: everything is admitted, and nothing of it is ever counted.
- ``"share"``: this process counts by itself, against a share of each limit. With a share of one n-th, n processes
  together admit what the limits say; what was used before the failure is not known to them.
"""


class FailoverQuotas(BuiltIn):
    """A store that is stood in for while it fails.

    It is tried again every ``retry_seconds``; the reservations in between do not wait for it. What was admitted without
    it is settled without it. Each change is logged once.

    Args:
        store: the store.
        share: part of each limit that this process may admit meanwhile, at least 1 unit. None: all is admitted.
        retry_seconds: how long the store is left alone after it failed.
        clock: monotonic seconds.

    Attributes:
        failing: whether the store failed when it was tried last.
        unchecked: reservations so far that were decided without the store.

    Raises:
        ConfigurationError: ``share`` is not above 0 and at most 1.
    """

    def __init__(
        self,
        store: QuotaKeeper,
        *,
        share: float | None = None,
        retry_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if share is not None and not 0 < share <= 1:
            raise ConfigurationError(f"quota_share must be above 0 and at most 1, not {share!r}")
        self.failing = False
        self.unchecked = 0
        self._store = store
        self._share = share
        self._here = MemoryQuotas()
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._retry_at = 0.0

    def __repr__(self) -> str:
        return f"<FailoverQuotas: {self._store!r}, {'failing' if self.failing else 'well'}>"

    async def reserve(self, permit_id: str, charges: Sequence[Charge]) -> Denial | None:
        """Hold every charge or none of them: in the store, or here while it fails."""
        if self.failing and self._clock() < self._retry_at:
            return await self._stand_in(permit_id, charges)
        try:
            outcome = await self._store.reserve(permit_id, charges)
        except StoreUnavailable:
            self._fail()
            return await self._stand_in(permit_id, charges)
        self._recover()
        return outcome

    async def renew(self, permit_id: str) -> bool:
        """Prolong the life of a permit; False when it is not held any more."""
        return await self._here.renew(permit_id) or await self._store.renew(permit_id)

    async def settle(self, permit_id: str, used: Mapping[str, int]) -> None:
        """End a permit by what was used, by unit."""
        await (self._here if await self._here.renew(permit_id) else self._store).settle(permit_id, used)

    async def release(self, permit_id: str) -> None:
        """End a permit as if it had never been."""
        await (self._here if await self._here.renew(permit_id) else self._store).release(permit_id)

    async def rename(self, permit_id: str, new_id: str, ttl_seconds: float) -> bool:
        """Let a permit live on under another id."""
        if await self._here.rename(permit_id, new_id, ttl_seconds):
            return True
        return await self._store.rename(permit_id, new_id, ttl_seconds)

    async def levels(self, charges: Sequence[Charge]) -> Levels:
        """Return how the limits of these charges stand; while the store fails, as this process saw them last."""
        try:
            return await self._store.levels(charges)
        except StoreUnavailable:
            self._fail()
            return self._store.seen(charges)

    def seen(self, charges: Sequence[Charge]) -> Levels:
        """Return the same as this process saw them last."""
        return self._store.seen(charges)

    async def _stand_in(self, permit_id: str, charges: Sequence[Charge]) -> Denial | None:
        self.unchecked += 1
        if self._share is None:
            return None
        mine = [Charge(one.subject, _part(one.limit, self._share), one.amount) for one in charges]
        denial = await self._here.reserve(permit_id, mine)
        if denial is None:
            return None
        whole = next(one for one in charges if _part(one.limit, self._share) == denial.charge.limit)
        return Denial(whole, denial.retry_after)

    def _fail(self) -> None:
        self._retry_at = self._clock() + self._retry_seconds
        if not self.failing:
            self.failing = True
            meanwhile = (
                "everything is admitted" if self._share is None else f"{self._share:.3g} of each limit holds here"
            )
            log.error("quotas: the store cannot be reached; until it can, %s", meanwhile)

    def _recover(self) -> None:
        if self.failing:
            self.failing = False
            log.warning("quotas: the store is back; %d reservations were decided without it so far", self.unchecked)


def with_failover(store: QuotaKeeper, on_store_failure: OnStoreFailure, share: float | None = None) -> QuotaKeeper:
    """Return a store that does what the operator wants while it cannot be reached.

    Args:
        store: the store.
        on_store_failure: what to do.
        share: for ``"share"``: the part of each limit that one process may admit, such as one by their number.

    Raises:
        ConfigurationError: an unknown word, or a share that is missing, out of its range, or not asked for.
    """
    if on_store_failure not in ("refuse", "allow", "share"):
        raise ConfigurationError(f"on_store_failure must be 'refuse', 'allow' or 'share', not {on_store_failure!r}")
    if (share is not None) != (on_store_failure == "share"):
        raise ConfigurationError("quota_share goes with on_store_failure='share': 1/n for each of n processes")
    return store if on_store_failure == "refuse" else FailoverQuotas(store, share=share)


@lru_cache(maxsize=4096)
def _part(limit: Limit, share: float) -> Limit:
    """A limit of which only a part is this process's."""
    unit, amount, per, time_zone, operations = limit.spec
    return Limit(unit, max(1, int(amount * share)), per, time_zone=time_zone, operations=operations)

"""Limits of keys and accounts: a pool that passes over a key whose limit is used up, before upstream says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from secrets import token_hex

from keypool_asgi.core.charging import subject_of
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.limits import Charge, Denial, Limit
from keypool_asgi.core.selection import Need
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import ConfigurationError, NoAvailableKeys, Refusal
from keypool_asgi.ports import Lease, LeasingPool, QuotaKeeper

from .ticker import Ticker, renewing

__all__ = ["LimitedPool", "LimitsByName"]

LimitsByName = Mapping[str, Iterable[Limit]]
"""Name or glob of keys, or of accounts, to their limits. All rows that fit hold together."""

_UNRELATED = Verdict(Fault.UNRELATED)
_UNITS = ("requests", "concurrency")


class LimitedPool:
    """A pool whose keys and accounts have limits of the operator's own: ``requests`` and ``concurrency``.

    Each lease is a permit. It counts one request when the lease comes back, whatever has come of it: only upstream
    knows what it counts. Where no key is left, the refusal says when the first limit frees.

    Args:
        pool: where keys are leased.
        quotas: the store that counts.
        keys: limits by ``UpstreamKey.id``.
        accounts: limits by ``UpstreamKey.account``: what AssemblyAI limits.
        renew_seconds: how often open permits are prolonged.

    Raises:
        ConfigurationError: a limit of another unit, or of some operations only.
    """

    def __init__(
        self,
        pool: LeasingPool,
        *,
        quotas: QuotaKeeper,
        keys: LimitsByName | None = None,
        accounts: LimitsByName | None = None,
        renew_seconds: float = 20.0,
    ) -> None:
        self._pool = pool
        self._quotas = quotas
        self._rows = {"key": _checked("key_limits", keys or {}), "account": _checked("account_limits", accounts or {})}
        self._charges: dict[tuple[str, str], tuple[Charge, ...]] = {}
        self._permits: dict[Lease, str] = {}
        self._renewing: Ticker[str] = renewing(quotas, renew_seconds)

    async def lease(self, need: Need) -> Lease:
        """Check out the best key for ``need`` whose limits, and whose account's, have room.

        Raises:
            NoAvailableKeys: no key can serve; ``retry_after`` is when the first one can.
            StoreUnavailable: the keys could not be loaded, or nobody can say what they have left.
        """
        denials: list[Denial] = []
        while True:
            try:
                lease = await self._pool.lease(need)
            except NoAvailableKeys as refusal:
                raise _sooner(refusal, denials) from None
            denial = await self._reserve(lease)
            if denial is None:
                return lease
            denials.append(denial)
            need = replace(need, tried=need.tried | {lease.key.id})

    async def give_back(self, lease: Lease, verdict: Verdict) -> None:
        """Take a key back, and what it occupied of its limits. Repeating it changes nothing."""
        permit_id = self._permits.pop(lease, None)
        try:
            await self._pool.give_back(lease, verdict)
        finally:
            if permit_id is not None:
                self._renewing.discard(permit_id)
                with suppress(Refusal):  # the store has logged it; the permit then expires by itself
                    await self._quotas.settle(permit_id, {})

    def judge(self, lease: Lease, verdict: Verdict) -> None:
        """Say what an attempt tells about its key before it comes back."""
        self._pool.judge(lease, verdict)

    def projects(self) -> Sequence[str]:
        """The projects of the keys that are listed now."""
        return self._pool.projects()

    async def _reserve(self, lease: Lease) -> Denial | None:
        """Hold what the lease counts; it goes back at once where that does not fit, or nobody can say."""
        charges = self._charges_of(lease.key)
        if not charges:
            return None
        permit_id = f"lease:{token_hex(8)}"
        self._permits[lease] = permit_id
        self._renewing.add(permit_id)
        try:
            denial = await self._quotas.reserve(permit_id, charges)
        except BaseException:
            await self.give_back(lease, _UNRELATED)
            raise
        if denial is not None:
            await self.give_back(lease, _UNRELATED)
        return denial

    def _charges_of(self, key: UpstreamKey) -> tuple[Charge, ...]:
        known = self._charges.get((key.id, key.account))
        if known is None:
            known = tuple(
                Charge(subject_of(kind, name), limit)
                for kind, name in (("key", key.id), ("account", key.account))
                for limit in dict.fromkeys(
                    one for row, some in self._rows[kind].items() if fnmatchcase(name, row) for one in some
                )
            )
            self._charges[key.id, key.account] = known
        return known


def _checked(setting: str, rows: LimitsByName) -> dict[str, tuple[Limit, ...]]:
    checked = {name: tuple(limits) for name, limits in rows.items()}
    for name, limits in checked.items():
        for limit in limits:
            if limit.unit not in _UNITS or limit.operations is not None:
                raise ConfigurationError(
                    f"{setting}[{name!r}]: a key or an account has limits of {' and '.join(_UNITS)}, for all operations"
                )
    return checked


def _sooner(refusal: NoAvailableKeys, denials: Sequence[Denial]) -> NoAvailableKeys:
    """The refusal, with the soonest time at which a key can serve: one that is down, or one whose limit frees.

    To the pool, a key that was passed over here could serve at once; that 0 says nothing.
    """
    waits = [denial.retry_after for denial in denials if denial.retry_after is not None]
    if refusal.retry_after:
        waits.append(refusal.retry_after)
    return NoAvailableKeys(refusal.sentence, retry_after=min(waits, default=None)) if denials else refusal

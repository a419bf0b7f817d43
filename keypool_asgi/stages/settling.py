"""Settling jobs: what a job has used is known when it is done, and then it counts once, whoever finds it out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from keypool_asgi.core.charging import Tariff
from keypool_asgi.core.metering import Metering
from keypool_asgi.core.ownership import decoded_json
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.resources import Ref, Resource
from keypool_asgi.core.usage import picked
from keypool_asgi.errors import Refusal
from keypool_asgi.ports import QuotaKeeper

from .asking import Asker, Reply
from .bookkeeping import Bookkeeper, Settlement
from .quota_account import job_permit

__all__ = ["JobDesk", "JobKind"]


@dataclass(frozen=True, slots=True)
class JobKind:
    """A kind of resource that is a job.

    Attributes:
        read: operation that says how it stands, and what it has used once it is done.
        parameter: path parameter of that operation with its id.
        metering: what that operation says about it.
    """

    read: str
    parameter: str
    metering: Metering


class JobDesk:
    """Finds out what jobs have used, and settles them: in the account, and the permit of what they may use.

    Args:
        provider: which resources are jobs, and how to ask for them.
        tariff: what jobs use up, and what that costs.
        asker: asks upstream.
        books: the account.
        quotas: where the permits of jobs are; None when nothing is held for them.
        clock: Unix time in seconds.

    Attributes:
        kinds: kind of resource to what is known of such jobs.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        tariff: Tariff,
        asker: Asker,
        books: Bookkeeper,
        quotas: QuotaKeeper | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.provider = provider
        self.asker = asker
        self.books = books
        self._tariff = tariff
        self._quotas = quotas
        self._clock = clock
        self.kinds: dict[str, JobKind] = {}
        for kind, (read, parameter) in provider.resources.safe_reads.items():
            metering = tariff.metering.get(read)
            if metering is not None and metering.ends is not None and metering.figures is not None:
                self.kinds[kind] = JobKind(read, parameter, metering)

    def name(self, ref: Ref) -> str:
        """Return the name of a job: of its permit, and of the record of its beginning."""
        return job_permit(self.kinds[ref.kind].metering.begun_by, ref.id)

    async def ask(self, job: Resource) -> Reply:
        """Ask upstream how a job stands, on a key of its own project.

        Raises:
            NoAvailableKeys: no key of the project can serve.
            UpstreamError: upstream failed.
        """
        kind = self.kinds[job.ref.kind]
        return await self.asker.ask(kind.read, job.project, {kind.parameter: job.ref.id})

    async def settle_by(self, job: Resource, reply: Reply, request_id: str) -> Mapping[str, Any] | None:
        """Settle a job by what upstream answers about it.

        Returns:
            Upstream's object when the job is done, else None.
        """
        found = decoded_json(reply.headers, reply.body) if reply.status == 200 else None
        if found is None or not await self.settle_found(job, found, request_id):
            return None
        return found

    async def settle_found(self, job: Resource, found: Mapping[str, Any], request_id: str) -> bool:
        """Settle a job by upstream's object, if that says that it is done. Returns whether it does."""
        figures = self.kinds[job.ref.kind].metering.figures
        if figures is None:
            return False
        members = picked(found, figures.members)
        used = figures.used(members)
        if used is None:
            return False
        await self.settle(job, used, request_id, model=figures.model(members))
        return True

    async def settle(
        self,
        job: Resource,
        figures: Mapping[str, int],
        request_id: str,
        *,
        model: str | None = None,
        estimated: bool = False,
        ends_permit: bool = True,
    ) -> None:
        """Settle a job by its figures, in the account and, unless somebody else does that, in the quota."""
        metering = self.kinds[job.ref.kind].metering
        name, used = self.name(job.ref), self._tariff.used(metering.begun_by, figures, model)
        self.books.settle(
            Settlement(
                job=name,
                operation=metering.begun_by,
                used={unit: amount for unit, amount in used.items() if amount or unit != "cost"},
                request_id=request_id,
                team=job.team,
                project=job.project,
                at=self._clock(),
                estimated=estimated,
            )
        )
        if self._quotas is not None and ends_permit:
            with suppress(Refusal):  # the store has logged it; the permit then expires by itself
                await self._quotas.settle(name, used)

    def nothing(self, kind: str) -> dict[str, int]:
        """Return the figures of a job of this kind that has used nothing."""
        begun = self._tariff.metering.get(self.kinds[kind].metering.begun_by)
        return dict.fromkeys(begun.units, 0) if begun is not None else {}

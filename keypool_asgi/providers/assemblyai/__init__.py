"""Everything that is AssemblyAI's own: endpoints, hosts, what its answers say about a key, its links."""

from __future__ import annotations

from keypool_asgi.core.operations import OperationTable
from keypool_asgi.core.provider import Provider

from .answers import SUSPICIOUS, judge
from .hosts import ORIGINS
from .lists import LIST_RULES
from .metering import METERING
from .minting import MINT_RULES
from .operations import OPERATIONS
from .resources import RESOURCE_RULES
from .sessions import SESSION_RULES

__all__ = ["ASSEMBLYAI"]

ASSEMBLYAI = Provider(
    name="assemblyai",
    table=OperationTable(OPERATIONS),
    origins=ORIGINS,
    suspicious=SUSPICIOUS,
    judge=judge,
    resources=RESOURCE_RULES,
    lists=LIST_RULES,
    metering=METERING,
    minting=MINT_RULES,
    sessions=SESSION_RULES,
)

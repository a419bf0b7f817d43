"""Everything that is AssemblyAI's own: endpoints, hosts, what its answers say about a key, its links."""

from __future__ import annotations

from keypool_asgi.core.operations import OperationTable
from keypool_asgi.core.provider import Provider
from .answers import SUSPICIOUS, judge
from .hosts import ORIGINS
from .links import rewrite_links
from .operations import OPERATIONS

__all__ = ["ASSEMBLYAI"]

ASSEMBLYAI = Provider("assemblyai", OperationTable(OPERATIONS), ORIGINS, SUSPICIOUS, judge, rewrite_links)

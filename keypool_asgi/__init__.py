"""A pool of AssemblyAI keys behind team tokens, inside any ASGI app."""

from __future__ import annotations

from keypool_asgi.core.health import HealthPolicy
from keypool_asgi.core.keys import Secret, UpstreamKey
from keypool_asgi.core.limits import Charge, Denial, Limit
from keypool_asgi.core.teams import Team
from keypool_asgi.errors import ConfigurationError, KeyPoolError, Refusal
from keypool_asgi.stack import KeyPool, KeyPoolMiddleware
from keypool_asgi.stages.intercept import ExchangeRecord
from keypool_asgi.stores.quotas import QuotaCallbacks
from keypool_asgi.upstream import Timeouts

__all__ = [
    "Charge",
    "ConfigurationError",
    "Denial",
    "ExchangeRecord",
    "HealthPolicy",
    "KeyPool",
    "KeyPoolError",
    "KeyPoolMiddleware",
    "Limit",
    "QuotaCallbacks",
    "Refusal",
    "Secret",
    "Team",
    "Timeouts",
    "UpstreamKey",
]

"""A pool of AssemblyAI keys behind team tokens, inside any ASGI app.

The public names are imported when they are first used: ``import keypool_asgi`` alone costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keypool_asgi.core.health import HealthPolicy
    from keypool_asgi.core.keys import Secret, UpstreamKey
    from keypool_asgi.core.limits import Charge, Denial, Limit
    from keypool_asgi.core.prices import Price
    from keypool_asgi.core.resources import Page, Ref, Resource
    from keypool_asgi.core.sessions import SessionLimits
    from keypool_asgi.core.teams import Team
    from keypool_asgi.core.usage import UsageRecord, UsageSum
    from keypool_asgi.errors import ConfigurationError, KeyPoolError, Refusal
    from keypool_asgi.stack import KeyPool, KeyPoolMiddleware
    from keypool_asgi.stages.intercept import ExchangeRecord
    from keypool_asgi.stores.quotas import QuotaCallbacks
    from keypool_asgi.stores.resources import ResourceCallbacks
    from keypool_asgi.stores.teams import TokenDigest
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
    "Page",
    "Price",
    "QuotaCallbacks",
    "Ref",
    "Refusal",
    "Resource",
    "ResourceCallbacks",
    "Secret",
    "SessionLimits",
    "Team",
    "Timeouts",
    "TokenDigest",
    "UpstreamKey",
    "UsageRecord",
    "UsageSum",
]

_HOMES = {
    "keypool_asgi.core.health": ("HealthPolicy",),
    "keypool_asgi.core.keys": ("Secret", "UpstreamKey"),
    "keypool_asgi.core.limits": ("Charge", "Denial", "Limit"),
    "keypool_asgi.core.prices": ("Price",),
    "keypool_asgi.core.resources": ("Page", "Ref", "Resource"),
    "keypool_asgi.core.sessions": ("SessionLimits",),
    "keypool_asgi.core.teams": ("Team",),
    "keypool_asgi.core.usage": ("UsageRecord", "UsageSum"),
    "keypool_asgi.errors": ("ConfigurationError", "KeyPoolError", "Refusal"),
    "keypool_asgi.stack": ("KeyPool", "KeyPoolMiddleware"),
    "keypool_asgi.stages.intercept": ("ExchangeRecord",),
    "keypool_asgi.stores.quotas": ("QuotaCallbacks",),
    "keypool_asgi.stores.resources": ("ResourceCallbacks",),
    "keypool_asgi.stores.teams": ("TokenDigest",),
    "keypool_asgi.upstream": ("Timeouts",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

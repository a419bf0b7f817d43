"""What several processes, of several machines, share: owners, quota and the health of keys in one Redis server.

Needs the extra: ``pip install 'keypool-asgi[redis]'``. redis-py is imported when a ``RedisServer`` is made.

Every decision is one Lua script, so that it is one step for all processes, by the server's clock. All keys of one
decision have one hash tag, so that they lie in one slot of a cluster.
"""

from __future__ import annotations

from .health import RedisHealthBoard
from .ledger import RedisLedger
from .quotas import RedisQuotas
from .resources import RedisResources
from .server import RedisServer
from .state import RedisState

__all__ = ["RedisHealthBoard", "RedisLedger", "RedisQuotas", "RedisResources", "RedisServer", "RedisState"]

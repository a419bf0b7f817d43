"""A Litestar app with the pool mounted at ``/v1/assemblyai``.

::

    export ASSEMBLYAI_KEYS="prod-1=... prod-2=..." TEAM_TOKENS="research=..."
    uvicorn --factory examples.litestar_app.app:create_app

Mount the pool, or wrap the whole app (``KeyPoolMiddleware(Litestar(...), ...)``). Litestar's own ``middleware=[...]``
cannot hold it: Litestar runs those behind its router, so they never see a path that has no route.

The pool's operations are in the app's own OpenAPI document, ``/schema/openapi.json``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, asgi, get

from keypool_asgi import KeyPool, Limit, Team, UpstreamKey
from keypool_asgi.reference.litestar import PoolOpenAPIConfig

__all__ = ["create_app"]

LIMITS = [Limit("requests", 600, per="minute"), Limit("concurrency", 20)]


@get("/", sync_to_thread=False)
def index() -> dict[str, str]:
    return {"service": "call archive"}


def create_app(**settings: Any) -> Litestar:
    """Build the app.

    Args:
        settings: of ``KeyPool``; they go before the environment. ``ASSEMBLYAI_KEYS`` is ``id=secret`` for each key of
            one project, ``TEAM_TOKENS`` is ``team=token`` for each team, both separated by spaces.
    """
    pool = KeyPool(**(_environment() | settings))

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        # A mounted app is sent no lifespan of its own, so its host ends it.
        yield
        await pool.drain()
        await pool.aclose()

    mounted = asgi("/v1/assemblyai", is_mount=True, copy_scope=True)(pool)
    openapi = PoolOpenAPIConfig(title="Call archive", version="1")
    return Litestar([index, mounted], lifespan=[lifespan], openapi_config=openapi, logging_config=None)


def _environment() -> dict[str, Any]:
    keys = [UpstreamKey(id_, secret, project="prod") for id_, secret in _pairs("ASSEMBLYAI_KEYS")]
    return {"keys": keys, "teams": {token: Team(team, limits=LIMITS) for team, token in _pairs("TEAM_TOKENS")}}


def _pairs(variable: str) -> list[tuple[str, str]]:
    """Read ``name=value`` pairs, separated by spaces."""
    pairs = [pair.partition("=") for pair in os.environ.get(variable, "").split()]
    return [(name, value) for name, _, value in pairs]

"""The notes service with the pool around it.

::

    export KEYPOOL_PEPPER=... KEYPOOL_STATE=sqlite:///keypool-state.db
    python -m examples.fastapi_app.manage init
    uvicorn --factory examples.fastapi_app.app:create_app

Every request below ``/v1/assemblyai`` is the pool's; every other one is the notes service's, as before. The page
``/live/`` transcribes while somebody speaks, with a session of the pool's. ``/v1/assemblyai/reference`` describes the
pool's operations and tries them out, where the extra ``reference`` is installed; they are in ``/openapi.json`` as well.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from keypool_asgi import KeyPoolMiddleware
from keypool_asgi.reference import with_pool

from . import notes
from .store import Store

__all__ = ["create_app"]

LIVE_PAGE = Path(__file__).parent / "live"


def create_app(store: Store | None = None, **settings: Any) -> FastAPI:
    """Build the app.

    Args:
        store: where the keys and teams are. None: the file that ``KEYPOOL_DB`` names (``keypool.db``), with the pepper
            in ``KEYPOOL_PEPPER``.
        settings: of ``KeyPoolMiddleware``, beside ``keys`` and ``teams``. They go before the environment:
            ``KEYPOOL_TTL_SECONDS`` is how old the keys and teams may become before the file is asked again (60),
            ``KEYPOOL_STATE`` is where the owners of uploads and transcripts outlive a restart (unset: nowhere), and
            ``KEYPOOL_API_ORIGIN`` is another base URL than AssemblyAI's, such as a simulator's.
    """
    store = store or Store.from_environment()
    app = FastAPI(title="Meeting notes")
    app.state.book = notes.Book()
    app.include_router(notes.router)
    app.openapi = with_pool(app.openapi)
    app.mount("/live", StaticFiles(directory=LIVE_PAGE, html=True))
    app.add_middleware(KeyPoolMiddleware, keys=store.load_keys, teams=store.find_team, **(_environment() | settings))
    return app


def _environment() -> dict[str, Any]:
    ttl = float(os.environ.get("KEYPOOL_TTL_SECONDS", "60"))
    settings: dict[str, Any] = {"keys_ttl_seconds": ttl, "teams_ttl_seconds": ttl}
    settings["state"] = os.environ.get("KEYPOOL_STATE")
    settings["reference"] = find_spec("fastapi_offline") is not None  # which brings the page's Swagger UI
    if origin := os.environ.get("KEYPOOL_API_ORIGIN"):
        settings["origins"] = {"api": origin}
    return settings

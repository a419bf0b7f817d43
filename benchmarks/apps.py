"""The ASGI apps under test, by name. Each is made in its own process, for one upstream."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from .answers import KEYS, PREFIX, SMALL_ANSWER, TOKEN

__all__ = ["APPS", "STORES", "available", "make_app"]

_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(SMALL_ANSWER))]


async def null_app(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer without an upstream: the floor under every ASGI app on this server."""
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": SMALL_ANSWER})


async def _host(scope: Any, receive: Any, send: Any) -> None:
    """Stand for a framework: a lifespan that does nothing, and the null app."""
    if scope["type"] != "lifespan":
        await null_app(scope, receive, send)
        return
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def keypool(upstream: str, host: Any = None, **settings: Any) -> Any:
    """Everything on: authentication, permissions, two limits, three keys, all in memory."""
    from keypool_asgi import KeyPoolMiddleware, Limit, Team, UpstreamKey

    limits = [Limit("requests", 1_000_000_000, per="minute"), Limit("concurrency", 100_000)]
    return KeyPoolMiddleware(
        host or _host,
        keys=[UpstreamKey(name, secret=f"secret-{name}", project="bench") for name in KEYS],
        teams={TOKEN: Team("bench", operations=["transcripts.*", "uploads.*", "speech.*"], limits=limits)},
        prefix=PREFIX,
        origins=dict.fromkeys(("api", "tts"), upstream),
        **settings,
    )


def _httpx(upstream: str) -> Any:
    import httpx

    return keypool(upstream, transport=httpx.AsyncHTTPTransport())


def _fastapi_proxy_lib(upstream: str) -> Any:
    from fastapi_proxy_lib.fastapi.app import reverse_http_app

    return reverse_http_app(base_url=f"{upstream}/")


def _asgiproxy(upstream: str) -> Any:
    from asgiproxy.config import BaseURLProxyConfigMixin, ProxyConfig
    from asgiproxy.context import ProxyContext
    from asgiproxy.simple_proxy import make_simple_proxy_app

    class Config(BaseURLProxyConfigMixin, ProxyConfig):  # type: ignore[misc]
        upstream_base_url = upstream
        rewrite_host_header = "api"

    return make_simple_proxy_app(ProxyContext(Config(), max_concurrency=10_000))


def _own_quotas(_folder: str) -> dict[str, Any]:
    """Give ``quotas`` an object of the user's, so that every verb goes through the guard."""
    from types import SimpleNamespace

    from keypool_asgi.stores.quotas import MemoryQuotas

    store = MemoryQuotas()
    return {
        "quotas": SimpleNamespace(**{verb: getattr(store, verb) for verb in ("reserve", "renew", "settle", "release")})
    }


STORES: dict[str, Callable[[str], dict[str, Any]]] = {
    # Name to settings of KeyPoolMiddleware, given a folder that may be used. A new store is one line.
    "memory": lambda _: {},
    "own quotas": _own_quotas,
    "sqlite": lambda folder: {"state": f"sqlite:///{folder}/keypool.db"},
}
"""What the ``stores`` benchmark compares."""

APPS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: null_app,
    "keypool": keypool,
    "keypool-httpx": _httpx,
    "fastapi-proxy-lib": _fastapi_proxy_lib,
    "asgiproxy": _asgiproxy,
}
"""Name to a function from the upstream's URL to an app."""

_NEEDS = {"fastapi-proxy-lib": "fastapi_proxy_lib", "asgiproxy": "asgiproxy"}


def available(name: str) -> bool:
    """Whether what an app needs is installed."""
    return name not in _NEEDS or find_spec(_NEEDS[name]) is not None


def make_app(name: str, upstream: str, folder: str) -> Any:
    """Make an app; ``store:NAME`` is the stack with a row of ``STORES``."""
    kind, _, store = name.partition(":")
    return keypool(upstream, **STORES[store](folder)) if kind == "store" else APPS[name](upstream)

"""The ASGI apps under test, by name. Each is made in its own process, for one upstream."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .answers import KEYS, PREFIX, SMALL_ANSWER, TOKEN

__all__ = ["APPS", "STORES", "keypool", "make_app", "null_app"]

_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(SMALL_ANSWER))]


_OPERATIONS = ["transcripts.*", "uploads.*", "speech.*", "streaming.*"]


async def null_app(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer without an upstream: the floor under every ASGI app on this server."""
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": SMALL_ANSWER})


async def discard_app(scope: Any, receive: Any, send: Any) -> None:
    """Read the body and forget it: the rate at which this server takes an upload."""
    if scope["type"] != "http":
        await _host(scope, receive, send)
        return
    received, more = 0, True
    while more:
        message = await receive()
        received += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b'{"received":%d}' % received
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _host(scope: Any, receive: Any, send: Any) -> None:
    """Stand for a framework: a lifespan that does nothing, and the null app."""
    if scope["type"] != "lifespan":
        await null_app(scope, receive, send)
        return
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def keypool(upstream: str, host: Any = None, **settings: Any) -> Any:
    """Everything on: authentication, permissions, two limits, three keys, ownership and the account, all in memory.

    Ownership and the account of usage (``ledger``) are on by default, and so is the settling of jobs nobody polls.
    """
    from keypool_asgi import KeyPoolMiddleware, Limit, Team, UpstreamKey

    limits = [Limit("requests", 1_000_000_000, per="minute"), Limit("concurrency", 100_000)]
    return KeyPoolMiddleware(
        host or _host,
        keys=[UpstreamKey(name, secret=f"secret-{name}", project="bench") for name in KEYS],
        teams={TOKEN: Team("bench", limits=limits, operations=_OPERATIONS)},
        prefix=PREFIX,
        origins=dict.fromkeys(("api", "tts", "streaming"), upstream),
        **settings,
    )


def _httpx(upstream: str, _folder: str) -> Any:
    import httpx

    return keypool(upstream, transport=httpx.AsyncHTTPTransport())


def _fastapi_proxy_lib(upstream: str, _folder: str) -> Any:
    from fastapi_proxy_lib.fastapi.app import reverse_http_app

    return reverse_http_app(base_url=f"{upstream}/")


def _asgiproxy(upstream: str, _folder: str) -> Any:
    from asgiproxy.config import BaseURLProxyConfigMixin, ProxyConfig
    from asgiproxy.context import ProxyContext
    from asgiproxy.simple_proxy import make_simple_proxy_app

    class Config(BaseURLProxyConfigMixin, ProxyConfig):  # type: ignore[misc]
        upstream_base_url = upstream
        rewrite_host_header = "api"

    return make_simple_proxy_app(ProxyContext(Config(), max_concurrency=10_000))


def _litellm(upstream: str, folder: str) -> Any:
    """Its generic pass-through. Without a master key it looks no key up."""
    endpoint = {"path": PREFIX, "target": upstream, "include_subpath": True, "forward_headers": True}
    file = Path(folder, "litellm.yaml")
    file.write_text(json.dumps({"general_settings": {"pass_through_endpoints": [endpoint]}}), encoding="ascii")
    os.environ |= {
        "CONFIG_FILE_PATH": str(file),
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would be fetched from the network
    }
    from litellm.proxy.proxy_server import app

    return app


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

APPS: dict[str, Callable[[str, str], Any]] = {
    "null": lambda *_: null_app,
    "discard": lambda *_: discard_app,
    "keypool": lambda upstream, _: keypool(upstream),
    "keypool-httpx": _httpx,
    "fastapi-proxy-lib": _fastapi_proxy_lib,
    "asgiproxy": _asgiproxy,
    "litellm": _litellm,
}
"""Name to a function from the upstream's URL, and a folder that may be used, to an app."""


def make_app(name: str, upstream: str, folder: str) -> Any:
    """Make an app; ``store:NAME`` is the stack with a row of ``STORES``."""
    kind, _, store = name.partition(":")
    return keypool(upstream, **STORES[store](folder)) if kind == "store" else APPS[name](upstream, folder)

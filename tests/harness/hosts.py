"""Every way in which a user puts the pool into an app of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from .tools import need

__all__ = ["HOSTS", "PREFIX", "Hosted"]

PREFIX = "/v1/assemblyai"
HELLO = {"hello": "host"}


@dataclass(slots=True)
class Hosted:
    """A host app with the pool in it.

    Attributes:
        app: what a server serves.
        base: the path under which the pool is reachable; ``/hello`` is the host's own route.
        events: ``startup`` and ``shutdown`` of the host's own lifespan, as they happen.
        root_path, lifespan: what this host needs ``serve`` to be told.
    """

    app: Any
    events: list[str] = field(default_factory=list)
    base: str = PREFIX
    root_path: str = ""
    lifespan: str = "on"

    @property
    def serving(self) -> dict[str, str]:
        """The arguments for ``serve``: ``serve(hosted.app, server, **hosted.serving)``."""
        return {"root_path": self.root_path, "lifespan": self.lifespan}


Build = Callable[..., Hosted]
HOSTS: dict[str, Build] = {}


def _host(name: str) -> Callable[[Build], Build]:
    """Register a function that takes the settings of ``KeyPoolMiddleware`` and returns the host with the pool in it."""

    def register(build: Build) -> Build:
        HOSTS[name] = build
        return build

    return register


def _middleware(app: Any, settings: dict[str, Any]) -> Any:
    from keypool_asgi import KeyPoolMiddleware

    return KeyPoolMiddleware(app, **settings)


def _pool(settings: dict[str, Any]) -> Any:
    from keypool_asgi import KeyPool

    return KeyPool(**settings)


def _lifespan(events: list[str], pool: Any = None) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    """The host's own lifespan. A mounted app is sent none, so its host closes the pool."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        events.append("startup")
        yield
        if pool is not None:
            await pool.aclose()
        events.append("shutdown")

    return lifespan


# Bare ASGI


@_host("bare-wrapped")
def bare_wrapped(**settings: Any) -> Hosted:
    events: list[str] = []
    return Hosted(_middleware(bare(events), settings), events)


def bare(events: list[str]) -> Any:
    """A host without a framework."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _bare_lifespan(events, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            found = scope["path"] == scope.get("root_path", "") + "/hello"
            await _bare_json(send, 200 if found else 404, b'{"hello": "host"}' if found else b'{"error": "no route"}')

    return app


async def _bare_lifespan(events: list[str], receive: Any, send: Any) -> None:
    for phase in ("startup", "shutdown"):
        message = await receive()
        assert message["type"] == f"lifespan.{phase}"
        events.append(phase)
        await send({"type": f"lifespan.{phase}.complete"})


async def _bare_json(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# Starlette


@_host("starlette-wrapped")
def starlette_wrapped(**settings: Any) -> Hosted:
    need("starlette")
    from starlette.middleware import Middleware

    from keypool_asgi import KeyPoolMiddleware

    events: list[str] = []
    return Hosted(_starlette(_lifespan(events), middleware=[Middleware(KeyPoolMiddleware, **settings)]), events)


@_host("starlette-mounted")
def starlette_mounted(**settings: Any) -> Hosted:
    need("starlette")
    from starlette.routing import Mount

    events: list[str] = []
    pool = _pool(settings)
    return Hosted(_starlette(_lifespan(events, pool), Mount(PREFIX, app=pool)), events)


@_host("starlette-nested-mount")
def starlette_nested_mount(**settings: Any) -> Hosted:
    need("starlette")
    from starlette.routing import Mount

    events: list[str] = []
    pool = _pool(settings)
    nested = Mount("/outer", routes=[Mount(PREFIX, app=pool)])
    return Hosted(_starlette(_lifespan(events, pool), nested), events, base=f"/outer{PREFIX}")


@_host("starlette-mounted-root-path")
def starlette_mounted_root_path(**settings: Any) -> Hosted:
    hosted = starlette_mounted(**settings)
    hosted.root_path = "/api"
    return hosted


def _starlette(lifespan: Any, *routes: Any, **more: Any) -> Any:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def hello(_request: Any) -> JSONResponse:
        return JSONResponse(HELLO)

    return Starlette(routes=[Route("/hello", hello), *routes], lifespan=lifespan, **more)


# FastAPI


@_host("fastapi-wrapped")
def fastapi_wrapped(**settings: Any) -> Hosted:
    need("fastapi")
    from keypool_asgi import KeyPoolMiddleware

    events: list[str] = []
    app = _fastapi(_lifespan(events))
    app.add_middleware(KeyPoolMiddleware, **settings)
    return Hosted(app, events)


@_host("fastapi-mounted")
def fastapi_mounted(**settings: Any) -> Hosted:
    need("fastapi")
    events: list[str] = []
    pool = _pool(settings)
    app = _fastapi(_lifespan(events, pool))
    app.mount(PREFIX, pool)
    return Hosted(app, events)


def _fastapi(lifespan: Any) -> Any:
    from fastapi import FastAPI

    app = FastAPI(lifespan=lifespan)

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return HELLO

    return app


# Litestar


@_host("litestar-wrapped")
def litestar_wrapped(**settings: Any) -> Hosted:
    # Wrapped from outside: middleware=[...] is wired into each route, and never sees a path without one.
    need("litestar")
    events: list[str] = []
    return Hosted(_middleware(_litestar(_lifespan(events)), settings), events)


@_host("litestar-mounted")
def litestar_mounted(**settings: Any) -> Hosted:
    need("litestar")
    from litestar import asgi

    events: list[str] = []
    pool = _pool(settings)
    mounted = asgi(PREFIX, is_mount=True, copy_scope=True)(pool)
    return Hosted(_litestar(_lifespan(events, pool), mounted), events)


def _litestar(lifespan: Any, *handlers: Any) -> Any:
    from litestar import Litestar, get

    @get("/hello", sync_to_thread=False)
    def hello() -> dict[str, str]:
        return HELLO

    # Its logging would replace the root logger's handlers, where the leak guard listens.
    return Litestar([hello, *handlers], lifespan=[lifespan], logging_config=None, openapi_config=None)


# Quart


@_host("quart-wrapped")
def quart_wrapped(**settings: Any) -> Hosted:
    need("quart")
    from quart import Quart

    events: list[str] = []
    app = Quart("host")

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return HELLO

    @app.before_serving
    async def startup() -> None:
        events.append("startup")

    @app.after_serving
    async def shutdown() -> None:
        events.append("shutdown")

    app.asgi_app = _middleware(app.asgi_app, settings)  # type: ignore[method-assign]
    return Hosted(app, events)


# Django


@_host("django-wrapped")
def django_wrapped(**settings: Any) -> Hosted:
    """Django has no lifespan, and raises on it: ``events`` stays empty."""
    need("django")
    return Hosted(_middleware(_django(), settings), lifespan="auto")


def _django() -> Any:
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application

    if not settings.configured:
        settings.configure(ROOT_URLCONF=_django_urls(), ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, SECRET_KEY="test")
        django.setup()
    return get_asgi_application()


def _django_urls() -> tuple[Any, ...]:
    from django.http import JsonResponse
    from django.urls import path

    async def hello(_request: Any) -> JsonResponse:
        return JsonResponse(HELLO)

    return (path("hello", hello),)

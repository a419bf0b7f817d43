"""Invariant I1: what is not the pool's reaches the host with the very objects that the server made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import SERVERS, need, raw_http, run, secret, serve, token
from harness.hosts import bare

from keypool_asgi import KeyPool, KeyPoolMiddleware, Team, UpstreamKey

PREFIX = "/v1/assemblyai"
REFERENCE = "uvicorn-httptools"
SETTINGS: dict[str, Any] = {
    "keys": [UpstreamKey("k1", secret=secret("k1"))],
    "teams": {token("team-a"): Team("team-a")},
    "origins": {"api": "http://127.0.0.1:9"},
}

FOREIGN = [
    # (path, root path)
    ("/", ""),
    ("", ""),
    ("*", ""),
    ("/hello", ""),
    ("/v1", ""),
    ("/v1/assembly", ""),
    ("/v1/assemblyaiX", ""),
    ("/v1/assemblyaiX/v2/transcript", ""),
    ("/v1/assemblyai.json", ""),
    ("/v1/assemblyai-2/v2/upload", ""),
    ("/v1/assemblyai;x=1/v2/upload", ""),
    ("/v1/assemblyai\x00/v2/upload", ""),
    ("/v1/assemblyai%2Fv2/upload", ""),
    ("/v1/assemblyai\\v2/upload", ""),
    ("/v1/AssemblyAI/v2/upload", ""),
    ("/v1//assemblyai/v2/upload", ""),
    ("/v1/./assemblyai/v2/upload", ""),
    ("/v1/x/../assemblyai/v2/upload", ""),
    ("//v1/assemblyai/v2/upload", ""),
    ("/x/v1/assemblyai/v2/upload", ""),
    ("v1/assemblyai/v2/upload", ""),
    ("http://other.example/v1/assemblyai/v2/upload", ""),
    ("/api/hello", "/api"),
    ("/api/v1/assemblyaiX", "/api"),
    ("/apiX/v1/assemblyai/v2/upload", "/api"),
    ("/api/api/v1/assemblyai/v2/upload", "/api"),
    ("/v1/assemblyai/v2/upload", PREFIX),  # the whole host is mounted there
    ("/v1/assemblyai/v2/upload", "/v1"),
]

OURS = [
    ("/v1/assemblyai", ""),
    ("/v1/assemblyai/", ""),
    ("/v1/assemblyai/v2/upload", ""),
    ("/v1/assemblyai/../hello", ""),
    ("/v1/assemblyai//v3/token", ""),
    ("/api/v1/assemblyai/v2/upload", "/api"),
    ("/v1/assemblyai/v2/upload", "/api"),  # a proxy has stripped it
    ("/api/v1/assemblyai/v2/upload", "/api/"),
    ("/v1/v1/assemblyai/v2/upload", "/v1"),
]


class Host:
    """Remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append((scope, receive, send))


def http_scope(path: str, root: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": root,
        "headers": [(b"host", b"h.example"), (b"authorization", token("team-a").encode())],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {"theirs": object()},
        "extensions": {},
    }


def socket_scope(path: str, root: str) -> dict[str, Any]:
    scope = http_scope(path, root) | {"type": "websocket", "scheme": "ws", "subprotocols": []}
    del scope["method"]
    return scope


def bare_scope(path: str, root: str) -> dict[str, Any]:
    """Only what the ASGI specification requires."""
    optional = (
        "asgi",
        "scheme",
        "raw_path",
        "client",
        "server",
        "state",
        "extensions",
        *([] if root else ["root_path"]),
    )
    return {name: value for name, value in http_scope(path, root).items() if name not in optional}


def look_of(scope: dict[str, Any]) -> dict[str, Any]:
    return {name: copy.copy(value) for name, value in scope.items()}


async def receive_nothing() -> dict[str, Any]:
    pytest.fail("receive() was called")


async def send_nothing(message: Any) -> None:
    pytest.fail(f"{message} was sent")


@pytest.mark.parametrize("make", [http_scope, socket_scope, bare_scope])
@pytest.mark.parametrize(("path", "root"), FOREIGN)
def test_a_foreign_path_reaches_the_host_untouched(
    path: str, root: str, make: Callable[[str, str], dict[str, Any]]
) -> None:
    host, scope = Host(), make(path, root)
    before = look_of(scope)
    run(KeyPoolMiddleware(host, **SETTINGS)(scope, receive_nothing, send_nothing))
    ((seen, receive, send),) = host.calls
    assert seen is scope
    assert receive is receive_nothing
    assert send is send_nothing
    assert seen == before


@pytest.mark.parametrize("kind", ["mcp", "http.later"])
def test_a_kind_of_scope_that_is_not_known_reaches_the_host_untouched(kind: str) -> None:
    host, scope = Host(), {"type": kind}
    run(KeyPoolMiddleware(host, **SETTINGS)(scope, receive_nothing, send_nothing))
    assert host.calls == [(scope, receive_nothing, send_nothing)]
    assert host.calls[0][0] is scope


def test_what_the_host_raises_passes() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("the host's own")

    with pytest.raises(LookupError, match="the host's own"):
        run(KeyPoolMiddleware(failing, **SETTINGS)(http_scope("/hello", ""), receive_nothing, send_nothing))


@pytest.mark.parametrize("make", [http_scope, socket_scope, bare_scope])
@pytest.mark.parametrize(("path", "root"), OURS)
def test_what_is_the_pools_never_reaches_the_host_and_leaves_the_scope_as_it_was(
    path: str, root: str, make: Callable[[str, str], dict[str, Any]]
) -> None:
    host, scope, sent = Host(), make(path, root), []
    scope["headers"] = [field for field in scope["headers"] if field[0] != b"authorization"]
    before = look_of(scope)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if scope["type"] == "websocket" else {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    run(KeyPoolMiddleware(host, **SETTINGS)(scope, receive, send))
    assert host.calls == []
    assert sent
    assert scope == before


@pytest.mark.parametrize(("path", "root"), [("/v1/assemblyai/v2/upload", ""), ("/pool/v2/upload", "/pool")])
def test_a_prefix_of_the_operators_own(path: str, root: str) -> None:
    """The path that is the pool's by default is the host's then; and the prefix is looked for below the root path."""
    host, scope = Host(), http_scope(path, root)
    run(KeyPoolMiddleware(host, prefix="/pool", **SETTINGS)(scope, receive_nothing, send_nothing))
    assert host.calls[0][0] is scope


# Lifespan


def lifespan(app: Any, *phases: str) -> list[str]:
    """Play the server's side of a lifespan."""
    sent: list[str] = []
    waiting = [f"lifespan.{phase}" for phase in phases]

    async def receive() -> dict[str, Any]:
        return {"type": waiting.pop(0)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    run(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send))
    return sent


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_hosts_lifespan_gets_the_servers_scope_and_its_state() -> None:
    seen: list[Any] = []

    async def host(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        scope["state"]["theirs"] = 1
        await bare([])(scope, receive, send)

    async def main() -> None:
        scope: dict[str, Any] = {"type": "lifespan", "state": {}}
        waiting = ["lifespan.startup", "lifespan.shutdown"]

        async def receive() -> dict[str, Any]:
            return {"type": waiting.pop(0)}

        async def send(message: Any) -> None:
            assert message["type"] in COMPLETE

        await KeyPoolMiddleware(host, **SETTINGS)(scope, receive, send)
        assert seen[0] is scope
        assert scope == {"type": "lifespan", "state": {"theirs": 1}}

    run(main())


def test_a_host_without_a_lifespan_is_answered_for() -> None:
    async def host(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError(f"Django can only handle ASGI/HTTP connections, not {scope['type']}.")

    assert lifespan(KeyPoolMiddleware(host, **SETTINGS), "startup", "shutdown") == COMPLETE
    assert lifespan(KeyPool(**SETTINGS), "startup", "shutdown") == COMPLETE


def test_a_host_that_leaves_its_lifespan_early_is_answered_for() -> None:
    """``if scope["type"] != "http": return``, or one that knows only of startup."""

    async def starting_only(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    async def listening_only(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    for host in (Host(), starting_only, listening_only):
        assert lifespan(KeyPoolMiddleware(host, **SETTINGS), "startup", "shutdown") == COMPLETE


@pytest.mark.parametrize("name", ["pool", "bare", "starlette"])
def test_a_startup_of_ours_that_fails_is_told_once_and_the_server_does_not_start(name: str, tmp_path: Path) -> None:
    """Servers take an error for "no lifespan here" unless they are told."""
    (tmp_path / "pool.db").write_bytes(b"no database " * 100)
    settings = SETTINGS | {"state": f"sqlite:///{tmp_path}/pool.db"}
    app: Any = KeyPool(**settings) if name == "pool" else KeyPoolMiddleware(bare([]), **settings)
    if name == "starlette":
        need("starlette")
        from starlette.applications import Starlette

        app = Starlette()
        app.add_middleware(KeyPoolMiddleware, **settings)
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    run(app({"type": "lifespan", "app": app, "state": {}}, receive, send))
    assert sent == ["lifespan.startup.failed"]
    with pytest.raises(RuntimeError, match="did not start"), serve(app, REFERENCE, lifespan="auto"):
        pytest.fail("the server started")


def test_a_host_whose_startup_fails_says_so_itself() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def raising(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ValueError("no database")

    assert lifespan(KeyPoolMiddleware(failing, **SETTINGS), "startup") == ["lifespan.startup.failed"]
    with pytest.raises(ValueError, match="no database"):
        lifespan(KeyPoolMiddleware(raising, **SETTINGS), "startup")


def test_without_any_lifespan_requests_pass() -> None:
    host, scope = Host(), http_scope("/hello", "")
    run(KeyPoolMiddleware(host, **SETTINGS)(scope, receive_nothing, send_nothing))
    assert host.calls[0][0] is scope


# On sockets


UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


CLOSE = "Connection: close\r\n"


@pytest.mark.parametrize("server", SERVERS)
def test_on_every_server_the_host_gets_the_servers_own_objects(server: str) -> None:
    outside: list[tuple[Any, Any, Any]] = []
    host = Host()

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await host(scope, receive, send)
        await bare([])(scope, receive, send)

    pool = KeyPoolMiddleware(inside, **SETTINGS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        outside.append((scope, receive, send))
        await pool(scope, receive, send)

    with serve(app, server, lifespan="off") as served:
        for path, fields in (
            ("/hello", CLOSE),
            ("/v1/assemblyaiX", CLOSE),
            ("/hello", UPGRADE),
            ("/v1/assemblyaiX/v3/ws", UPGRADE),
        ):
            raw_http(served.url, f"GET {path} HTTP/1.1\r\nHost: h.example\r\n{fields}\r\n".encode(), timeout=0.5)
    assert [scope["type"] for scope, _, _ in host.calls] == ["http", "http", "websocket", "websocket"]
    for before, after in zip(outside, host.calls, strict=True):
        assert all(one is other for one, other in zip(before, after, strict=True))

"""Where a request stands relative to the pool, in every situation that servers and mounts were seen to make."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.asgi import is_literal, locate, own_base
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.stages.intercept import Intercept

PREFIX = "/v1/assemblyai"
WRAPPED, MOUNTED = False, True
X = "/v2/upload"


def scope(path: str, root: str = "", raw: str | None = None, **more: Any) -> dict[str, Any]:
    target = {} if raw == "missing" else {"raw_path": (path if raw is None else raw).encode("utf-8")}
    return {"type": "http", "scheme": "http", "path": path, "root_path": root, "headers": [], **target, **more}


OURS = {
    # situation: (mounted, path, root_path, raw_path, the caller's base, path below it)
    "plain": (WRAPPED, PREFIX + X, "", None, PREFIX, X),
    "no root_path in the scope": (WRAPPED, PREFIX + X, None, None, PREFIX, X),
    "the base itself": (WRAPPED, PREFIX, "", None, PREFIX, ""),
    "uvicorn with a root path": (WRAPPED, "/api" + PREFIX + X, "/api", None, "/api" + PREFIX, X),
    "hypercorn, a proxy that strips": (WRAPPED, PREFIX + X, "/api", None, "/api" + PREFIX, X),
    "hypercorn, no proxy": (WRAPPED, "/api" + PREFIX + X, "/api", None, "/api" + PREFIX, X),
    "root path with a slash": (WRAPPED, "/api" + PREFIX + X, "/api/", None, "/api" + PREFIX, X),
    "standing alone": (MOUNTED, PREFIX + X, "", None, PREFIX, X),
    "Starlette's mount": (MOUNTED, PREFIX + X, PREFIX, None, PREFIX, X),
    "mount at another path": (MOUNTED, "/stt" + X, "/stt", None, "/stt", X),
    "the mount itself": (MOUNTED, "/stt/", "/stt", None, "/stt", "/"),
    "nested mount": (MOUNTED, "/outer" + PREFIX + X, "/outer" + PREFIX, None, "/outer" + PREFIX, X),
    "mount, uvicorn with a root path": (MOUNTED, "/api" + PREFIX + X, "/api" + PREFIX, None, "/api" + PREFIX, X),
    "mount, a proxy that strips": (MOUNTED, PREFIX + X, "/api" + PREFIX, None, "/api" + PREFIX, X),
    "Litestar's mount": (MOUNTED, X + "/", "", PREFIX + X, PREFIX, X),
    "Litestar's mount, uvicorn with a root path": (MOUNTED, X + "/", "/api", "/api" + PREFIX + X, "/api" + PREFIX, X),
    "Litestar's mount, a proxy that strips": (MOUNTED, X + "/", "/api", PREFIX + X, "/api" + PREFIX, X),
    "Litestar's mount, two slashes": (MOUNTED, "/v3/token/", "", PREFIX + "//v3/token", PREFIX, "//v3/token"),
    "Litestar's mount itself": (MOUNTED, "/", "", PREFIX, PREFIX, ""),
}


@pytest.mark.parametrize("situation", OURS)
def test_ours(situation: str) -> None:
    mounted, path, root, raw, mount, rest = OURS[situation]
    given_scope = scope(path, root or "", raw)
    if root is None:
        del given_scope["root_path"]
    found = locate(given_scope, PREFIX, mounted=mounted)
    assert found == (mount, rest)
    assert is_literal(given_scope, found.path)


NOT_OURS = {
    "another path": (WRAPPED, "/hello", "", None),
    "a longer segment": (WRAPPED, "/v1/assemblyaiX", "", None),
    "a longer segment, and more": (WRAPPED, "/v1/assemblyaiX/v2/upload", "", None),
    "a part of it": (WRAPPED, "/v1", "", None),
    "inside another path": (WRAPPED, "/x/v1/assemblyai/v2/upload", "", None),
    "absolute form, as h11 and hypercorn give it": (WRAPPED, "http://evil.example" + PREFIX + X, "", None),
    "asterisk": (WRAPPED, "*", "", None),
    "two slashes before it": (WRAPPED, "/" + PREFIX + X, "", None),
    "a root path of its own": (WRAPPED, "/other" + PREFIX + X, "/api", None),
    "a wrapped app never trusts raw_path": (WRAPPED, "/hello", "", PREFIX + X),
    "Litestar's mount of a longer segment": (MOUNTED, "X/", "", "/v1/assemblyaiX"),
    "alone, another path": (MOUNTED, "/hello", "", None),
    "alone, behind a root path, another path": (MOUNTED, "/hello", "/api", None),
}


@pytest.mark.parametrize("situation", NOT_OURS)
def test_not_ours(situation: str) -> None:
    mounted, path, root, raw = NOT_OURS[situation]
    assert locate(scope(path, root, raw), PREFIX, mounted=mounted) is None


@given(st.text(max_size=30), st.sampled_from(["", "/api", "/api/", PREFIX]), st.booleans())
def test_any_path_is_located_without_an_error(path: str, root: str, mounted: bool) -> None:
    found = locate(scope(path, root, "missing"), PREFIX, mounted=mounted)
    if found is not None:
        assert path.endswith(found.path)
        assert not found.path or found.path.startswith("/")


@given(
    st.lists(st.sampled_from(["/", PREFIX, "/v1", "X", "/x"]), max_size=5).map("".join),
    st.sampled_from(["", "/api", "/api/", PREFIX, "/v1"]),
)
def test_a_wrapped_host_gets_at_once_what_is_not_located(path: str, root: str) -> None:
    """The short way to the host is taken for no path that is the pool's, and every other path gets there."""

    async def host(scope: Any, receive: Any, send: Any) -> None: ...

    intercept = Intercept(host, table=ASSEMBLYAI.table, host=host, prefix=PREFIX)
    foreign = locate(scope(path, root), PREFIX, mounted=WRAPPED) is None
    assert (intercept.way(scope(path, root)) is host) == foreign


@pytest.mark.parametrize(
    ("raw", "path", "literal"),
    [
        (PREFIX + X, X, True),
        ("/v1%2Fassemblyai" + X, X, True),
        (PREFIX + "/v2%2Fupload", X, False),
        (PREFIX + "/v2/uploa%64", X, False),
        (PREFIX + "/v2/%2e%2e/upload", "/v2/../upload", False),
        (PREFIX + "/v2/upload?x=/v2/upload", X, True),
        (PREFIX + "/v2/x?y=/v2/upload", X, False),
        (PREFIX + "/v2/%C3%A9", "/v2/é", False),
    ],
)
def test_disguised_paths(raw: str, path: str, literal: bool) -> None:
    assert is_literal(scope(PREFIX + path, raw=raw), path) is literal


def test_a_server_that_gives_no_raw_path_is_believed() -> None:
    assert is_literal(scope(PREFIX + X, raw="missing"), X)


@pytest.mark.parametrize("host", ["pool.example", "pool.example:8443", "127.0.0.1:1", "[::1]", "[::1]:8000", "a_b.c-d"])
def test_own_links_name_the_host_that_the_caller_named(host: str) -> None:
    headers = [(b"accept", b"*/*"), (b"host", host.encode())]
    assert (
        own_base(scope(PREFIX, headers=headers, server=("10.0.0.1", 80)), "/api" + PREFIX)
        == f"http://{host}/api{PREFIX}"
    )


POISONED = [
    "",
    "a/b",
    "a@b",
    "user:pw@a",
    "a b",
    "a\tb",
    "a?b",
    "a#b",
    "a\\b",
    "a:port",
    "a:123456",
    "a,b",
    "é",
    'a"b',
    "a\n",
]


@pytest.mark.parametrize("host", POISONED)
def test_a_poisoned_host_falls_back_to_the_servers_address(host: str) -> None:
    poisoned = scope(PREFIX, headers=[(b"host", host.encode())], server=("10.0.0.1", 8000), scheme="https")
    assert own_base(poisoned, PREFIX) == f"https://10.0.0.1:8000{PREFIX}"


@pytest.mark.parametrize(
    ("server", "expected"), [(("unix.sock", None), "unix.sock"), (None, "localhost"), (("h", "8000"), "h:8000")]
)
def test_without_a_host(server: Any, expected: str) -> None:
    assert own_base(scope(PREFIX, server=server), "") == f"http://{expected}"


@pytest.mark.parametrize(("scheme", "expected"), [("ws", "http"), ("wss", "https"), ("https", "https")])
def test_links_are_http_whatever_the_scope(scheme: str, expected: str) -> None:
    assert own_base(scope(PREFIX, scheme=scheme, headers=[(b"host", b"a")]), "") == f"{expected}://a"

"""What importing costs, and that the classes are what their ports say."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from keypool_asgi.ports import UpstreamCall, UpstreamClient
from keypool_asgi.upstream import NativeClient
from keypool_asgi.upstream.call import NativeCall
from keypool_asgi.upstream.httpx_door import HttpxClient
from keypool_asgi.upstream.httpx_door.client import HttpxCall
from keypool_asgi.upstream.parsers import HttptoolsParser, load_parser


def test_importing_is_cheap() -> None:
    code = "import sys, keypool_asgi.upstream; print(*{'httpx', 'httptools', 'h11', 'anyio'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b""


def test_the_fastest_parser_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(load_parser(None)(), HttptoolsParser)
    monkeypatch.setitem(sys.modules, "httptools", None)
    assert type(load_parser(None)()).__name__ == "H11Parser"
    with pytest.raises(ValueError, match="not installed"):
        load_parser("httptools")


def typed() -> None:
    """Not executed: mypy checks it."""
    clients: list[UpstreamClient] = [NativeClient(), HttpxClient(httpx.AsyncHTTPTransport())]
    calls: list[type[UpstreamCall]] = [NativeCall, HttpxCall]
    print(clients, calls)

"""Entry of what ``instructions`` counts: ``python -m benchmarks.work WORK... --times N --upstream URL --sockets URL``.

What is done once, the imports and the first request, is done however often the work is.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias
from unittest.mock import patch

from keypool_asgi.core.messages import ResponseHead

from . import loops
from .answers import PREFIX, SMALL_ANSWER, TOKEN, TRANSCRIPT_ID
from .apps import keypool, null_app
from .fleet import die_with_parent

__all__ = ["WORKS", "main"]

_TRANSCRIPT = f"{PREFIX}/v2/transcript/{TRANSCRIPT_ID}"
_AUDIO = bytes(3200)
_ANSWERED = 10  # messages that one text answers
_JOB = b'{"audio_url":"https://example.com/recording.wav"}'
_HEAD = ResponseHead(
    200,
    b"OK",
    [
        (b"Server", b"nginx"),
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(SMALL_ANSWER)),
        (b"Connection", b"keep-alive"),
    ],
)
_FIELDS = [(b"host", b"127.0.0.1:8000"), (b"authorization", TOKEN.encode("ascii")), (b"accept", b"*/*")]


async def _null(_upstream: str, times: int) -> None:
    """Ask an app that answers by itself: what asking costs."""
    for _ in range(times):
        await _ask(null_app, "GET", _TRANSCRIPT)


async def _foreign(upstream: str, times: int) -> None:
    """Ask the same app through the stack for what is not the pool's."""
    app = keypool(upstream, host=null_app)
    for _ in range(times):
        await _ask(app, "GET", "/api/items/42")


async def _request(_upstream: str, times: int) -> None:
    """Read a transcript through the whole stack, with a client that answers at once."""
    with patch("keypool_asgi.assembly.NativeClient", return_value=_Client()):
        app = keypool("http://127.0.0.1:9")
    await _read_transcripts(app, times)


async def _forwarded(upstream: str, times: int) -> None:
    """Read it from an upstream on loopback, with our own client."""
    await _read_transcripts(keypool(upstream), times)


async def _read_transcripts(app: Any, times: int) -> None:
    await _ask(app, "POST", f"{PREFIX}/v2/transcript", _JOB)
    # Being counted takes so long that every request would look as if it had waited for a key.
    with patch("keypool_asgi.stages.forwarder._WAITED_SECONDS", math.inf):
        for _ in range(times):
            await _ask(app, "GET", _TRANSCRIPT)
    await app.aclose()


async def _ask(app: Any, method: str, path: str, body: bytes = b"") -> None:
    """Ask an app as a server would, and see that it answers with success."""
    statuses: list[int] = []
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return pending.pop() if pending else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    fields = [*_FIELDS, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await app(_scope("http", path, method=method, headers=fields if body else _FIELDS), receive, send)
    if statuses != [200]:
        raise ValueError(f"the stack answers {statuses}")


async def _relayed(upstream: str, times: int) -> None:
    """Send ten messages of audio in a session and wait for the text that answers them, with an upstream on loopback."""
    app = keypool(upstream)
    session = _Session(times)
    scope = _scope("websocket", f"{PREFIX}/v3/ws", subprotocols=[], headers=_FIELDS)
    await app(scope | {"query_string": b"sample_rate=16000&every=%d" % _ANSWERED}, session.receive, session.send)
    if session.texts < times:
        raise ValueError(f"{session.texts} texts came, and not {times}")
    await app.aclose()


class _Session:
    """The server's side of a session: audio as long as texts answer it, and then the end."""

    def __init__(self, times: int) -> None:
        self.texts = -1  # the first is not an answer
        self._messages = times * _ANSWERED
        self._sent = 0
        self._closed = False
        self._changed = asyncio.Event()
        self._opening: list[dict[str, Any]] = [{"type": "websocket.connect"}]
        self._ending: list[dict[str, Any]] = [{"type": "websocket.receive", "text": '{"type":"Terminate"}'}]

    async def receive(self) -> dict[str, Any]:
        """Give the next message once it is due."""
        if self._opening:
            return self._opening.pop()
        await self._until(lambda: self.texts >= self._sent // _ANSWERED)
        if self._sent < self._messages:
            self._sent += 1
            return {"type": "websocket.receive", "bytes": _AUDIO}
        if self._ending:
            return self._ending.pop()
        await self._until(lambda: self._closed)
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(self, message: dict[str, Any]) -> None:
        """Count the answers, and see the end."""
        self.texts += message["type"] == "websocket.send"
        self._closed = message["type"] == "websocket.close"
        self._changed.set()

    async def _until(self, come: Callable[[], bool]) -> None:
        while not come():
            self._changed.clear()
            await self._changed.wait()


class _Call:
    """A call that is answered before it is asked."""

    async def write(self, data: bytes) -> None:
        """Take it."""

    async def finish(self) -> None:
        """Take that, too."""

    async def head(self) -> ResponseHead:
        """Give the head."""
        return _HEAD

    async def read(self) -> tuple[bytes, bool]:
        """Give all of the body."""
        return SMALL_ANSWER, False

    def close(self) -> None:
        """Keep nothing."""


class _Client:
    """Upstream, without a network."""

    async def open(self, _head: Any) -> _Call:
        """Be connected."""
        return _Call()

    async def aclose(self) -> None:
        """Close nothing."""


def _scope(kind: str, path: str, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50_000),
        "path": path,
        "raw_path": path.encode("ascii"),
        "query_string": b"",
        "root_path": "",
        "state": {},
    } | more


Work: TypeAlias = Callable[[str, int], Coroutine[Any, Any, None]]

WORKS: dict[str, Work] = {
    "foreign": _foreign,
    "null": _null,
    "request": _request,
    "forwarded": _forwarded,
    "relayed": _relayed,
}
"""By name, what is done so many times."""


def main() -> None:
    """Do a work so many times, and twice as many: in a process each, that differ in nothing else."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=WORKS, nargs="+")
    parser.add_argument("--times", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="of requests")
    parser.add_argument("--sockets", required=True, help="upstream of sessions")
    options = parser.parse_args()
    for name in options.work:
        for times in (options.times, 2 * options.times):
            _in_child(WORKS[name], options.sockets if name == "relayed" else options.upstream, times)


def _in_child(work: Work, upstream: str, times: int) -> None:
    child = os.fork()
    if not child:
        die_with_parent()
        loops.run(work(upstream, times))
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("a child has failed")


if __name__ == "__main__":
    main()

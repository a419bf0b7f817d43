"""A WebSocket caller that is played from a script, and the look for what a session left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from faults.rig import PREFIX, TOKEN, Rig, rig, until
from harness import guard

from keypool_asgi import SessionLimits
from keypool_asgi.testing import Simulator

__all__ = [
    "AUDIO",
    "QUICK",
    "TERMINATE",
    "SessionCaller",
    "all_retrieved",
    "ended_well",
    "retrieved",
    "session_rig",
    "socket_scope",
]

AUDIO = bytes(3200)
"""100 ms at 16 kHz."""

TERMINATE = '{"type": "Terminate"}'

QUICK = SessionLimits(opening_seconds=2.0, attempt_seconds=0.5, closing_seconds=0.5)

Message = dict[str, Any]
Heard = Callable[["SessionCaller"], object]


def session_rig(simulator: Simulator, *keys: str, **settings: Any) -> Rig:
    """A rig whose sessions are opened and ended quickly."""
    return rig(simulator, *keys, **({"sessions": QUICK} | settings))


def socket_scope(
    target: str = "/v3/ws?sample_rate=16000", *headers: tuple[bytes, bytes], **more: Any
) -> dict[str, Any]:
    """The scope of an upgrade, as a server makes it; its caller sees refusals by their status."""
    path, _, query = target.partition("?")
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": PREFIX + path,
        "raw_path": (PREFIX + path).encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"host", b"pool.example"),
            (b"authorization", TOKEN.encode()),
            (b"user-agent", b"tests"),
            *headers,
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        **more,
    }


@dataclass
class SessionCaller:
    """Plays the server's side of one session.

    Attributes:
        says: messages that the caller sends, each once it was sent as many messages as stand before it in
            ``after`` (none, if there are fewer of these).
        after: as above; messages of upstream's, the accept not counted.
        leaves_at_receive: the so-many-th ``receive()`` (from 1) says that the caller is gone.
        leaves_at_send: it is gone once it has been sent so many messages, the accept and the close counted.
        raises: whether ``send()`` raises an OSError once the caller has gone, as ASGI 2.4 has it.
        code: of its close frame; 1006 for none.
    """

    says: list[str | bytes] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    leaves_at_receive: int | None = None
    leaves_at_send: int | None = None
    raises: bool = False
    code: int = 1006
    reason: str = ""
    sent: list[Message] = field(default_factory=list)
    asked: int = 0

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self.left = asyncio.Event()
        self._connected = False
        self._said = 0

    async def receive(self) -> Message:
        self.asked += 1
        if self.asked == self.leaves_at_receive:
            self.leave()
        await asyncio.sleep(0)
        if self.gone:
            return self._disconnect()
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while not self.gone:
            if self._may_speak():
                self._said += 1
                return _received(self.says[self._said - 1])
            self._changed.clear()
            await self._changed.wait()
        return self._disconnect()

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        if self.gone and self.raises:
            raise ConnectionResetError("the caller is gone")
        if not self.gone:
            self.sent.append(message)
        if len(self.sent) == self.leaves_at_send:
            self.leave()
        self._changed.set()

    def leave(self) -> None:
        self.left.set()
        self._changed.set()

    @property
    def gone(self) -> bool:
        return self.left.is_set()

    def say(self, *messages: str | bytes) -> None:
        """Send more, at once."""
        self.says.extend(messages)
        self._changed.set()

    async def call(self, app: Any, scope: dict[str, Any] | None = None) -> SessionCaller:
        await guard(app)(scope or socket_scope(), self.receive, self.send)
        return self

    def _may_speak(self) -> bool:
        if not self.accepted or self._said == len(self.says):
            return False
        needed = self.after[self._said] if self._said < len(self.after) else 0
        return len(self.messages) >= needed

    def _disconnect(self) -> Message:
        return {"type": "websocket.disconnect", "code": self.code, "reason": self.reason}

    # What came back

    @property
    def accepted(self) -> bool:
        return bool(self.sent) and self.sent[0]["type"] == "websocket.accept"

    @property
    def messages(self) -> list[str | bytes]:
        sent = [message for message in self.sent if message["type"] == "websocket.send"]
        return [message["text"] if message.get("bytes") is None else message["bytes"] for message in sent]

    @property
    def kinds(self) -> list[str]:
        """Types of the JSON messages."""
        return [json.loads(text).get("type") for text in self.messages if isinstance(text, str) and text[:1] == "{"]

    @property
    def closed(self) -> tuple[int, str] | None:
        """Code and reason of the close frame that it was sent, if any."""
        last = self.sent[-1] if self.sent else {"type": ""}
        return (last["code"], last.get("reason", "")) if last["type"] == "websocket.close" else None

    @property
    def refused(self) -> tuple[int, str] | None:
        """Status and code of the refusal that it was sent in place of an upgrade, if any."""
        if not self.sent or self.sent[0]["type"] != "websocket.http.response.start":
            return None
        assert [message["type"] for message in self.sent[1:]] == ["websocket.http.response.body"]
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])["code"]

    def in_order(self) -> bool:
        """Whether what was sent is what a server takes: an accept, messages, at most one close; or a denial."""
        kinds = [message["type"].removeprefix("websocket.") for message in self.sent]
        if not kinds or kinds[0] != "accept":
            return kinds in ([], ["close"], ["http.response.start"], ["http.response.start", "http.response.body"])
        return "accept" not in kinds[1:] and "close" not in kinds[:-1] and set(kinds) <= {"accept", "send", "close"}


def _received(data: str | bytes) -> Message:
    if isinstance(data, str):
        return {"type": "websocket.receive", "text": data}
    return {"type": "websocket.receive", "text": None, "bytes": data}


async def ended_well(pool: Rig, *, upstream: bool = True) -> None:
    """Fail if something is left here, or ``upstream``: a session that runs there costs money (invariant I8)."""
    await pool.nothing_left()
    await pool.app.aclose()
    if not upstream:
        return
    simulator = pool.simulator
    with contextlib.suppress(TimeoutError):
        await until(lambda: not simulator.open_sessions)
    left = [session for session in simulator.sessions if session.running or session.state == "dropped"]
    assert not left, f"sessions that nobody ended: {left}"


async def retrieved(work: Coroutine[Any, Any, None]) -> None:
    """Do the work under ``all_retrieved``."""
    with all_retrieved():
        await work


@contextlib.contextmanager
def all_retrieved() -> Iterator[None]:
    """Fail if a task of the running loop ended with an exception that nobody has looked at."""
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    yield
    gc.collect()
    assert not problems, problems

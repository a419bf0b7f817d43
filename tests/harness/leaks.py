"""The leak guard of the whole suite (design invariant I2): no secret may come out where it must not.

Convention: every key secret in tests is made by ``secret(name)``, every team token by ``token(name)``. Then

* nothing that a served app sends downstream may hold the mark of a secret (``guard``, used by ``serve``);
* no log record may hold the mark of a secret; no record of ours may hold the mark of a token either, and its traceback
  is taken *with the locals* of our frames, because error trackers send those along (``LogGuard``);
* no simulator may have seen the mark of a token (``SimulatorWatch``).

Violations are collected in ``LEAKS``; ``plugin`` turns them into failures.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import traceback
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

__all__ = ["LEAKS", "Leak", "Leaks", "LogGuard", "SimulatorWatch", "guard", "secret", "token"]

SECRET_MARK = "sk-kp-"
TOKEN_MARK = "tt-kp-"

PACKAGE = str(Path(__file__).resolve().parents[2] / "keypool_asgi")
TESTING = str(Path(PACKAGE) / "testing")


def secret(name: str) -> str:
    """Make an upstream key's secret that the guard knows."""
    return f"{SECRET_MARK}{name}-0123456789abcdef"


def token(name: str) -> str:
    """Make a team token that the guard knows."""
    return f"{TOKEN_MARK}{name}-0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Leak:
    """One violation: what came out where, and the bytes around it."""

    where: str
    mark: str
    excerpt: str

    def __str__(self) -> str:
        kind = "a key's secret" if self.mark == SECRET_MARK else "a team token"
        return f"{kind} in {self.where}: ...{self.excerpt}..."


@dataclass
class Leaks:
    """Collects violations from any thread; ``take`` hands out those that nobody has reported yet."""

    found: list[Leak] = field(default_factory=list)
    _taken: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self, text: str | bytes, where: str, marks: Iterable[str] = (SECRET_MARK,)) -> None:
        """Record every mark that occurs in ``text``."""
        text = text.decode("latin-1") if isinstance(text, bytes) else text
        for mark in marks:
            at = text.find(mark)
            if at >= 0:
                with self._lock:
                    self.found.append(Leak(where, mark, text[max(0, at - 60) : at + 60]))

    def take(self) -> list[Leak]:
        with self._lock:
            new, self._taken = self.found[self._taken :], len(self.found)
        return new


LEAKS = Leaks()


# 1. What goes downstream


def guard(app: Any, leaks: Leaks = LEAKS) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Scan every message that an outermost ASGI app sends: headers, bodies across their pieces, frames, reasons."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        scan = _Scan(leaks, f"what was sent on {scope['type']} {scope.get('path', '')}")

        async def scanned(message: Any) -> None:
            scan.message(message)
            await send(message)

        await app(scope, receive, scanned)

    return guarded


class _Scan:
    """Scans the messages of one exchange, remembering the end of the last body or frame."""

    def __init__(self, leaks: Leaks, where: str) -> None:
        self.leaks = leaks
        self.where = where
        self.tail = b""

    def message(self, message: Mapping[str, Any]) -> None:
        payload = message.get("body") or message.get("bytes") or (message.get("text") or "").encode()
        rest = [value for name, value in message.items() if name not in ("body", "bytes", "text")]
        self.leaks.check(b"\n".join(_flat(rest)), f"{message['type']}, {self.where}")
        data = self.tail + bytes(payload)
        self.leaks.check(data, f"{message['type']}, {self.where}")
        self.tail = data[-(len(SECRET_MARK) - 1) :]


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes | bytearray | memoryview):
        yield bytes(value)
    elif isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from _flat(item)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _flat(item)


# 2. What is logged


class LogGuard(logging.Handler):
    """Scans every record that reaches the root logger.

    A record is ours if its logger is, if one of our frames is on the stack that emits it, or in its traceback. Others
    (a server's access log, a test's own client) may name the token of the request: it is theirs to see.
    """

    def __init__(self, leaks: Leaks = LEAKS, package: str = PACKAGE, testing: str = TESTING) -> None:
        super().__init__(logging.NOTSET)
        self.leaks = leaks
        self.package = package + "/"
        self.testing = testing + "/"

    def emit(self, record: logging.LogRecord) -> None:
        where = f"the log of {record.name} ({record.levelname})"
        error = record.exc_info[1] if record.exc_info else None
        frames = list(self._our_frames(error)) if error else []
        marks = (SECRET_MARK, TOKEN_MARK) if frames or self._is_ours(record) else (SECRET_MARK,)
        self.leaks.check(_message(record), where, marks)
        self.leaks.check(_extras(record), f"{where}, extra", marks)
        if error:
            self.leaks.check("".join(traceback.format_exception(error)), f"{where}, traceback", marks)
        for frame in frames:
            at = f"{where}, locals of {frame.f_code.co_qualname}"
            for name, value in frame.f_locals.items():
                self.leaks.check(_repr(value), f"{at}, {name}", (SECRET_MARK,) if _is_scope(value) else marks)

    def _is_ours(self, record: logging.LogRecord) -> bool:
        if record.name.split(".")[0] == "keypool_asgi":
            return not record.name.startswith("keypool_asgi.testing")
        return any(self._is_our_file(frame.f_code.co_filename) for frame in _stack(sys._getframe()))

    def _is_our_file(self, name: str) -> bool:
        return name.startswith(self.package) and not name.startswith(self.testing)

    def _our_frames(self, error: BaseException, seen: set[int] | None = None) -> Iterator[FrameType]:
        """Yield our frames of a traceback, of its causes and contexts, and of the members of groups."""
        seen = set() if seen is None else seen
        if id(error) in seen:
            return
        seen.add(id(error))
        for frame in _frames(error.__traceback__):
            if self._is_our_file(frame.f_code.co_filename):
                yield frame
        members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        for linked in (error.__cause__, error.__context__, *members):
            if linked is not None:
                yield from self._our_frames(linked, seen)


def _is_scope(value: Any) -> bool:
    """An ASGI scope holds what the caller presented, in every frame up to the server's own: no stage can hide that."""
    return isinstance(value, Mapping) and "headers" in value and value.get("type") in ("http", "websocket")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a record that cannot be formatted is logging's to report
        return f"{record.msg} {_repr(record.args)}"


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def _extras(record: logging.LogRecord) -> str:
    return " ".join(_repr(value) for name, value in vars(record).items() if name not in _STANDARD)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - half-built objects are met in tracebacks
        return ""


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


# 3. What goes upstream


class SimulatorWatch:
    """Asks every simulator that was made while it is on whether it has seen a token.

    A simulator is held until it was asked once, because a test's own is gone before anybody can ask; and it is asked
    before it forgets.
    """

    def __init__(self, simulator_class: type[Any], leaks: Leaks = LEAKS) -> None:
        self.leaks = leaks
        self.simulator_class = simulator_class
        self._watched: list[_Watched] = []
        self._originals = simulator_class.__init__, simulator_class.forget

    def on(self) -> None:
        """Learn of every simulator from now on."""
        make, forget = self._originals

        @functools.wraps(make)
        def init(simulator: Any, *args: Any, **settings: Any) -> None:
            make(simulator, *args, **settings)
            simulator.watch(TOKEN_MARK)  # or it could not tell what was in the body of a long upload
            self._watched.append(_Watched(lambda: simulator))

        @functools.wraps(forget)
        def look_and_forget(simulator: Any) -> None:
            self.look()
            forget(simulator)

        self._set(init, look_and_forget)

    def off(self) -> None:
        """Leave the class as it was."""
        self._set(*self._originals)

    def _set(self, init: Any, forget: Any) -> None:
        self.simulator_class.__init__ = init
        self.simulator_class.forget = forget

    def look(self) -> None:
        """Ask all of them what they have seen since they were last asked."""
        for watched in list(self._watched):
            simulator = watched.simulator()
            if simulator is None:
                self._watched.remove(watched)
                continue
            for request in simulator.saw(TOKEN_MARK):
                if request.number not in watched.told:
                    watched.told.add(request.number)
                    where = f"a request that reached a simulator: {request.method} {request.target}"
                    self.leaks.check(f"{TOKEN_MARK} among {request.headers}", where, (TOKEN_MARK,))
            watched.simulator = weakref.ref(simulator)


@dataclass
class _Watched:
    simulator: Callable[[], Any]
    told: set[int] = field(default_factory=set)

"""Faults as frozen values, and the rules that say which request gets which."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Literal

from .sockets.faults import SocketFault
from .values import Reply

__all__ = ["MALFORMED", "Break", "Fault", "Rule", "Rules", "Stall", "Zeros"]

Where = Literal["request head", "request body", "response head", "response body"]
Then = Literal["keep", "close", "hang up", "reset"]
Framing = Literal["auto", "length", "chunked", "close"]
Malformed = Literal[
    "garbage",
    "status line",
    "version",
    "no colon",
    "folded field",
    "null in field",
    "conflicting lengths",
    "negative length",
    "length and chunked",
    "huge head",
    "bad chunk size",
    "truncated chunked",
    "truncated length",
    "body too long",
    "second response",
]

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MALFORMED: dict[Malformed, bytes] = {
    "garbage": b"\x16\x03\x01\x00\xa5\x01 this is not HTTP\r\n\r\n",
    "status line": b"HTTP/1.1 2OO OK\r\nContent-Length: 2\r\n\r\n{}",
    "version": b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "no colon": _OK + b"Content-Length 2\r\n\r\n{}",
    "folded field": _OK + b"X-Folded: one\r\n two\r\nContent-Length: 2\r\n\r\n{}",
    "null in field": _OK + b"X-Null: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "conflicting lengths": _OK + b"Content-Length: 2\r\nContent-Length: 7\r\n\r\n{}12345",
    "negative length": _OK + b"Content-Length: -2\r\n\r\n{}",
    "length and chunked": _OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "huge head": _OK + b"X-Huge: " + b"x" * 1_048_576 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "bad chunk size": _OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "truncated chunked": _OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "truncated length": _OK + b"Content-Length: 100\r\n\r\n{}",
    "body too long": _OK + b"Content-Length: 2\r\n\r\n{}and more than was announced",
    "second response": _OK + b"Content-Length: 2\r\n\r\n{}" + _OK + b"Content-Length: 2\r\n\r\n{}",
}
"""Replies that break HTTP/1.1 (RFC 9112); the connection is closed after them."""


@dataclass(frozen=True, slots=True)
class Break:
    """End the connection at a place.

    Attributes:
        where: ``request head``: once it was read; ``request body``: after so many bytes of it;
            ``response head``: before its first byte; ``response body``: after so many bytes of it.
        after: bytes of the body, for the two bodies.
        how: ``reset`` (RST) or ``fin`` (an orderly close).
    """

    where: Where = "response head"
    after: int = 0
    how: Literal["reset", "fin"] = "reset"


@dataclass(frozen=True, slots=True)
class Stall:
    """Do nothing for a while at a place; ``where`` and ``after`` as in ``Break``.

    ``seconds`` of None waits until ``Simulator.release()``, or until the client goes away.
    """

    where: Where = "response head"
    after: int = 0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Zeros:
    """A body of ``size`` zero bytes that is never held: it comes in pieces of ``piece`` bytes."""

    size: int
    piece: int = 65_536

    def __iter__(self) -> Iterator[bytes]:
        block = bytes(self.piece)
        for _ in range(self.size // self.piece):
            yield block
        if rest := self.size % self.piece:
            yield block[:rest]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one exchange; the constructors below name the usual ones, ``but`` combines them.

    Attributes:
        answer: given instead of the product's own reply.
        raw: these bytes are sent instead of any response.
        acts: whether the product does what it was asked (stores the upload, starts the job) although its
            reply is replaced or lost.
        headers: added to the response, duplicates and all.
        informational: 1xx responses sent before the final one.
        trailers: fields after the body, which is then chunked.
        framing: of the response body: ``length``, ``chunked``, ``close`` (it ends with the connection),
            or ``auto`` as the product would.
        read_rate: bytes of the request body that are read in a second.
        early_after: answer once so many bytes of the request body have come (0: with its head), and before the rest.
        breaks: end the connection at a place.
        stall: do nothing for a while at a place.
        trickle: send the response so many bytes at a time, and so many seconds apart.
        then: what becomes of the connection after the response. ``close`` announces it with ``Connection: close``,
            ``hang up`` does not, ``reset`` is an RST.
    """

    answer: Reply | None = None
    raw: bytes | None = None
    acts: bool = True
    headers: tuple[tuple[bytes, bytes], ...] = ()
    informational: tuple[int, ...] = ()
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    framing: Framing = "auto"
    read_rate: float | None = None
    early_after: int | None = None
    breaks: Break | None = None
    stall: Stall | None = None
    trickle: tuple[int, float] | None = None
    then: Then = "keep"

    @classmethod
    def status(
        cls, status: int, body: bytes | str | object = None, *, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> Fault:
        """Answer with a status, and do nothing else. ``body`` is bytes, text, or anything that JSON has."""
        return cls(answer=_reply(status, body, headers), acts=False)

    @classmethod
    def early(cls, status: int, body: bytes | str | object = None, *, after: int = 0, then: Then = "keep") -> Fault:
        """Answer with a status after ``after`` bytes of the request body, before the rest of it was read.

        ``then="keep"`` reads the rest after that and keeps the connection, the others end the connection.
        """
        return cls(answer=_reply(status, body, ()), acts=False, early_after=after, then=then)

    @classmethod
    def reset(cls, where: Where = "response head", after: int = 0) -> Fault:
        """Reset the connection (RST) at a place."""
        return cls(breaks=Break(where, after, "reset"))

    @classmethod
    def fin(cls, where: Where = "response head", after: int = 0) -> Fault:
        """Close the connection in an orderly way (FIN) at a place where it must not end."""
        return cls(breaks=Break(where, after, "fin"))

    @classmethod
    def stalled(cls, where: Where = "response head", after: int = 0, *, seconds: float | None = None) -> Fault:
        """Do nothing at a place for ``seconds``, or until ``Simulator.release()``."""
        return cls(stall=Stall(where, after, seconds))

    @classmethod
    def trickled(cls, size: int = 1, interval: float = 0.01) -> Fault:
        """Send the response ``size`` bytes at a time, ``interval`` seconds apart."""
        return cls(trickle=(size, interval))

    @classmethod
    def slow_read(cls, bytes_per_second: float) -> Fault:
        """Read the request body slowly, so that the sender feels back-pressure."""
        return cls(read_rate=bytes_per_second)

    @classmethod
    def malformed(cls, kind: Malformed, *, acts: bool = True) -> Fault:
        """Answer with what is not HTTP/1.1, and close; the kinds are the names in ``MALFORMED``."""
        return cls(raw=MALFORMED[kind], acts=acts, then="hang up")

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> Fault:
        """Send the client somewhere else. A proxy that follows hands its key to whoever is there."""
        return cls.status(status, b"", headers=[(b"Location", location.encode())])

    @classmethod
    def large_body(cls, size: int, *, framing: Framing = "length") -> Fault:
        """Answer 200 with ``size`` zero bytes that neither side needs to hold."""
        headers = [(b"Content-Type", b"application/octet-stream")]
        return cls(answer=Reply(200, headers, Zeros(size)), acts=False, framing=framing)

    @classmethod
    def fields(cls, *headers: tuple[bytes, bytes]) -> Fault:
        """Add header fields to the reply, such as two ``Set-Cookie``, or a ``Connection`` that names others."""
        return cls(headers=headers)

    @classmethod
    def informed(cls, *statuses: int) -> Fault:
        """Send 1xx responses, such as 103, before the final one."""
        return cls(informational=statuses or (103,))

    @classmethod
    def trailing(cls, *trailers: tuple[bytes, bytes]) -> Fault:
        """Send fields after the body of the reply."""
        return cls(trailers=trailers)

    def but(self, **changes: object) -> Fault:
        """Return this fault with other values for some of its attributes."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


@dataclass(slots=True)
class Rule:
    """Which requests get a fault. Every condition that is given must hold.

    A ``SocketFault`` concerns upgrades to a WebSocket only, a ``Fault`` concerns them as well as all other requests.

    Attributes:
        fault: what they get.
        key: the secret that they present, or of the key that minted the temporary token that they present.
        service: such as ``api``.
        method: such as ``POST``.
        path: a glob over the path without service and query, such as ``/v2/transcript/*``.
        nth: only the n-th match, counting from 1.
        times: how many matches get it; None for all of them.
        matches: how many requests have matched.
        hits: how many have got the fault.
    """

    fault: Fault | SocketFault
    key: str | None = dataclasses.field(default=None, repr=False)
    service: str | None = None
    method: str | None = None
    path: str = "*"
    nth: int | None = None
    times: int | None = None
    matches: int = 0
    hits: int = 0

    def concerns(self, *, key: str | None, service: str, method: str, path: str, upgrade: bool) -> bool:
        """Tell whether the conditions hold."""
        return (
            (upgrade or isinstance(self.fault, Fault))
            and self.key in (None, key)
            and self.service in (None, service)
            and self.method in (None, method)
            and fnmatchcase(path, self.path)
        )

    def play(self) -> bool:
        """Count a match, and tell whether this one gets the fault."""
        self.matches += 1
        hit = (self.nth is None or self.matches == self.nth) and (self.times is None or self.hits < self.times)
        self.hits += hit
        return hit


class Rules:
    """The rules in force, first come first served. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._drops: list[Literal["reset", "fin"]] = []

    def add(self, rule: Rule) -> None:
        """Put a rule in force."""
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """Take every rule out of force."""
        with self._lock:
            self._rules.clear()
            self._drops.clear()

    def remove(self, rule: Rule) -> None:
        """Take one rule out of force; it may be out of force already."""
        with self._lock:
            self._rules = [other for other in self._rules if other is not rule]

    def pick(
        self, *, key: str | None, service: str, method: str, path: str, upgrade: bool = False
    ) -> Fault | SocketFault | None:
        """Return the fault of the first rule that wants this request."""
        with self._lock:
            for rule in self._rules:
                concerned = rule.concerns(key=key, service=service, method=method, path=path, upgrade=upgrade)
                if concerned and rule.play():
                    return rule.fault
        return None

    def drop_connections(self, times: int, how: Literal["reset", "fin"]) -> None:
        """End the next connections as soon as they are made."""
        with self._lock:
            self._drops += [how] * times

    def pick_connection(self) -> Literal["reset", "fin"] | None:
        """Tell how a new connection ends at once, or None."""
        with self._lock:
            return self._drops.pop(0) if self._drops else None


def _reply(status: int, body: bytes | str | object, headers: Iterable[tuple[bytes, bytes]]) -> Reply:
    given = list(headers)
    if isinstance(body, bytes):
        return Reply(status, given, body)
    if isinstance(body, str):
        return Reply(status, [(b"Content-Type", b"text/plain; charset=utf-8"), *given], body.encode())
    if body is None:
        try:
            body = {"error": HTTPStatus(status).phrase}
        except ValueError:
            body = {"error": f"Status {status}"}
    return Reply(status, [(b"Content-Type", b"application/json"), *given], json.dumps(body).encode())

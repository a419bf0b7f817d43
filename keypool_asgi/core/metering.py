"""Metering: what an operation uses up, and finding the figures in an answer that passes by, in bounded memory."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from .messages import Headers

__all__ = ["Figures", "Found", "Metering", "Scanner", "Scanning", "job_in", "readable_codings", "scanner_for"]

Found = Mapping[str, int | float | str | bool | None]
"""Members of an answer's object by their path, such as ``{"usage.total_tokens": 120}``."""

SCANNED_BYTES = 256 * 1024**2
"""How much of one decoded answer is searched for figures. What comes later is not seen."""

_DECODED_BYTES = 64 * 1024
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Figures:
    """Where an answer says what was used.

    Attributes:
        members: paths of the members that are looked at: names, or names joined with a dot. Not within lists.
        used: those that were found to what was used, by unit; None when they do not say so (yet). Members that were
            not found are missing.
        models: members of which one names the priced model.
    """

    members: frozenset[str]
    used: Callable[[Found], Mapping[str, int] | None]
    models: tuple[str, ...] = ()

    def model(self, found: Found) -> str | None:
        """The model that an answer names, or None."""
        return next((name for member in self.models if isinstance(name := found.get(member), str)), None)


def job_in(member: str) -> Figures:
    """Where an answer that begins a job says which: it has no figures yet."""
    return Figures(frozenset({member}), _none_yet)


def _none_yet(_: Found) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """What one operation uses up beside requests.

    Attributes:
        body: unit that the bytes of its request body count as, or None.
        session: unit that a session's seconds count as, or None.
        units: units whose figure is in the answer, or of the job that the answer begins.
        figures: where the answer says it.
        field: response field that says it for the only one of ``units``, in lower case.
        begins: member of the answer with the id of the job that it begins; the job's figure comes later.
        ends: identifier in the path that names the job whose figure the answer has.
        begun_by: operation that begins such jobs.
        closing: member of a session's closing figures to the unit that it says.
        lasts: query parameter with the seconds that a session by the minted token may last.
        longest: seconds where that parameter is missing.
        shortest: the least that it may say.
    """

    body: str | None = None
    session: str | None = None
    units: tuple[str, ...] = ()
    figures: Figures | None = None
    field: bytes | None = None
    begins: str | None = None
    ends: str | None = None
    begun_by: str = ""
    closing: Mapping[str, str] | None = None
    lasts: str | None = None
    longest: int = 0
    shortest: int = 1


# A string, a run without brackets, and whole objects and lists without others inside: possessive, so that a chunk is
# gone through once.
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_FLAT = rb'(?:[^"{}\[\]]++|' + _STRING + rb")*+"
_RUN = rb'(?:[^"{}\[\]]++|' + _STRING + rb"|\{" + _FLAT + rb"\}|\[" + _FLAT + rb"\])*+"
_SCALAR = rb"-?\d[\d.eE+-]{0,40}+(?=[\s,}\]])|(?:true|false|null)(?=[\s,}\]])"

# A short text, mostly without escapes; a name and what follows it; a member whose value is mostly read with it.
_SHORT = rb'"([^"\\]{0,%d}+(?=")|(?:[^"\\]|\\.){0,%d})"' % (_LONGEST, _LONGEST)
_MEMBER = re.compile(_SHORT + rb"\s*+:\s*+(?:" + _SHORT + rb"|(" + _SCALAR + rb")|(?=\S))", re.DOTALL)

# A member that does not matter, as most are: its name without escapes, then its value, not too deep.
_PASSED = rb'"[^"\\]{0,%d}+"\s*+:\s*+(?:' % _LONGEST + _STRING + rb"|" + _SCALAR + rb"|[{\[]" + _RUN + rb"[}\]])"

_OUTSIDE = re.compile(rb"[^{]*+")
_SKIPPED = re.compile(_RUN, re.DOTALL)
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_CONSTANTS = {b"true": True, b"false": False, b"null": None}


@lru_cache(maxsize=256)
def _passed_in(path: str, members: frozenset[str]) -> re.Pattern[bytes]:
    """What matches the members of the object at this path that do not matter, up to the first that may.

    The scanner would come to the same without it, member by member.
    """
    inside = f"{path}." if path else ""
    paths = members | _above(members)
    names = [re.escape(one.removeprefix(inside).encode()) for one in sorted(paths) if one.startswith(inside)]
    return re.compile(rb'(?:[\s,]*+(?!"(?:' + rb"|".join(names) + rb')")' + _PASSED + rb")*+[\s,]*+", re.DOTALL)


@lru_cache(maxsize=256)
def _above(members: frozenset[str]) -> frozenset[str]:
    """Paths of the objects in which members are."""
    return frozenset(path.rpartition(".")[0] for path in members) - {""}


class Scanner:
    """Finds members of a JSON object that comes in pieces. Memory: one short token, whatever the size of the object.

    Of several objects one after the other, as in an event stream (``data: {...}``), later members replace earlier
    ones. What is not JSON is passed over, or ends the search; figures of others are never made up.

    Args:
        members: paths that are wanted.

    Attributes:
        found: what was found so far.
    """

    def __init__(self, members: Iterable[str]) -> None:
        self.found: dict[str, int | float | str | bool | None] = {}
        self._wanted = frozenset(members)
        self._passed = _OUTSIDE  # what does not matter where it stands
        self._path: list[str] = []  # names of the objects that are open, of those that matter
        self._open = False
        self._skipping = 0  # brackets that are open within what does not matter
        self._in_string = False
        self._tail = b""
        self._over = False

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        if self._over:
            return
        data, self._tail = self._tail + data, b""
        following = 0
        while (at := self._passed.match(data, following).end()) < len(data):  # type: ignore[union-attr]  # or nothing
            following = self._step(data, at)
            if following < 0:
                self._tail = data[at:]
                self._over = len(self._tail) > 2 * _LONGEST + 100
                return

    def _step(self, data: bytes, at: int) -> int:
        """Read what stands at ``at``. Returns where that ends, or -1 when more is needed to tell."""
        if self._in_string:
            return self._end_string(data, at)
        if self._skipping:
            return self._bracket(data, at)
        if not self._open:
            self._open = True
            self._look()
            return at + 1
        if data.startswith(b"}", at):
            return self._end_object(at)
        return self._member(data, at)

    def _look(self) -> None:
        """Look for the next member of the object that is open now."""
        self._passed = _passed_in(".".join(self._path), self._wanted)

    def _end_string(self, data: bytes, at: int) -> int:
        if data.startswith(b"\\", at):
            return -1  # what it escapes is in the next piece
        self._in_string = False
        if self._skipping:
            self._passed = _SKIPPED
        else:
            self._look()
        return at + 1

    def _bracket(self, data: bytes, at: int) -> int:
        bracket = data[at : at + 1]
        if bracket == b'"':
            self._begin_string()
        elif bracket in b"{[":
            self._skipping += 1
        else:
            self._skipping -= 1
            if not self._skipping:
                self._look()
        return at + 1

    def _begin_string(self) -> None:
        self._in_string = True
        self._passed = _REST_OF_STRING

    def _end_object(self, at: int) -> int:
        if self._path:
            self._path.pop()
            self._look()
        else:
            self._open = False
            self._passed = _OUTSIDE
        return at + 1

    def _member(self, data: bytes, at: int) -> int:
        member = _MEMBER.match(data, at)
        if member is None:
            return -1
        name, text, scalar = member.groups()
        path = ".".join([*self._path, name.decode("utf-8", "replace")])
        if text is None and scalar is None:
            return self._long_value(data, member.end(), path)
        if path in self._wanted:
            self.found[path] = _scalar(scalar) if text is None else text.decode("utf-8", "replace")
        return member.end()

    def _long_value(self, data: bytes, at: int, path: str) -> int:
        """Begin to read a value that is not short, or has not come as a whole."""
        first = data[at : at + 1]
        if first == b'"':
            if path in self._wanted and len(data) - at < 2 * _LONGEST:
                return -1
            self._begin_string()
        elif first == b"{" and path in _above(self._wanted):
            self._path.append(path.rpartition(".")[2])
            self._look()
        elif first in b"{[":
            self._skipping = 1
            self._passed = _SKIPPED
        else:
            return -1
        return at + 1


def _scalar(text: bytes) -> int | float | bool | None:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    try:
        return int(text) if text.lstrip(b"-").isdigit() else float(text)
    except ValueError:
        return None


class _Inflating:
    """A scanner of compressed pieces."""

    def __init__(self, scanner: Scanner, wbits: int) -> None:
        self.scanner = scanner
        self.found = scanner.found
        self._inflate = zlib.decompressobj(wbits)
        self._left = SCANNED_BYTES

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        try:
            while data and self._left > 0:
                piece = self._inflate.decompress(data, _DECODED_BYTES)
                data = self._inflate.unconsumed_tail
                self._left -= len(piece)
                self.scanner.feed(piece)
        except zlib.error:
            self._left = 0


Scanning = Scanner | _Inflating
"""Something to feed an answer to, in pieces; it has ``found``."""


def scanner_for(figures: Figures, headers: Headers) -> Scanning | None:
    """Return a scanner for an answer with these (lower-case) header fields, None when its coding cannot be read."""
    scanner = Scanner(figures.members)
    coding = next((value.strip().lower() for name, value in headers if name == b"content-encoding"), b"identity")
    if coding == b"identity":
        return scanner
    return _Inflating(scanner, 47 if coding == b"gzip" else 15) if coding in (b"gzip", b"deflate") else None


def readable_codings(headers: Headers) -> Headers:
    """Return a request's (lower-case) fields so that the answer comes plain or as gzip, which can be searched."""
    accepted = b",".join([value for name, value in headers if name == b"accept-encoding"]).lower()
    chosen = b"gzip" if re.search(rb"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", accepted) else b"identity"
    return [*((name, value) for name, value in headers if name != b"accept-encoding"), (b"accept-encoding", chosen)]

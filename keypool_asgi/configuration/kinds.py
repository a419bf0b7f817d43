"""What a value of the file may be, and how a wrong one is told: file, table, setting, and what is allowed."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from keypool_asgi.errors import ConfigurationError

__all__ = [
    "BOOLEAN",
    "MOMENT",
    "NUMBER",
    "SECRET",
    "SECRETS",
    "TABLE",
    "TABLES",
    "TEXT",
    "TEXTS",
    "TEXT_OR_TEXTS",
    "WHOLE",
    "Kind",
    "Place",
    "Values",
    "checked",
    "nearest",
    "one_of",
]

Values = dict[str, Any]
"""One table of the file."""

# TOML's integers are those of 64 bits.
_LARGEST = 2**63 - 1
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting may be.

    Attributes:
        words: the same for people, such as ``"a whole number"``.
        accepts: whether a value read from TOML is that.
        secret: whether a value must not be shown, right or wrong (invariant I2).
    """

    words: str
    accepts: Callable[[object], bool]
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file something stands: ``keypool.toml, [[keys]] 2``.

    Attributes:
        file: path of the file, as it was given.
        table: the table's header, with its number where there are several; empty for what stands above all tables.
    """

    file: str
    table: str = ""

    def within(self, table: str) -> Place:
        """Return the place of a table in the same file."""
        return Place(self.file, table)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Have a ``ConfigurationError`` of the block say where it is."""
        try:
            yield
        except ConfigurationError as error:
            raise self.error(error) from None

    def error(self, message: object) -> ConfigurationError:
        """Make an error that says where it is."""
        return ConfigurationError(f"{self.file}{', ' if self.table else ''}{self.table}: {message}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_moment(value: object) -> bool:
    return isinstance(value, datetime.datetime) and value.tzinfo is not None


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


TEXT = Kind("a string that is not empty", _is_text)
TEXTS = Kind("an array of strings that are not empty", _are_texts)
TEXT_OR_TEXTS = Kind("a string or an array of strings", lambda value: _is_text(value) or _are_texts(value))
SECRET = Kind(TEXT.words, _is_text, secret=True)
SECRETS = Kind(TEXTS.words, _are_texts, secret=True)
WHOLE = Kind("a whole number", _is_whole)
NUMBER = Kind("a number, and finite", _is_number)
BOOLEAN = Kind("true or false", lambda value: isinstance(value, bool))
MOMENT = Kind("a date and time with an offset, such as 2027-01-31T00:00:00Z", _is_moment)
TABLE = Kind("a table", lambda value: isinstance(value, dict))
TABLES = Kind("an array of tables, written with double brackets", _are_tables)


def one_of(*choices: str) -> Kind:
    """The kind of a setting with a few known values."""
    return Kind(f"one of {', '.join(repr(choice) for choice in choices)}", lambda value: value in choices)


def checked(values: Mapping[str, object], kinds: Mapping[str, Kind], place: Place) -> Values:
    """Return a table whose settings are all known and of their kind.

    Raises:
        ConfigurationError: a setting is unknown, and the nearest known one is named; or a value is not allowed.
    """
    for name, value in values.items():
        if name not in kinds:
            raise place.error(f"there is no setting {name[:_SHOWN_CHARACTERS]!r}{nearest(name, kinds)}")
        kind = kinds[name]
        if not kind.accepts(value):
            raise place.error(f"{name} must be {kind.words}, not {_shown(value, kind)}")
    return dict(values)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant; else which there are."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"


def _shown(value: object, kind: Kind) -> str:
    """A wrong value, where it may be seen; else what it is."""
    if not kind.secret and isinstance(value, str | int | float) and len(text := repr(value)) <= _SHOWN_CHARACTERS:
        return text.lower() if isinstance(value, bool) else text
    names = {str: "a string", list: "an array", dict: "a table", bool: "a boolean"}
    return f"this {names.get(type(value), 'value').removeprefix('a ').removeprefix('an ')}"

"""Lua scripts, each beside its hash, by which the server knows it once it has seen it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["LAYOUT", "Script", "key_names"]

LAYOUT = 1
"""Version of what the keys hold. It is a part of their names, so that another version never misreads them; scripts are
named by the hash of their text. While a new layout is rolled out, old and new processes count apart."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script.

    Attributes:
        name: what a log calls it, such as ``"resources.record"``.
        text: its source.
        sha: SHA-1 of the source in hexadecimal, as ``EVALSHA`` wants it.
    """

    name: str
    text: str
    sha: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)

    @classmethod
    def load(cls, family: str, verb: str) -> Script:
        """Read ``<family>_<verb>.lua``, with what its family shares (``<family>.lua``) before it."""
        shared, own = (_FOLDER / f"{name}.lua" for name in (family, f"{family}_{verb}"))
        return cls(f"{family}.{verb}", f"{shared.read_text('utf-8')}\n{own.read_text('utf-8')}")


def key_names(prefix: str, tag: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Name keys that must lie in one slot of a cluster: what is in braces is all that the slot depends on."""
    return tuple(f"{{{prefix}:{LAYOUT}:{tag}}}:{part}" for part in parts)

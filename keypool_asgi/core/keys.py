"""Upstream keys as values, and the wrapper that keeps their secrets out of every text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from keypool_asgi.errors import ConfigurationError

__all__ = ["Secret", "UpstreamKey"]

# A secret travels as one header field value: visible ASCII without spaces (RFC 9110, section 5.5).
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+\Z")


class Secret:
    """A text that never shows itself: not in ``repr``, ``str``, formatting, pickles or tracebacks (invariant I2)."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. Called where a request's header is built, and nowhere else."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is never serialised")


@dataclass(frozen=True, slots=True, init=False)
class UpstreamKey:
    """One AssemblyAI API key that the pool holds.

    Args:
        id: printable name, used in logs, events and usage records. Unique in a pool.
        secret: the API key itself; kept as a ``Secret``.
        project: what the key belongs to; data is visible within a project only. A key without one is its own project.
        account: what limits and funds are shared by. Without one, the project is its own account.
        region: data zone, ``"us"`` or ``"eu"``; fixes the hosts.
        weight: share of the work among keys of one priority, greater than 0.
        priority: keys with the lowest number are used first; higher numbers are the overflow.
        max_in_flight: exchanges at the same time on this key, or None for no limit.

    Raises:
        ConfigurationError: an argument is out of its range; the message never shows the secret.
    """

    id: str
    secret: Secret
    project: str
    account: str
    region: str
    weight: float
    priority: int
    max_in_flight: int | None

    def __init__(
        self,
        id: str,  # noqa: A002 - the public name of the field
        secret: str | Secret,
        *,
        project: str | None = None,
        account: str | None = None,
        region: str = "us",
        weight: float = 1,
        priority: int = 0,
        max_in_flight: int | None = None,
    ) -> None:
        if not id:
            raise ConfigurationError("UpstreamKey: id must not be empty")
        text = secret.reveal() if isinstance(secret, Secret) else secret
        if not isinstance(text, str) or not _VISIBLE_ASCII.match(text):
            raise ConfigurationError(f"UpstreamKey {id!r}: secret must be visible ASCII characters without spaces")
        if not weight > 0:
            raise ConfigurationError(f"UpstreamKey {id!r}: weight must be greater than 0, not {weight!r}")
        if max_in_flight is not None and max_in_flight < 1:
            raise ConfigurationError(f"UpstreamKey {id!r}: max_in_flight must be at least 1, not {max_in_flight!r}")
        project = project or id
        values = (id, Secret(text), project, account or project, region, weight, priority, max_in_flight)
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

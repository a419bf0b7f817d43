"""Where teams are found by their token: a mapping, a function of the user's, or an object with ``find``."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from typing import Any, Self

from cachetools import TTLCache

from keypool_asgi.core.teams import Team
from keypool_asgi.core.tokens import TokenDigester, token_fault
from keypool_asgi.errors import ConfigurationError, Refusal
from keypool_asgi.ports import TeamDirectory

from .callables import as_async, call_store, store_failed

__all__ = ["CachedTeams", "GuardedTeams", "MappedTeams", "TokenDigest", "team_directory"]

Find = Callable[[str], Awaitable[Team | None]]

# How a digest was made, as it is written before it: under a pepper or without one.
_PEPPERED, _PLAIN = "hmac-sha256", "sha256"

_DIGEST = re.compile(rf"({_PEPPERED}|{_PLAIN}):[0-9a-f]{{64}}\Z")


class TokenDigest(str):
    """What stands for a team token in a ``teams`` mapping, so that the token itself need not be known here.

    ``"hmac-sha256:"`` (made under a pepper) or ``"sha256:"`` (without one), and 64 hexadecimal digits. The command
    ``keypool token new`` prints one.

    Raises:
        ConfigurationError: the text is no such digest. It is not shown: it may be a token.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:  # noqa: D102 - as __init__ has none
        if not isinstance(text, str) or not _DIGEST.match(text):
            raise ConfigurationError(
                f"TokenDigest: must be '{_PEPPERED}:' or '{_PLAIN}:' and 64 hexadecimal digits in lower case"
            )
        return super().__new__(cls, text)

    @classmethod
    def of(cls, token: str, pepper: str | bytes | None = None) -> Self:
        """Make the digest of a token."""
        return cls(f"{_PLAIN if pepper is None else _PEPPERED}:{TokenDigester(pepper).digest(token).hex()}")

    @property
    def peppered(self) -> bool:
        """Whether it was made under a pepper, and is of use with that pepper only."""
        return self.startswith(_PEPPERED)

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the digest."""
        return bytes.fromhex(self.partition(":")[2])


def team_directory(
    value: object,
    *,
    pepper: str | bytes | None = None,
    ttl_seconds: float = 60,
    negative_ttl_seconds: float = 10,
    max_entries: int = 10_000,
    clock: Callable[[], float] = time.monotonic,
) -> TeamDirectory:
    """Return the directory that a ``teams`` setting stands for.

    Args:
        value: a mapping of token, or ``TokenDigest``, to ``Team``, read once and kept as digests; a sync or async
            function ``(token) -> Team | None``, whose answers are cached; or an object with ``find``, which caches as
            it likes.
        pepper: secret that the digests of tokens are made with, see ``core.tokens.TokenDigester``.
        ttl_seconds: how long a function's answer with a team is believed; a team changes or ends within this time.
        negative_ttl_seconds: how long an answer without a team is believed.
        max_entries: teams that are remembered, and as many unknown tokens; the least recently used go first.
        clock: returns seconds from any fixed point.

    Raises:
        ConfigurationError: the value is none of these, or an entry or option is wrong; no message has a token in it.
    """
    digester = TokenDigester(pepper)
    if isinstance(value, MappedTeams | CachedTeams | GuardedTeams):
        return value
    if isinstance(value, Mapping):
        return MappedTeams(value, digester, peppered=pepper is not None)
    if not isinstance(value, str | bytes | type):
        find = getattr(value, "find", None)
        if callable(find):
            return GuardedTeams(as_async(find))
        if callable(value):
            found = _cache("ttl_seconds", ttl_seconds, max_entries, clock)
            unknown = _cache("negative_ttl_seconds", negative_ttl_seconds, max_entries, clock)
            return CachedTeams(as_async(value), digester, found, unknown)
    raise ConfigurationError(
        "teams: must be a mapping of token to Team, a function (token) -> Team | None, or an object with find; "
        f"not {'the class ' + value.__name__ if isinstance(value, type) else type(value).__name__}"
    )


class MappedTeams:
    """Teams of a mapping, which is copied.

    Args:
        teams: token, or ``TokenDigest``, to team.
        digester: makes the digests.
        peppered: whether it does so under a pepper.

    Raises:
        ConfigurationError: an entry could never work.
    """

    def __init__(self, teams: Mapping[str, Team], digester: TokenDigester, *, peppered: bool) -> None:
        self._digest = digester.digest
        self._teams = {}
        for number, (token, team) in enumerate(teams.items(), 1):
            _check_entry(number, token, team)
            if isinstance(token, TokenDigest):
                _check_pepper(token, team, peppered=peppered)
                self._teams[token.raw] = team
            else:
                self._teams[self._digest(token)] = team

    async def find(self, token: str) -> Team | None:
        """Return the team of a token, or None."""
        return self._teams.get(self._digest(token))

    def __repr__(self) -> str:
        return f"<MappedTeams: {len(self._teams)} tokens>"


class GuardedTeams:
    """Teams of a user's object: what it raises becomes ``StoreUnavailable``."""

    def __init__(self, find: Find) -> None:
        self._find = find

    async def find(self, token: str) -> Team | None:
        """Return the team of a token, or None.

        Raises:
            StoreUnavailable: the object failed, or returned something else.
        """
        team = await call_store("teams", "find", self._find, token, secret=token)
        if team is not None and not isinstance(team, Team):
            raise store_failed("teams", "find", TypeError(f"it returned {type(team).__name__}, not a Team or None"))
        return team


class CachedTeams:
    """Teams of a user's function, remembered by digest.

    Found and unknown tokens have a cache each, so that a flood of made-up tokens cannot push the real ones out. A
    failure is not remembered. At any time one call per token is under way, whoever waits for it.
    """

    def __init__(
        self,
        find: Find,
        digester: TokenDigester,
        found: TTLCache[bytes, Team],
        unknown: TTLCache[bytes, None],
    ) -> None:
        self._lookup = GuardedTeams(find).find
        self._digest = digester.digest
        self._found = found
        self._unknown = unknown
        self._flights: dict[bytes, asyncio.Task[Team | Refusal | None]] = {}

    async def find(self, token: str) -> Team | None:
        """Return the team of a token, or None. Does not yield to the event loop when the answer is remembered.

        Raises:
            StoreUnavailable: the function failed, or returned something else.
        """
        digest = self._digest(token)
        try:
            return self._found[digest]
        except KeyError:
            return None if digest in self._unknown else await self._join(token, digest)

    async def _join(self, token: str, digest: bytes) -> Team | None:
        flight = self._flights.get(digest)
        if flight is None or flight.done():  # done: cancelled before its first step, by a loop that ended
            flight = self._flights[digest] = asyncio.create_task(self._fly(token, digest))
        outcome = await asyncio.shield(flight)
        if isinstance(outcome, Refusal):
            # One exception raised in many tasks would collect the tracebacks of all.
            raise copy(outcome) from outcome.__cause__
        return outcome

    async def _fly(self, token: str, digest: bytes) -> Team | Refusal | None:
        try:
            team = await self._lookup(token)
        except Refusal as refusal:
            return refusal
        finally:
            self._flights.pop(digest, None)
        if team is None:
            self._unknown[digest] = None
        else:
            self._found[digest] = team
        return team

    def __repr__(self) -> str:
        return f"<CachedTeams: {len(self._found)} teams>"


def _check_entry(number: int, token: object, team: object) -> None:
    """Refuse an entry of a mapping that could never work. Its token is not named: the messages are logged."""
    if not isinstance(team, Team):
        raise ConfigurationError(f"teams: the value of entry {number} must be a Team, not {type(team).__name__}")
    if not isinstance(token, str):
        raise ConfigurationError(f"teams: the token of {team.id!r} must be a string, not {type(token).__name__}")
    fault = token_fault(token.encode("utf-8", "surrogatepass"))
    if fault is not None:
        raise ConfigurationError(f"teams: the token of {team.id!r} cannot be used. {fault.sentence}")


def _check_pepper(digest: TokenDigest, team: Team, *, peppered: bool) -> None:
    """Refuse a digest that no token can have with this ``pepper`` setting."""
    if digest.peppered and not peppered:
        raise ConfigurationError(f"teams: the digest of {team.id!r} was made under a pepper: set pepper")
    if peppered and not digest.peppered:
        raise ConfigurationError(
            f"teams: the digest of {team.id!r} was made without a pepper, and pepper is set: make a new one under it"
        )


def _cache(setting: str, ttl: float, max_entries: int, clock: Callable[[], float]) -> TTLCache[bytes, Any]:
    if not ttl >= 0:
        raise ConfigurationError(f"teams: {setting} must be at least 0, not {ttl!r}")
    if max_entries < 1:
        raise ConfigurationError(f"teams: max_entries must be at least 1, not {max_entries!r}")
    return TTLCache(max_entries, ttl, timer=clock)

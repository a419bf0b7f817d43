"""Where the pool's keys come from: what an operator may hand in, and the list that is kept fresh from it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterable
from math import inf
from typing import NoReturn

from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.ports import KeySource
from keypool_asgi.stores.callables import as_async

__all__ = ["FixedKeys", "KeyList", "key_source"]

_LOG = logging.getLogger("keypool_asgi.keys")
_EXAMPLE = 'UpstreamKey("prod-1", secret=...)'
_RETRY_MAX_SECONDS = 60.0


Check = Callable[[UpstreamKey], None]
"""Raises ConfigurationError for a key that the provider cannot serve."""


def key_source(value: object, check: Check | None = None) -> KeySource:
    """Make a source of keys of what an operator hands in.

    Args:
        value: an iterable of ``UpstreamKey``, which is checked and kept; or a function without arguments that returns
            one, sync (it runs in a thread) or async; or an object with such a method ``load``.
        check: called with every key.

    Raises:
        ConfigurationError: it is none of these; the message says what to write, and never shows the value.
    """
    if not isinstance(value, type):
        load = getattr(value, "load", None)
        if load is not None and callable(load):
            return _CalledKeys(load, check)
        if callable(value):
            return _CalledKeys(value, check)
    return FixedKeys(value, check)


class FixedKeys:
    """Keys that never change."""

    def __init__(self, keys: object, check: Check | None = None) -> None:
        self.keys = _checked(keys, check)
        if not self.keys:
            raise ConfigurationError(f"keys: the list is empty; write keys=[{_EXAMPLE}]")

    async def load(self) -> tuple[UpstreamKey, ...]:
        """Return the keys."""
        return self.keys


class _CalledKeys:
    """Keys that a function returns."""

    def __init__(self, function: Callable[[], object], check: Check | None) -> None:
        self._check = check
        self._function = as_async(function)

    async def load(self) -> tuple[UpstreamKey, ...]:
        """Call the function."""
        return _checked(await self._function(), self._check)


def _checked(keys: object, check: Check | None = None) -> tuple[UpstreamKey, ...]:
    """The keys as a tuple, every one of them an ``UpstreamKey`` with an id of its own."""
    if isinstance(keys, UpstreamKey):
        raise ConfigurationError(f"keys: a list is needed, not one UpstreamKey; write keys=[{_EXAMPLE}]")
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        _refuse(keys)
    seen: dict[str, UpstreamKey] = {}
    homes: dict[str, tuple[str, str]] = {}
    for key in keys:
        if not isinstance(key, UpstreamKey):
            _refuse(key)
        if key.id in seen:
            raise ConfigurationError(f"keys: two keys have the id {key.id!r}; ids must be unique in a pool")
        if homes.setdefault(key.project, (key.account, key.region)) != (key.account, key.region):
            raise ConfigurationError(f"keys: those of project {key.project!r} must be of one account and one region")
        if check is not None:
            check(key)
        seen[key.id] = key
    return tuple(seen.values())


def _refuse(value: object) -> NoReturn:
    # Only the type is shown: a plain string is most likely a secret (I2).
    raise ConfigurationError(
        f"keys: {type(value).__name__} is not an UpstreamKey; write keys=[{_EXAMPLE}], "
        "a function that returns such a list, or an object with a load() method"
    )


class KeyList:
    """The last list of a source, kept fresh by loading it again. One load runs at a time.

    Args:
        source: knows the keys.
        changed: called with every list that arrives.
        ttl_seconds: age at which a list is loaded again, while it goes on being used.
        stale_seconds: age up to which a list is used when loading fails, at least ``ttl_seconds``.
        load_seconds: longest time that one load may take.
        clock: seconds, monotonic.

    Raises:
        ConfigurationError: a setting is out of its range.
    """

    def __init__(
        self,
        source: KeySource,
        changed: Callable[[tuple[UpstreamKey, ...]], None],
        *,
        ttl_seconds: float,
        stale_seconds: float,
        load_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        for name, value in (
            ("ttl_seconds", ttl_seconds),
            ("stale_seconds", stale_seconds),
            ("load_seconds", load_seconds),
        ):
            if not value > 0:
                raise ConfigurationError(f"{name} must be greater than 0, not {value!r}")
        fixed = isinstance(source, FixedKeys)
        self._source = source
        self._changed = changed
        self._ttl_seconds = inf if fixed else ttl_seconds
        self._stale_seconds = inf if fixed else max(stale_seconds, ttl_seconds)
        self._load_seconds = load_seconds
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._error: Exception | None = None
        self._next_load = -inf
        self._usable_until = -inf
        #: The moment until which the list needs nothing; a caller can look at it before it awaits ``ensure``.
        self.due = -inf
        if isinstance(source, FixedKeys):
            self._loaded(source.keys)

    async def ensure(self) -> None:
        """Have a usable list: wait for a load if there is none, start one in the background if it is old.

        Raises:
            StoreUnavailable: there is no list that is young enough, and none can be loaded.
        """
        now = self._clock()
        if now < self._usable_until:
            if now >= self._next_load:
                self._start()
            return
        if self._loading or now >= self._next_load:
            await _finished(self._start())
        now = self._clock()
        if now >= self._usable_until:
            raise StoreUnavailable(
                "The list of upstream keys cannot be loaded now.", retry_after=max(0.0, self._next_load - now)
            )

    async def refresh(self) -> None:
        """Load the list now.

        Raises:
            ConfigurationError: the source returned something that is not a list of keys.
            StoreUnavailable: the source failed.
        """
        if self._loading:
            # That load may have asked the source before the change that this one is to see.
            await _finished(self._start())
        await _finished(self._start())
        if isinstance(self._error, ConfigurationError):
            raise self._error
        if self._error is not None:
            raise StoreUnavailable("The list of upstream keys cannot be loaded now.")

    async def aclose(self) -> None:
        """Stop a load that is running."""
        if self._task is not None and self._loading:
            self._task.cancel()
            await _finished(self._task)

    @property
    def _loading(self) -> bool:
        return self._task is not None and not self._task.done()

    def _start(self) -> asyncio.Task[None]:
        """The load that is running, or a new one. It is a task of its own: no caller's cancellation ends it."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._load(), name="keypool_asgi: load keys")
        return self._task

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._load_seconds):
                keys = _checked(await self._source.load())
        except Exception as error:  # noqa: BLE001 - an operator's source may raise anything; callers get one kind
            self._failed(error)
        else:
            self._loaded(keys)

    def _loaded(self, keys: tuple[UpstreamKey, ...]) -> None:
        now = self._clock()
        if self._failures:
            _LOG.info("the list of keys loads again")
        if not keys:
            _LOG.warning("the list of keys is empty: every request is refused until it is not")
        self._failures, self._error = 0, None
        self._next_load = now + self._ttl_seconds
        self._usable_until = now + self._stale_seconds
        self.due = min(self._next_load, self._usable_until)
        self._changed(keys)

    def _failed(self, error: Exception) -> None:
        now = self._clock()
        seconds = min(2.0 ** min(self._failures, 16), self._ttl_seconds, _RETRY_MAX_SECONDS)
        self._failures += 1
        self._error = error
        self._next_load = now + seconds
        self.due = min(self._next_load, self._usable_until)
        kept = max(0.0, self._usable_until - now)
        _LOG.warning("the list of keys cannot be loaded: %s; the last list is kept for %.0f s", _named(error), kept)


def _named(error: Exception) -> str:
    """What an error is and where it arose. Not what it says: a source's error may quote a secret (I2)."""
    if isinstance(error, ConfigurationError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__qualname__}{where}"


async def _finished(task: asyncio.Task[None]) -> None:
    """Wait for a task without ending it when the caller is cancelled, and without raising what it raised."""
    await asyncio.wait([task])

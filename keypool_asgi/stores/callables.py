"""The one place where a callable that a user gave becomes an async one, and its failures become ours."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, overload
from urllib.parse import quote

from keypool_asgi.errors import Refusal, StoreUnavailable

__all__ = ["as_async", "call_store", "store_failed"]

log = logging.getLogger("keypool_asgi.stores")

P = ParamSpec("P")
T = TypeVar("T")


@overload
def as_async(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def as_async(function: Callable[P, Awaitable[T] | T]) -> Callable[P, Coroutine[Any, Any, T]]: ...
def as_async(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return an async function that calls ``function``.

    - A coroutine function, a ``functools.partial`` of one, and an object with an async ``__call__`` run on the event
      loop, and are returned as they are.
    - Anything else may block, so it runs in a thread (``asyncio.to_thread``, context variables kept). If its result is
      awaitable (a lambda around an async call, say), that is awaited on the event loop. No loop is running where such
      a callable runs, so it may return a coroutine, but cannot create a task.

    A thread cannot be cancelled: when the caller is, the function still runs to its end.
    """
    if _is_coroutine_function(function):
        return function

    @wraps(function, updated=())
    async def call(*args: Any, **kwargs: Any) -> Any:
        result = await asyncio.to_thread(_call, function, *args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return call


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` can only return a coroutine."""
    while isinstance(function, partial):
        function = function.func
    called = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        # Python 3.11 never wakes the waiter of a future that is given a StopIteration.
        raise RuntimeError("the callable raised StopIteration") from error


async def call_store(
    setting: str, verb: str, function: Callable[..., Awaitable[T]], *args: Any, secret: str | None = None
) -> T:
    """Await a user's function; a ``Refusal`` of its own passes, everything else that goes wrong is ``store_failed``."""
    failure: BaseException
    try:
        return await function(*args)
    except Refusal:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        failure = error  # the function was cancelled by something of its own; nobody cancelled the caller
    except Exception as error:  # noqa: BLE001 - a store that fails refuses, whatever it failed of (I9)
        failure = error
    raise store_failed(setting, verb, failure, secret=secret)


def store_failed(setting: str, verb: str, error: BaseException, *, secret: str | None = None) -> StoreUnavailable:
    """Log the failure of a store, once, and return the refusal to raise, which has the failure as its cause.

    Passwords in URLs are masked. A failure whose text has ``secret`` in it is neither logged nor kept beyond its type.
    """
    cause = error
    if secret and _names(error, secret):
        cause = RuntimeError(f"{type(error).__name__}, whose text is withheld because it has the caller's token in it")
    text = _URL_PASSWORD.sub("//***@", " ".join(str(cause).split()))[:300]
    log.error("%s: %s failed at %s: %s: %s", setting, verb, _place(error), type(error).__name__, text)
    refusal = StoreUnavailable("The service cannot check this request now, so it was refused. Try again later.")
    refusal.__cause__ = cause
    return refusal


_URL_PASSWORD = re.compile(r"//[^/@\s]*@")


def _names(error: BaseException, secret: str) -> bool:
    """Whether a secret is in the text of an error or of those behind it: plain, as in a repr, or as in a URL."""
    text = "".join(traceback.format_exception(error, limit=0))
    return any(form in text for form in (secret, repr(secret)[1:-1], quote(secret, safe="")))


def _place(error: BaseException) -> str:
    """File and line where an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"

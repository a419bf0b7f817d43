"""Callables that users give: sync and async alike, and what becomes of their failures."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
from urllib.parse import quote

import pytest

from keypool_asgi.errors import Forbidden, StoreUnavailable
from keypool_asgi.stores.callables import as_async, call_store, store_failed

request_id = contextvars.ContextVar("request_id", default="none")


async def coroutine_function(number, *, plus=1):
    await asyncio.sleep(0)
    return number + plus, threading.current_thread(), request_id.get()


def function(number, *, plus=1):
    return number + plus, threading.current_thread(), request_id.get()


class Object:
    async def __call__(self, number, *, plus=1):
        return await coroutine_function(number, plus=plus)

    async def method(self, number, *, plus=1):
        return await coroutine_function(number, plus=plus)

    def sync_method(self, number, *, plus=1):
        return function(number, plus=plus)

    @staticmethod
    async def static(number, *, plus=1):
        return await coroutine_function(number, plus=plus)


class SyncObject:
    def __call__(self, number, *, plus=1):
        return function(number, plus=plus)


class Awaitable:
    def __init__(self, number, *, plus=1):
        self.found = number, plus

    def __await__(self):
        number, plus = self.found
        return coroutine_function(number, plus=plus).__await__()


@functools.wraps(coroutine_function)
def wrapper(*args, **kwargs):
    return coroutine_function(*args, **kwargs)


ON_THE_LOOP = {
    "coroutine function": coroutine_function,
    "partial of one": functools.partial(functools.partial(coroutine_function), plus=1),
    "object": Object(),
    "partial of an object": functools.partial(Object(), plus=1),
    "bound method": Object().method,
    "static method": Object.static,
}
AWAITED = {
    "lambda": lambda number, **kwargs: coroutine_function(number, **kwargs),  # noqa: PLW0108 - a lambda it shall be
    "wrapper": wrapper,
    "class of awaitables": Awaitable,
}
IN_A_THREAD = {
    "function": function,
    "lambda around one": lambda number, **kwargs: function(number, **kwargs),  # noqa: PLW0108 - a lambda it shall be
    "partial of a function": functools.partial(function, plus=1),
    "sync object": SyncObject(),
    "sync method": Object().sync_method,
}


def call(made, *args, **kwargs):
    async def run():
        request_id.set("r1")
        pending = made(*args, **kwargs)
        assert inspect.iscoroutine(pending)
        return await pending

    return asyncio.run(run())


@pytest.mark.parametrize("given", ON_THE_LOOP.values(), ids=ON_THE_LOOP)
def test_async_callables_are_left_as_they_are(given):
    assert as_async(given) is given
    assert call(given, 1) == (2, threading.current_thread(), "r1")


@pytest.mark.parametrize("given", AWAITED.values(), ids=AWAITED)
def test_what_returns_an_awaitable_is_awaited_on_the_loop(given):
    assert call(as_async(given), 1, plus=2) == (3, threading.current_thread(), "r1")


@pytest.mark.parametrize("given", IN_A_THREAD.values(), ids=IN_A_THREAD)
def test_sync_callables_run_in_a_thread_with_their_context(given):
    result, thread, found = call(as_async(given), 1)
    assert (result, found) == (2, "r1")
    assert thread is not threading.current_thread()


def test_a_sync_callable_does_not_hold_the_loop_up():
    release = threading.Event()

    async def run():
        waiting = asyncio.create_task(as_async(release.wait)(5))
        await asyncio.sleep(0)
        release.set()
        return await waiting

    assert asyncio.run(run())


def test_exceptions_come_through():
    def fail():
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        call(as_async(fail))


def test_stop_iteration_does_not_hang():
    with pytest.raises(RuntimeError, match="StopIteration"):
        call(as_async(lambda: next(iter(()))))


def test_a_converted_function_keeps_its_name():
    assert as_async(function).__name__ == "function"
    assert as_async(as_async(function)).__name__ == "function"


# Failures


async def fail(error):
    raise error


def ours(caplog):
    return [record for record in caplog.records if record.name.startswith("keypool_asgi")]


def failure_of(error, **kwargs):
    async def run():
        with pytest.raises(StoreUnavailable) as caught:
            await call_store("teams", "find", fail, error, **kwargs)
        return caught.value

    return asyncio.run(run())


@pytest.mark.parametrize(
    "error",
    [OSError("down"), KeyError("x"), TimeoutError(), ExceptionGroup("all", [OSError()]), asyncio.CancelledError()],
    ids=repr,
)
def test_a_failure_is_chained_and_logged_once(error, caplog):
    refusal = failure_of(error)
    assert refusal.__cause__ is error
    [record] = ours(caplog)
    assert record.name == "keypool_asgi.stores"
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("teams: find failed at ")
    assert "test_callables.py:" in record.getMessage()
    assert type(error).__name__ in record.getMessage()


def test_a_refusal_passes_and_is_not_logged(caplog):
    refusal = Forbidden("This team is suspended.")

    async def run():
        with pytest.raises(Forbidden) as caught:
            await call_store("teams", "find", fail, refusal)
        assert caught.value is refusal

    asyncio.run(run())
    assert not ours(caplog)


def test_the_callers_own_cancellation_passes(caplog):
    async def run():
        task = asyncio.create_task(call_store("teams", "find", asyncio.sleep, 60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert not ours(caplog)


def chained(text):
    error = ValueError("look-up failed")
    error.__cause__ = KeyError(text)
    return error


@pytest.mark.parametrize(
    "make",
    [
        KeyError,
        chained,
        lambda text: ExceptionGroup("all", [OSError(f"no {text}!")]),
        lambda text: OSError(f"404 for /teams/{quote(text, safe='')}"),
    ],
    ids=["direct", "chained", "group", "in a URL"],
)
@pytest.mark.parametrize("text", ["tt-kp-1", "tt-kp-1'x", "tt-kp-'\\\"/+"])
def test_a_failure_that_names_the_token_is_withheld(make, text, caplog):
    refusal = failure_of(make(text), secret=text)
    assert "tt-kp" not in repr(refusal.__cause__)
    assert "withheld" in caplog.text
    assert "tt-kp" not in caplog.text


def test_passwords_in_urls_are_masked(caplog):
    failure_of(OSError("cannot reach redis://app:hunter2@cache:6379/0\nnor postgres://x:y@db/z"))
    assert "redis://***@cache:6379/0 nor postgres://***@db/z" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_failure_that_was_never_raised_has_no_place(caplog):
    store_failed("quotas", "reserve", TypeError("x" * 1000))
    assert "an unknown place" in caplog.text
    assert len(ours(caplog)[0].getMessage()) < 400

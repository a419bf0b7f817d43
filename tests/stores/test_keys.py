"""Every way to hand in keys, and the list that is kept fresh from them."""

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.ports import KeySource
from keypool_asgi.stores.keys import KeyList, key_source

A = UpstreamKey("a", "secret-a")
B = UpstreamKey("b", "secret-b")


async def later() -> list[UpstreamKey]:
    await asyncio.sleep(0)
    return [A, B]


class WithLoad:
    async def load(self) -> Iterable[UpstreamKey]:
        return [A, B]


class WithBlockingLoad:
    def load(self) -> Iterable[UpstreamKey]:
        return [A, B]


class AsyncCall:
    async def __call__(self) -> Iterable[UpstreamKey]:
        return [A, B]


@pytest.mark.parametrize(
    "value",
    [
        [A, B],
        (A, B),
        (key for key in (A, B)),
        {"x": A, "y": B}.values(),
        lambda: [A, B],
        lambda: (key for key in (A, B)),
        lambda: later(),  # noqa: PLW0108 - a function that is not async, with an answer that is
        later,
        functools.partial(later),
        WithLoad(),
        WithBlockingLoad(),
        AsyncCall(),
    ],
)
def test_every_form_gives_the_same_keys(value: object) -> None:
    source = key_source(value)
    assert isinstance(source, KeySource)
    assert tuple(asyncio.run(once(source))) == (A, B)


async def once(source: KeySource) -> Iterable[UpstreamKey]:
    return await source.load()


def test_a_generator_is_read_once_and_kept() -> None:
    source = key_source(key for key in (A, B))
    assert [tuple(asyncio.run(once(source))) for _ in range(2)] == [(A, B)] * 2


def test_a_blocking_function_runs_in_a_thread_and_an_async_one_does_not() -> None:
    threads: list[threading.Thread] = []

    def blocking() -> list[UpstreamKey]:
        threads.append(threading.current_thread())
        return [A]

    async def unblocking() -> list[UpstreamKey]:
        return blocking()

    for function in (blocking, unblocking):
        asyncio.run(once(key_source(function)))
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (["top-secret"], "str is not an UpstreamKey"),
        ("top-secret", "str is not an UpstreamKey"),
        ([b"top-secret"], "bytes is not an UpstreamKey"),
        ({"a": "top-secret"}, "str is not an UpstreamKey"),
        (None, "NoneType is not an UpstreamKey"),
        (42, "int is not an UpstreamKey"),
        ([A, None], "NoneType is not an UpstreamKey"),
        (UpstreamKey, "not an UpstreamKey"),
        (A, "a list is needed, not one UpstreamKey"),
        ([], "the list is empty"),
        ([A, UpstreamKey("a", "top-secret")], "two keys have the id 'a'"),
    ],
)
def test_anything_else_is_refused_with_what_to_write_and_without_the_value(value: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        key_source(value)
    assert "top-secret" not in str(caught.value)
    assert "two keys" in says or 'UpstreamKey("prod-1", secret=...)' in str(caught.value)


def test_what_a_function_returns_is_checked_too() -> None:
    with pytest.raises(ConfigurationError, match="str is not an UpstreamKey"):
        asyncio.run(once(key_source(lambda: ["top-secret"])))


class Bench:
    """A key list with a clock of its own, and a source that does what the test says."""

    def __init__(self, answer: Callable[[], Awaitable[Any]] | None = None, **settings: float) -> None:
        self.now = 0.0
        self.loads = 0
        self.lists: list[tuple[UpstreamKey, ...]] = []
        self.answer: Any = answer or [A]
        defaults = {"ttl_seconds": 60.0, "stale_seconds": 3600.0, "load_seconds": 10.0}
        self.list = KeyList(self, self.lists.append, clock=lambda: self.now, **{**defaults, **settings})

    async def load(self) -> Any:
        self.loads += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return await self.answer() if callable(self.answer) else self.answer

    async def ensure_at(self, now: float) -> None:
        self.now = now
        await self.list.ensure()
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_first_load_is_shared_and_survives_the_one_who_started_it() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def slow() -> list[UpstreamKey]:
            await gate.wait()
            return [A]

        bench = Bench(slow)
        first, *others = [asyncio.create_task(bench.list.ensure()) for _ in range(5)]
        await settled()
        first.cancel()
        await settled()
        assert first.cancelled()
        gate.set()
        await asyncio.gather(*others)
        assert (bench.loads, bench.lists) == (1, [(A,)])

    asyncio.run(main())


def test_an_old_list_is_used_while_the_next_one_loads() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.ensure_at(0)
        gate = asyncio.Event()

        async def slow() -> list[UpstreamKey]:
            await gate.wait()
            return [B]

        bench.answer = slow
        await bench.ensure_at(59)
        assert (bench.loads, bench.list.due) == (1, 60)
        for _ in range(3):
            await asyncio.wait_for(bench.ensure_at(61), 1)
        assert (bench.loads, bench.lists) == (2, [(A,)])
        gate.set()
        await settled()
        assert (bench.lists[-1], bench.list.due) == ((B,), 121)

    asyncio.run(main())


def test_after_a_long_pause_the_list_is_loaded_before_it_is_used() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.ensure_at(0)
        bench.answer = [B]
        bench.now = 4000
        await bench.list.ensure()
        assert bench.lists == [(A,), (B,)]

    asyncio.run(main())


def test_a_failing_source_keeps_the_last_list_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bench = Bench()
        await bench.ensure_at(0)
        bench.answer = KeyError("top-secret")
        await bench.ensure_at(61)
        await bench.ensure_at(61.5)
        assert bench.loads == 2, "a failing source is left alone for a while"
        await bench.ensure_at(62)
        await bench.ensure_at(3599)
        assert bench.loads == 4
        with pytest.raises(StoreUnavailable) as caught:
            await bench.ensure_at(3601)
        assert caught.value.retry_after == 2
        assert bench.loads == 4, "the last failure is 2 s old and its pause is 4 s"
        bench.answer = [B]
        await bench.ensure_at(3603)
        assert bench.lists == [(A,), (B,)]

    caplog.set_level(logging.INFO, "keypool_asgi")
    asyncio.run(main())
    texts = [record.getMessage() for record in caplog.records]
    assert "KeyError at" in texts[0]
    assert "kept for 3539 s" in texts[0]
    assert texts[-1] == "the list of keys loads again"
    assert "top-secret" not in caplog.text


@pytest.mark.parametrize("error", [OSError("down"), StoreUnavailable("down"), ConfigurationError("keys: down")])
def test_a_source_that_fails_at_first(error: Exception) -> None:
    async def main() -> None:
        bench = Bench()
        bench.answer = error
        with pytest.raises(StoreUnavailable, match="cannot be loaded") as caught:
            await bench.ensure_at(0)
        assert caught.value.retry_after == 1
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        bench.answer = [A]
        await bench.ensure_at(1)
        assert bench.lists == [(A,)]

    asyncio.run(main())


def test_a_source_that_hangs_is_given_up() -> None:
    async def main() -> None:
        bench = Bench(asyncio.Event().wait, load_seconds=0.005)
        with pytest.raises(StoreUnavailable):
            await bench.ensure_at(0)

    asyncio.run(main())


def test_a_wrong_list_is_a_failure_and_names_what_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bench = Bench()
        await bench.ensure_at(0)
        bench.answer = [A, A]
        await bench.ensure_at(61)
        assert bench.lists == [(A,)]

    asyncio.run(main())
    assert "two keys have the id 'a'" in caplog.text


def test_refresh_loads_now_and_says_what_is_wrong() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.ensure_at(0)
        bench.answer = [B]
        await bench.list.refresh()
        assert bench.lists == [(A,), (B,)]
        bench.answer = [A, A]
        with pytest.raises(ConfigurationError, match="two keys"):
            await bench.list.refresh()
        bench.answer = OSError("down")
        with pytest.raises(StoreUnavailable):
            await bench.list.refresh()
        await bench.ensure_at(1)

    asyncio.run(main())


def test_refresh_does_not_take_the_answer_of_an_earlier_load() -> None:
    async def main() -> None:
        gates = [asyncio.Event(), asyncio.Event()]
        answers = iter([[A], [B]])

        async def slow() -> list[UpstreamKey]:
            answer = next(answers)
            await gates[bench.loads - 1].wait()
            return answer

        bench = Bench(slow)
        early = asyncio.create_task(bench.list.ensure())
        await settled()
        refreshes = [asyncio.create_task(bench.list.refresh()) for _ in range(3)]
        await settled()
        for gate in gates:
            gate.set()
        await asyncio.gather(early, *refreshes)
        assert (bench.loads, bench.lists) == (2, [(A,), (B,)])

    asyncio.run(main())


def test_a_request_joins_a_load_that_is_running_although_the_last_one_failed() -> None:
    async def main() -> None:
        bench = Bench()
        bench.answer = OSError("down")
        with pytest.raises(StoreUnavailable):
            await bench.ensure_at(0)
        gate = asyncio.Event()

        async def slow() -> list[UpstreamKey]:
            await gate.wait()
            return [A]

        bench.answer = slow
        bench.now = 0.5
        tasks = [asyncio.create_task(bench.list.refresh()), asyncio.create_task(bench.list.ensure())]
        await settled()
        gate.set()
        await asyncio.gather(*tasks)
        assert (bench.loads, bench.lists) == (2, [(A,)])

    asyncio.run(main())


def test_aclose_ends_a_running_load() -> None:
    async def main() -> None:
        bench = Bench(asyncio.Event().wait)
        waiting = asyncio.create_task(bench.list.ensure())
        await settled()
        await bench.list.aclose()
        with pytest.raises(StoreUnavailable):
            await waiting
        assert len(asyncio.all_tasks()) == 1
        await bench.list.aclose()

    asyncio.run(main())


def test_a_fixed_list_is_there_at_once_and_never_loaded_again() -> None:
    lists: list[tuple[UpstreamKey, ...]] = []
    source = key_source([A])
    fixed = KeyList(source, lists.append, ttl_seconds=1, stale_seconds=1, load_seconds=1, clock=lambda: 0)
    assert (lists, fixed.due) == ([(A,)], float("inf"))


def test_a_list_is_stale_after_its_time_to_live_at_the_earliest() -> None:
    async def main() -> None:
        bench = Bench(ttl_seconds=7200)
        await bench.ensure_at(0)
        await bench.ensure_at(7000)
        assert bench.loads == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "wrong", [{"ttl_seconds": 0}, {"stale_seconds": 0}, {"load_seconds": 0}, {"ttl_seconds": float("nan")}]
)
def test_wrong_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Bench(None, **wrong)


@pytest.mark.parametrize("other", [{"region": "eu"}, {"account": "another"}])
def test_the_keys_of_a_project_are_of_one_account_and_one_region(other: dict[str, str]) -> None:
    """A request about a project's data goes out on any of its keys; one in another region would not find it."""
    home = {"project": "p", "account": "a"}
    keys = [UpstreamKey("one", "s", **home), UpstreamKey("two", "s", **home | other)]
    with pytest.raises(ConfigurationError, match="project 'p' must be of one account and one region"):
        key_source(keys)

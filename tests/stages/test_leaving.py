"""Callers who leave while their answer is waited for: noticed by one timer for all exchanges of a loop."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from harness import run

from keypool_asgi.stages.leaving import Leaving, Lookout

Message = dict[str, Any]


class Line:
    """A caller's side: it leaves when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        self.asked += 1
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def exchange(lookout: Lookout, line: Line, seconds: float) -> str:
    """Wait as the forwarder does."""
    leaving = lookout.watch(line.receive)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if not leaving.caused():
            raise
        return "left"
    finally:
        await leaving.stop()
    return "answered"


def test_each_caller_ends_its_own_exchange_alone() -> None:
    async def main() -> None:
        lookout, lines = Lookout(), [Line() for _ in range(3)]
        going = [asyncio.create_task(exchange(lookout, line, 0.5)) for line in lines]
        await asyncio.sleep(0.2)
        lines[1].gone.set()
        assert await asyncio.gather(*going) == ["answered", "left", "answered"]
        assert all(task.cancelling() == 0 for task in going)

    run(main())


def watched() -> list[Leaving]:
    return [thing for thing in gc.get_objects() if isinstance(thing, Leaving)]


def test_a_short_exchange_reads_nothing_and_leaves_nothing() -> None:
    async def main() -> None:
        lookout, line = Lookout(), Line()
        before = watched()  # of other tests in this process
        assert await exchange(lookout, line, 0) == "answered"
        gc.collect()
        assert all(any(one is other for other in before) for one in watched())
        await asyncio.sleep(0.2)
        assert line.asked == 0

    run(main())


def test_a_cancellation_from_elsewhere_goes_on() -> None:
    async def main() -> None:
        line = Line()
        task = asyncio.create_task(exchange(Lookout(), line, 5))
        await asyncio.sleep(0.2)
        assert line.asked == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_loops_that_take_turns_do_not_forget_each_other() -> None:
    lookout = Lookout()
    loops = [asyncio.new_event_loop() for _ in range(2)]
    try:
        lines = [Line(), Line()]
        going = [loop.create_task(exchange(lookout, line, 2)) for loop, line in zip(loops, lines, strict=True)]
        for loop in [*loops, *loops]:
            loop.run_until_complete(asyncio.sleep(0.1))
        for line in lines:
            line.gone.set()
        for loop, task in zip(loops, going, strict=True):
            assert loop.run_until_complete(task) == "left"
    finally:
        for loop in loops:
            loop.close()

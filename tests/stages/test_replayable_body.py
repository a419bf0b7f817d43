"""The bounded peek: however the body came and was read, each attempt is given the same bytes."""

from __future__ import annotations

import sys
from typing import Any

from harness import run
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.stages.replay import ReplayableBody

Message = dict[str, Any]
GONE = {"type": "http.disconnect"}


class Script:
    def __init__(self, pieces: list[bytes]) -> None:
        last = len(pieces) - 1
        self.messages: list[Message] = [
            {"type": "http.request", "body": piece, "more_body": number < last} for number, piece in enumerate(pieces)
        ]
        self.asked = 0

    async def __call__(self) -> Message:
        self.asked += 1
        return self.messages.pop(0) if self.messages else dict(GONE)


async def rest_of(body: ReplayableBody) -> tuple[bytes, bool]:
    """Read to the end: the bytes, and whether the body ended before the caller was gone."""
    data, more = b"", True
    while more:
        message = await body()
        if message["type"] == "http.disconnect":
            return data, False
        data += message.get("body", b"")
        more = message.get("more_body", False)
    return data, True


@given(
    st.lists(st.binary(max_size=8), min_size=1, max_size=8),
    st.lists(st.integers(0, 10), max_size=6),
    st.integers(0, 80),
)
def test_every_attempt_gets_the_same_bytes(pieces: list[bytes], attempts: list[int], limit: int) -> None:
    async def main() -> None:
        script = Script(list(pieces))
        body = ReplayableBody(script, limit)
        whole = b"".join(pieces)
        for reads in attempts:
            body.rewind()
            seen, ended = b"", False
            for _ in range(reads):
                message = await body()
                if message["type"] == "http.disconnect":
                    assert ended, "the body was lost"
                    break
                assert not ended or not message.get("body")
                seen += message.get("body", b"")
                ended = not message.get("more_body", False)
            assert whole.startswith(seen) or not body.whole
            if not body.whole:
                assert len(whole) > limit
                return
        body.rewind()
        assert await rest_of(body) == (whole, True)
        assert (await body())["type"] == "http.disconnect", "after the body comes what the caller says"
        assert script.asked <= len(pieces) + sum(attempts) + 1
        assert body.whole == (len(whole) <= limit)

    run(main())


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_forgetting_loses_nothing_that_was_not_given_out(pieces: list[bytes], before: int, after: int) -> None:
    """The second attempt gets an answer, and so its body is forgotten, at any point of its reading."""

    async def main() -> None:
        body = ReplayableBody(Script(list(pieces)), 1000)
        for _ in range(min(before, len(pieces))):
            await body()
        body.rewind()
        seen, more = b"", True
        for _ in range(after):
            if more:
                message = await body()
                seen, more = seen + message["body"], message["more_body"]
        body.forget()
        assert not body.whole
        if more:
            seen += (await rest_of(body))[0]
        assert seen == b"".join(pieces)

    run(main())


def test_what_is_over_the_limit_is_not_kept() -> None:
    async def main() -> ReplayableBody:
        body = ReplayableBody(Script([b"x" * 600, b"y" * 600, b"z" * 600]), 1000)
        await body()
        assert body.whole
        await body()
        assert not body.whole
        assert len(body._kept) == 0
        assert await rest_of(body) == (b"z" * 600, True)
        return body

    run(main())


def test_a_body_of_single_bytes_costs_no_more_memory() -> None:
    """Invariant I4: a message object for every byte would be a hundred times the limit."""

    async def main() -> int:
        body = ReplayableBody(Script([b"x"] * 10_000), 10_000)
        await rest_of(body)
        assert body.whole
        held = [getattr(body, name) for name in ReplayableBody.__slots__]
        return sum(sys.getsizeof(value) for value in held if not isinstance(value, Script))

    assert run(main()) < 25_000


def test_the_caller_who_leaves_is_not_remembered_as_body() -> None:
    async def main() -> None:
        script = Script([b"a", b"b"])
        script.messages.pop()
        body = ReplayableBody(script, 10)
        assert await rest_of(body) == (b"a", False)
        body.rewind()
        assert await rest_of(body) == (b"a", False)

    run(main())

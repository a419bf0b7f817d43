"""Watch: what it notes, a disconnect that is told again, and early answers to callers who are still sending."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import run

from keypool_asgi.stages.watch import Watch

Message = dict[str, Any]
GONE = {"type": "http.disconnect"}
START = {"type": "http.response.start", "status": 403, "headers": []}
BODY = {"type": "http.response.body", "body": b"no"}


def request(body: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


class Server:
    """A server that says what it is told to, once, and then nothing more."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.asked = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        self.asked += 1
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def watch(server: Server, *headers: tuple[bytes, bytes], discard: int = 1000) -> Watch:
    return Watch({"type": "http", "headers": list(headers)}, server.receive, server.send, discard)


LENGTH = (b"content-length", b"5000")
EXPECT = (b"expect", b"100-continue")


def test_it_counts_what_passes() -> None:
    async def main() -> None:
        server = Server(request(b"abc", more=True), request(b"de"))
        one = watch(server, LENGTH)
        assert (one.status, one.complete) == (None, False)
        await one.receive()
        await one.receive()
        await one.send(START)
        await one.send({**BODY, "more_body": True})
        assert (one.status, one.complete) == (403, False)
        await one.send(BODY)
        assert (one.request_bytes, one.response_bytes, one.status, one.complete) == (5, 4, 403, True)

    run(main())


def test_a_disconnect_is_told_again_and_again() -> None:
    """Hypercorn tells it once, and a second receive() would wait for ever."""

    async def main() -> None:
        server = Server(GONE)
        one = watch(server)
        assert [await one.receive() for _ in range(3)] == [GONE] * 3
        assert server.asked == 1

    run(main())


def test_an_early_answer_goes_out_before_the_rest_of_the_body_is_thrown_away() -> None:
    async def main() -> None:
        server = Server(request(b"x" * 400, more=True), request(b"x" * 400, more=True), request(b"x" * 400))
        one = watch(server, LENGTH)
        await one.send(START)
        await one.send(BODY)
        assert server.sent == [START, {**BODY, "more_body": True}, {"type": "http.response.body", "body": b""}]
        assert (server.asked, one.complete, one.request_bytes) == (3, True, 1200)

    run(main())


@pytest.mark.parametrize(("bytes_each", "discard", "asked"), [(400, 1000, 3), (400, 400, 1), (400, 401, 2), (1, 0, 0)])
def test_no_more_is_thrown_away_than_allowed(bytes_each: int, discard: int, asked: int) -> None:
    async def main() -> None:
        server = Server(*[request(b"x" * bytes_each, more=True)] * 10)
        one = watch(server, LENGTH, discard=discard)
        await one.send(START)
        await one.send(BODY)
        assert (server.asked, one.complete) == (asked, True)

    run(main())


def test_a_sender_who_stalls_is_waited_for_a_moment_only() -> None:
    async def main() -> float:
        server = Server(request(b"x", more=True))
        one = watch(server, LENGTH)
        began = asyncio.get_running_loop().time()
        await one.send(START)
        await one.send(BODY)
        assert one.complete
        return asyncio.get_running_loop().time() - began

    assert run(main()) < 3


def test_a_caller_who_leaves_during_the_throwing_away() -> None:
    async def main() -> None:
        one = watch(Server(request(b"x", more=True), GONE), LENGTH)
        await one.send(START)
        await one.send(BODY)
        assert one.complete

    run(main())


@pytest.mark.parametrize(
    ("headers", "read_before", "asked"),
    [
        ([], 0, 0),
        ([LENGTH, EXPECT], 0, 0),
        ([LENGTH, EXPECT], 1, 2),
        ([(b"transfer-encoding", b"chunked")], 0, 1),
        ([(b"content-length", b"0")], 0, 1),
    ],
    ids=["no body", "waits for a 100", "has got its 100", "chunked", "an empty body"],
)
def test_who_is_still_sending(headers: list[tuple[bytes, bytes]], read_before: int, asked: int) -> None:
    async def main() -> None:
        server = Server(*[request(b"x", more=True)] * read_before, request(b""))
        one = watch(server, *headers)
        for _ in range(read_before):
            await one.receive()
        await one.send(START)
        await one.send(BODY)
        assert server.asked == asked
        assert one.complete

    run(main())


def test_a_body_that_was_read_is_not_waited_for() -> None:
    async def main() -> None:
        server = Server(request(b"x"))
        one = watch(server, LENGTH)
        await one.receive()
        await one.send(START)
        await one.send(BODY)
        assert server.sent == [START, BODY]
        assert server.asked == 1

    run(main())

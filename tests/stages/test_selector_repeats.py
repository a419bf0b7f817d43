"""What the key selector repeats, what it believes of an answer, and what the caller and its account get of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from faults.rig import TOKEN, Caller, keys_of, scope_of
from harness import run
from stages.scripted import DOCUMENTED_401, Script, answer

from keypool_asgi import ConfigurationError, HealthPolicy, KeyPool, Limit, Team

KIB = 1024


# A repeat with a hole


class Early(httpx.AsyncBaseTransport):
    """Answers 401 after the first piece of an upload: a part at once, the rest when the caller has sent everything."""

    def __init__(self, first: int, rest: int) -> None:
        text = DOCUMENTED_401["error"]
        self.first = json.dumps({"error": text + "." * first}).encode()
        self.rest = b" " * rest
        self.judged, self.sent_all = asyncio.Event(), asyncio.Event()
        self.begun: list[str] = []
        self.completed: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.begun.append(request.headers["authorization"])
        pieces = request.stream
        assert isinstance(pieces, httpx.AsyncByteStream)
        if len(self.begun) > 1:
            self.completed.append(b"".join([piece async for piece in pieces]))
            return answer(200, {"upload_url": "https://cdn.assemblyai.com/upload/1"})
        async for _ in pieces:
            break
        return httpx.Response(401, headers={"content-type": "application/json"}, stream=self._answer())

    def _answer(self) -> httpx.AsyncByteStream:
        early = self

        class Body(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                yield early.first
                early.judged.set()
                await early.sent_all.wait()
                yield early.rest

        return Body()


def test_an_upload_is_never_repeated_with_a_hole() -> None:
    """The 401 is judged at 64 KiB, when the body is still whole; it outgrows what is kept while the 401 goes on."""

    async def main() -> None:
        upstream = Early(100 * KIB, 10)
        pieces = [bytes([number]) * (64 * KIB) for number in range(20)]
        app = KeyPool(keys=keys_of("k1", "k2"), teams={TOKEN: Team("team-a")}, transport=upstream, key_wait_seconds=0)
        left = len(pieces)

        async def before_piece() -> None:
            nonlocal left
            if left < len(pieces):
                await upstream.judged.wait()
                await asyncio.sleep(0.002)
            left -= 1
            if not left:
                asyncio.get_running_loop().call_later(0.02, upstream.sent_all.set)

        caller = Caller(list(pieces), before_piece=before_piece)
        await caller.call(app, scope_of("POST", "/v2/upload", body=-1))
        assert upstream.completed == []
        assert (caller.status, caller.json["code"]) == (503, "NO_AVAILABLE_KEYS")
        assert caller.complete
        assert dict(caller.headers)[b"retry-after"] == b"1", "the other key is free"
        await app.aclose()

    run(main(), within=10)


def test_an_upload_that_stays_small_is_repeated_whole() -> None:
    async def main() -> None:
        upstream = Early(100 * KIB, 10)
        pieces = [bytes([number]) * KIB for number in range(5)]
        app = KeyPool(keys=keys_of("k1", "k2"), teams={TOKEN: Team("team-a")}, transport=upstream, key_wait_seconds=0)

        async def before_piece() -> None:
            upstream.sent_all.set()

        caller = Caller(list(pieces), before_piece=before_piece)
        await caller.call(app, scope_of("POST", "/v2/upload", body=-1))
        assert caller.status == 200
        assert upstream.completed == [b"".join(pieces)]
        await app.aclose()

    run(main())


# What proves something about a key

QUICK = HealthPolicy(rejected_first_seconds=0.02, rejected_seconds=0.05)


async def streamed(script: Script, *pieces: bytes) -> Caller:
    return await Caller(list(pieces)).call(script.app, scope_of("POST", "/v2/upload", body=-1))


def test_our_own_413_proves_nothing_about_a_key() -> None:
    async def main() -> None:
        script = Script(lambda _: answer(200))
        script.pool(max_body_bytes=1000)
        verdicts: list[Any] = []
        give_back = script.app._parts.pool.give_back

        async def watched(lease: Any, verdict: Any) -> None:
            verdicts.append(verdict.fault.value)
            await give_back(lease, verdict)

        script.app._parts.pool.give_back = watched  # type: ignore[method-assign]
        caller = await streamed(script, b"x" * 900, b"x" * 900)
        assert (caller.status, caller.json["code"]) == (413, "BODY_TOO_LARGE")
        assert verdicts == ["unrelated"]
        assert script.records[0].refused == "BODY_TOO_LARGE"
        await script.app.aclose()

    run(main())


def test_our_own_413_heals_no_key() -> None:
    async def main() -> None:
        script = Script(lambda _: answer(401, DOCUMENTED_401))
        script.pool(max_body_bytes=1000, health=QUICK)
        assert (await script.ask("POST", "/v2/upload", b"x")).status == 503
        assert script.states() == {"rejected"}
        await asyncio.sleep(0.06)
        assert (await streamed(script, b"x" * 900, b"x" * 900)).status in (413, 503)
        assert script.states() == {"rejected"}
        await script.app.aclose()

    run(main())


def test_a_refusal_that_was_mended_by_another_attempt_is_not_on_record() -> None:
    async def main() -> None:
        script = Script(lambda _: answer(200) if len(script.requests) > 1 else httpx.ConnectError("refused"))
        script.pool("k1", "k2")
        assert (await script.ask("GET", "/v1/voices")).status == 200
        (record,) = script.records
        assert (record.status, record.refused, len(record.keys)) == (200, None, 2)
        await script.app.aclose()

    run(main())


def test_a_refusal_that_was_not_mended_is() -> None:
    async def main() -> None:
        script = Script(lambda _: httpx.ConnectError("refused"))
        script.pool("k1")
        assert (await script.ask("GET", "/v1/voices")).status == 502
        assert script.records[0].refused == "UPSTREAM_FAILED"
        await script.app.aclose()

    run(main())


ONE = [Limit("requests", 1, per="minute")]


@pytest.mark.parametrize("keys", [("k1",), ("k1", "k2")])
@pytest.mark.parametrize(
    ("status", "body"),
    [(403, {"error": "Forbidden"}), (403, {"error": "Cannot access uploaded file"}), (429, {"error": "slow"})],
)
def test_an_answer_that_the_caller_gets_counts(keys: tuple[str, ...], status: int, body: Any) -> None:
    async def main() -> None:
        script = Script(lambda _: answer(status, body))
        script.pool(*keys, limits=ONE)
        caller = await script.ask("GET", "/v1/voices")
        assert (caller.status, caller.json) == (status, body)
        caller = await script.ask("GET", "/v1/voices")
        assert (caller.status, caller.json["code"]) == (429, "QUOTA_EXCEEDED")
        await script.app.aclose()

    run(main())


def test_a_refusal_of_ours_does_not_count() -> None:
    async def main() -> None:
        script = Script(lambda _: answer(401, DOCUMENTED_401))
        script.pool("k1", limits=ONE)
        assert [(await script.ask("GET", "/v1/voices")).json["code"] for _ in range(2)] == ["NO_AVAILABLE_KEYS"] * 2
        await script.app.aclose()

    run(main())


# Heads


@pytest.mark.parametrize("path", ["/v3/token", "/v1/token?product=streaming", "/v1/token"])
def test_head_mints_no_token(path: str) -> None:
    async def main() -> None:
        script = Script(lambda _: answer(200, {"token": "t"}))
        script.pool()
        assert (await script.ask("HEAD", path)).status == 404
        assert script.requests == []
        await script.app.aclose()

    run(main())


def test_upstream_does_not_say_who_may_read_answers_in_a_browser() -> None:
    names = (
        "Access-Control-Allow-Origin",
        "Access-Control-Allow-Credentials",
        "access-control-allow-headers",
        "Access-Control-Allow-Methods",
        "Access-Control-Expose-Headers",
        "Access-Control-Max-Age",
        "Access-Control-Allow-Private-Network",
    )

    async def main() -> None:
        script = Script(lambda _: answer(200, None, *((name, "*") for name in names), ("X-Kept", "1")))
        script.pool()
        caller = await script.ask("GET", "/v1/voices", None, (b"origin", b"https://evil.example"))
        got = {name for name, _ in caller.headers}
        assert b"x-kept" in got
        assert [name for name in got if name.startswith(b"access-control-")] == []
        await script.app.aclose()

    run(main())


@pytest.mark.parametrize(
    ("offered", "sent"),
    [
        (None, "identity"),
        (b"", "identity"),
        (b"br, zstd", "identity"),
        (b"*", "identity"),
        (b"gzip;q=0, *", "identity"),
        (b"gzip; q=0", "identity"),
        (b"gzip, deflate, br", "gzip, deflate"),
        (b"GZIP", "gzip"),
        (b"gzip;q=0.5", "gzip, identity"),
    ],
)
def test_upstream_compresses_only_with_what_we_read(offered: bytes | None, sent: str) -> None:
    fields = [] if offered is None else [(b"accept-encoding", offered)]

    async def main() -> None:
        script = Script(lambda _: answer(200, {"upload_url": "https://cdn.assemblyai.com/upload/1", "token": "t"}))
        script.pool()
        await script.ask("GET", "/v1/voices", None, *fields)
        await script.ask("POST", "/v2/upload", b"x", *fields)
        await script.ask("GET", "/v3/token", None, *fields)
        given = [request.headers.get_list("accept-encoding") for request in script.requests]
        encodings = [one for fields in given for one in fields]
        assert encodings[1:] == ["identity", "identity"]
        assert set(encodings[0].split(", ")) <= set(sent.split(", ")), encodings
        assert len(encodings) == 3
        await script.app.aclose()

    run(main())


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", -1),
        ("peek_bytes", -1),
        ("max_body_bytes", -1),
        ("discard_bytes", -1),
        ("drain_seconds", -0.1),
        ("drain_seconds", float("nan")),
        ("key_wait_seconds", -1),
        ("keys_ttl_seconds", -1),
        ("teams_ttl_seconds", -1),
        ("unknown_teams_ttl_seconds", -1),
        ("max_connections", -1),
        ("public_url", "/v1/assemblyai"),
        ("public_url", "pool.example"),
        ("public_url", "//pool.example"),
        ("via", "pool\r\nX-Evil: 1"),
        ("via", "pool\n"),
        ("via", "a b"),
        ("via", "p\u00f6ol"),
        ("prefix", "assemblyai"),
        ("prefix", "/assemblyai/"),
        ("isolation", "none"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    settings = {"keys": keys_of("k1"), "teams": {TOKEN: Team("team-a")}, name: value}
    if name in ("keys_ttl_seconds", "teams_ttl_seconds", "unknown_teams_ttl_seconds"):
        settings["teams"], settings["keys"] = (lambda _: None), (lambda: keys_of("k1"))
    with pytest.raises(ConfigurationError, match=rf"\b{name}\b"):
        KeyPool(**settings)


# Transports


@pytest.mark.parametrize(
    "error", [OSError("disk"), RuntimeError("the pool was closed"), ConnectionResetError(), TimeoutError()], ids=repr
)
@pytest.mark.parametrize("body", [None, b"x" * 100], ids=["get", "post"])
def test_whatever_a_transport_raises_is_a_502(error: Exception, body: bytes | None) -> None:
    async def main() -> None:
        script = Script(lambda _: error)
        script.pool("k1", "k2")
        target = ("GET", "/v1/voices") if body is None else ("POST", "/v2/upload")
        caller = await script.ask(*target, body)
        assert (caller.status, caller.json["code"], caller.complete) == (502, "UPSTREAM_FAILED", True)
        assert len(script.requests) == 1, "nobody knows what became of it"
        assert script.app.open_exchanges == 0
        assert all(key.in_flight == 0 for key in script.app.keys())
        await script.app.aclose()

    run(main())


@pytest.mark.parametrize("error", [OSError("disk"), RuntimeError("the pool was closed")], ids=repr)
def test_whatever_it_raises_later_breaks_the_answer_off(error: Exception) -> None:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"half"
            raise error

    async def main() -> None:
        script = Script(lambda _: httpx.Response(200, stream=Body()))
        script.pool()
        caller = await script.ask("GET", "/v1/voices")
        assert (caller.status, caller.complete) == (200, False)
        await script.app.aclose()

    run(main())

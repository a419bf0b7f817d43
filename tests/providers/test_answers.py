"""Verdicts: which answers of AssemblyAI's are a key's fault, and which take it out of service."""

from __future__ import annotations

import gzip
import json
import zlib
from email.utils import formatdate
from typing import Any

import pytest
from harness import run
from stages.scripted import DOCUMENTED_401, Script, answer

from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.providers.assemblyai.answers import judge
from keypool_asgi.providers.assemblyai.resources import says_gone

NOW = 1_800_000_000.0
OPERATION = ASSEMBLYAI.table.named("transcripts.create")
FUNDS = "Your current account balance is negative. Please top up to continue using the API."
TEXTS = {401: DOCUMENTED_401["error"], 400: FUNDS, 403: FUNDS}


def told(status: int, body: Any = None, *headers: tuple[bytes, bytes]) -> Verdict:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(OPERATION, status, list(headers), raw, NOW)


def error(text: str, member: str = "error") -> dict[str, str]:
    return {member: text}


GOOD, UNRELATED = Verdict(Fault.NONE), Verdict(Fault.UNRELATED)
REJECTED, EXHAUSTED = Verdict(Fault.REJECTED), Verdict(Fault.EXHAUSTED)
DOUBTFUL = Verdict(Fault.REJECTED, certain=False)
FORBIDDEN = Verdict(Fault.THROTTLED, certain=False)

TABLE: list[tuple[int, Any, Verdict]] = [
    (200, {}, GOOD),
    (404, error("Not found"), GOOD),
    (500, error(FUNDS), UNRELATED),
    (503, DOCUMENTED_401, UNRELATED),
    # 401
    (401, DOCUMENTED_401, REJECTED),
    (401, error(DOCUMENTED_401["error"].upper(), "message"), REJECTED),
    (401, error("Unauthorized"), DOUBTFUL),
    (401, error(f"The text {DOCUMENTED_401['error']!r} cannot be transcribed"), DOUBTFUL),
    (401, b"", DOUBTFUL),
    (401, b"<html>401</html>", DOUBTFUL),
    (401, [DOCUMENTED_401], DOUBTFUL),
    (401, {"error": DOCUMENTED_401}, DOUBTFUL),
    # Funds
    (400, error(FUNDS), EXHAUSTED),
    (400, error(FUNDS, "message"), EXHAUSTED),
    (403, error(FUNDS), EXHAUSTED),
    (402, b"", EXHAUSTED),
    (400, error("Insufficient funds is not a valid speech model"), GOOD),
    (400, error(f"{FUNDS!r} is not a valid speech model"), GOOD),
    (400, {"error": "no", "audio_url": FUNDS}, GOOD),
    (400, b"", GOOD),
    # 403
    (403, error("Cannot access uploaded file: it belongs to another project"), GOOD),
    (403, error("Too Many Requests"), Verdict(Fault.THROTTLED)),
    (403, error("Rate limit exceeded"), Verdict(Fault.THROTTLED)),
    (403, error("Forbidden"), FORBIDDEN),
    (403, b"<html>403</html>", FORBIDDEN),
    (403, b"", FORBIDDEN),
    # 429
    (429, b"", Verdict(Fault.THROTTLED)),
]


@pytest.mark.parametrize(("status", "body", "verdict"), TABLE)
def test_what_a_status_and_a_text_say(status: int, body: Any, verdict: Verdict) -> None:
    assert told(status, body) == verdict


@pytest.mark.parametrize("status", TEXTS)
@pytest.mark.parametrize("name", [b"content-encoding", b"Content-Encoding"])
@pytest.mark.parametrize(
    ("coding", "compress"), [(b"gzip", gzip.compress), (b"GZIP", gzip.compress), (b"deflate", zlib.compress)]
)
def test_a_compressed_text_says_the_same(status: int, name: bytes, coding: bytes, compress: Any) -> None:
    plain = told(status, error(TEXTS[status]))
    assert plain in (REJECTED, EXHAUSTED)
    compressed = compress(json.dumps(error(TEXTS[status])).encode())
    assert told(status, compressed, (name, coding)) == plain


@pytest.mark.parametrize("body", [b"not gzip", gzip.compress(b"{", mtime=0)[:-9], b""])
def test_a_body_that_only_claims_to_be_compressed_is_doubted(body: bytes) -> None:
    assert told(401, body, (b"content-encoding", b"gzip")) == DOUBTFUL


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"error":' * 7_000, b"\xff" * 100, b'{"error": "\xff"}'])
def test_a_body_that_no_parser_takes_is_no_text(status: int, body: bytes) -> None:
    assert told(status, body) == told(status, b"")


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"error":' * 7_000, b"\xff" * 100, b"[]", b""])
def test_such_a_body_does_not_say_that_something_is_gone(body: bytes) -> None:
    assert not says_gone(400, body)


@pytest.mark.parametrize("name", [b"x-ratelimit-model", b"X-RateLimit-Model"])
def test_the_limit_of_one_model_does_not_last(name: bytes) -> None:
    assert told(429, b"", (name, b"claude"), (b"retry-after", b"7")) == Verdict(Fault.THROTTLED, 7.0, lasting=False)
    assert told(429, b"").lasting


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("17", 17.0),
        (" 17 ", 17.0),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW + 30), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\u00b2", None),
        ("Fri, 99 Foo 2026 00:00:00 GMT", None),
        ("Fri, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Fri, 01 Jan 2027 00:00:00 +99999999999999999", None),
    ],
)
@pytest.mark.parametrize("name", [b"retry-after", b"Retry-After"])
def test_retry_after_in_both_forms_and_in_none(name: bytes, value: str, seconds: float | None) -> None:
    field = (name, value.encode("latin-1"))
    assert told(429, b"", field).retry_after == seconds
    forbidden = told(403, b"", field)
    assert (forbidden.retry_after, forbidden.certain) == (seconds, seconds is not None)


def test_a_retry_after_without_end_is_no_error() -> None:
    assert (told(429, b"", (b"retry-after", b"9" * 5000)).retry_after or 0) > 1e9


# Through the stack


def test_a_401_that_every_key_gets_takes_no_key_out_of_service() -> None:
    """An answer in other words than the documented ones may be about the request."""

    async def main() -> None:
        refused = True
        script = Script(lambda _: answer(401, error("No such audio")) if refused else answer(200))
        script.pool("k1", "k2", "k3")
        caller = await script.ask("GET", "/v1/voices")
        assert (caller.status, caller.json["code"]) == (503, "NO_AVAILABLE_KEYS")
        assert sorted(script.used()) == ["k1", "k2", "k3"]
        assert script.states() == {"active"}
        refused = False
        assert (await script.ask("GET", "/v1/voices")).status == 200
        await script.app.aclose()

    run(main())


def test_a_401_that_one_key_alone_gets_is_believed() -> None:
    async def main() -> None:
        script = Script(lambda request: answer(401) if request is script.requests[0] else answer(200))
        script.pool("k1", "k2")
        assert (await script.ask("GET", "/v1/voices")).status == 200
        assert script.states() == {"active", "rejected"}
        await script.app.aclose()

    run(main())


def test_a_compressed_401_takes_the_key_out_of_service() -> None:
    async def main() -> None:
        body = gzip.compress(json.dumps(DOCUMENTED_401).encode())
        script = Script(lambda _: answer(401, body, ("Content-Encoding", "gzip")))
        script.pool("k1")
        assert (await script.ask("GET", "/v1/voices", None, (b"accept-encoding", b"gzip"))).status == 503
        assert script.states() == {"rejected"}
        await script.app.aclose()

    run(main())


def test_the_limit_of_one_model_leaves_the_account_serving() -> None:
    async def main() -> None:
        headers = ("X-RateLimit-Model", "claude"), ("Retry-After", "30")
        script = Script(lambda r: answer(429, None, *headers) if b"claude" in r.content else answer(200))
        script.pool("k1")
        limited = await script.ask("POST", "/v1/chat/completions", b'{"model": "claude"}')
        assert limited.status == 429
        assert dict(limited.headers)[b"retry-after"] == b"30"
        assert script.states() == {"active"}
        assert (await script.ask("POST", "/v1/chat/completions", b'{"model": "gpt"}')).status == 200
        await script.app.aclose()

    run(main())

"""The head of the upstream request, made of the caller's."""

from __future__ import annotations

from typing import Any

import pytest
from harness import secret, token

from keypool_asgi import UpstreamKey
from keypool_asgi.core.headers import Framing
from keypool_asgi.core.messages import Origin, RequestHead
from keypool_asgi.core.operations import Operation
from keypool_asgi.core.ownership import Creates
from keypool_asgi.core.requests import upstream_request

NOTHING, CHUNKED = Framing(0, chunked=False), Framing(None, chunked=True)
SECRET, TOKEN = secret("k1"), token("team-a")


def made(
    method: str = "GET", *, headers: Any = (), query: bytes = b"", framing: Framing = NOTHING, **row: Any
) -> RequestHead:
    operation = Operation(**({"name": "x", "method": method, "path": "/v2/x", "service": "api"} | row))
    return upstream_request(
        method,
        "/v2/x",
        query,
        list(headers),
        operation=operation,
        framing=framing,
        origin=Origin.parse("https://gateway.example:8443/base/"),
        key=UpstreamKey("k1", secret=SECRET),
        token=TOKEN,
        via=b"keypool-asgi",
    )


def values(head: RequestHead, name: bytes) -> list[bytes]:
    return [value for other, value in head.headers if other == name]


def test_target_and_host_are_the_origins() -> None:
    head = made(query=b"limit=1&token=x", headers=[(b"host", b"evil.example")], patience=7.0)
    assert head.target == b"/base/v2/x?limit=1"
    assert values(head, b"host") == [b"gateway.example:8443"]
    assert (head.method, head.patience) == (b"GET", 7.0)


@pytest.mark.parametrize("presented", [TOKEN, f"Bearer {TOKEN}"])
@pytest.mark.parametrize(("bearer", "expected"), [(False, SECRET), (True, f"Bearer {SECRET}")])
def test_the_credential_is_the_keys_in_the_form_of_the_service(presented: str, bearer: bool, expected: str) -> None:
    headers = [(b"authorization", presented.encode()), (b"x-api-key", TOKEN.encode())]
    head = made(headers=headers, bearer=bearer)
    assert values(head, b"authorization") == [expected.encode()]
    assert not any(TOKEN.encode() in value for _, value in head.headers)


@pytest.mark.parametrize(
    ("method", "framing", "lengths", "codings"),
    [
        ("GET", NOTHING, [], []),
        ("DELETE", NOTHING, [], []),
        ("POST", NOTHING, [b"0"], []),
        ("PUT", NOTHING, [b"0"], []),
        ("GET", Framing(5, chunked=False), [b"5"], []),
        ("POST", Framing(5, chunked=False), [b"5"], []),
        ("POST", CHUNKED, [], [b"chunked"]),
    ],
)
def test_the_framing_is_written_anew(method: str, framing: Framing, lengths: list[bytes], codings: list[bytes]) -> None:
    theirs = [(b"content-length", b"99"), (b"transfer-encoding", b"gzip, chunked"), (b"te", b"trailers")]
    head = made(method, headers=theirs, framing=framing)
    assert values(head, b"content-length") == lengths
    assert values(head, b"transfer-encoding") == codings
    assert values(head, b"te") == []


def test_a_body_without_a_type_gets_the_operations() -> None:
    octets = b"application/octet-stream"
    body = Framing(5, chunked=False)
    assert values(made("POST", framing=body, content_type=octets), b"content-type") == [octets]
    assert values(made("POST", framing=NOTHING, content_type=octets), b"content-type") == []
    assert values(made("POST", framing=body), b"content-type") == []
    theirs = [(b"content-type", b"audio/wav")]
    assert values(made("POST", headers=theirs, framing=body, content_type=octets), b"content-type") == [b"audio/wav"]


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ([], b"identity"),
        ([b"gzip"], b"gzip"),
        ([b"gzip, deflate, br, zstd"], b"gzip"),
        ([b"br", b"GZIP"], b"gzip"),
        ([b"deflate"], b"identity"),
        ([b"br"], b"identity"),
        ([b"gzip;q=0, br"], b"identity"),
        ([b"identity"], b"identity"),
    ],
)
def test_answers_are_compressed_only_as_both_the_caller_and_we_can_read(offered: list[bytes], expected: bytes) -> None:
    theirs = [(b"accept-encoding", value) for value in offered]
    assert values(made(headers=theirs), b"accept-encoding") == [expected]
    assert values(made(headers=theirs, creates=Creates("token", "token")), b"accept-encoding") == [b"identity"]


def test_we_announce_ourselves_and_nobody_else() -> None:
    head = made(headers=[(b"via", b"1.0 caller"), (b"x-forwarded-for", b"10.0.0.1"), (b"user-agent", b"sdk/1")])
    assert values(head, b"via") == [b"1.1 keypool-asgi"]
    assert values(head, b"x-forwarded-for") == []
    assert values(head, b"user-agent") == [b"sdk/1"]

"""Case 17: paths and hosts that try to be something else, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from faults.rig import PREFIX, TOKEN, simulated
from regressions.served import UVICORNS, Pool, pooled

from keypool_asgi.testing import Simulator

JOB = json.dumps({"audio_url": "https://example.com/a.mp3"}).encode()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated().running() as simulator:
        yield simulator


@pytest.fixture(scope="module", params=UVICORNS)
def pool(simulator: Simulator, request: pytest.FixtureRequest) -> Iterator[Pool]:
    # Whoever puts a token into a query finds it in the server's access log, which is not ours to change.
    with pooled(simulator, request.param, serving={"access_log": False}) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _afresh(pool: Pool) -> Iterator[None]:
    pool.afresh()
    yield
    assert pool.simulator.violations == []


TRICKS = [
    b"/v2/transcript/..",
    b"/v2/transcript/../upload",
    b"/v2/transcript/%2e%2e",
    b"/v2/transcript/%2E%2e/upload",
    b"/v2/transcript/.%2e/upload",
    b"/v2/./upload",
    b"/v2%2fupload",
    b"/v2/transcript%2Fabc",
    b"/v2/transcript/a%2Fsentences",
    b"/v2%5cupload",
    b"/v2\\upload",
    b"/v2/transcript/a\\b",
    b"//evil.example/v2/upload",
    b"///v2/upload",
    b"/@evil.example/v2/upload",
    b"/v2/transcript/a@evil.example",
    b"/v2/upload%00",
    b"/v2/transcript/a%00b",
    b"/v2/transcript/%C3%A9",
    b"/v2/transcript/%ff",
    b"/v2/upload;x=1",
    b"/v2/transcript/a;b=c",
    b"/v2/upload/",
    b"/v2/uploa%64",
    b"/V2/Upload",
    b"/v2/upload%3Fx=1",
    b"/v2/upload%23x",
    b"/v2/upload%0d%0aX-Evil:%201",
    b"/v2/transcript/" + b"a" * 200,
    b"/http://evil.example/v2/upload",
]


@pytest.mark.parametrize("target", TRICKS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_case_17_a_path_that_is_no_operation_reaches_nobody(pool: Pool, method: str, target: bytes) -> None:
    answer = pool.send(target, method)
    assert answer.status in (400, 404), answer
    assert pool.simulator.requests == []
    if answer.status == 404 and not pool.host_saw:
        assert json.loads(answer.body)["code"] == "NOT_FOUND"


@pytest.mark.parametrize("target", [b"/v2/transcript/\xc3\xa9", b"/v2/upload\x00"])
def test_case_17_raw_bytes_that_no_target_may_hold(pool: Pool, target: bytes) -> None:
    assert pool.send(target, "POST").status == 400
    assert pool.simulator.requests == []


NOT_OURS = [
    b"/v1/assemblyaiX/v2/upload",
    b"/v1/assemblyai%58/v2/upload",
    b"/v1",
    b"//v1/assemblyai/v2/upload",
    b"/x/../v1/assemblyai/v2/upload",
    b"/x/%2e%2e/v1/assemblyai/v2/upload",
    b"/V1/AssemblyAI/v2/upload",
    b"/v1/assemblyai@evil.example/v2/upload",
]


@pytest.mark.parametrize("target", NOT_OURS)
def test_case_17_what_is_not_below_the_prefix_is_the_hosts(pool: Pool, target: bytes) -> None:
    answer = pool.exact(b"GET " + target, "Connection: close", f"Authorization: {TOKEN}")
    assert (answer.status, answer.body) == (299, b"host")
    assert pool.simulator.requests == []
    (scope,) = pool.host_saw
    assert not [key for key in scope if "keypool" in key]


def test_case_17_absolute_form_goes_to_no_foreign_host(pool: Pool) -> None:
    """Servers differ: some give the path alone, others the whole target, which is the host app's then."""
    target = f"POST http://evil.example{PREFIX}/v2/upload".encode()
    answer = pool.exact(target, f"Authorization: {TOKEN}", "Content-Length: 1", "Connection: close", body=b"x")
    assert answer.status in (200, 299)
    assert [request.header("host") for request in pool.simulator.requests] == (
        [pool.simulator.url.removeprefix("http://")] if answer.status == 200 else []
    )


@pytest.mark.parametrize("query", ["?x=../../y", "?url=//evil.example", "?x=%2e%2e%2f", "?x=%00", "?a;b", "?x=\\@"])
def test_case_17_a_query_is_passed_on_as_it_is(pool: Pool, query: str) -> None:
    assert pool.send("/v1/voices" + query).status == 200
    assert pool.simulator.requests[0].target == "/agents/v1/voices" + query


@pytest.mark.parametrize("name", ["token", "TOKEN", "%74oken", "api_key", "x"])
def test_a_token_in_the_query_stays_here(pool: Pool, name: str) -> None:
    assert pool.send(f"/v1/voices?a=1&{name}={TOKEN}&b=%20").status == 200
    assert pool.simulator.requests[0].target == "/agents/v1/voices?a=1&b=%20"


HOSTS: dict[str, bool] = {
    # Host field: whether it is well-formed, so that links may name it
    "pool.example": True,
    "evil.example:8443": True,
    "[::1]:80": True,
    "evil.example/path": False,
    "user@evil.example": False,
    "evil.example#": False,
    "evil.example?x": False,
    'a"b': False,
    "a b": False,
    "a:99999999": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_case_17_a_poisoned_host_is_told_only_to_who_poisoned_it(pool: Pool, host: str) -> None:
    made = pool.send("/v2/transcript", "POST", "Content-Type: application/json", body=JOB)
    ident = json.loads(made.body)["id"]
    start = f"GET {PREFIX}/v2/transcript".encode()
    fields = [f"Authorization: {TOKEN}", "Connection: close"]
    poisoned = pool.exact(start, *fields, host=host)
    if poisoned.status == 400:
        assert not HOSTS[host], "refused by the server itself"
    else:
        base = f"http://{host if HOSTS[host] else pool.served.host}{PREFIX}"
        assert f"{base}/v2/transcript/{ident}" in links(poisoned.body)
        assert all(link.startswith(base + "/") for link in links(poisoned.body))
    upstream = pool.simulator.url.removeprefix("http://")
    assert {request.header("host") for request in pool.simulator.requests} == {upstream}
    honest = pool.exact(start, *fields)
    assert all(link.startswith(f"http://{pool.served.host}{PREFIX}/") for link in links(honest.body))


def links(body: bytes) -> set[str]:
    page: dict[str, Any] = json.loads(body)
    found = [page["page_details"]["current_url"], *[item["resource_url"] for item in page["transcripts"]]]
    return {link for link in found if link}

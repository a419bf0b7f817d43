"""The document and the page as they are served: bytes, fields, methods, and everything else passed on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from harness import need, run, serve

from keypool_asgi.asgi import locate
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.reference import Reference, files

from .gateway_served import Gateway, opened

PATHS = ("/reference", *(f"/reference/{name}" for name in (*files._OWN_FILES, *files._UI_FILES)))


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    need("fastapi_offline")
    with opened() as gateway:
        yield gateway


def fetch(gateway: Gateway, path: str, method: str = "GET", **more: Any) -> httpx.Response:
    return httpx.request(method, gateway.url + path, timeout=30, verify=False, **more)  # which takes long to load


def test_the_document_needs_no_token_and_names_the_pool(gateway: Gateway) -> None:
    answer = fetch(gateway, "/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["servers"][0]["url"] == gateway.url
    assert "/v2/transcript" in answer.json()["paths"]


def test_each_caller_sees_the_pool_where_it_called(gateway: Gateway) -> None:
    answers = [fetch(gateway, "/openapi.json", headers={"host": host}) for host in ("gw.example", "other.example:8443")]
    urls = [answer.json()["servers"][0]["url"] for answer in answers]
    assert urls == ["http://gw.example/v1/assemblyai", "http://other.example:8443/v1/assemblyai"]
    assert answers[0].headers["etag"] != answers[1].headers["etag"]


def test_a_host_field_cannot_break_the_document(gateway: Gateway) -> None:
    answer = fetch(gateway, "/openapi.json", headers={"host": 'x"],"a":["'})
    assert answer.json()["servers"][0]["url"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("path", ["/openapi.json", *PATHS])
def test_what_is_known_is_not_sent_again(gateway: Gateway, path: str) -> None:
    whole = fetch(gateway, path)
    assert whole.status_code == 200
    assert whole.headers["cache-control"] == "no-cache"
    for known in (whole.headers["etag"], f'"other", W/{whole.headers["etag"]}', "*"):
        again = fetch(gateway, path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == whole.headers["etag"]
    assert fetch(gateway, path, headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["/openapi.json", *PATHS])
def test_head_has_the_fields_of_get_and_no_body(gateway: Gateway, path: str) -> None:
    whole, head = fetch(gateway, path), fetch(gateway, path, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert {**whole.headers, "date": ""} == {**head.headers, "date": ""}
    assert int(head.headers["content-length"]) == len(whole.content)


def test_no_body_is_sent_for_head_even_where_the_server_would_not_drop_it() -> None:
    need("fastapi_offline")
    scope = {"type": "http", "method": "HEAD", "path": "/v1/assemblyai/reference", "headers": []}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    run(Reference(None)(scope, None, send))  # type: ignore[arg-type]
    assert [message.get("body", b"") for message in sent] == [b"", b""]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_can_only_be_read(gateway: Gateway, method: str) -> None:
    answer = fetch(gateway, "/reference", method)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert isinstance(answer.json()["error"], str)


def test_a_slash_too_many_leads_to_the_page(gateway: Gateway) -> None:
    answer = fetch(gateway, "/reference/")
    assert answer.status_code == 307
    assert urljoin(str(answer.url), answer.headers["location"]) == gateway.url + "/reference"


@pytest.mark.parametrize("path", ["/reference/../page.html", "/reference/page.html", "/reference/x", "/openapi.jsonx"])
def test_other_paths_are_the_pools(gateway: Gateway, path: str) -> None:
    answer = fetch(gateway, path)
    assert answer.status_code == 404
    assert answer.json()["code"] == "NOT_FOUND"


def test_paths_outside_the_prefix_are_the_hosts(gateway: Gateway) -> None:
    for path in ("/openapi.json", "/reference", "/v1/assemblyaiX/openapi.json"):
        answer = httpx.get(gateway.origin + path)
        assert (answer.status_code, answer.content) == (404, b"host")


class Page(HTMLParser):
    """What a page refers to, and what is written in it that a strict policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.inline: list[str] = []
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag if tag in ("script", "style") else None
        for name, value in attrs:
            if name in ("src", "href", "action", "poster", "data"):
                self.references.append(value or "")
            elif name.startswith("on") or name == "style":
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self._inside and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = None


def test_the_page_refers_to_nothing_but_the_pool(gateway: Gateway) -> None:
    answer = fetch(gateway, "/reference")
    page = Page(answer.text)
    assert not page.inline
    links = [urljoin(str(answer.url), each) for each in page.references if not each.startswith("#")]
    assert len(links) >= 6
    for link in links:
        assert link.startswith(gateway.url + "/")
        assert httpx.get(link).status_code == 200


def test_our_own_files_name_no_other_host(gateway: Gateway) -> None:
    for path in PATHS:
        answer = fetch(gateway, path)
        if "swagger-ui" not in path and answer.headers["content-type"].startswith("text/"):
            assert not re.search(r"https?://(?!www\.w3\.org/)", answer.text), path


@pytest.mark.parametrize("path", ["/openapi.json", *PATHS])
def test_the_policy_lets_nothing_in_from_elsewhere(gateway: Gateway, path: str) -> None:
    answer = fetch(gateway, path)
    policy = dict(each.partition(" ")[::2] for each in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} == {
        "'none'",
        "'self'",
        "data:",
        "blob:",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("root_path", ["/proxy", "/proxy/deep"])
def test_behind_a_proxy_that_strips_a_path(root_path: str) -> None:
    need("fastapi_offline")
    with opened(root_path=root_path) as gateway:
        document = fetch(gateway, "/openapi.json").json()
        assert document["servers"][0]["url"] == f"{gateway.origin}{root_path}/v1/assemblyai"
        assert fetch(gateway, "/reference").status_code == 200


def test_the_public_url_goes_before_what_requests_say() -> None:
    need("fastapi_offline")
    with opened(public_url="https://gw.example/aai/") as gateway:
        assert fetch(gateway, "/openapi.json").json()["servers"][0]["url"] == "https://gw.example/aai"


def test_in_a_mount() -> None:
    need("fastapi_offline", "starlette")
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount

    reference = Reference(PlainTextResponse("pool"), mounted=True)
    with serve(Starlette(routes=[Mount("/gateway", reference)])) as served:
        document = httpx.get(served.url + "/gateway/openapi.json").json()
        assert document["servers"][0]["url"] == served.url + "/gateway"
        assert httpx.get(served.url + "/gateway/reference").status_code == 200
        assert httpx.get(served.url + "/gateway/v2/transcript").text == "pool"


def test_websockets_and_the_lifespan_are_passed_on_untouched() -> None:
    need("fastapi_offline")
    passed = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append((scope, receive, send))

    for type_ in ("websocket", "lifespan"):
        given = ({"type": type_, "path": "/v1/assemblyai/openapi.json", "headers": []}, object(), object())
        run(Reference(app)(*given))
        assert all(one is other for one, other in zip(passed.pop(), given, strict=True))


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_UI_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ConfigurationError, match=r"keypool-asgi\[reference\]"):
        Reference(None)  # type: ignore[arg-type]


def test_where_the_pool_stands_is_found_as_the_pool_finds_it() -> None:
    scope = {"type": "http", "path": "/v1/assemblyai/openapi.json", "root_path": ""}
    location = locate(scope, "/v1/assemblyai", mounted=False)
    assert location is not None
    assert Reference(None).knows(location.path)  # type: ignore[arg-type]


def test_the_template_holds_the_url_in_one_place() -> None:
    template = files.template(lambda base: {"servers": [{"url": base}]})
    filled = json.loads(template.filled('https://gw.example/"').body)
    assert filled == {"servers": [{"url": 'https://gw.example/"'}]}

"""Finding the operation that a request asks for: every row, and nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keypool_asgi.core.operations import Condition, Operation, OperationTable, named_in_head
from keypool_asgi.core.ownership import Names
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.providers.assemblyai.operations import OPERATIONS

TABLE = ASSEMBLYAI.table
IDENT = "3f0c-A_9"


def asked(operation: Operation) -> tuple[str, list[tuple[bytes, bytes]], bytes]:
    """Path, fields and query that ask for a row."""
    condition = operation.condition or Condition()
    headers = [(condition.header, b"x")] if condition.header else []
    query = f"{min(condition.query)}=1".encode() if condition.query else b""
    return re.sub(r"\{\w+\}", IDENT, operation.path), headers, query


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda row: f"{row.name} {row.method} {row.path}")
def test_every_row_can_be_reached(operation: Operation) -> None:
    path, headers, query = asked(operation)
    match = TABLE.find(operation.method, path, headers, query)
    assert match is not None
    assert (match.operation, match.path) == (operation, path)
    assert match.ids == dict.fromkeys(re.findall(r"\{(\w+)\}", operation.path), IDENT)
    assert TABLE.find("BREW", path, headers, query) is None


def test_names_are_kept_apart_by_condition() -> None:
    assert TABLE.find("GET", "/v1/warm", [], b"").operation.service == "dictation"
    assert TABLE.find("GET", "/v1/warm", [(b"x-aai-model", b"m")], b"").operation.service == "sync"
    assert TABLE.find("WEBSOCKET", "/v1/ws", [], b"").operation.service == "agents"
    assert TABLE.find("WEBSOCKET", "/v1/ws", [], b"voice_id=").operation.service == "tts"
    assert TABLE.find("GET", "/v1/token", [], b"x=product").operation.service == "agents"
    assert TABLE.find("GET", "/v1/token", [], b"product=stt").operation.service == "token"


def test_head_asks_for_what_get_does() -> None:
    assert TABLE.find("HEAD", "/v1/voices", [], b"").operation.name == "voices.list"
    assert TABLE.find("HEAD", "/v2/upload", [], b"") is None


def test_one_second_leading_slash_is_forgiven() -> None:
    match = TABLE.find("GET", "//v3/token", [], b"")
    assert match.path == "/v3/token"
    for path in ("///v3/token", "/v3//token", "//"):
        assert TABLE.find("GET", path, [], b"") is None


TRICKS = [
    "/v2/transcript/..",
    "/v2/transcript/.",
    "/v2/transcript/a/../b",
    "/v2/transcript/a.b",
    "/v2/transcript/a;b",
    "/v2/transcript/a;b=c/sentences",
    "/v2/transcript/a%2Fb",
    "/v2/transcript/a\\b",
    "/v2/transcript/a@b",
    "/v2/transcript/a\x00",
    "/v2/transcript/a\n",
    "/v2/transcript/é",
    "/v2/transcript/",
    "/v2/transcript/a/",
    "/v2/upload/",
    "/v2/upload/x",
    "/V2/upload",
    "/v2/transcript/" + "a" * 129,
    "/v2/transcript/{transcript_id}",
    "/../v2/upload",
    "",
    "/",
    "v2/upload",
    "http://evil.example/v2/upload",
]


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "WEBSOCKET"])
def test_tricks_are_no_operations(method: str, path: str) -> None:
    assert TABLE.find(method, path, [], b"") is None


segments = st.sampled_from(
    ["v1", "v2", "v3", "transcript", "upload", "token", "..", ".", "", IDENT, "a;b", "%2e", "\\"]
)


@given(st.sampled_from(["GET", "POST"]), st.lists(segments | st.text(max_size=3), max_size=5))
@example("GET", ["v2", "transcript", "x\n"])
def test_only_literals_and_identifiers_get_through(method: str, parts: list[str]) -> None:
    match = TABLE.find(method, "/" + "/".join(parts), [], b"")
    if match is not None:
        assert re.fullmatch(r"(/[A-Za-z0-9_-]+)+", match.path)
        template = re.sub(r"\\\{\w+\\\}", "[A-Za-z0-9_-]{1,128}", re.escape(match.operation.path))
        assert re.fullmatch(template, match.path)


def test_a_row_that_can_never_be_reached_is_a_mistake() -> None:
    first = Operation(name="a", method="GET", path="/x", service="api")
    second = Operation(name="b", method="GET", path="/x", service="api")
    with pytest.raises(ConfigurationError, match="'b' is hidden by 'a'"):
        OperationTable([first, second])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda row: f"{row.name} {row.method} {row.path}")
@pytest.mark.parametrize(("slash", "characters", "found"), [("", 128, True), ("/", 128, True), ("", 129, False)])
def test_the_longest_identifiers_are_found(operation: Operation, slash: str, characters: int, found: bool) -> None:
    _, headers, query = asked(operation)
    path = slash + re.sub(r"\{\w+\}", "a" * characters, operation.path)
    match = TABLE.find(operation.method, path, headers, query)
    assert (match is not None and match.operation is operation) == (found or "{" not in operation.path)


def test_a_path_that_is_remembered_is_judged_anew_by_method_and_condition() -> None:
    for _ in range(2):
        assert TABLE.find("GET", f"/v2/transcript/{IDENT}", [], b"").operation.name == "transcripts.get"
        assert TABLE.find("DELETE", f"/v2/transcript/{IDENT}", [], b"").operation.name == "transcripts.delete"
        assert TABLE.find("BREW", f"/v2/transcript/{IDENT}", [], b"") is None
        assert TABLE.find("GET", "/v1/token", [], b"").operation.service == "agents"
        assert TABLE.find("GET", "/v1/token", [], b"product=stt").operation.service == "token"


def test_an_endless_path_is_not_kept() -> None:
    table = OperationTable(OPERATIONS)
    assert table.find("GET", "/v2/" + "x" * 100_000, [], b"") is None
    assert table._place.cache_info().currsize == 0


@given(st.lists(st.builds(Names, st.sampled_from("kl"), st.sampled_from("xyz"), st.booleans(), st.booleans())))
def test_names_are_sorted_by_their_places(names: list[Names]) -> None:
    row = Operation(name="a", method="GET", path="/x", service="api", names=tuple(names))
    ids, query = {"x": "1", "y": "2", "z": "3"}, b"x=4&y=5&y=6"
    texts = {"x": ["4"], "y": ["5", "6"], "z": []}
    in_path = [(name.kind, ids[name.field]) for name in names if not (name.in_body or name.in_query)]
    in_query = [(name.kind, text) for name in names if name.in_query for text in texts[name.field]]
    assert named_in_head(row, ids, query) == in_path + in_query
    assert row.named_in_body == {name.field: name.kind for name in names if name.in_body}


def test_named() -> None:
    assert TABLE.named("transcripts.get").path == "/v2/transcript/{transcript_id}"
    with pytest.raises(KeyError):
        TABLE.named("transcripts.nothing")

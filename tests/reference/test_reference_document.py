"""The OpenAPI document: valid, complete against the operations table and the error table, and honest about both."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from harness import need

from keypool_asgi.core.operations import SOCKET, Operation, OperationTable
from keypool_asgi.errors import ERROR_TABLE, ConfigurationError
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.providers.assemblyai.operations import OPERATIONS
from keypool_asgi.reference import ASSEMBLYAI_PAGES, document

DOCUMENT = document(ASSEMBLYAI.table, base="https://gw.example/v1/assemblyai", version="1.2.3")
DESCRIBED = [
    (path, method, item)
    for path, methods in DOCUMENT["paths"].items()
    for method, item in methods.items()
    if method != "parameters"
]


def named(path: str, method: str) -> dict[str, Any]:
    return DOCUMENT["paths"][path][method]


def method_of(row: Operation) -> str:
    return "get" if row.method == SOCKET else row.method.lower()


def test_it_is_valid_openapi_3_1() -> None:
    need("openapi_spec_validator")
    from openapi_spec_validator import OpenAPIV31SpecValidator

    assert not list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())


def test_it_says_where_the_pool_is_and_which_release() -> None:
    assert [server["url"] for server in DOCUMENT["servers"]] == ["https://gw.example/v1/assemblyai"]
    assert DOCUMENT["info"]["version"] == "1.2.3"


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: f"{row.name} {row.method} {row.path}")
def test_every_row_is_described(row: Operation) -> None:
    item = named(row.path, method_of(row))
    assert row.name in item["x-keypool-operations"]
    assert row.gone or f"`{row.name}`" in item["description"]
    assert set(re.findall(r"\{(\w+)\}", row.path)) == {
        parameter["name"] for parameter in DOCUMENT["paths"][row.path].get("parameters", [])
    }


def test_nothing_is_described_that_is_not_in_the_table() -> None:
    rows = {(row.path, method_of(row)) for row in OPERATIONS}
    assert {(path, method) for path, method, _ in DESCRIBED} == rows
    listed = sorted(name for _, _, item in DESCRIBED for name in item["x-keypool-operations"])
    assert listed == sorted(row.name for row in OPERATIONS)


def test_a_row_without_a_page_is_refused() -> None:
    extra = Operation(name="podcasts.create", method="POST", path="/v9/podcasts", service="api")
    with pytest.raises(ConfigurationError, match=r"podcasts\.create"):
        document(OperationTable((*OPERATIONS, extra)))


def test_a_page_without_a_row_is_refused() -> None:
    fewer = [row for row in OPERATIONS if row.name != "voices.list"]
    with pytest.raises(ConfigurationError, match=r"voices\.list"):
        document(OperationTable(fewer))


def test_a_page_for_a_retired_row_is_refused() -> None:
    page = ASSEMBLYAI_PAGES.by_operation["voices.list", "GET"]
    more = {**ASSEMBLYAI_PAGES.by_operation, ("lemur.get", "GET"): page}
    with pytest.raises(ConfigurationError, match=r"lemur\.get"):
        document(ASSEMBLYAI.table, dataclasses.replace(ASSEMBLYAI_PAGES, by_operation=more))


def test_operation_ids_are_unique() -> None:
    ids = [item["operationId"] for _, _, item in DESCRIBED]
    assert len(set(ids)) == len(ids)


def test_every_tag_is_introduced_and_used() -> None:
    used = {tag for _, _, item in DESCRIBED for tag in item["tags"]}
    assert used == {tag["name"] for tag in DOCUMENT["tags"]}


@pytest.mark.parametrize("code", ERROR_TABLE)
def test_every_error_of_the_table_is_described_where_it_can_come(code: str) -> None:
    status = str(ERROR_TABLE[code].status)
    having = [item for _, _, item in DESCRIBED if status in item["responses"]]
    assert having
    for item in having:
        name = item["responses"][status]["$ref"].rpartition("/")[2]
        response = DOCUMENT["components"]["responses"][name]
        assert f"`{code}`" in response["description"]
        assert response["content"]["application/json"]["examples"][code]["value"]["code"] == code


def test_which_errors_an_operation_can_give() -> None:
    every = {"400", "401", "403", "404", "429", "502", "503"}
    assert {*every, "413", "200", "default"} == set(named("/v2/transcript", "post")["responses"])
    assert {*every, "200", "default"} == set(named("/v2/transcript/{transcript_id}", "get")["responses"])
    assert {*every, "101", "default"} == set(named("/v3/ws", "get")["responses"])


def test_retired_operations_are_deprecated_and_say_what_to_use() -> None:
    retired = {(row.path, method_of(row)): row for row in OPERATIONS if row.gone}
    assert {(path, method) for path, method, item in DESCRIBED if item.get("deprecated")} == set(retired)
    for (path, method), row in retired.items():
        item = named(path, method)
        assert item["description"] == row.gone
        assert set(item["responses"]) == {"404", "410"}


def test_rows_that_share_a_path_are_one_operation_that_says_which_is_which() -> None:
    shared = named("/v1/transcribe/live", "post")
    assert shared["x-keypool-operations"] == ["sync.transcribe", "dictation.transcribe"]
    assert "if the request has `X-AAI-Model`" in shared["description"]
    assert "if it has no `X-AAI-Model`" in shared["description"]
    assert not shared["parameters"][0]["required"]
    answer = shared["responses"]["200"]["content"]["application/json"]["schema"]
    assert [each["$ref"].rpartition("/")[2] for each in answer["anyOf"]] == ["SyncTranscript", "DictationTranscript"]
    alone = named("/v1/transcribe", "post")
    assert alone["parameters"][0]["required"]


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: f"{row.name} {row.method} {row.path}")
def test_conditions_are_told_by_parameters(row: Operation) -> None:
    if row.condition is None:
        return
    parameters = {(each["in"], each["name"].lower()) for each in named(row.path, method_of(row))["parameters"]}
    if row.condition.header:
        assert ("header", row.condition.header.decode()) in parameters
    assert {("query", name) for name in row.condition.query} <= parameters


def test_every_operation_takes_the_token_and_warming_up_works_without() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    for path, _, item in DESCRIBED:
        if item.get("deprecated"):
            continue
        wanted = [{"teamToken": []}, {"rawToken": []}, {"keyHeader": []}]
        assert all(each in item["security"] for each in wanted)
        assert ({} in item["security"]) == path.endswith("/warm")
        assert ({"queryToken": []} in item["security"]) == ("x-websocket" in item)
        assert all(name in schemes for each in item["security"] for name in each)


def test_sockets_list_their_messages_and_close_codes() -> None:
    session = named("/v3/ws", "get")["x-websocket"]["streaming.session"]
    assert {"Begin", "Turn", "Termination", "Error"} <= {frame["name"] for frame in session["receives"]}
    assert {"audio", "Terminate"} <= {frame["name"] for frame in session["sends"]}
    assert "3007" in session["closes"]
    assert "keypool-token.<token>" in session["subprotocols"]
    assert set(named("/v1/ws", "get")["x-websocket"]) == {"speech.session", "agents.session"}
    assert "4002" in named("/v1/ws", "get")["description"]


def test_nothing_in_it_points_to_a_schema_that_is_not_there() -> None:
    used = set(pointers(DOCUMENT))
    for pointer in used:
        _, kind, name = pointer.removeprefix("#/").split("/")
        assert name in DOCUMENT["components"][kind], pointer
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert not schemas - used, "nobody refers to these"


def pointers(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [pointer for member in value.values() for pointer in pointers(member)]
    return [pointer for item in value for pointer in pointers(item)] if isinstance(value, list) else []

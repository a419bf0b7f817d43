"""The pool's operations in the documents of its hosts: one line each, and nothing of the host's is lost."""

from __future__ import annotations

import copy
from typing import Any

from harness import need

from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.reference import document, merged, with_pool

HOST: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Notes", "version": "1"},
    "paths": {"/notes": {"get": {"operationId": "notes", "responses": {"200": {"description": "Notes."}}}}},
    "components": {"schemas": {"Transcript": {"type": "string"}}},
}


def valid(value: dict[str, Any]) -> bool:
    need("openapi_spec_validator")
    from openapi_spec_validator import OpenAPIV31SpecValidator

    assert [str(error) for error in OpenAPIV31SpecValidator(value).iter_errors()] == []
    return True


def test_both_are_in_it_and_neither_is_changed() -> None:
    pool = document(ASSEMBLYAI.table)
    before = copy.deepcopy((HOST, pool))
    both = merged(HOST, pool, prefix="/aai")
    assert (HOST, pool) == before
    assert valid(both)
    assert both["info"] == HOST["info"]
    assert set(both["paths"]) == {"/notes", *(f"/aai{path}" for path in pool["paths"])}
    assert "servers" not in both


def test_the_hosts_components_stay_and_ours_have_names_of_their_own() -> None:
    both = merged(HOST, document(ASSEMBLYAI.table))
    assert both["components"]["schemas"]["Transcript"] == {"type": "string"}
    operation = both["paths"]["/v1/assemblyai/v2/transcript"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/AssemblyAI.TranscriptRequest"}
    assert {"AssemblyAI.teamToken": []} in operation["security"]
    assert operation["operationId"].startswith("assemblyai_")


def test_a_host_without_anything_of_its_own() -> None:
    assert valid(merged({"openapi": "3.1.0", "info": {"title": "x", "version": "1"}}, document(ASSEMBLYAI.table)))


def test_fastapi() -> None:
    need("fastapi")
    from fastapi import FastAPI

    app = FastAPI(title="Notes")
    app.openapi = with_pool(app.openapi)  # type: ignore[method-assign]

    @app.get("/notes")
    def notes() -> list[str]:
        return []

    for _ in range(2):
        both = app.openapi()
        assert valid(both)
        assert {"/notes", "/v1/assemblyai/v2/transcript"} <= set(both["paths"])


def test_litestar() -> None:
    need("litestar")
    from litestar import Litestar, get

    from keypool_asgi.reference.litestar import PoolOpenAPIConfig

    @get("/notes")
    async def notes() -> list[str]:
        return []

    config = PoolOpenAPIConfig(title="Notes", version="1", pool_prefix="/aai")
    both = Litestar([notes], openapi_config=config).openapi_schema.to_schema()
    assert valid(both)
    assert {"/notes", "/aai/v2/transcript"} <= set(both["paths"])
    assert both["info"]["title"] == "Notes"
    assert "poolPrefix" not in both

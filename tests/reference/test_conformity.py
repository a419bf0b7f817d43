"""The document against the running pool: whatever a caller sends, the answer is one that the document describes.

Schemathesis makes requests from the document, good and bad ones; they go to a pool before a simulated AssemblyAI.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from harness import need, token
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from keypool_asgi import Team
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.reference import document

from .gateway_served import TOKEN, Gateway, opened

EXAMPLES = 40
SECONDS = 30.0

READER, NOBODY = token("conformity-reader"), token("conformity-nobody")
CALLERS = (TOKEN, TOKEN, TOKEN, TOKEN, TOKEN, NOBODY, TOKEN, TOKEN, READER, TOKEN, TOKEN)

# The simulator keeps these as they are sent, whatever is in them; the service would refuse what is of a wrong type.
STORED_AS_SENT = ("/v1/agents", "/v1/webhook-subscriptions")

Document = dict[str, Any]


def strict() -> Document:
    """The document without what it says of every other status, which would excuse any answer.

    How to present a token is not in it either: ours is in ``Authorization``, and a second one would be refused.
    """
    plain = copy.deepcopy(document(ASSEMBLYAI.table))
    for _, _, item in operations(plain):
        item["responses"].pop("default", None)
        item["security"] = []
    return plain


def operations(plain: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in plain["paths"].items():
        for method, item in methods.items():
            if method != "parameters":
                yield path, method, item


OPERATIONS = [(path, method) for path, method, _ in operations(strict())]


@dataclass(frozen=True, slots=True)
class Running:
    """The served pool, and a session of HTTP to it."""

    gateway: Gateway
    session: Any


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    need("schemathesis", "fastapi_offline")
    import requests

    teams = {READER: Team("reading", operations=["transcripts.get"])}
    with opened(teams=teams) as gateway, requests.Session() as session:
        session.trust_env = False  # no proxy of this machine's
        yield Running(gateway, session)


def made(gateway: Gateway) -> dict[str, str]:
    """Make what paths name, and return its identifiers."""
    with gateway.client() as client:
        transcript = client.post("/v2/transcript", json={"audio_url": "https://example.com/meeting.mp3"}).json()["id"]
        assert client.get(f"/v2/transcript/{transcript}").json()["status"] == "completed"
        hook = {"url": "https://example.com/e"}
        return {
            "transcript_id": transcript,
            "agent_id": client.post("/v1/agents", json={"name": "Receptionist"}).json()["id"],
            "subscription_id": client.post("/v1/webhook-subscriptions", json=hook).json()["id"],
        }


@functools.cache
def _schema() -> Any:
    import schemathesis

    return schemathesis.openapi.from_dict(strict())


def conform(running: Running, schema: Any, path: str, method: str) -> list[int]:
    """Send requests of one operation and check each answer; return the statuses that came."""
    operation = schema[path][method.upper()]
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in _modes(path)])
    ids = made(running.gateway)
    statuses = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # the first failure is told as it is
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, real=st.booleans(), caller=st.integers(0, len(CALLERS) - 1))
    def send(case: Any, real: bool, caller: int) -> None:
        if real:
            case.path_parameters = {name: ids.get(name, other) for name, other in case.path_parameters.items()}
        headers = {"authorization": CALLERS[caller]}
        answer = case.call(running.gateway.url, session=running.session, headers=headers, timeout=SECONDS)
        case.validate_response(answer, checks=_checks())
        statuses.append(answer.status_code)

    send()
    return statuses


def _modes(path: str) -> list[Any]:
    from schemathesis import GenerationMode

    good_only = path.startswith(STORED_AS_SENT)
    return [GenerationMode.POSITIVE] if good_only else [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


def _checks() -> list[Any]:
    from schemathesis.specs.openapi import checks

    return [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
    ]


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS])
def test_every_answer_is_described(running: Running, path: str, method: str) -> None:
    statuses = conform(running, _schema(), path, method)
    assert set(statuses) - {401, 403}, "no request was let in"


def _without_its_refusal(item: dict[str, Any]) -> None:
    del item["responses"]["401"]


def _with_another_media_type(item: dict[str, Any]) -> None:
    item["responses"]["200"]["content"] = {"text/plain": {}}


def _with_another_shape(item: dict[str, Any]) -> None:
    item["responses"]["200"]["content"]["application/json"]["schema"] = {"type": "array"}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without_its_refusal, "Undocumented status code"),
        (_with_another_media_type, "Undocumented Content-Type"),
        (_with_another_shape, "Response violates schema"),
    ],
)
def test_a_wrong_document_would_be_noticed(
    running: Running, spoil: Callable[[dict[str, Any]], None], told: str
) -> None:
    import schemathesis
    from schemathesis.core.failures import FailureGroup

    wrong = strict()
    spoil(wrong["paths"]["/v1/voices"]["get"])
    with pytest.raises(FailureGroup, match=told):
        conform(running, schemathesis.openapi.from_dict(wrong), "/v1/voices", "get")


@pytest.mark.parametrize("setting", ["voice_id", "model_id", "language", "container"])
@pytest.mark.parametrize("value", ["aai\r\nX-Other: 1", "\x00", "ü", ["aai-jane"]])
def test_a_setting_that_no_header_can_repeat_is_refused(running: Running, setting: str, value: Any) -> None:
    with running.gateway.client() as client:
        answer = client.post("/v1/speech", json={"text": "Good morning.", setting: value})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize("rate", ["fast", 1e9, 7999, 48_001])
def test_a_sample_rate_out_of_range_is_refused(running: Running, rate: Any) -> None:
    with running.gateway.client() as client:
        answer = client.post("/v1/speech", json={"text": "Good morning.", "sample_rate": rate})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")

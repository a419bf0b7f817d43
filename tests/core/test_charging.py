"""What an operation of a team is charged, and for which of its limits."""

from __future__ import annotations

import pytest

from keypool_asgi.core.charging import Tariff
from keypool_asgi.core.limits import Limit
from keypool_asgi.core.prices import Price, Prices
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.providers.assemblyai.metering import METERING

EVERY = [
    Limit(unit, 1000, per)
    for unit, per in (
        ("requests", "minute"),
        ("concurrency", None),
        ("streams", None),
        ("upload_bytes", "day"),
        ("audio_seconds", "day"),
        ("stream_seconds", "day"),
        ("llm_tokens", "day"),
        ("tts_characters", "day"),
        ("cost", "day"),
    )
]
BOTH = {"requests", "concurrency"}


def plan(operation, limits=EVERY, **settings):
    return Tariff(METERING, **settings).plan("team", "team:a", limits, ASSEMBLYAI.table.named(operation))


def units(charges):
    return {charge.limit.unit: charge.amount for charge in charges}


@pytest.mark.parametrize(
    ("operation", "held", "others"),
    [
        ("voices.list", BOTH, {}),
        ("uploads.create", BOTH, {"body": {"upload_bytes"}}),
        ("transcripts.create", BOTH, {"job": {"audio_seconds"}}),
        ("transcripts.get", BOTH, {}),
        ("sync.transcribe", BOTH | {"audio_seconds"}, {"body": {"upload_bytes"}}),
        ("dictation.transcribe", BOTH | {"audio_seconds"}, {"body": {"upload_bytes"}}),
        ("llm.chat", BOTH | {"llm_tokens"}, {}),
        ("speech.create", BOTH | {"tts_characters"}, {}),
        ("streaming.session", BOTH | {"streams"}, {"session": {"stream_seconds"}}),
        ("agents.session", BOTH | {"streams"}, {"session": {"stream_seconds"}}),
        ("speech.session", BOTH | {"streams", "tts_characters"}, {}),
        ("streaming.token", BOTH | {"stream_seconds"}, {}),
    ],
)
def test_an_operation_touches_the_limits_of_what_it_uses(operation, held, others):
    made = plan(operation)
    assert set(units(made.held)) == held
    for part in ("job", "body", "session"):
        assert set(units(getattr(made, part))) == others.get(part, set())
    assert {charge.limit.unit for charge in made.limits} == held.union(*others.values())


def test_every_metered_operation_is_in_the_table():
    names = {operation.name for operation in ASSEMBLYAI.table.operations}
    assert set(METERING) <= names
    assert {metering.begun_by for metering in METERING.values()} - {""} <= set(METERING)


@pytest.mark.parametrize(
    ("operation", "finishes"),
    [("transcripts.get", True), ("transcripts.paragraphs", True), ("transcripts.list", False)],
)
def test_answers_that_finish_a_job(operation, finishes):
    assert plan(operation).finishes is finishes
    assert not plan(operation, [Limit("requests", 5, per="day")]).finishes
    of_others = [Limit("audio_seconds", 5, per="day", operations="sync.*")]
    assert not plan(operation, of_others).finishes


def test_what_is_unknown_is_held_as_it_was_estimated():
    estimates = {"sync.*": {"audio_seconds": 7}, "*": {"audio_seconds": 60, "llm_tokens": 500}}
    assert units(plan("sync.transcribe", estimates=estimates).held)["audio_seconds"] == 7
    assert units(plan("transcripts.create", estimates=estimates).job) == {"audio_seconds": 60}
    assert units(plan("llm.chat", estimates=estimates).held)["llm_tokens"] == 500
    assert units(plan("llm.chat").held)["llm_tokens"] == 1


def test_cost_counts_where_there_is_a_price():
    prices = Prices(
        {
            "transcripts.create": {"audio_seconds": Price(60), "requests": Price(1)},
            "streaming.*": {"stream_seconds": Price(125)},
            "voices.*": {"requests": Price(2)},
        }
    )
    estimates = {"transcripts.create": {"audio_seconds": 10}}
    settings = {"prices": prices, "estimates": estimates}
    assert units(plan("transcripts.create", **settings).job) == {"audio_seconds": 10, "cost": 601}
    assert units(plan("streaming.session", **settings).session) == {"stream_seconds": 1, "cost": 1}
    assert units(plan("voices.list", **settings).held)["cost"] == 2
    assert "cost" not in units(plan("transcripts.list", **settings).limits)


@pytest.mark.parametrize(
    "wrong",
    [{"*": {"concurrency": 1}}, {"*": {"words": 1}}, {"*": {"audio_seconds": 0}}, {"*": {"audio_seconds": 1.5}}],
)
def test_an_estimate_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="estimates"):
        Tariff(METERING, estimates=wrong)


@pytest.mark.parametrize(
    ("operation", "limits", "fixed"),
    [
        ("voices.list", EVERY, True),
        ("transcripts.get", EVERY, True),  # the job that it may finish has a permit of its own
        ("transcripts.create", [Limit("audio_seconds", 5, per="day")], False),
        ("uploads.create", [Limit("concurrency", 5)], True),
        ("uploads.create", [Limit("upload_bytes", 5, per="day")], False),
        ("llm.chat", [Limit("requests", 5, per="day")], True),
        ("llm.chat", [Limit("llm_tokens", 5, per="day")], False),
        ("streaming.session", [Limit("stream_seconds", 5, per="day")], False),
        ("streaming.token", [Limit("requests", 5, per="day")], False),  # its query says what it may use
    ],
)
def test_a_plan_is_fixed_where_nothing_that_it_counts_is_to_be_found_out(operation, limits, fixed):
    assert plan(operation, limits).fixed is fixed


def test_the_answer_is_looked_at_only_for_what_counts():
    requests, tokens = Limit("requests", 5, per="day"), Limit("llm_tokens", 5, per="day")
    assert plan("llm.chat", [requests]).wanted is None
    assert plan("llm.chat", [tokens]).wanted is METERING["llm.chat"].figures
    assert plan("transcripts.create", [requests]).wanted is None
    assert plan("transcripts.create").wanted.members == {"id"}
    assert plan("transcripts.get", [requests]).wanted is None
    assert plan("transcripts.get").wanted is METERING["transcripts.get"].figures


def test_who_shares_jobs_may_finish_those_of_others():
    """Whatever limits there are: the job is another team's."""
    table, limits = ASSEMBLYAI.table, [Limit("requests", 5, per="day")]
    get = Tariff(METERING).plan("team", "team:a", limits, table.named("transcripts.get"), shared=True)
    assert get.finishes
    assert not Tariff(METERING).plan("team", "team:a", limits, table.named("voices.list"), shared=True).finishes

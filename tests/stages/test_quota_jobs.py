"""The quota stage and figures that come with, or long after, an answer."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from faults.rig import Caller
from harness import run
from stages.quota_rig import NOW, QuotaRig, answering

from keypool_asgi.core.limits import Limit
from keypool_asgi.core.metering import scanner_for
from keypool_asgi.core.prices import Price, Prices
from keypool_asgi.errors import StoreUnavailable
from keypool_asgi.exchange import SCOPE_KEY
from keypool_asgi.stores.quotas import QuotaCallbacks, quota_store
from keypool_asgi.stores.sqlite_quotas import SqliteQuotas

AUDIO = Limit("audio_seconds", 1000, per="month")
TOKENS = Limit("llm_tokens", 1000, per="month")
CREATED = json.dumps({"id": "t-1", "status": "queued", "audio_duration": None}).encode()
GZIP = [(b"content-encoding", b"gzip")]


def transcript(status="completed", seconds=300, ident="t-1"):
    words = [{"text": f'"w{{{number}', "start": number} for number in range(50)]
    job = {"id": ident, "status": status, "words": words, "audio_duration": seconds, "speech_model_used": "universal"}
    return json.dumps(job).encode()


async def create(rig, body=CREATED, **answer):
    rig.stage.app = answering(body, **answer)
    return await rig.ask("transcripts.create")


async def poll(rig, body, operation="transcripts.get", ident="t-1", **answer):
    rig.stage.app = answering(body, **answer)
    return await rig.ask(operation, ids={"transcript_id": ident})


# Jobs


def test_a_job_is_charged_when_its_length_is_first_seen_and_once():
    async def scenario():
        rig = QuotaRig(AUDIO)
        await create(rig)
        assert rig.left(AUDIO) == 999  # it holds one while nobody knows
        assert rig.permits == {"transcripts.create:t-1"}
        await poll(rig, transcript("processing", None))
        assert rig.left(AUDIO) == 999
        for _ in range(3):
            assert (await poll(rig, transcript())).body == transcript()
        assert rig.left(AUDIO) == 700
        assert not rig.permits

    run(scenario())


@pytest.mark.parametrize("limits", [[AUDIO], [AUDIO, Limit("requests", 60, per="minute")]])
def test_answers_about_a_job_that_is_settled_are_not_searched(monkeypatch, limits):
    """Of another job they are, and each poll still counts as a request."""
    searched = []

    def searching(figures, headers):
        searched.append(figures)
        return scanner_for(figures, headers)

    async def scenario():
        monkeypatch.setattr("keypool_asgi.stages.quota_answer.scanner_for", searching)
        rig = QuotaRig(*limits)
        await create(rig)
        await poll(rig, transcript("processing", None))
        await poll(rig, transcript())
        assert len(searched) == 3
        await poll(rig, transcript())
        await poll(rig, b'{"audio_duration": 300}', "transcripts.sentences")
        assert len(searched) == 3
        assert rig.left(AUDIO) == 700
        await poll(rig, transcript(ident="t-2"), ident="t-2")
        assert len(searched) == 4
        assert [rig.left(one) for one in limits[1:]] == [54 for _ in limits[1:]]
        assert not rig.permits

    run(scenario())


@pytest.mark.parametrize("operation", ["transcripts.sentences", "transcripts.paragraphs"])
def test_parts_of_a_transcript_say_its_length_too(operation):
    async def scenario():
        rig = QuotaRig(AUDIO)
        await create(rig)
        await poll(
            rig, json.dumps({"id": "t-1", "sentences": [{"text": "a"}], "audio_duration": 120}).encode(), operation
        )
        assert rig.left(AUDIO) == 880

    run(scenario())


def test_days_later_in_the_next_month():
    """The estimate stays in its month; what is beyond it counts when it is known."""

    async def scenario():
        rig = QuotaRig(AUDIO, estimates={"transcripts.create": {"audio_seconds": 200}}, job_seconds=40 * 86400)
        await create(rig)
        assert rig.left(AUDIO) == 800
        rig.now += 33 * 86400
        assert rig.left(AUDIO) == 1000
        await poll(rig, transcript(seconds=300))
        assert rig.left(AUDIO) == 900

    run(scenario())


def test_nobody_waits_for_ever():
    """After ``job_seconds`` it counts as it was estimated, and a figure that comes then changes nothing."""

    async def scenario():
        rig = QuotaRig(AUDIO, estimates={"transcripts.*": {"audio_seconds": 200}}, job_seconds=3600)
        await create(rig)
        rig.now += 3601
        await poll(rig, transcript(seconds=900))
        assert rig.left(AUDIO) == 800
        assert not rig.permits

    run(scenario())


def test_a_failed_job_is_free():
    async def scenario():
        rig = QuotaRig(AUDIO, estimates={"transcripts.create": {"audio_seconds": 200}})
        await create(rig)
        await poll(rig, transcript("error", None))
        assert rig.left(AUDIO) == 1000

    run(scenario())


def test_a_job_that_was_refused_is_free():
    async def scenario():
        rig = QuotaRig(AUDIO)
        await create(rig, b'{"error":"bad audio_url"}', status=400)
        assert rig.left(AUDIO) == 1000
        assert not rig.permits

    run(scenario())


def test_the_estimate_refuses_what_cannot_fit():
    async def scenario():
        rig = QuotaRig(AUDIO, Limit("requests", 10, per="day"), estimates={"*": {"audio_seconds": 400}})
        assert [(await create(rig)).status for _ in range(3)] == [200, 200, 429]
        assert rig.left(Limit("requests", 10, per="day")) == 8

    run(scenario())


def test_what_is_owed_refuses_the_next():
    async def scenario():
        rig = QuotaRig(AUDIO)
        await create(rig)
        await poll(rig, transcript(seconds=36_000))
        refused = await create(rig)
        assert refused.status == 429
        assert "1000 audio seconds per month is used up" in refused.json["error"]

    run(scenario())


def test_the_job_has_its_name_before_the_caller_has():
    """A caller who polls the moment that it reads the id finds it settled right."""

    async def scenario():
        rig = QuotaRig(AUDIO)

        class Quick(Caller):
            async def send(self, message):
                if message["type"] == "http.response.body":
                    assert rig.permits == {"transcripts.create:t-1"} | {"r1"} & rig.permits
                await super().send(message)

        rig.stage.app = answering(CREATED)
        caller = await rig.ask("transcripts.create", caller=Quick([b"{}"]))
        assert caller.json["id"] == "t-1"

    run(scenario())


def test_a_job_whose_answer_never_came_counts_as_it_was_estimated():
    """Upstream may have begun it."""

    async def scenario():
        async def lost(scope, receive, send):
            scope[SCOPE_KEY].reached_upstream = True

        rig = QuotaRig(AUDIO, app=lost, estimates={"*": {"audio_seconds": 60}})
        await rig.ask("transcripts.create")
        assert rig.left(AUDIO) == 940
        assert not rig.permits

    run(scenario())


def test_a_restart_between_job_and_figure(tmp_path):
    """The permit is in the file: another process settles it, once."""

    async def scenario():
        store = SqliteQuotas(tmp_path / "quotas.db", clock=lambda: NOW)
        rig = QuotaRig(AUDIO, wrap=lambda _: store)
        await create(rig)
        await store.aclose()
        again = SqliteQuotas(tmp_path / "quotas.db", clock=lambda: NOW)
        rigs = [QuotaRig(AUDIO, wrap=lambda _: again) for _ in range(2)]
        await asyncio.gather(*(poll(one, transcript()) for one in rigs))
        assert await rigs[0].stage.remaining(rig.team, rig.exchanges[0].operation, "audio_seconds") == 700
        await again.aclose()

    run(scenario())


def test_a_store_that_fails_is_asked_again_by_the_next_poll():
    async def scenario():
        failing = []
        verbs = ("reserve", "renew", "settle", "release", "rename", "levels")

        def wrap(memory):
            def verb(name):
                async def call(*args):
                    if failing and name == "settle" and args[0].startswith("transcripts"):
                        raise OSError("gone")
                    return await getattr(memory, name)(*args)

                return call

            return quota_store(QuotaCallbacks(**{name: verb(name) for name in verbs}))

        rig = QuotaRig(AUDIO, wrap=wrap)
        await create(rig)
        failing.append(True)
        assert (await poll(rig, transcript())).status == 200
        assert rig.left(AUDIO) == 999
        failing.clear()
        await poll(rig, transcript())
        assert rig.left(AUDIO) == 700

    run(scenario())


def test_another_team_may_ask_where_teams_share():
    async def scenario():
        rig = QuotaRig(AUDIO, shared=True)
        await create(rig)
        rig.team = type(rig.team)("team-b")
        await poll(rig, transcript())
        assert rig.left(AUDIO) == 700

    run(scenario())


# Prices


def test_a_job_costs_what_its_model_costs():
    async def scenario():
        budget = Limit("cost", 10**6, per="month")
        prices = Prices(
            {
                "transcripts.create@universal*": {"audio_seconds": Price(150_000, per=3600)},
                "transcripts.create": {"audio_seconds": Price(210_000, per=3600)},
            }
        )
        rig = QuotaRig(budget, prices=prices, estimates={"transcripts.create": {"audio_seconds": 3600}})
        await create(rig)
        assert rig.left(budget) == 10**6 - 210_000  # the dearest that it can be
        await poll(rig, transcript(seconds=1800))
        assert rig.left(budget) == 10**6 - 75_000

    run(scenario())


# Figures in the answer


USAGE = {"usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30, "details": {"total_tokens": 1}}}
DELTA = {"choices": [{"delta": {"content": 'x "usage": {"total_tokens": 999}'}}]}
EVENTS = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in [DELTA] * 20 + [{"choices": [], **USAGE}])
EVENTS += b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("operation", "limit", "body", "used"),
    [
        ("llm.chat", TOKENS, json.dumps({"choices": [], **USAGE}).encode(), 30),
        ("llm.chat", TOKENS, json.dumps({"usage": {"input_tokens": 5, "output_tokens": 6}}).encode(), 11),
        ("llm.chat", TOKENS, EVENTS, 30),
        ("llm.chat", TOKENS, b"no figure", 1),
        ("llm.understanding", TOKENS, json.dumps(USAGE).encode(), 30),
        ("sync.transcribe", AUDIO, b'{"text":"a","audio_duration_ms":2100}', 3),
        ("dictation.transcribe", AUDIO, b'{"audio_duration_ms": 1000}', 1),
        ("sync.transcribe", AUDIO, b'{"audio_duration_ms": 0}', 0),
        ("sync.transcribe", AUDIO, b'{"audio_duration_ms": "many"}', 1),
    ],
)
@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_an_answers_figures_settle_it(operation, limit, body, used, pieces):
    """However it is cut and coded, and unchanged for the caller."""

    async def scenario():
        for sent, coding in ((body, []), (gzip.compress(body), GZIP)):
            rig = QuotaRig(limit, app=answering(sent, headers=coding, pieces=pieces))
            caller = await rig.ask(operation)
            assert caller.body == sent
            assert rig.left(limit) == 1000 - used

    run(scenario())


def test_speech_says_its_characters_in_a_field():
    async def scenario():
        limit = Limit("tts_characters", 500, per="day")
        rig = QuotaRig(limit, app=answering(b"RIFF", headers=[(b"x-tts-billed-characters", b"123")]))
        await rig.ask("speech.create")
        assert rig.left(limit) == 377

    run(scenario())


def test_an_answer_that_cannot_be_read_counts_as_it_was_estimated():
    async def scenario():
        rig = QuotaRig(TOKENS, app=answering(b"\x00\x01", headers=[(b"content-encoding", b"br")]))
        await rig.ask("llm.chat")
        assert rig.left(TOKENS) == 999

    run(scenario())


def test_upstream_is_asked_for_what_can_be_read():
    async def scenario():
        seen = []
        rig = QuotaRig(TOKENS, app=answering(then=lambda scope, _: seen.append(scope["headers"])))
        await rig.ask("llm.chat")
        assert seen == [[(b"accept-encoding", b"gzip")]]
        rig.stage.app = answering(then=lambda scope, _: seen.append(scope["headers"]))
        await rig.ask("llm.models")
        assert seen[1] == [(b"accept-encoding", b"gzip, br, zstd")]

    run(scenario())


def test_a_failed_request_uses_no_tokens():
    async def scenario():
        requests = Limit("requests", 10, per="day")
        rig = QuotaRig(TOKENS, requests, app=answering(json.dumps(USAGE).encode(), status=400))
        await rig.ask("llm.chat")
        assert (rig.left(TOKENS), rig.left(requests)) == (1000, 9)

    run(scenario())


def test_a_store_that_fails_refuses():
    async def scenario():
        def fail(*_):
            raise StoreUnavailable("no")

        rig = QuotaRig(TOKENS, wrap=lambda _: quota_store(QuotaCallbacks(reserve=fail)))
        assert (await rig.ask("llm.chat")).status == 503

    run(scenario())

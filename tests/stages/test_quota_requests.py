"""The quota stage and requests: what is charged, what a caller reads, and the fields that say what is left."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from faults.rig import until
from harness import run
from stages.quota_rig import QuotaRig, answering

from keypool_asgi.core.limits import Limit
from keypool_asgi.core.prices import Price, Prices
from keypool_asgi.core.teams import Team
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.exchange import SCOPE_KEY
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.stages.quota import Quota
from keypool_asgi.stores.quotas import MemoryQuotas, QuotaCallbacks, quota_store

PER_DAY = Limit("requests", 3, per="day")
AT_ONCE = Limit("concurrency", 2)


def fields_of(caller):
    return {name.decode(): value.decode() for name, value in caller.headers}


# What is charged


def test_a_request_is_charged_once_and_frees_what_it_occupied():
    async def scenario():
        rig = QuotaRig(PER_DAY, AT_ONCE)
        answers = [await rig.ask("voices.list") for _ in range(4)]
        assert [one.status for one in answers] == [200, 200, 200, 429]
        assert (rig.left(PER_DAY), rig.left(AT_ONCE)) == (0, 2)
        assert not rig.permits

    run(scenario())


def test_what_never_reached_upstream_is_free():
    async def unreached(scope, receive, send):
        await answering(status=503)(scope, receive, send)
        scope[SCOPE_KEY].reached_upstream = False

    async def scenario():
        rig = QuotaRig(PER_DAY, AT_ONCE, app=unreached)
        for _ in range(5):
            assert (await rig.ask("voices.list")).status == 503
        assert rig.left(PER_DAY) == 3

    run(scenario())


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
def test_whatever_ends_an_exchange_ends_its_permits(error):
    async def failing(scope, receive, send):
        raise error

    async def scenario():
        rig = QuotaRig(PER_DAY, AT_ONCE, Limit("audio_seconds", 10, per="day"), app=failing)
        with pytest.raises(error):
            await rig.ask("transcripts.create")
        assert not rig.permits
        assert rig.left(AT_ONCE) == 2

    run(scenario())


class Far:
    """A store that takes a while, and does not guard its verbs."""

    def __init__(self, memory):
        self.memory = memory
        self.seen = memory.seen

    def __getattr__(self, verb):
        async def call(*args):
            await asyncio.sleep(0.02)
            return await getattr(self.memory, verb)(*args)

        return call


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.05, 0.07, 0.09])
def test_permits_end_even_if_their_end_is_cancelled(seconds):
    """At any time, and again while it is being settled: every permit of the exchange ends."""

    async def scenario():
        audio = Limit("audio_seconds", 10, per="day")
        rig = QuotaRig(PER_DAY, AT_ONCE, audio, wrap=Far)
        asking = asyncio.create_task(rig.ask("transcripts.create"))
        await asyncio.sleep(seconds)
        for _ in range(3):
            asking.cancel()
            await asyncio.sleep(0.005)
        await asyncio.wait([asking])
        await until(lambda: not rig.permits and not rig.stage._tasks)
        assert rig.left(AT_ONCE) == 2

    run(scenario())


def test_limits_of_other_operations_do_not_count():
    async def scenario():
        transcripts = Limit("requests", 1, per="day", operations="transcripts.*")
        rig = QuotaRig(transcripts, PER_DAY)
        assert (await rig.ask("voices.list")).status == 200
        assert (await rig.ask("transcripts.list")).status == 200
        refused = await rig.ask("transcripts.list")
        assert refused.status == 429
        assert refused.json["error"].startswith("Limit of 1 request per day for transcripts.* is used up")
        assert (await rig.ask("voices.list")).status == 200
        assert rig.left(PER_DAY) == 0

    run(scenario())


def test_several_limits_are_all_or_nothing():
    async def scenario():
        rig = QuotaRig(Limit("requests", 100, per="hour"), PER_DAY)
        for _ in range(10):
            await rig.ask("voices.list")
        assert rig.left(Limit("requests", 100, per="hour")) == 97

    run(scenario())


async def unanswered(scope, receive, send):
    scope[SCOPE_KEY].reached_upstream = True
    raise RuntimeError("it broke")


@pytest.mark.parametrize("operation", ["voices.list", "transcripts.get", "llm.chat", "uploads.create"])
@pytest.mark.parametrize("app", [answering(headers=[(b"ratelimit", b"x")]), answering(status=500), unanswered])
def test_the_short_way_of_what_is_not_metered_comes_to_the_same(operation, app):
    async def outcome(fixed):
        rig = QuotaRig(PER_DAY, AT_ONCE, Limit("requests", 60, per="minute"), app=app)
        plan = rig.stage._plan(rig.team, ASSEMBLYAI.table.named(operation))
        assert plan.fixed
        object.__setattr__(plan, "fixed", fixed)
        seen = []
        for _ in range(4):
            with suppress(RuntimeError):
                caller = await rig.ask(operation, body=[b"abc"], length=3)
                seen.append((caller.status, caller.headers, caller.body))
            rig.now += 1
        return seen, rig.left(PER_DAY), rig.left(AT_ONCE), rig.permits

    async def scenario():
        assert await outcome(fixed=True) == await outcome(fixed=False)

    run(scenario())


def test_plans_are_bounded(monkeypatch):
    async def scenario():
        monkeypatch.setattr("keypool_asgi.stages.quota._PLANS", 3)
        rig = QuotaRig(PER_DAY, AT_ONCE)
        for number in range(10):
            rig.team = Team(f"team-{number}", limits=[PER_DAY])
            assert (await rig.ask("voices.list")).status == 200
            assert len(rig.stage._plans) <= 3

    run(scenario())


def test_streams_are_not_for_requests():
    async def scenario():
        rig = QuotaRig(Limit("streams", 1))
        assert (await rig.ask("voices.list")).headers == []

    run(scenario())


def test_a_new_team_of_the_same_id_has_its_own_limits():
    """The operator has changed a limit; the directory gives another team from now on."""

    async def scenario():
        rig = QuotaRig(PER_DAY)
        for _ in range(3):
            await rig.ask("voices.list")
        assert (await rig.ask("voices.list")).status == 429
        rig.team = Team("team-a", limits=[Limit("requests", 5, per="day")])
        assert (await rig.ask("voices.list")).status == 200
        assert rig.left(Limit("requests", 5, per="day")) == 1

    run(scenario())


def test_a_price_for_every_request():
    async def scenario():
        budget = Limit("cost", 1000, per="month")
        rig = QuotaRig(budget, prices=Prices({"voices.*": {"requests": Price(400)}}))
        assert [(await rig.ask("voices.list")).status for _ in range(3)] == [200, 200, 429]
        assert (await rig.ask("transcripts.list")).status == 200  # it has no price
        assert rig.left(budget) == 200

    run(scenario())


@pytest.mark.parametrize(
    "wrong", [{"window_seconds": 0}, {"stop_seconds": -1}, {"job_seconds": float("inf")}, {"upload_step_bytes": 0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Quota(answering(), quotas=MemoryQuotas(), **wrong)


# What a caller reads


def test_a_refusal_says_which_limit_and_when():
    async def scenario():
        rig = QuotaRig(Limit("requests", 2, per="hour"), AT_ONCE)
        for _ in range(2):
            await rig.ask("voices.list")
        refused = await rig.ask("voices.list")
        assert refused.status == 429
        assert refused.json["code"] == "QUOTA_EXCEEDED"
        assert refused.json["error"] == "Limit of 2 requests per hour is used up; it frees in 30 minutes."
        fields = fields_of(refused)
        assert fields["retry-after"] == "1800"
        assert fields["ratelimit-policy"] == (
            '"2 requests per hour";q=2;w=3600, "2 concurrent requests";q=2;qu="concurrent-requests"'
        )
        assert fields["ratelimit"] == '"2 requests per hour";r=0;t=1800, "2 concurrent requests";r=2'
        assert fields["x-ratelimit-limit"] == "2"
        assert fields["x-ratelimit-remaining"] == "0"
        assert fields["x-ratelimit-reset"] == "1800"

    run(scenario())


def test_an_answer_says_what_is_left_of_every_limit():
    async def scenario():
        month = Limit("audio_seconds", 1000, per="month")
        rig = QuotaRig(Limit("requests", 60, per="minute"), month)
        fields = fields_of(await rig.ask("transcripts.create"))
        assert fields["ratelimit-policy"] == (
            '"60 requests per minute";q=60;w=60, "1000 audio seconds per month";q=1000;qu="audio-seconds"'
        )
        left = fields["ratelimit"].split(", ")
        assert left[0] == '"60 requests per minute";r=59;t=1'
        assert left[1].startswith('"1000 audio seconds per month";r=999;t=')
        assert fields["x-ratelimit-limit"] == "60"
        assert fields["x-ratelimit-remaining"] == "59"

    run(scenario())


UPSTREAMS = [(b"x-ratelimit-limit", b"30"), (b"x-ratelimit-model", b"m"), (b"ratelimit", b"x")]


def test_ours_replace_upstreams_fields():
    """They are about the operator's account, which other teams use, too."""

    async def scenario():
        rig = QuotaRig(PER_DAY, app=answering(headers=UPSTREAMS))
        caller = await rig.ask("llm.models")
        names = [name for name, _ in caller.headers]
        assert len(names) == len(set(names))
        assert fields_of(caller)["x-ratelimit-limit"] == "3"
        assert fields_of(caller)["x-ratelimit-model"] == "m"

    run(scenario())


def test_upstreams_fields_pass_where_the_team_has_no_limit():
    async def scenario():
        rig = QuotaRig(app=answering(headers=UPSTREAMS))
        assert (await rig.ask("llm.models")).headers == UPSTREAMS

    run(scenario())


def test_fields_can_be_left_out():
    async def scenario():
        rig = QuotaRig(PER_DAY, rate_limit_fields=False, app=answering(headers=UPSTREAMS))
        assert (await rig.ask("llm.models")).headers == UPSTREAMS
        await rig.ask("llm.models")
        await rig.ask("llm.models")
        refused = await rig.ask("llm.models")
        assert not [name for name, _ in refused.headers if b"ratelimit" in name]
        assert b"retry-after" in dict(refused.headers)

    run(scenario())


def test_a_store_of_functions_says_nothing_of_what_is_left():
    async def scenario():
        rig = QuotaRig(PER_DAY, wrap=lambda _: quota_store(QuotaCallbacks(reserve=lambda *_: None)))
        assert (await rig.ask("voices.list")).headers == []

    run(scenario())


def test_what_is_left_of_a_unit():
    async def scenario():
        day, month = Limit("stream_seconds", 600, per="day"), Limit("stream_seconds", 500, per="month")
        rig = QuotaRig(day, month, Limit("stream_seconds", 5, per="hour", operations="agents.*"))
        session = ASSEMBLYAI.table.named("streaming.session")
        assert await rig.stage.remaining(rig.team, session, "stream_seconds") == 500
        assert await rig.stage.remaining(rig.team, ASSEMBLYAI.table.named("agents.session"), "stream_seconds") == 5
        assert await rig.stage.remaining(rig.team, session, "llm_tokens") is None
        assert await rig.stage.remaining(Team("team-b"), session, "stream_seconds") is None

    run(scenario())


# Renewing


def test_a_long_request_keeps_what_it_occupies():
    """Its permit is renewed for as long as it takes."""

    async def scenario():
        going, over = asyncio.Event(), asyncio.Event()

        async def slow(scope, receive, send):
            going.set()
            await over.wait()
            await answering()(scope, receive, send)

        rig = QuotaRig(Limit("concurrency", 1), app=slow, renew_seconds=0.02)
        asking = asyncio.create_task(rig.ask("voices.list"))
        await going.wait()
        for _ in range(5):
            rig.now += 100
            await asyncio.sleep(0.05)
        assert (await rig.ask("voices.list")).status == 429
        over.set()
        assert (await asking).status == 200
        await asyncio.sleep(0.05)
        assert rig.left(Limit("concurrency", 1)) == 1
        assert rig.stage._renewing._timer is None  # it rests

    run(scenario())


# Minting tokens of AssemblyAI's


SESSION = Limit("stream_seconds", 1000, per="day")


def minted(rig):
    """Query strings that came through."""
    seen = []
    rig.stage.app = answering(b'{"token":"t"}', then=lambda scope, _: seen.append(scope["query_string"]))
    return seen


def test_minting_holds_the_longest_session():
    async def scenario():
        rig = QuotaRig(SESSION)
        seen = minted(rig)
        query = b"expires_in_seconds=60&max_session_duration_seconds=600"
        assert (await rig.ask("streaming.token", query=query)).status == 200
        assert rig.left(SESSION) == 400
        assert seen == [query]

    run(scenario())


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"max_session_duration_seconds=10800",
        b"max%5Fsession_duration_seconds=900&max_session_duration_seconds=9999",
    ],
)
def test_minting_is_cut_to_what_is_left(given):
    """However the caller writes it, and if it does not: upstream's default is three hours."""

    async def scenario():
        rig = QuotaRig(Limit("stream_seconds", 700, per="day"))
        seen = minted(rig)
        assert (await rig.ask("streaming.token", query=b"expires_in_seconds=60&" + given)).status == 200
        assert seen == [b"expires_in_seconds=60&max_session_duration_seconds=700"]
        assert (await rig.ask("streaming.token", query=b"expires_in_seconds=60")).status == 429

    run(scenario())


def test_minting_that_fails_is_free():
    async def scenario():
        rig = QuotaRig(SESSION, app=answering(b'{"error":"no"}', status=400))
        assert (await rig.ask("streaming.token")).status == 400
        assert rig.left(SESSION) == 1000

    run(scenario())


def test_minting_here_holds_nothing():
    """Sessions by tokens of our own are counted when they come."""

    async def scenario():
        rig = QuotaRig(SESSION, PER_DAY, max_token_seconds=None)
        seen = minted(rig)
        assert (await rig.ask("streaming.token", query=b"expires_in_seconds=60")).status == 200
        assert (rig.left(SESSION), rig.left(PER_DAY)) == (1000, 2)
        assert seen == [b"expires_in_seconds=60"]

    run(scenario())

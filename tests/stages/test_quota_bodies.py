"""The quota stage and uploads: reserved as declared, counted as they stream, broken off when the team runs out."""

from __future__ import annotations

import asyncio

import pytest
from harness import run
from stages.quota_rig import QuotaRig, answering

from keypool_asgi.core.limits import Limit
from keypool_asgi.core.prices import Price, Prices
from keypool_asgi.exchange import SCOPE_KEY

KIB = 1024
BYTES = Limit("upload_bytes", 100 * KIB, per="day")
RATE = Limit("upload_bytes", 100 * KIB, per="hour")
PIECE = b"a" * KIB


@pytest.mark.parametrize("limit", [BYTES, RATE], ids=["budget", "rate"])
def test_a_declared_length_is_held_from_the_beginning(limit):
    async def scenario():
        seen = []
        rig = QuotaRig(limit)
        rig.stage.app = answering(then=lambda *_: seen.append(rig.left(limit)))
        assert (await rig.ask("uploads.create", body=[PIECE] * 60, length=60 * KIB)).status == 200
        assert seen == [40 * KIB]
        refused = await rig.ask("uploads.create", body=[PIECE] * 41, length=41 * KIB)
        assert refused.status == 429
        assert len(seen) == 1
        assert (await rig.ask("uploads.create", body=[PIECE] * 40, length=40 * KIB)).status == 200
        assert rig.left(limit) == 0

    run(scenario())


def test_more_than_the_limit_never_fits():
    async def scenario():
        rig = QuotaRig(BYTES)
        refused = await rig.ask("uploads.create", body=[PIECE], length=101 * KIB)
        assert refused.status == 429
        assert "too small for this request, which needs 103424" in refused.json["error"]
        assert b"retry-after" not in dict(refused.headers)

    run(scenario())


@pytest.mark.parametrize("pieces", [0, 1, 7, 99, 100])
@pytest.mark.parametrize("step", [1, KIB, 30 * KIB, 10**9])
def test_an_unknown_length_is_counted_as_it_streams(pieces, step):
    """To the byte, whatever it is held in; and nothing stays held."""

    async def scenario():
        rig = QuotaRig(BYTES, upload_step_bytes=step)
        body = [PIECE] * pieces or [b""]
        assert (await rig.ask("uploads.create", body=body)).status == 200
        assert rig.left(BYTES) == (100 - pieces) * KIB
        assert not rig.permits

    run(scenario())


@pytest.mark.parametrize("step", [1, 8 * KIB, 70 * KIB])
def test_an_upload_is_broken_off_where_the_team_runs_out(step):
    """Upstream never sees the end of it (I7), the caller reads why, and what has passed is charged."""

    async def scenario():
        came = []

        async def upstream(scope, receive, send):
            scope[SCOPE_KEY].reached_upstream = True
            while True:
                message = await receive()
                came.append(message)
                if message["type"] == "http.disconnect" or not message["more_body"]:
                    return

        rig = QuotaRig(BYTES, app=upstream, upload_step_bytes=step)
        refused = await rig.ask("uploads.create", body=[PIECE] * 150)
        assert refused.status == 429
        assert "102400 uploaded bytes per day is used up" in refused.json["error"]
        assert came[-1] == {"type": "http.disconnect"}
        assert len(came) == 101
        assert rig.left(BYTES) == 0
        assert not rig.permits

    run(scenario())


def test_what_is_broken_off_stays_so():
    """Even if the quota is back a moment later: upstream has lost a part of it."""

    async def scenario():
        came = []

        async def upstream(scope, receive, send):
            scope[SCOPE_KEY].reached_upstream = True
            while (await receive())["type"] == "http.request":
                pass
            rig.now += 86400
            came.extend([await receive() for _ in range(3)])

        rig = QuotaRig(BYTES, app=upstream)
        assert (await rig.ask("uploads.create", body=[PIECE] * 150)).status == 429
        assert came == [{"type": "http.disconnect"}] * 3

    run(scenario())


def test_racing_uploads_never_pass_the_limit():
    """Whoever gets it: together no more than the limit reaches upstream."""

    async def scenario():
        total = [0]

        async def upstream(scope, receive, send):
            scope[SCOPE_KEY].reached_upstream = True
            while (message := await receive())["type"] == "http.request":
                total[0] += len(message["body"])
                if not message["more_body"]:
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await send({"type": "http.response.body", "body": b"{}"})
                    return

        rig = QuotaRig(BYTES, app=upstream, upload_step_bytes=4 * KIB)
        callers = await asyncio.gather(*(rig.ask("uploads.create", body=[PIECE] * 30) for _ in range(8)))
        assert total[0] <= 100 * KIB
        assert {caller.status for caller in callers} <= {200, 429}
        assert rig.left(BYTES) == 100 * KIB - total[0]

    run(scenario())


def test_an_early_answer_is_the_answer():
    """Upstream refused before the team ran out: the caller reads upstream's word."""

    async def scenario():
        async def upstream(scope, receive, send):
            scope[SCOPE_KEY].reached_upstream = True
            await send({"type": "http.response.start", "status": 413, "headers": []})
            while (await receive())["type"] == "http.request":
                pass
            await send({"type": "http.response.body", "body": b"too much"})

        rig = QuotaRig(BYTES, app=upstream)
        caller = await rig.ask("uploads.create", body=[PIECE] * 150)
        assert (caller.status, caller.body) == (413, b"too much")

    run(scenario())


def test_a_body_that_was_not_sent_is_not_charged():
    """It declared more than it sent: what passed counts."""

    async def scenario():
        rig = QuotaRig(BYTES)
        await rig.ask("uploads.create", body=[PIECE] * 10, length=80 * KIB)
        assert rig.left(BYTES) == 90 * KIB

    run(scenario())


def test_other_bodies_are_not_uploads():
    async def scenario():
        rig = QuotaRig(BYTES)
        await rig.ask("transcripts.create", body=[PIECE], length=KIB)
        assert rig.left(BYTES) == 100 * KIB

    run(scenario())


def test_what_a_body_costs():
    async def scenario():
        budget = Limit("cost", 1000, per="month")
        prices = Prices({"uploads.create": {"upload_bytes": Price(1, per=KIB), "requests": Price(5)}})
        rig = QuotaRig(budget, prices=prices)
        assert (await rig.ask("uploads.create", body=[PIECE] * 90)).status == 200
        assert rig.left(budget) == 1000 - 95

    run(scenario())

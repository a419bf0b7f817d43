"""The accounting stage: one record of each exchange, by what has come of it; jobs that are polled or deleted."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest
from account.rig import Clock, Stack, keys_of, simulated, teams_of
from harness import run, token
from harness.hosts import PREFIX

from keypool_asgi import Limit
from keypool_asgi.core.charging import Tariff
from keypool_asgi.core.headers import Framing
from keypool_asgi.core.limits import Charge
from keypool_asgi.core.prices import Price, Prices
from keypool_asgi.core.reservations import remaining
from keypool_asgi.core.sessions import SessionMeter
from keypool_asgi.core.teams import Team
from keypool_asgi.core.usage import correction_of
from keypool_asgi.errors import NoAvailableKeys
from keypool_asgi.exchange import SCOPE_KEY, Attempt, Exchange
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.providers.assemblyai.metering import METERING
from keypool_asgi.stages.accounting import Accounting
from keypool_asgi.stages.bookkeeping import Bookkeeper, Settlement
from keypool_asgi.stages.settling import JobDesk
from keypool_asgi.stages.socket_watch import SocketWatch
from keypool_asgi.stores.ledger import MemoryLedger
from keypool_asgi.stores.resources import MemoryResources
from keypool_asgi.testing import Fault, silence_wav

NOW = 1_900_000_000.0


class Alone:
    """The stage alone, before an app that the test writes."""

    def __init__(self, app: Any, **settings: Any) -> None:
        self.ledger = MemoryLedger()
        self.books = Bookkeeper(self.ledger, clock=lambda: NOW)
        tariff = Tariff(METERING, **settings)
        desk = JobDesk(provider=ASSEMBLYAI, tariff=tariff, asker=None, books=self.books, clock=lambda: NOW)  # type: ignore[arg-type]
        self.stage = Accounting(
            app, books=self.books, desk=desk, tariff=tariff, resources=MemoryResources(), clock=lambda: NOW
        )
        self.sent: list[Any] = []

    async def serve(
        self, operation: str, kind: str = "http", receive: Any = None, length: int = 0, reached: bool = True, **ids: str
    ) -> Exchange:
        row = ASSEMBLYAI.table.named(operation)
        exchange = Exchange("r1", row, row.path, ids, Framing(length, chunked=False), str)
        exchange.team = Team("team-a")
        exchange.attempts.append(Attempt(keys_of("a1")[0]))
        exchange.reached_upstream = reached
        scope = {"type": kind, "headers": [], "query_string": b"", SCOPE_KEY: exchange, "extensions": {}}

        async def send(message: Any) -> None:
            self.sent.append(message)

        receive = receive or _silent
        if kind == "websocket":
            watch = SocketWatch(scope, _after_connect(receive), send, form="http", subprotocol=None)
            exchange.passed, receive, send = watch, watch.receive, watch.send
        await self.stage(scope, receive, send)
        return exchange

    async def only(self) -> Any:
        await self.books.flush()
        (found,) = self.ledger._records.values()
        return found


def _after_connect(receive: Any) -> Any:
    first = iter([{"type": "websocket.connect"}])

    async def received() -> Any:
        return next(first, None) or await receive()

    return received


async def _silent() -> Any:
    await asyncio.Event().wait()


def answering(body: bytes = b"{}", status: int = 200, *headers: tuple[bytes, bytes], parts: int = 1) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        size = -(-len(body) // parts) or 1
        for at in range(0, len(body), size):
            await send({"type": "http.response.body", "body": body[at : at + size], "more_body": at + size < len(body)})

    return app


USAGE = {"request_id": "x", "model": "claude-x", "usage": {"input_tokens": 100, "output_tokens": 20}}


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("coding", [None, b"gzip"])
def test_figures_of_an_answer_count(parts, coding):
    body = json.dumps(USAGE).encode()
    headers = ((b"content-encoding", coding),) if coding else ()
    rig = Alone(answering(gzip.compress(body) if coding else body, 200, *headers, parts=parts))
    run(rig.serve("llm.chat"))
    found = run(rig.only())
    assert found.used == {"requests": 1, "llm_tokens": 120}
    assert not found.estimated
    assert (found.team, found.operation, found.key, found.account) == ("team-a", "llm.chat", "a1", "account-a")
    assert (found.status, found.started, found.ended) == (200, NOW, NOW)
    assert found.response_bytes == len(gzip.compress(body) if coding else body)


def test_the_cost_is_that_of_the_model():
    prices = Prices({"llm.chat@claude-*": {"llm_tokens": Price(3), "requests": Price(7)}})
    rig = Alone(answering(json.dumps(USAGE).encode()), prices=prices)
    run(rig.serve("llm.chat"))
    assert run(rig.only()).used == {"requests": 1, "llm_tokens": 120, "cost": 367}


def test_a_field_of_the_answer_counts():
    rig = Alone(answering(b"audio", 200, (b"x-tts-billed-characters", b"42")))
    run(rig.serve("speech.create"))
    assert run(rig.only()).used == {"requests": 1, "tts_characters": 42}


@pytest.mark.parametrize("value", [b"many", b"-1", b"9" * 30, b""])
def test_a_field_that_is_no_number_is_an_estimate(value):
    rig = Alone(
        answering(b"audio", 200, (b"x-tts-billed-characters", value)), estimates={"speech.*": {"tts_characters": 50}}
    )
    run(rig.serve("speech.create"))
    found = run(rig.only())
    assert found.used == {"requests": 1, "tts_characters": 50}
    assert found.estimated


def test_an_answer_that_breaks_off_before_its_figures_is_an_estimate():
    body = json.dumps(USAGE).encode()[:-30]
    rig = Alone(answering(body), estimates={"llm.*": {"llm_tokens": 1000}})
    run(rig.serve("llm.chat"))
    found = run(rig.only())
    assert (found.used["llm_tokens"], found.estimated) == (1000, True)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_what_failed_has_used_a_request(status):
    rig = Alone(answering(json.dumps(USAGE).encode(), status))
    run(rig.serve("llm.chat"))
    found = run(rig.only())
    assert (found.used, found.status, found.estimated) == ({"requests": 1}, status, False)


def test_what_upstream_was_not_asked_for_is_not_in_the_account():
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        raise NoAvailableKeys("none")

    rig = Alone(refusing)
    run(rig.serve("llm.chat", reached=False))
    assert rig.sent[0]["status"] == 503
    assert rig.books.waiting == 0


def test_an_answer_that_never_came_is_an_estimate_even_if_the_task_is_cancelled():
    async def hanging(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3600)

    rig = Alone(hanging)

    async def scenario() -> None:
        task = asyncio.create_task(rig.serve("llm.chat"))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        found = await rig.only()
        assert (found.status, found.estimated) == (None, True)
        assert found.used == {"requests": 1, "llm_tokens": 1}

    run(scenario())


def test_bytes_of_a_body_are_counted():
    pieces = [b"x" * 100, b"y" * 11]

    async def receive() -> Any:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def app(scope: Any, receive_: Any, send: Any) -> None:
        while (await receive_())["more_body"]:
            pass
        await answering(b'{"upload_url": "u"}')(scope, receive_, send)

    rig = Alone(app)
    run(rig.serve("uploads.create", receive=receive, length=111))
    found = run(rig.only())
    assert found.used == {"requests": 1, "upload_bytes": 111}
    assert found.request_bytes == 111


# Sessions


def session_app(meter: SessionMeter, *messages: Any, wait: float = 0) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = scope[SCOPE_KEY]
        await send({"type": "websocket.accept"})
        meter.opened = asyncio.get_running_loop().time() - 2.5
        exchange.session = meter
        await receive()
        for message in messages:
            await send(message)
        if not wait:
            meter.closed = meter.opened + 2.5
        else:
            asyncio.get_running_loop().call_later(wait, setattr, meter, "closed", meter.opened + 2.5 + wait)

    return app


async def _audio() -> Any:
    return {"type": "websocket.receive", "bytes": b"a" * 320, "text": None}


def test_a_session_has_one_record_with_both_clocks():
    meter = SessionMeter(figures={"session_duration_seconds": 3})
    rig = Alone(session_app(meter, {"type": "websocket.send", "text": "hello"}, {"type": "websocket.close"}))
    run(rig.serve("streaming.session", "websocket", receive=_audio))
    found = run(rig.only())
    assert found.used == {"requests": 1, "stream_seconds": 3}
    assert not found.estimated
    assert found.clocked_seconds == pytest.approx(2.5)
    assert (found.status, found.close_code) == (101, 1000)
    assert (found.request_bytes, found.response_bytes) == (320, 5)


def test_a_session_without_figures_is_estimated_by_our_clock():
    async def gone() -> Any:
        return {"type": "websocket.disconnect", "code": 1006}

    rig = Alone(session_app(SessionMeter()))
    run(rig.serve("streaming.session", "websocket", receive=gone))
    found = run(rig.only())
    assert (found.used["stream_seconds"], found.estimated, found.close_code) == (3, True, 1006)


def test_a_session_that_still_ends_upstream_is_recorded_when_that_is_over():
    rig = Alone(session_app(SessionMeter(), wait=0.3))

    async def scenario() -> None:
        await rig.serve("streaming.session", "websocket", receive=_audio)
        assert rig.books.waiting == 0
        await rig.stage.aclose()
        found = await rig.only()
        assert found.clocked_seconds == pytest.approx(2.8)

    run(scenario())


def test_a_session_that_was_refused_has_none():
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        raise NoAvailableKeys("none")

    rig = Alone(refusing)
    run(rig.serve("streaming.session", "websocket", reached=False))
    assert rig.books.waiting == 0


# Jobs


def test_the_answer_about_a_job_is_searched_until_that_is_settled(monkeypatch):
    searched: list[Any] = []
    monkeypatch.setattr("keypool_asgi.stages.accounting.scanner_for", lambda *asked: searched.append(asked))
    rig = Alone(answering())
    known = Settlement(
        job="transcripts.create:1",
        operation="transcripts.create",
        used={},
        request_id="r0",
        team="a",
        project="p",
        at=NOW,
    )

    async def scenario() -> None:
        await rig.serve("transcripts.get", transcript_id="1")
        assert len(searched) == 1
        rig.books.settle(known)
        await rig.serve("transcripts.get", transcript_id="1")
        assert len(searched) == 1
        await rig.serve("transcripts.get", transcript_id="2")
        assert len(searched) == 2

    run(scenario())


# Jobs, through the whole stack


class Whole:
    """A stack over a simulator, called in one event loop."""

    def __init__(self, simulator: Any, clock: Clock, **settings: Any) -> None:
        limits = settings.pop("limits", ())
        self.stack = Stack(
            simulator, clock, keys=keys_of("a1", "b1"), teams=teams_of("red", "green", limits=limits), **settings
        )
        transport = httpx.ASGITransport(app=self.stack.app)
        self.red, self.green = (
            httpx.AsyncClient(
                transport=transport, base_url=f"http://pool{PREFIX}", headers={"authorization": token(name)}
            )
            for name in ("red", "green")
        )

    async def submit(self, client: httpx.AsyncClient, url: str = "https://example.com/a.mp3") -> str:
        return (await client.post("/v2/transcript", json={"audio_url": url})).raise_for_status().json()["id"]

    async def of_jobs(self) -> list[tuple[str, int | None, bool]]:
        """Team, audio seconds and whether it is an estimate, of each record about the beginning or the end of a job."""
        found = await self.stack.records(operation="transcripts.create")
        return [(one.team, one.used.get("audio_seconds"), one.estimated) for one in found]


def whole(scenario: Any, clock: Clock | None = None, *, processing: float = 60, **settings: Any) -> None:
    clock = clock or Clock()
    simulator = simulated(clock, "a1", "b1", processing_seconds=processing)

    async def main() -> None:
        rig = Whole(simulator, clock, **settings)
        try:
            await scenario(rig, simulator, clock)
        finally:
            for client in (rig.red, rig.green):
                await client.aclose()
            await rig.stack.aclose()

    with simulator.running():
        run(main())


def test_a_job_that_is_polled_is_settled_once():
    async def scenario(rig: Whole, simulator: Any, clock: Clock) -> None:
        job = await rig.submit(rig.red)
        assert (await rig.red.get(f"/v2/transcript/{job}")).json()["status"] in ("queued", "processing")
        assert await rig.of_jobs() == [("red", None, True)]
        clock.advance(61)
        for path in ("", "/sentences", "/paragraphs", ""):
            (await rig.red.get(f"/v2/transcript/{job}{path}")).raise_for_status()
        assert await rig.of_jobs() == [("red", None, True), ("red", 30, False)]
        begun, settled = await rig.stack.records(operation="transcripts.create")
        assert settled.id == correction_of(begun.id)
        assert settled.key == begun.key

    whole(scenario)


def test_a_failed_job_is_settled_with_nothing():
    async def scenario(rig: Whole, simulator: Any, clock: Clock) -> None:
        job = await rig.submit(rig.red, "https://example.com/fail.mp3")
        clock.advance(61)
        assert (await rig.red.get(f"/v2/transcript/{job}")).json()["status"] == "error"
        assert await rig.of_jobs() == [("red", None, True), ("red", 0, False)]

    whole(scenario)


def test_a_job_counts_for_the_team_that_began_it_whoever_polls():
    async def scenario(rig: Whole, simulator: Any, clock: Clock) -> None:
        job = await rig.submit(rig.red)
        clock.advance(61)
        (await rig.green.get(f"/v2/transcript/{job}")).raise_for_status()
        assert await rig.of_jobs() == [("red", None, True), ("red", 30, False)]

    whole(scenario, shared=True)


def test_another_teams_poll_settles_nothing():
    async def scenario(rig: Whole, simulator: Any, clock: Clock) -> None:
        job = await rig.submit(rig.red)
        clock.advance(61)
        assert (await rig.green.get(f"/v2/transcript/{job}")).status_code == 404
        assert (await rig.green.delete(f"/v2/transcript/{job}")).status_code == 404
        assert await rig.of_jobs() == [("red", None, True)]
        assert simulator.transcripts[0].deleted is False

    whole(scenario)


def test_a_job_that_is_deleted_unpolled_is_settled_before():
    limit = Limit("audio_seconds", 1000, per="month")

    async def scenario(rig: Whole, simulator: Any, clock: Clock) -> None:
        job = await rig.submit(rig.red)
        clock.advance(61)
        (await rig.red.delete(f"/v2/transcript/{job}")).raise_for_status()
        assert await rig.of_jobs() == [("red", None, True), ("red", 30, False)]
        assert simulator.billed("audio_seconds") == 30
        assert await left(rig, limit) == 970

    whole(scenario, limits=[limit])


def test_a_job_that_is_deleted_unfinished_costs_nothing():
    limit = Limit("audio_seconds", 1000, per="month")

    async def scenario(rig: Whole, simulator: Any, clock: Clock) -> None:
        job = await rig.submit(rig.red)
        (await rig.red.delete(f"/v2/transcript/{job}")).raise_for_status()
        assert await rig.of_jobs() == [("red", None, True), ("red", 0, False)]
        assert simulator.billed("audio_seconds") == 0
        assert await left(rig, limit) == 1000

    whole(scenario, limits=[limit])


def test_a_deletion_that_fails_settles_nothing():
    async def scenario(rig: Whole, simulator: Any, clock: Clock) -> None:
        job = await rig.submit(rig.red)
        simulator.fail(Fault.status(500), method="DELETE")
        assert (await rig.red.delete(f"/v2/transcript/{job}")).status_code == 500
        assert await rig.of_jobs() == [("red", None, True)]

    whole(scenario)


def test_a_polled_job_ends_its_permit_once():
    limit = Limit("audio_seconds", 1000, per="month")

    async def scenario(rig: Whole, simulator: Any, clock: Clock) -> None:
        job = await rig.submit(rig.red)
        clock.advance(61)
        for _ in range(3):
            await rig.red.get(f"/v2/transcript/{job}")
        clock.advance(400)
        await rig.stack.reconciler.round()
        assert await left(rig, limit) == 970

    whole(scenario, limits=[limit])


async def left(rig: Whole, limit: Limit) -> int | None:
    """How much of a limit team red has left."""
    charges = [Charge("team:red", limit)]
    return remaining(await rig.stack.quotas.levels(charges), charges, limit.unit, int(rig.stack.clock() * 1e6))


def test_an_upload_and_a_list_are_requests():
    async def scenario(rig: Whole, simulator: Any, clock: Clock) -> None:
        wav = silence_wav(1)
        (await rig.red.post("/v2/upload", content=wav)).raise_for_status()
        (await rig.red.get("/v2/transcript")).raise_for_status()
        sums = await rig.stack.sums("operation")
        assert sums["uploads.create",]["upload_bytes"] == len(wav) == sums["uploads.create",]["request_bytes"]
        assert sums["transcripts.list",]["requests"] == 1

    whole(scenario)

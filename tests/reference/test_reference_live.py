"""The live panel in a real browser: a session with audio in real time, its messages, and how it ends."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness import need, serve
from harness.browser import Browser, artifacts

from keypool_asgi.reference import Reference
from keypool_asgi.testing import tone_wav

from .gateway_served import TOKEN, opened
from .reading import check_seen

PIECE_BYTES = 3200  # 100 ms


@dataclass
class Service:
    """The pool's side of ``/v3/ws`` as a browser sees it: a turn for every ten pieces of audio.

    Attributes:
        offered: subprotocols of each session.
        audio: binary messages of the last session.
        texts: text messages of the last session.
        ended: close code that the browser sent, if it closed first.
    """

    offered: list[list[str]] = field(default_factory=list)
    audio: list[bytes] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    ended: int | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            raise RuntimeError("only sessions come here")
        self.offered.append(scope["subprotocols"])
        self.audio, self.texts, self.ended = [], [], None
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "keypool"})
        if f"keypool-token.{TOKEN}" not in scope["subprotocols"]:
            await _say(send, type="Error", error_code=4001, error="The team token is unknown.")
            await send({"type": "websocket.close", "code": 4001, "reason": "The team token is unknown."})
            return
        await _say(send, type="Begin", id="e6e4cb39", expires_at=1795435200)
        await self._hear(receive, send)

    async def _hear(self, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("bytes") is not None:
                self.audio.append(message["bytes"])
                order, place = divmod(len(self.audio) - 1, 10)
                words = f"turn {order} has {place + 1} words"
                await _say(send, type="Turn", turn_order=order, end_of_turn=place == 9, transcript=words)
                continue
            self.texts.append(json.loads(message["text"]))
            await _say(send, type="Termination", audio_duration_seconds=5, session_duration_seconds=6)
            await send({"type": "websocket.close", "code": 1000})
        self.ended = message.get("code")


async def _say(send: Any, **value: Any) -> None:
    await send({"type": "websocket.send", "text": json.dumps(value)})


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


@contextlib.contextmanager
def loaded(chromium: Browser, url: str) -> Iterator[Browser]:
    """The page, newly loaded; at the end, nothing may have gone wrong in it, nor left this machine."""
    assert chromium.open(url + "/reference#live") == 200
    chromium.wait(".opblock")
    yield chromium
    check_seen(chromium)


@pytest.fixture(scope="module")
def page(chromium: Browser, service: Service) -> Iterator[Browser]:
    """The page, loaded once: loading takes longer than most of what is done with it."""
    need("fastapi_offline", "websockets")
    with serve(Reference(service), lifespan="off") as served, loaded(chromium, served.url + "/v1/assemblyai") as page:
        yield page


@pytest.fixture
def browser(page: Browser, service: Service) -> Browser:
    """The page with its fields as they were; what the last session left on it, the next one clears."""
    service.offered.clear()
    page.fill("#token", "")
    page.choose("#live-source", "sample")
    return page


def test_the_sample_is_sent_in_real_time_and_its_turns_are_shown(browser: Browser, service: Service) -> None:
    browser.fill("#token", TOKEN)
    browser.click("#live-start")
    browser.wait_for_text("#live-status", "audio sent")
    browser.wait_for_text("#live-status", "Closed with 1000")
    assert service.offered == [["keypool", f"keypool-token.{TOKEN}"]]
    assert {len(piece) for piece in service.audio} == {PIECE_BYTES}
    assert len(service.audio) == 53, "5.23 s in pieces of 100 ms, the last one filled up"
    assert any(any(piece) for piece in service.audio)
    assert service.texts == [{"type": "Terminate"}]
    assert browser.count("#live-text div") == 6
    assert browser.count("#live-text .partial") == 1
    assert "turn 0 has 10 words" in browser.text("#live-text")
    assert "Termination" in browser.text("#live-messages")
    browser.screenshot(artifacts("reference-live") / "live.png")


def test_a_file_of_the_readers_is_sent(browser: Browser, service: Service, tmp_path: Path) -> None:
    recording = tmp_path / "short.wav"
    recording.write_bytes(tone_wav(1, sample_rate=44_100))
    browser.fill("#token", TOKEN)
    browser.choose("#live-source", "file")
    browser.attach("#live-file", recording)
    browser.click("#live-start")
    browser.wait_for_text("#live-status", "Closed with 1000")
    assert len(service.audio) == 10, "1 s, whatever its sample rate was"


def test_the_microphone_is_heard_until_the_reader_stops(browser: Browser, service: Service) -> None:
    browser.fill("#token", TOKEN)
    browser.choose("#live-source", "microphone")
    browser.click("#live-start")
    browser.wait_for_text("#live-text", "turn 1")
    browser.evaluate("for (const _ of 'ab') document.getElementById('live-stop').click()")  # who is sure that once does
    browser.wait_for_text("#live-status", "Closed with 1000")
    assert {len(piece) for piece in service.audio} == {PIECE_BYTES}
    assert service.texts == [{"type": "Terminate"}]
    assert browser.count("#live-messages .sent") == 1


def test_a_refusal_is_shown_with_its_code_and_sentence(browser: Browser) -> None:
    browser.fill("#token", TOKEN + "-not")
    browser.click("#live-start")
    browser.wait_for_text("#live-status", "Closed with 4001: The team token is unknown.")
    assert browser.evaluate("document.getElementById('live-start').disabled") is False


def test_without_a_token_no_session_is_opened(browser: Browser, service: Service) -> None:
    browser.click("#live-start")
    browser.wait_for_text("#live-status", "Enter your team token")
    assert service.offered == []


def test_a_token_that_a_browser_cannot_send_is_told(browser: Browser, service: Service) -> None:
    browser.fill("#token", "two words")
    browser.click("#live-start")
    browser.wait_for_text("#live-status", "cannot be sent by a browser")
    assert service.offered == []


def test_through_the_pool(chromium: Browser) -> None:
    # The last one here: it loads another page in the browser that all of them share.
    with opened() as gateway, loaded(chromium, gateway.url) as page:
        page.fill("#token", TOKEN)
        page.click("#live-start")
        page.wait_for_text("#live-status", "Closed with 1000")
        assert "Begin" in page.text("#live-messages")
        assert "Termination" in page.text("#live-messages")
        assert page.count("#live-text div") >= 2
        page.screenshot(artifacts("reference-live") / "pool.png")
        [session] = gateway.simulator.sessions
        assert session.audio_seconds == pytest.approx(5.3)

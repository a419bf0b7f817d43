"""The page in a real browser: read, with a token typed in, and requests sent from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import need
from harness.browser import Browser, artifacts

from keypool_asgi.testing import tone_wav

from .gateway_served import TOKEN, Gateway, opened

FAINT = Path(__file__).with_name("faint.js").read_text()
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    need("fastapi_offline")
    with opened() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def shots() -> Path:
    return artifacts("reference")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser, gateway: Gateway) -> Browser:
    """The page, newly loaded."""
    assert chromium.open(gateway.url + "/reference") == 200
    chromium.wait(".opblock")
    return chromium


@pytest.fixture(autouse=True)
def _all_is_well(chromium: Browser) -> Iterator[None]:
    """Nothing may have gone wrong in the page, nor left this machine."""
    yield
    seen = chromium.seen()
    assert not [request for request in seen.elsewhere() if "//127.0.0.1:" not in request]
    assert not seen.violations
    assert not seen.errors


class Operation:
    """One operation on the page, by its operation id."""

    def __init__(self, browser: Browser, identifier: str) -> None:
        self.browser = browser
        self.place = f'.opblock[id$="{identifier}"]'
        self.answer = f"{self.place} .live-responses-table"

    def unfold(self) -> None:
        self.browser.click(f"{self.place} .opblock-summary-control")
        self.browser.wait(f"{self.place} .opblock-body")

    def execute(self) -> tuple[int, str]:
        """Send the request as it is filled in; return the status and the body as the page shows them."""
        if self.browser.count(f"{self.place} .btn-clear"):
            self.browser.click(f"{self.place} .btn-clear")
            self.browser.wait(self.answer, "detached")
        self.browser.click(f"{self.place} .execute")
        self.browser.wait(f"{self.answer} .response-col_status")
        self.browser.wait(f"{self.answer} .highlight-code")
        status = self.browser.text(f"{self.answer} tbody .response-col_status")
        return int(status.split()[0]), self.browser.text(f"{self.answer} .highlight-code code")


def test_a_transcript_from_submission_to_text(browser: Browser, gateway: Gateway) -> None:
    browser.fill("#token", TOKEN)
    create = Operation(browser, "transcripts_create_post_v2_transcript")
    create.unfold()
    status, body = create.execute()
    assert status == 200
    submitted = json.loads(body)
    assert submitted["status"] == "queued"

    get = Operation(browser, "transcripts_get_get_v2_transcript_transcript_id")
    get.unfold()
    browser.fill(f"{get.place} [data-param-name=transcript_id] input", submitted["id"])
    status, body = get.execute()
    assert status == 200
    finished = json.loads(body)
    assert (finished["id"], finished["status"]) == (submitted["id"], "completed")
    assert len(finished["text"]) > 10
    assert [job.id for job in gateway.simulator.transcripts][-1:] == [submitted["id"]]


def test_a_file_is_uploaded(browser: Browser, gateway: Gateway, tmp_path: Path) -> None:
    recording = tmp_path / "meeting.wav"
    recording.write_bytes(tone_wav(2))
    browser.fill("#token", TOKEN)
    upload = Operation(browser, "uploads_create_post_v2_upload")
    upload.unfold()
    browser.attach(f"{upload.place} input[type=file]", recording)
    status, body = upload.execute()
    assert status == 200
    assert json.loads(body)["upload_url"]
    assert gateway.simulator.uploads[-1].size == recording.stat().st_size


def test_a_form_with_a_file_is_sent(browser: Browser, tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    clip.write_bytes(tone_wav(2))
    browser.fill("#token", TOKEN)
    transcribe = Operation(browser, "Sync-sync_transcribe_post_v1_transcribe")
    transcribe.unfold()
    browser.attach(f"{transcribe.place} input[type=file]", clip)
    status, body = transcribe.execute()
    assert status == 200
    assert json.loads(body)["audio_duration_ms"] == 2000


def test_without_a_token_the_refusal_is_shown(browser: Browser) -> None:
    listing = Operation(browser, "voices_list_get_v1_voices")
    listing.unfold()
    status, body = listing.execute()
    assert status == 401
    assert json.loads(body)["code"] == "UNAUTHORIZED"


def test_the_token_is_forgotten_with_the_field(browser: Browser) -> None:
    browser.fill("#token", TOKEN)
    listing = Operation(browser, "voices_list_get_v1_voices")
    listing.unfold()
    assert listing.execute()[0] == 200
    browser.fill("#token", "")
    assert listing.execute()[0] == 401
    stored = browser.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert TOKEN not in stored


def test_requests_go_where_the_reader_sees_the_page(chromium: Browser) -> None:
    with opened(public_url="https://gw.example/aai") as gateway:
        assert chromium.open(gateway.url + "/reference") == 200
        chromium.wait(".opblock")
        chromium.fill("#token", TOKEN)
        listing = Operation(chromium, "voices_list_get_v1_voices")
        listing.unfold()
        assert listing.execute()[0] == 200
        assert gateway.simulator.requests[-1].path == "/v1/voices"


def test_sockets_are_described_and_cannot_be_sent_as_requests(browser: Browser) -> None:
    session = Operation(browser, "streaming_session_websocket_v3_ws")
    session.unfold()
    assert "ForceEndpoint" in browser.text(f"{session.place} .opblock-description")
    assert browser.count(f"{session.place} .execute") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Browser, scheme: str) -> None:
    browser.prefer(scheme)
    for identifier in ("streaming_session_websocket_v3_ws", "transcripts_create_post_v2_transcript"):
        Operation(browser, identifier).unfold()
    browser.click('.opblock[id$="transcripts_create_post_v2_transcript"] .execute')
    browser.wait(".live-responses-table .highlight-code")
    assert browser.evaluate(FAINT) == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_window_and_follows_the_readers_scheme(
    browser: Browser, shots: Path, scheme: str, size: str
) -> None:
    browser.resize(*SIZES[size])
    browser.prefer(scheme)
    listing = Operation(browser, "transcripts_list_get_v2_transcript")
    listing.unfold()
    browser.click(f"{listing.place} .tablinks[data-name=model]")
    width = SIZES[size][0]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    shade = sum(map(int, re.findall(r"\d+", browser.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))
    assert (shade > 600) == (scheme == "light")
    browser.screenshot(shots / f"{scheme}-{size}.png")
    for number, place in enumerate((listing.place, f"{listing.place} .responses-wrapper", "#live"), 1):
        browser.evaluate(f"document.querySelector({json.dumps(place)}).scrollIntoView()")
        browser.screenshot(shots / f"{scheme}-{size}-{number}.png")
    browser.click("#theme")
    turned = sum(map(int, re.findall(r"\d+", browser.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))
    assert (turned > 600) != (scheme == "light")

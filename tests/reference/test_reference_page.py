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
from .reading import Operation, check_seen, load

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
def page(chromium: Browser, gateway: Gateway) -> Browser:
    """The page, loaded once: loading takes longer than most of what is done with it."""
    load(chromium, gateway.url)
    return chromium


@pytest.fixture
def browser(page: Browser) -> Browser:
    """The page without a token, whatever was sent from it."""
    page.fill("#token", "")
    return page


@pytest.fixture
def loaded(page: Browser, gateway: Gateway) -> Browser:
    """The page, newly loaded."""
    load(page, gateway.url)
    return page


@pytest.fixture(autouse=True)
def _all_is_well(chromium: Browser) -> Iterator[None]:
    """Nothing may have gone wrong in the page, nor left this machine."""
    yield
    check_seen(chromium)


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


def test_sockets_are_described_and_cannot_be_sent_as_requests(browser: Browser) -> None:
    session = Operation(browser, "streaming_session_websocket_v3_ws")
    session.unfold()
    assert "ForceEndpoint" in browser.text(f"{session.place} .opblock-description")
    assert browser.count(f"{session.place} .execute") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(loaded: Browser, scheme: str) -> None:
    loaded.prefer(scheme)
    for identifier in ("streaming_session_websocket_v3_ws", "transcripts_create_post_v2_transcript"):
        Operation(loaded, identifier).unfold()
    loaded.click('.opblock[id$="transcripts_create_post_v2_transcript"] .execute')
    loaded.wait(".live-responses-table .highlight-code")
    assert loaded.evaluate(FAINT) == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_window_and_follows_the_readers_scheme(
    loaded: Browser, shots: Path, scheme: str, size: str
) -> None:
    loaded.resize(*SIZES[size])
    loaded.prefer(scheme)
    listing = Operation(loaded, "transcripts_list_get_v2_transcript")
    listing.unfold()
    loaded.click(f"{listing.place} .tablinks[data-name=model]")
    width = SIZES[size][0]
    assert loaded.evaluate("document.documentElement.scrollWidth") <= width
    shade = sum(map(int, re.findall(r"\d+", loaded.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))
    assert (shade > 600) == (scheme == "light")
    loaded.screenshot(shots / f"{scheme}-{size}.png")
    for number, place in enumerate((listing.place, f"{listing.place} .responses-wrapper", "#live"), 1):
        loaded.evaluate(f"document.querySelector({json.dumps(place)}).scrollIntoView()")
        loaded.screenshot(shots / f"{scheme}-{size}-{number}.png")
    loaded.click("#theme")
    turned = sum(map(int, re.findall(r"\d+", loaded.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))
    assert (turned > 600) != (scheme == "light")


def test_requests_go_where_the_reader_sees_the_page(chromium: Browser) -> None:
    # The last one here: it loads another page in the browser that all of them share.
    with opened(public_url="https://gw.example/aai") as gateway:
        load(chromium, gateway.url)
        chromium.fill("#token", TOKEN)
        listing = Operation(chromium, "voices_list_get_v1_voices")
        listing.unfold()
        assert listing.execute()[0] == 200
        assert gateway.simulator.requests[-1].path == "/v1/voices"

"""The FastAPI example's page for live transcription, in a real browser, and as the demo serves it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness import Served, secret, serve, token
from harness.browser import Browser, artifacts

from examples.fastapi_app.app import create_app
from examples.fastapi_app.store import Store
from keypool_asgi.testing import Simulator

SECONDS = 20.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "keypool.db", pepper="the operator's pepper")
    store.add_key("prod-1", secret("good"), project="prod")
    store.add_team("research", requests_per_minute=600)
    store.add_team("archive", operations=["transcripts.get"])
    store.add_team("small", requests_per_minute=1)
    for team in ("research", "archive", "small"):
        store.issue_token(team, token=token(team))
    return store


@pytest.fixture
def served(store: Store, simulator: Simulator) -> Iterator[Served]:
    with serve(create_app(store, origins=simulator.origins, keys_ttl_seconds=0.05)) as served:
        yield served
    assert simulator.violations == []


def opened(browser: Browser, served: Served, team: str, way: str = "subprotocol", source: str = "recording") -> None:
    browser.open(f"{served.url}/live/")
    browser.fill("#token", token(team))
    browser.click(f"input[value={way}]")
    browser.click(f"input[value={source}]")
    browser.click("#start")


def until_idle(simulator: Simulator) -> None:
    simulator.wait_until(lambda sim: not sim.open_sessions, SECONDS)


@pytest.mark.parametrize("way", ["subprotocol", "temporary"])
def test_the_recording_is_transcribed_while_it_plays(
    browser: Browser, served: Served, simulator: Simulator, way: str
) -> None:
    opened(browser, served, "research", way)
    browser.wait_for_text("#status", "Listening")
    browser.wait_for_text("#status", "The session has ended.")

    until_idle(simulator)
    session = simulator.sessions[-1]
    assert session.state == "terminated"
    assert session.audio_seconds == pytest.approx(6.4, abs=0.2)  # the whole recording, in pieces of 100 ms
    assert browser.count("#text p") >= 1
    assert browser.count("#text p.partial") == 0
    assert browser.text("#text").split()
    seen = browser.seen()
    assert seen.errors == []
    assert seen.violations == []
    assert {urlsplit(url).hostname for url in seen.requests if not url.startswith("data:")} == {"127.0.0.1"}
    browser.screenshot(artifacts("live-page") / f"{way}.png", whole=True)


def test_the_microphone_is_transcribed_until_the_reader_stops(
    browser: Browser, served: Served, simulator: Simulator
) -> None:
    opened(browser, served, "research", source="microphone")
    browser.wait("#text p")
    browser.click("#stop")
    browser.wait_for_text("#status", "The session has ended.")

    until_idle(simulator)
    assert simulator.sessions[-1].state == "terminated"
    assert browser.seen().errors == []


@pytest.mark.parametrize("way", ["subprotocol", "temporary"])
@pytest.mark.parametrize("case", [("nobody", "unknown", 401), ("archive", "may not use", 403), ("small", "Limit", 429)])
def test_a_refusal_is_shown_in_words(
    browser: Browser, served: Served, simulator: Simulator, case: tuple[str, str, int], way: str
) -> None:
    team, words, status = case
    if team == "small":
        opened(browser, served, team)  # uses its one request of the minute
        browser.wait_for_text("#status", "Listening")
    opened(browser, served, team, way)

    browser.wait("#status.wrong")
    told = browser.text("#status")
    assert words in told
    close_code = 4002 if status == 429 else 4001
    assert (f"close code {close_code}" if way == "subprotocol" else f"HTTP {status}") in told
    until_idle(simulator)


def test_having_no_key_is_shown_in_words(browser: Browser, served: Served, simulator: Simulator) -> None:
    simulator.revoke_key(secret("good"))

    opened(browser, served, "research")

    browser.wait("#status.wrong")
    assert "No key can serve" in browser.text("#status")
    assert "close code 1013" in browser.text("#status")


def test_a_closed_page_leaves_no_session(browser: Browser, served: Served, simulator: Simulator) -> None:
    opened(browser, served, "research")
    browser.wait_for_text("#status", "Listening")
    began = time.monotonic()

    browser.open(f"{served.url}/notes")

    simulator.wait_until(lambda sim: sim.sessions and sim.sessions[-1].state == "terminated", SECONDS)
    assert time.monotonic() - began < SECONDS


def test_the_page_in_the_dark_and_on_a_narrow_screen(browser: Browser, served: Served) -> None:
    folder = artifacts("live-page")
    browser.open(f"{served.url}/live/#token=abc")
    assert browser.evaluate("document.getElementById('token').value") == "abc"
    for width in (1200, 360):
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            browser.resize(width, 800)
            browser.screenshot(folder / f"{width}-{scheme}.png")
            assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    browser.prefer("light")
    browser.resize(1200, 800)

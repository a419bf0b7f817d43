"""The demo's API reference in a real browser: read, tried out with the demo's token, and listened to."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from demo_process import Demo, demo
from harness import need
from harness.browser import Browser, artifacts
from reference.reading import Operation, check_seen, load

SECONDS = 20.0


@pytest.fixture(scope="module")
def running() -> Iterator[Demo]:
    need("fastapi_offline", "uvicorn", "chromium", "node")
    with demo("--port", "0", "--no-browser") as running:
        running.wait_for("/notes\n", 2 * SECONDS)
        yield running


def told(running: Demo, pattern: str) -> str:
    """What the demo's invitation says."""
    found = re.search(pattern, running.output, re.MULTILINE)
    assert found, running.output
    return found[1]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser, running: Demo) -> Iterator[Browser]:
    """The page that the invitation names, with the token that stands beside it typed in."""
    url = told(running, r"^    (http://127\.0\.0\.1:\d+/v1/assemblyai)/reference$")
    load(chromium, url)
    chromium.fill("#token", told(running, r"with the token (\S+):$"))
    yield chromium
    check_seen(chromium)
    assert chromium.seen().elsewhere(url) == []


def finished(get: Operation) -> dict[str, str]:
    """Ask again, as a reader would, until the transcript is done."""
    ends = time.monotonic() + SECONDS
    while True:
        status, body = get.execute()
        assert status == 200
        job: dict[str, str] = json.loads(body)
        if job["status"] == "completed":
            return job
        assert time.monotonic() < ends, job


def test_a_transcript_is_submitted_and_read_from_the_page(page: Browser, running: Demo) -> None:
    create = Operation(page, "transcripts_create_post_v2_transcript")
    create.unfold()
    status, body = create.execute()
    assert status == 200
    page.screenshot(artifacts("demo-page") / "submitted.png")

    get = Operation(page, "transcripts_get_get_v2_transcript_transcript_id")
    get.unfold()
    page.fill(f"{get.place} [data-param-name=transcript_id] input", json.loads(body)["id"])
    job = finished(get)
    assert job["id"] == json.loads(body)["id"]
    assert len(job["text"]) > 10
    page.evaluate(f"document.querySelector({json.dumps(get.answer)}).scrollIntoView()")
    page.screenshot(artifacts("demo-page") / "finished.png")
    asked = running.output.partition("All steps are done.")[2]
    assert re.search(r"transcripts\.create +200 .*key prod-. served", asked)


def test_the_live_panel_shows_turns(page: Browser, running: Demo) -> None:
    page.click("#live-start")
    page.wait_for_text("#live-status", "Closed with 1000")
    assert page.count("#live-text div") >= 2
    assert "Termination" in page.text("#live-messages")
    page.evaluate("document.getElementById('live').scrollIntoView()")
    page.screenshot(artifacts("demo-page") / "live.png")
    running.wait_for("streaming.session")

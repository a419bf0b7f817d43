"""The reference page in a browser: loaded, looked after, and one operation of it."""

from __future__ import annotations

from harness.browser import Browser

__all__ = ["Operation", "check_seen", "load"]


def load(browser: Browser, url: str) -> None:
    """Load the reference page of the pool at ``url``, anew, in a wide window of a reader who prefers light."""
    browser.resize(1280, 900)
    browser.prefer("light")
    assert browser.open(url + "/reference") == 200
    browser.wait(".opblock")


def check_seen(browser: Browser) -> None:
    """Assert that nothing has gone wrong in the page, nor left this machine."""
    seen = browser.seen()
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
        if self.browser.count(f"{self.place} .opblock-body"):
            return
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

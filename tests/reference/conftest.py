"""One browser for all tests of the reference: it takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.browser import Browser


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser

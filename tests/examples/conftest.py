"""AssemblyAI simulated for the examples: two keys of one project that work, and one that is refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import assemblyai
import pytest
from harness import secret

from keypool_asgi.testing import Simulator

# The examples are run from a checkout; they are not part of the package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

OF_THE_TESTS = ("KEYPOOL_TESTS_REQUIRE_ALL", "KEYPOOL_ARTIFACTS")
GOOD, SPARE, DEAD = secret("good"), secret("spare"), secret("dead")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    keys = {GOOD: "account/prod", SPARE: "account/prod", DEAD: "account/retired"}
    with Simulator(keys).running() as simulator:
        simulator.revoke_key(DEAD)
        yield simulator


@pytest.fixture
def sdk() -> Iterator[Callable[[str, str], assemblyai.Transcriber]]:
    """The official SDK, as a caller sets it up: with a base URL and a token."""
    with ExitStack() as stack:
        yield lambda base, token: stack.enter_context(_transcriber(base, token))


@contextmanager
def _transcriber(base: str, token: str) -> Iterator[assemblyai.Transcriber]:
    settings = assemblyai.Settings(api_key=token, base_url=base, polling_interval=0.01)
    client = assemblyai.Client(settings=settings)
    try:
        yield assemblyai.Transcriber(client=client)
    finally:
        client.http_client.close()


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("ASSEMBLYAI_", "KEYPOOL_", "TEAM_")) and name not in OF_THE_TESTS:
            monkeypatch.delenv(name)

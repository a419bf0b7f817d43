from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import assemblyai as aai
import pytest

from keypool_asgi.testing import tone_wav

from .gateway import Gateway, opened
from .nodes import Node


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch) -> None:
    for name in [name for name in os.environ if name.startswith("ASSEMBLYAI_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """The pool as its users have it: ``app.add_middleware(KeyPoolMiddleware, ...)`` in FastAPI."""
    with opened("fastapi-wrapped") as gateway:
        yield gateway


@pytest.fixture
def recording(tmp_path) -> Path:
    """A WAV of 12.4 s, which is longer than what the pool keeps of a body."""
    path = tmp_path / "meeting.wav"
    path.write_bytes(tone_wav(12.4))
    return path


@pytest.fixture
def python_sdk(monkeypatch) -> Iterator[None]:
    """The module's own settings and default client, put back after the test."""
    for name, value in aai.settings.dict().items():
        monkeypatch.setattr(aai.settings, name, value)
    monkeypatch.setattr(aai.settings, "polling_interval", 0.005)
    monkeypatch.setattr(aai.Client, "_default", None)
    yield
    if aai.Client._default is not None:
        aai.Client._default.http_client.close()


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A Node process with the official SDKs in it; skips where there is none."""
    with Node() as process:
        yield process

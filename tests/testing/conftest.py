from __future__ import annotations

import os
from collections.abc import Iterator

import assemblyai
import httpx
import pytest
from dialing import Clock

from keypool_asgi.testing import Simulator

# The plugin is an entry point of the installed package; this is for a plain checkout.
from keypool_asgi.testing.plugin import assemblyai_simulator  # noqa: F401


@pytest.fixture
def sim(assemblyai_simulator):  # noqa: F811
    return assemblyai_simulator


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(clock) -> Iterator[Simulator]:
    """A simulator whose clock stands still."""
    with Simulator(clock=clock).running() as simulator:
        yield simulator


@pytest.fixture
def http(sim) -> Iterator[httpx.Client]:
    # Without verify=False every client reads the system's certificates, which takes longer than most of the tests.
    with httpx.Client(base_url=sim.url, headers={"authorization": sim.key}, timeout=5, verify=False) as client:
        yield client


@pytest.fixture
def sdk(sim) -> Iterator[assemblyai.Client]:
    """The official SDK, with every base URL set to the simulator's."""
    origins = sim.origins
    settings = assemblyai.Settings(
        api_key=sim.key,
        base_url=sim.url,
        sync_base_url=origins["sync"],
        dictation_base_url=origins["dictation"],
        llm_gateway_base_url=origins["llm_gateway"],
        tts_base_url=origins["tts"],
        polling_interval=0.005,
    )
    client = assemblyai.Client(settings=settings)
    yield client
    client.http_client.close()


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch) -> None:
    for name in [name for name in os.environ if name.startswith("ASSEMBLYAI_")]:
        monkeypatch.delenv(name)

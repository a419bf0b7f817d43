"""The pytest plugin. The simulator is imported only when the fixture is used, so that it costs other tests nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .simulator.facade import Simulator

__all__ = ["assemblyai_simulator"]

# The contract suites assert in a module of ours; without this, a user's failing test would not say what was compared.
pytest.register_assert_rewrite("keypool_asgi.testing.contracts", "keypool_asgi.testing.resource_contract")


@pytest.fixture
def assemblyai_simulator() -> Iterator[Simulator]:
    """AssemblyAI, simulated: one account, one project and one key (``.key``), fresh for every test, at ``.url``.

    It runs in a thread of its own, so it serves synchronous tests and SDKs as well as asynchronous ones.
    """
    from .simulator.facade import Simulator

    with Simulator().running() as simulator:
        yield simulator

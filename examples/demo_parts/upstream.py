"""What the demo talks to: AssemblyAI simulated, or the real service with the reader's own key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from examples.fastapi_app.store import Store
from keypool_asgi.testing import Simulator

__all__ = ["Upstream", "real", "simulated"]

SAMPLE = "https://assembly.ai/wildfires.mp3"


@dataclass(frozen=True)
class Upstream:
    """One of the two.

    Attributes:
        lines: what it is, for the reader.
        settings: what the middleware needs to be told.
        simulator: the simulator, if it is one.
        sample: a recording of speech on the web, for the real service: it would find no words in a tone.
        polling_seconds: how often the SDK asks for a transcript.
    """

    lines: list[str]
    polling_seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    simulator: Simulator | None = None
    sample: str | None = None


@contextmanager
def simulated(store: Store) -> Iterator[Upstream]:
    """Simulate AssemblyAI with three keys of two projects, the first of which it refuses."""
    secrets = {key: f"simulated-{key}-{token_hex(8)}" for key in ("old-1", "prod-1", "prod-2")}
    store.add_key("old-1", secrets["old-1"], project="retired", priority=0)
    store.add_key("prod-1", secrets["prod-1"], project="prod", priority=1)
    store.add_key("prod-2", secrets["prod-2"], project="prod", priority=2)
    places = {"old-1": "account/retired", "prod-1": "account/prod", "prod-2": "account/prod"}
    with Simulator({secrets[key]: places[key] for key in secrets}, processing_seconds=1.5).running() as simulator:
        simulator.revoke_key(secrets["old-1"])
        lines = [
            f"AssemblyAI is simulated at {simulator.url}: no account and no network are needed.",
            "The pool has three keys, tried in this order: old-1 (project retired; AssemblyAI refuses it),",
            "prod-1 and prod-2 (both of project prod).",
        ]
        yield Upstream(lines, 0.5, {"origins": simulator.origins}, simulator)


@contextmanager
def real(store: Store, region: str) -> Iterator[Upstream]:
    """Use the real service with the key in ``ASSEMBLYAI_API_KEY``."""
    store.add_key("yours", os.environ["ASSEMBLYAI_API_KEY"], project="yours", region=region)
    lines = [
        "ASSEMBLYAI_API_KEY is set: this uses the real AssemblyAI, which charges your account for one recording.",
        "The pool has one key: yours.",
    ]
    yield Upstream(lines, 3.0, sample=SAMPLE)

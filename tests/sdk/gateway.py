"""A pool in front of a simulated AssemblyAI, served by a real uvicorn: what every SDK here is pointed at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness import HOSTS, Served, secret, serve, token

from keypool_asgi import Team, UpstreamKey
from keypool_asgi.testing import Simulator

__all__ = ["KEY_A", "KEY_B", "TOKEN", "Gateway", "opened"]

KEY_A, KEY_B = secret("sdk-a"), secret("sdk-b")
TOKEN = token("sdk")


@dataclass(frozen=True, slots=True)
class Gateway:
    """What a user configures (``url``, ``token``), and what stands behind it.

    Attributes:
        url: the pool's base URL, which an SDK is given in place of AssemblyAI's.
        token: the team token, which an SDK is given in place of a key.
        app: the outermost app; with the host ``bare-wrapped`` the middleware itself.
        audio_url: a recording on somebody else's server.
    """

    url: str
    token: str = field(repr=False)
    sim: Simulator
    app: Any
    served: Served
    audio_url: str = "https://example.com/meeting.mp3"


@contextlib.contextmanager
def opened(
    host: str = "bare-wrapped", *, tls: bool = False, simulator: Simulator | None = None, **settings: Any
) -> Iterator[Gateway]:
    """Open a pool of two keys of different accounts in a host app, with changes to its settings.

    At the end, upstream must not have seen anything that no sane proxy sends, nor a resource on a foreign key.
    """
    sim = simulator or Simulator({KEY_A: "acme/alpha", KEY_B: "beta-corp/beta"})
    with sim.running():
        defaults: dict[str, Any] = {
            "keys": [
                UpstreamKey("a", KEY_A, project="alpha", account="acme"),
                UpstreamKey("b", KEY_B, project="beta", account="beta-corp"),
            ],
            "teams": {TOKEN: Team("sdk-users")},
            "origins": sim.origins,
        }
        hosted = HOSTS[host](**(defaults | settings))
        with serve(hosted.app, "uvicorn-httptools", tls=tls, **hosted.serving) as served:
            yield Gateway(served.url + hosted.base, TOKEN, sim, hosted.app, served)
    assert not sim.violations
    assert not sim.foreign_requests

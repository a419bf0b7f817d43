"""Several teams, projects and accounts behind one pool that is served by a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import secret, serve, token
from ownership.pools import PROJECTS, TEAMS, Gateway, pool_keys

from keypool_asgi import KeyPool, Team
from keypool_asgi.testing import Simulator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    simulated = Simulator({secret(name): f"{account}/{name}" for name, account in PROJECTS.items()})
    with simulated.running():
        yield simulated


@pytest.fixture
def gateway(simulator: Simulator, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """Indirect parameters are further settings of the pool."""
    settings = getattr(request, "param", {})
    teams = {token(team): Team(team) for team in TEAMS}
    pool = KeyPool(keys=pool_keys(), teams=teams, origins=simulator.origins, **settings)
    with serve(pool) as served:
        yield Gateway(served.url + "/v1/assemblyai", simulator)
    if settings.get("isolation") != "off":  # there, projects are asked for what may not be theirs
        assert simulator.foreign_requests == []
    assert simulator.violations == []

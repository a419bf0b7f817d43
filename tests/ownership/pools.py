"""A pool of several projects and teams, and what it stands before."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from harness import secret, token

from keypool_asgi import UpstreamKey
from keypool_asgi.testing import Simulator

PROJECTS = {"p1": "acme", "p2": "acme", "p3": "other"}
TEAMS = ("red", "green", "blue", "white", "black")


@dataclass
class Gateway:
    """A served pool, and what it stands before."""

    url: str
    simulator: Simulator

    def client(self, team: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": token(team)}, timeout=30)


def pool_keys() -> list[UpstreamKey]:
    return [UpstreamKey(name, secret(name), project=name, account=account) for name, account in PROJECTS.items()]

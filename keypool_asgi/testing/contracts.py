"""What every implementation of a port must do, as tests to subclass.

For a store of your own::

    class TestMyQuotas(QuotaStoreContract):
        def make_store(self):
            return MyQuotas("redis://localhost/15")

pytest collects the subclass; no plugin is needed. Each test makes a new, empty store inside a new event loop.
"""

# ruff: noqa: S101 - the asserts are the contract

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable

from keypool_asgi.core.limits import Limit
from keypool_asgi.core.teams import Team
from keypool_asgi.ports import TeamDirectory

from .ledger_contract import LedgerContract
from .quota_contract import QuotaStoreContract
from .resource_contract import ResourceStoreContract

__all__ = ["LedgerContract", "QuotaStoreContract", "ResourceStoreContract", "TeamDirectoryContract"]


class TeamDirectoryContract:
    """The behaviour of a ``TeamDirectory``. Subclasses give ``make_directory``."""

    def make_directory(self, teams: Mapping[str, Team]) -> TeamDirectory | Awaitable[TeamDirectory]:
        """Return a directory that knows these teams by their tokens."""
        raise NotImplementedError

    async def close_directory(self, directory: TeamDirectory) -> None:
        """Give back what ``make_directory`` opened."""

    def run_with_directory(
        self, teams: Mapping[str, Team], scenario: Callable[[TeamDirectory], Awaitable[None]]
    ) -> None:
        """Run a scenario against a directory of these teams."""

        async def run() -> None:
            made = self.make_directory(teams)
            directory = await made if isawaitable(made) else made
            try:
                await scenario(directory)
            finally:
                await self.close_directory(directory)

        asyncio.run(run())

    def test_finds_each_team_by_its_token(self) -> None:
        """Also the second time, and with several tokens for one team."""
        team = Team("team-a", operations=["transcripts.*"], limits=[Limit("requests", 5, per="minute")])
        teams = {"token-a": team, "token-a2": team, "token-b": Team("team-b")}

        async def scenario(directory: TeamDirectory) -> None:
            for _ in range(2):
                for token, expected in teams.items():
                    assert await directory.find(token) == expected

        self.run_with_directory(teams, scenario)

    def test_knows_no_other_token(self) -> None:
        """Not a part, another case, or an odd text; None, and no exception."""

        async def scenario(directory: TeamDirectory) -> None:
            for token in ("token", "token-a ", "TOKEN-A", "", "tökén", "x" * 5000, "a\x00b"):
                assert await directory.find(token) is None
                assert await directory.find(token) is None

        self.run_with_directory({"token-a": Team("team-a")}, scenario)

    def test_answers_many_at_once(self) -> None:
        """Concurrent questions do not mix up their answers."""
        teams = {f"token-{number}": Team(f"team-{number}") for number in range(5)}
        asked = [f"token-{number % 7}" for number in range(100)]

        async def scenario(directory: TeamDirectory) -> None:
            found = await asyncio.gather(*(directory.find(token) for token in asked))
            assert found == [teams.get(token) for token in asked]

        self.run_with_directory(teams, scenario)

    def test_shows_no_token(self) -> None:
        """A directory's repr has no token in it (invariant I2)."""

        async def scenario(directory: TeamDirectory) -> None:
            await directory.find("token-a")
            assert "token-a" not in repr(directory)

        self.run_with_directory({"token-a": Team("team-a")}, scenario)

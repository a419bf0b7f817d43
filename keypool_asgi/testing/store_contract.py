"""What the contract suites of stores share: making a store, ending it, and moving its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any
from unittest import SkipTest

__all__ = ["StoreContract"]


class StoreContract:
    """Base of a contract suite. Subclasses give ``make_store``, and the rest where they can."""

    def make_store(self) -> Any:
        """Return a new store that holds nothing, or an awaitable of one."""
        raise NotImplementedError

    async def close_store(self, store: Any) -> None:
        """Give back what ``make_store`` opened."""

    def advance(self, seconds: float) -> None:
        """Move the store's clock on. Tests about time are skipped where this is not overridden."""
        raise SkipTest(f"this store's clock cannot be moved by {seconds} s")

    def run_with_store(self, scenario: Callable[[Any], Awaitable[None]]) -> None:
        """Run a scenario against a new store."""

        async def run() -> None:
            made = self.make_store()
            store = await made if isawaitable(made) else made
            try:
                await scenario(store)
            finally:
                await self.close_store(store)

        asyncio.run(run())

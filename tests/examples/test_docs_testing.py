"""docs/testing.md is true: its code runs."""

from __future__ import annotations

from contextlib import suppress
from unittest import SkipTest

from blocks import Blocks

from keypool_asgi.testing import Simulator

BLOCKS = Blocks("docs/testing.md")


def test_every_block_has_a_check() -> None:
    BLOCKS.check(globals())


def test_block_testing() -> None:
    with Simulator().running() as simulator:
        BLOCKS.execute("testing")["test_a_team_can_submit_a_job"](simulator)


def test_block_contract() -> None:
    suite = BLOCKS.execute("contract")["TestMyQuotas"]
    tests = [name for name in dir(suite) if name.startswith("test_")]
    assert len(tests) > 5
    for name in tests:
        with suppress(SkipTest):  # those that would move the store's clock
            getattr(suite(), name)()

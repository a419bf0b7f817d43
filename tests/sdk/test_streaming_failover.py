"""Bad keys, late answers and users who give up, as the official SDKs see them with their own second of patience."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness import secret

from keypool_asgi import Limit, SessionLimits, UpstreamKey
from keypool_asgi.testing import Fault, Simulator, SocketFault

from .streaming_callers import CALLERS, Wish, async_python, node, python
from .streaming_cases import team
from .streaming_pool import Live, health_of, live

# The SDK's own affair: it calls pydantic and websockets by old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

each_caller = pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)

NAMES = ("rejected", "poor", "crowded", "good")
SHORT = bytes(3200)
ONE_ATTEMPT = {"max_connection_retries": 0}

one_at_a_time = team(limits=[Limit("concurrency", 1)])


@contextmanager
def with_bad_keys() -> Iterator[Live]:
    """A pool whose first three keys do not serve, each for a reason of its own."""
    sim = Simulator({secret(name): f"account-{name}/project-{name}" for name in NAMES})
    keys = [
        UpstreamKey(name, secret(name), project=f"project-{name}", account=f"account-{name}", priority=place)
        for place, name in enumerate(NAMES)
    ]
    sim.revoke_key(secret("rejected"))
    sim.set_balance("account-poor", -1)
    sim.limit_sessions("account-crowded", at_once=0)
    with live(simulator=sim, keys=keys) as pool:
        yield pool


@each_caller
def test_three_bad_keys_and_a_good_one_within_the_sdks_second(caller) -> None:
    """The user sees one session and nothing else; each key stands as what was said about it."""
    with with_bad_keys() as pool:
        heard = caller(pool, Wish(pool.token, patience=ONE_ATTEMPT))
        assert heard.errors == []
        assert len([message for message in heard.messages if message["type"] == "Begin"]) == 1
        assert len(heard.said) == 2
        pool.rest()
        (record,) = pool.records
        assert (record.keys, record.status, record.refused, record.complete) == (NAMES, 101, None, True)
        stands = {name: health_of(pool, name) for name in NAMES}
        assert stands == {"rejected": "rejected", "poor": "exhausted", "crowded": "cooling", "good": "active"}
        assert [session.state for session in pool.sim.sessions] == ["closed", "closed", "closed", "terminated"]
        # The next session spares the bad ones; a crowded account may have room again after a second.
        assert caller(pool, Wish(pool.token, audio=SHORT, patience=ONE_ATTEMPT)).errors == []
        pool.rest()
        assert set(pool.records[1].keys) <= {"crowded", "good"}


@each_caller
def test_an_upstream_that_is_late_by_less_than_the_sdks_second(caller) -> None:
    """Whatever the machine adds to it costs an attempt, which must leave nothing."""
    with live() as pool:
        pool.sim.fail(SocketFault.late(0.8))
        heard = caller(pool, Wish(pool.token, audio=SHORT))
        assert heard.errors == []
        assert "Termination" in heard.kinds
        pool.rest()
        assert pool.sim.sessions[-1].state == "terminated"
        assert {health_of(pool, key) for key in ("a", "b")} == {"active"}


each_delay = pytest.mark.parametrize(
    "fault",
    [SocketFault.late(1.5), SocketFault.silent(), Fault.stalled("response head")],
    ids=["Begin is late", "Begin never comes", "no answer to the upgrade"],
)


def check_nothing_came_of_it(pool: Live) -> None:
    """Neither a session that costs, nor a lease, a permit or a mark on a key: the next user is served."""
    pool.rest()
    assert {session.state for session in pool.sim.sessions} <= {"terminated"}
    assert {health_of(pool, key) for key in ("a", "b")} == {"active"}
    pool.sim.heal()
    assert async_python(pool, Wish(pool.token, audio=SHORT)).errors == []


@each_delay
@pytest.mark.parametrize("caller", [async_python, node])
def test_a_user_who_gives_up_leaves_nothing(caller, fault) -> None:
    """After a second both SDKs break off, in the middle of an upgrade that the pool has not answered yet."""
    with live(sessions=SessionLimits(attempt_seconds=1.5), **one_at_a_time()) as pool:
        pool.sim.fail(fault)
        heard = caller(pool, Wish(pool.token, patience=ONE_ATTEMPT))
        assert len(heard.errors) == 1
        assert heard.messages == []
        check_nothing_came_of_it(pool)
        given_up = pool.records[0]
        assert (given_up.status, given_up.refused, given_up.complete) == (None, None, False)
        assert given_up.seconds < 3


@each_delay
def test_a_user_who_cannot_give_up_leaves_nothing(fault) -> None:
    """Over TLS the threads of ``websockets`` wait for the server's first byte, whatever the SDK's patience is.

    So it is the pool's ``opening_seconds`` that sets such a user free.
    """
    with live(sessions=SessionLimits(opening_seconds=1.2), **one_at_a_time()) as pool:
        pool.sim.fail(fault)
        heard = python(pool, Wish(pool.token, patience=ONE_ATTEMPT))
        assert heard.errors == [("Connection failed: timed out while waiting for handshake response", None)]
        check_nothing_came_of_it(pool)
        assert pool.records[0].seconds == pytest.approx(1.2, abs=1)

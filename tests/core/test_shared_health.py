"""What news of another process changes, rule by rule."""

from __future__ import annotations

import math

import pytest
from harness import secret
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.core.health import Health, HealthPolicy, Scope, State, fresh, opens_at, take
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.shared_health import HEARSAY_SECONDS, News, board_name, hear, is_down

NOW = 1000.0
POLICY = HealthPolicy()


def news(state=State.COOLING, age=0.1, opens_in=20.0, strikes=2):
    return News("id", "other", Scope.ACCOUNT, "acme", "api", state, age, opens_in, strikes)


def heard(health, one, since=-math.inf, jitter=0.5):
    return hear(health, since, one, now=NOW, policy=POLICY, jitter=jitter)


def test_what_is_down_elsewhere_goes_down_here_for_a_little_longer():
    for state in (State.COOLING, State.EXHAUSTED, State.REJECTED):
        health = heard(fresh(NOW - 500, POLICY), news(state), jitter=0.25)
        assert (health.state, health.epoch, health.strikes) == (state, 1, 2)
        assert health.until == NOW + 20 + 0.75 * HEARSAY_SECONDS
        assert health.doubtful_until == health.until + POLICY.unproven_seconds


def test_what_was_found_out_here_later_stands():
    for state in (State.COOLING, State.RAMP):
        assert heard(Health(State.REJECTED, 1, NOW + 5), news(state, age=3), since=NOW - 3) is None
        assert heard(Health(State.REJECTED, 1, NOW + 5), news(state, age=3), since=NOW - 3.1) is not None
    assert heard(Health(), news(age=3), since=NOW - 2) is None


def test_what_is_down_here_for_as_long_stays_as_it_is():
    down = Health(State.REJECTED, 3, NOW + 20, 4, probe=NOW + 1)
    assert heard(down, news(opens_in=20)) is None
    longer = heard(down, news(opens_in=21))
    assert (longer.state, longer.epoch, longer.strikes, longer.probe) == (State.COOLING, 4, 4, None)


def test_what_has_healed_elsewhere_ramps_up_here():
    health = heard(Health(State.EXHAUSTED, 3, NOW + 200, 4), news(State.RAMP))
    assert (health.state, health.epoch, health.strikes) == (State.RAMP, 4, 4)
    assert health.limit == POLICY.ramp_start
    assert health.until == NOW + POLICY.ramp_seconds


def test_what_is_up_here_does_not_heal():
    for health in (Health(), Health(State.RAMP, 1, NOW + 5, limit=8)):
        assert heard(health, news(State.RAMP)) is None


def test_old_news_lets_a_probe_go_soon():
    health = heard(Health(), news(age=500, opens_in=-100))
    assert opens_at(health, 0) <= NOW - 100 + 1.5 * HEARSAY_SECONDS


@given(
    st.sampled_from(list(State)),
    st.sampled_from([State.COOLING, State.EXHAUSTED, State.REJECTED, State.RAMP]),
    st.floats(0, 1e6),
    st.floats(-1e6, 1e6),
    st.floats(0, 1),
)
def test_nothing_is_down_for_ever(before, told, age, opens_in, jitter):
    """Whatever is heard, the subject takes a lease at a time that is known."""
    health = heard(Health(before, 1, NOW), news(told, age, opens_in), jitter=jitter)
    if health is None:
        return
    opens = opens_at(health, 0)
    assert opens <= NOW + max(0, opens_in) + 1.5 * HEARSAY_SECONDS
    probing = take(health, max(opens, NOW), POLICY)
    assert not is_down(health.state) or probing.probe is not None


def test_news_gets_older():
    later = news(age=1, opens_in=20).later(3)
    assert (later.age, later.opens_in) == (4, 17)


@pytest.mark.parametrize(
    "change",
    [{"secret": secret("other")}, {"project": "q"}, {"account": "b"}, {"region": "eu"}, {"weight": 2}, {"priority": 1}],
)
def test_another_entry_has_another_name(change):
    entry = {"secret": secret("shared"), "project": "p", "account": "a"}
    name = board_name(UpstreamKey("prod-1", **entry))
    assert name == board_name(UpstreamKey("prod-1", **entry))
    assert name != board_name(UpstreamKey("prod-1", **{**entry, **change}))
    assert name.startswith("prod-1#")
    assert entry["secret"] not in name

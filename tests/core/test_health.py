"""The rules at the top of ``core/health.py``, one by one, and what must hold for any history."""

import re
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keypool_asgi.core import health as module
from keypool_asgi.core.health import (
    TABLE,
    Health,
    HealthPolicy,
    Scope,
    State,
    blame,
    doubtful,
    fresh,
    judge,
    occupied,
    opens_at,
    sound,
    take,
)
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import ConfigurationError

POLICY = HealthPolicy()
DOWN = (State.COOLING, State.EXHAUSTED, State.REJECTED)


def after(health: Health, fault: Fault, now: float, *, taken: Health | None = None, **more: float) -> Health:
    """Take a lease now and judge it at once."""
    return judge(health, taken or take(health, now, POLICY), fault, now=now, policy=POLICY, **more)


def test_the_table_of_the_docstring_is_the_table_of_the_code() -> None:
    assert module.__doc__ is not None
    rows = re.findall(r"^(\w+) +(\w+) +(\w+) +(\w+) +(\w+) +(\w+)$", module.__doc__, re.MULTILINE)
    assert rows.pop(0) == ("state", *(fault.value for fault in Fault))
    code = [(state.value, *(TABLE[state][fault].__name__[1:] for fault in Fault)) for state in State]
    assert rows == code


@pytest.mark.parametrize(
    ("fault", "scope"),
    [(Fault.THROTTLED, Scope.ACCOUNT), (Fault.EXHAUSTED, Scope.ACCOUNT), (Fault.REJECTED, Scope.KEY)],
)
def test_rule_1_a_fault_counts_against_one_scope(fault: Fault, scope: Scope) -> None:
    told = {each: blame(each, Verdict(fault)) for each in Scope}
    assert told == {each: fault if each is scope else Fault.UNRELATED for each in Scope}
    assert {blame(each, Verdict(fault, certain=False)) for each in Scope} == {Fault.UNRELATED}


def test_rule_1_a_success_counts_for_all_scopes() -> None:
    assert {blame(each, Verdict(Fault.NONE)) for each in Scope} == {Fault.NONE}


def test_rule_2_a_burst_of_429_is_one_step_of_backoff() -> None:
    health = Health()
    taken = [take(health, 0, POLICY) for _ in range(64)]
    for lease in taken:
        health = after(health, Fault.THROTTLED, 1.0, taken=lease)
    assert (health.state, health.strikes, health.until) == (State.COOLING, 1, 1.0 + POLICY.cooling_first_seconds)


def test_rule_2_a_success_that_left_before_the_throttling_does_not_end_it() -> None:
    before = take(Health(), 0, POLICY)
    cooling = after(Health(), Fault.THROTTLED, 1.0)
    assert after(cooling, Fault.NONE, 1.5, taken=before) is cooling


def test_rule_2_a_fault_that_left_before_the_healing_does_not_undo_it() -> None:
    before = take(Health(), 0, POLICY)
    healed = after(after(Health(), Fault.THROTTLED, 0), Fault.NONE, 5)
    assert healed.state is State.RAMP
    assert after(healed, Fault.THROTTLED, 6, taken=before) is healed


def test_rule_3_one_probe_at_a_time_and_it_decides() -> None:
    cooling = after(Health(), Fault.THROTTLED, 0)
    assert opens_at(cooling, 0) == cooling.until
    probing = take(cooling, cooling.until, POLICY)
    assert occupied(probing, 0, cooling.until)
    assert opens_at(probing, 0) == cooling.until + POLICY.probe_seconds
    assert judge(probing, probing, Fault.NONE, now=3, policy=POLICY).state is State.RAMP


def test_rule_3_a_probe_that_says_nothing_frees_its_place() -> None:
    cooling = after(Health(), Fault.THROTTLED, 0)
    probing = take(cooling, cooling.until, POLICY)
    assert after(probing, Fault.UNRELATED, 2, taken=probing) == cooling


def test_rule_3_a_lapsed_probe_frees_nobody_elses_place() -> None:
    cooling = after(Health(), Fault.THROTTLED, 0)
    first = take(cooling, cooling.until, POLICY)
    second = take(first, opens_at(first, 0), POLICY)
    assert after(second, Fault.UNRELATED, second.until + 1, taken=first) is second
    # but what it says about the subject is still worth hearing
    assert after(second, Fault.NONE, second.until + 1, taken=first).state is State.RAMP


def test_rule_4_the_ramp_doubles_to_its_end() -> None:
    health = after(after(Health(), Fault.THROTTLED, 0), Fault.NONE, 5)
    limits = []
    while health.state is State.RAMP:
        limits.append(health.limit)
        assert opens_at(health, health.limit - 1) == -inf
        assert occupied(health, health.limit, 5)
        health = after(health, Fault.NONE, 5)
    assert limits == [1, 2, 4, 8, 16, 32]
    assert health == Health(epoch=health.epoch)


def test_rule_4_the_ramp_ends_by_time_without_any_verdict() -> None:
    health = after(after(Health(), Fault.THROTTLED, 0), Fault.NONE, 5)
    end = 5 + POLICY.ramp_seconds
    assert opens_at(health, 1) == end
    assert take(health, end, POLICY).state is State.ACTIVE
    assert after(health, Fault.NONE, end, taken=health).state is State.ACTIVE


def test_rule_4_a_lease_of_the_ramp_speaks_for_the_active_subject_too() -> None:
    ramp = after(after(Health(), Fault.THROTTLED, 0), Fault.NONE, 5)
    active = take(ramp, 5 + POLICY.ramp_seconds, POLICY)
    assert after(active, Fault.THROTTLED, 99, taken=ramp).state is State.COOLING


def test_rule_5_backoff_doubles_and_is_forgotten_when_active() -> None:
    health, seconds = Health(), []
    for _ in range(8):
        now = max(0.0, health.until)
        health = after(health, Fault.THROTTLED, now)
        seconds.append(health.until - now)
    assert seconds == [1, 2, 4, 8, 16, 32, 60, 60]
    ramp = after(health, Fault.NONE, health.until)
    assert after(ramp, Fault.THROTTLED, ramp.until - 1).strikes == 9
    assert take(ramp, ramp.until, POLICY).strikes == 0


@pytest.mark.parametrize(
    ("asked", "seconds"), [(30, 30), (0, 1), (-5, 1), (10_000, 600), (inf, 600), (nan, 1), (2.5, 2.5)]
)
def test_rule_5_retry_after_replaces_backoff_within_reason(asked: float, seconds: float) -> None:
    assert after(Health(strikes=7), Fault.THROTTLED, 100, retry_after=asked, jitter=0).until == 100 + seconds


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_rule_5_jitter_spreads_the_upper_half(jitter: float, seconds: float) -> None:
    assert after(Health(), Fault.THROTTLED, 0, jitter=jitter).until == seconds


@pytest.mark.parametrize(("fault", "seconds"), [(Fault.EXHAUSTED, 300), (Fault.REJECTED, 5)])
def test_rule_6_long_faults_take_their_time_whatever_retry_after_says(fault: Fault, seconds: float) -> None:
    assert opens_at(after(Health(), fault, 0, retry_after=1), 0) == seconds


def test_rule_7_doubt_ends_with_a_success_or_with_time() -> None:
    new = fresh(0, POLICY)
    assert doubtful(new, POLICY.unproven_seconds - 1)
    assert not doubtful(new, POLICY.unproven_seconds)
    assert not doubtful(after(new, Fault.NONE, 1), 1)
    down = after(after(new, Fault.NONE, 1), Fault.EXHAUSTED, 1)
    assert doubtful(down, down.until)
    assert not doubtful(down, down.until + POLICY.unproven_seconds)
    assert not doubtful(after(down, Fault.NONE, down.until), down.until)


def test_rule_8_sound_is_active_and_proven() -> None:
    new = fresh(0, POLICY)
    proven = after(new, Fault.NONE, 1)
    down = after(proven, Fault.THROTTLED, 1)
    ramp = after(down, Fault.NONE, 5)
    assert [sound(health) for health in (new, proven, down, ramp)] == [False, True, False, False]
    assert not sound(replace(new, doubtful_until=0.0)), "doubt that has ended by time is no success"


def test_what_says_nothing_changes_nothing() -> None:
    ramp = after(after(Health(), Fault.THROTTLED, 0), Fault.NONE, 5)
    for health in (Health(), fresh(0, POLICY), ramp):
        assert after(health, Fault.UNRELATED, 6) is health


@pytest.mark.parametrize(
    "wrong",
    [
        {"cooling_first_seconds": 0},
        {"exhausted_seconds": -1},
        {"rejected_seconds": inf},
        {"probe_seconds": nan},
        {"ramp_start": 0},
        {"ramp_start": 65},
        {"cooling_first_seconds": 61},
        {"retry_after_max_seconds": 0.5},
    ],
)
def test_policy_names_the_setting_that_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        HealthPolicy(**wrong)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Health, list[Health], float]:
    """Any health that a history of leases leads to, the leases of it that are still out, and the moment."""
    health, now = fresh(0, POLICY), 0.0
    out: list[Health] = []
    for _ in range(draw(st.integers(0, 25))):
        now += draw(st.sampled_from([0.0, 0.3, 1.0, 7.0, 45.0, 400.0]))
        mine = sum(lease.epoch == health.epoch for lease in out)
        if opens_at(health, mine) <= now and draw(st.booleans()):
            health = take(health, now, POLICY)
            out.append(health)
        elif out:
            lease = out.pop(draw(st.integers(0, len(out) - 1)))
            fault, jitter = draw(st.sampled_from(Fault)), draw(st.floats(0, 1))
            health = judge(health, lease, fault, now=now, policy=POLICY, jitter=jitter)
    return health, out, now


@settings(deadline=None)
@given(histories())
def test_nothing_is_down_for_ever(history: tuple[Health, list[Health], float]) -> None:
    health, out, now = history
    longest = max(POLICY.exhausted_seconds, POLICY.retry_after_max_seconds) + POLICY.probe_seconds
    assert opens_at(health, len(out)) <= now + longest
    when = max(now, opens_at(health, len(out)))
    assert opens_at(health, len(out)) <= when
    healed = after(health, Fault.NONE, when)
    assert healed.state in (State.ACTIVE, State.RAMP)
    assert opens_at(healed, 0) == -inf


@settings(deadline=None)
@given(histories(), st.sampled_from(Fault))
def test_an_old_epoch_is_never_heard(history: tuple[Health, list[Health], float], fault: Fault) -> None:
    health, out, now = history
    for lease in out:
        if lease.epoch != health.epoch:
            assert judge(health, lease, fault, now=now, policy=POLICY) is health


@settings(deadline=None)
@given(histories(), st.integers(0, 1000), st.sampled_from([Fault.NONE, Fault.UNRELATED]))
def test_rule_8_a_sound_lease_needs_no_count_and_its_good_end_no_judgement(
    history: tuple[Health, list[Health], float], in_flight: int, fault: Fault
) -> None:
    health, out, now = history
    for lease in out:
        if sound(lease):
            assert judge(health, lease, fault, now=now, policy=POLICY) is health
            assert lease.epoch != health.epoch or opens_at(health, in_flight) == -inf


@settings(deadline=None)
@given(histories(), st.sampled_from([Fault.THROTTLED, Fault.EXHAUSTED, Fault.REJECTED]))
def test_going_down_needs_a_fault_and_a_fault_of_now_takes_it_down(
    history: tuple[Health, list[Health], float], fault: Fault
) -> None:
    health, _, now = history
    assert after(health, Fault.UNRELATED, now).state is health.state or health.state is State.RAMP
    down = after(health, fault, now)
    assert down.state in DOWN
    assert down.epoch == health.epoch + 1
    assert opens_at(down, 0) > now


@settings(deadline=None)
@given(histories())
def test_health_is_data(history: tuple[Health, list[Health], float]) -> None:
    health, _, _ = history
    assert replace(health) == health
    assert hash(replace(health)) == hash(health)

"""Quota arithmetic. GCRA is checked against its definition: what was kept, admitted one by one by a textbook GCRA."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from keypool_asgi.core.limits import Charge, Denial, Limit, Slot
from keypool_asgi.core.reservations import (
    CEILING,
    Hold,
    Level,
    idle_at,
    remaining,
    reserve,
    settle,
    standing,
)

SECOND = 10**6

rates = st.builds(Limit, st.just("requests"), st.integers(1, 10**6), st.sampled_from(("second", "minute", "hour")))
coarse = st.builds(Limit, st.just("upload_bytes"), st.integers(10**7, 10**11), st.sampled_from(("minute", "hour")))
windowed = rates | coarse
budgets = st.builds(
    Limit,
    st.just("audio_seconds"),
    st.integers(1, 10**9),
    st.sampled_from(("day", "week", "month")),
    time_zone=st.sampled_from(("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu")),
)
held = st.builds(Limit, st.just("concurrency"), st.integers(1, 100))
# Moments at which a tick of any length begins.
instants = st.integers(0, 4 * 10**9).map(lambda second: second * SECOND)


def charge(limit: Limit, amount: int = 1, subject: str = "team:a") -> Charge:
    return Charge(subject, limit, amount)


def window(limit: Limit) -> int:
    """Length of a rate's window in microseconds."""
    return limit.span * limit.tick


def admit(levels: dict[Slot, Level], charges: list[Charge], now: int) -> dict[Slot, Hold]:
    outcome = reserve(levels, charges, now)
    assert not isinstance(outcome, Denial), outcome
    levels.update(outcome[0])
    return outcome[1]


def deny(levels: dict[Slot, Level], charges: list[Charge], now: int) -> Denial:
    before = dict(levels)
    outcome = reserve(levels, charges, now)
    assert isinstance(outcome, Denial)
    assert levels == before
    return outcome


# Per window


@given(windowed, instants)
def test_a_whole_amount_may_come_at_once_and_no_more(limit, now):
    levels = {}
    admit(levels, [charge(limit, limit.amount)], now)
    denial = deny(levels, [charge(limit)], now)
    assert denial.retry_after == pytest.approx(-(-limit.span // limit.amount) * limit.tick / SECOND, abs=1e-6)


@given(windowed, instants)
def test_after_one_window_everything_is_back(limit, now):
    levels = {}
    for _ in range(3):
        admit(levels, [charge(limit, limit.amount)], now)
        now += window(limit)


@given(windowed, instants, st.data())
def test_retry_after_is_exact_to_the_tick(limit, now, data):
    levels = {}
    first = data.draw(st.integers(1, limit.amount))
    second = data.draw(st.integers(limit.amount - first + 1, limit.amount))
    admit(levels, [charge(limit, first)], now)
    denial = deny(levels, [charge(limit, second)], now)
    wait = round(denial.retry_after * SECOND)
    deny(levels, [charge(limit, second)], now + wait - limit.tick)
    admit(levels, [charge(limit, second)], now + wait)


@given(windowed, instants, st.data())
def test_released_at_once_is_as_if_it_had_never_been(limit, now, data):
    levels = {}
    amounts = data.draw(st.lists(st.integers(1, max(1, limit.amount // 4)), min_size=1, max_size=4))
    amounts = amounts if sum(amounts) <= limit.amount else [1]
    holds = [admit(levels, [charge(limit, amount)], now) for amount in amounts]
    for hold in data.draw(st.permutations(holds)):
        [(slot, one)] = hold.items()
        levels[slot] = settle(levels[slot], one, 0, now)
    admit(levels, [charge(limit, limit.amount)], now)


def test_a_release_gives_back_what_has_not_drained():
    limit = Limit("requests", 60, per="minute")
    levels = {}
    [(slot, hold)] = admit(levels, [charge(limit, 60)], 0).items()
    # After 15 s a quarter of them has drained, and is free anyhow.
    levels[slot] = settle(levels[slot], hold, 0, 15 * SECOND)
    admit(levels, [charge(limit, 60)], 15 * SECOND)
    deny(levels, [charge(limit, 1)], 15 * SECOND)


def test_what_has_drained_is_not_given_back():
    limit = Limit("requests", 2, per="second")
    levels = {}
    [(slot, first)] = admit(levels, [charge(limit)], 0).items()
    [(_, second)] = admit(levels, [charge(limit)], 0).items()
    levels[slot] = settle(levels[slot], first, 0, 0)
    # The second has moved up, and has drained after half a second.
    admit(levels, [charge(limit, 2)], 3 * SECOND // 4)
    levels[slot] = settle(levels[slot], second, 0, 3 * SECOND // 4)
    assert deny(levels, [charge(limit)], 3 * SECOND // 4).retry_after == 0.5


def test_a_queue_that_is_released_last_first():
    limit = Limit("requests", 60, per="minute")
    levels = {}
    holds = [hold for _ in range(60) for hold in admit(levels, [charge(limit)], 0).items()]
    for slot, hold in reversed(holds):
        levels[slot] = settle(levels[slot], hold, 0, SECOND // 10)
    # Each was reserved a tenth of its length ago, and no more than that can have drained.
    admit(levels, [charge(limit, 54)], SECOND // 10)


def test_a_hold_far_back_in_the_queue_gives_back_what_is_certain():
    """Nobody remembers who stood before it, so that what it may have drained is not given back."""
    limit = Limit("requests", 60, per="minute")
    levels = {}
    admit(levels, [charge(limit, 58)], 0)
    [(slot, hold)] = admit(levels, [charge(limit, 2)], 0).items()
    levels[slot] = settle(levels[slot], hold, 0, SECOND)
    admit(levels, [charge(limit, 2)], SECOND)
    deny(levels, [charge(limit)], SECOND)


def test_more_than_was_held_is_owed():
    limit = Limit("requests", 60, per="minute")
    levels = {}
    [(slot, hold)] = admit(levels, [charge(limit)], 0).items()
    levels[slot] = settle(levels[slot], hold, 121, 0)
    assert deny(levels, [charge(limit)], 0).retry_after == 62
    admit(levels, [charge(limit)], 62 * SECOND)


def test_nothing_held_can_be_settled_later():
    """The shape of a cost that is known only afterwards."""
    limit = Limit("requests", 10, per="minute")
    levels = {}
    [(slot, hold)] = admit(levels, [charge(limit, 0)], 0).items()
    assert idle_at(levels.pop(slot)) == 0
    levels[slot] = settle(None, hold, 10, 0)
    deny(levels, [charge(limit)], 0)


@given(windowed, instants)
def test_a_negative_use_counts_as_none(limit, now):
    levels = {}
    [(slot, hold)] = admit(levels, [charge(limit)], now).items()
    assert settle(levels[slot], hold, -5, now) == settle(levels[slot], hold, 0, now)


@given(windowed, instants)
def test_idle_once_drained(limit, now):
    levels = {}
    [(slot, hold)] = admit(levels, [charge(limit, limit.amount)], now).items()
    assert settle(levels[slot], hold, limit.amount, now) == levels[slot]
    assert idle_at(levels[slot]) == now + window(limit)
    assert standing(limit, levels[slot], now + window(limit))[0] == limit.amount
    assert standing(limit, levels[slot], now + window(limit) - limit.tick)[1] > 0


@given(windowed, instants, st.integers(0, 2**60))
def test_a_level_stays_exact_as_a_double(limit, now, used):
    """However much is owed."""
    levels = {}
    [(slot, hold)] = admit(levels, [charge(limit)], now).items()
    for _ in range(3):
        levels[slot] = settle(levels[slot], hold, used, now)
        assert 0 <= levels[slot][1] <= CEILING


# Clocks that go back


@given(windowed, instants)
def test_a_clock_that_goes_back_a_little_drains_nothing_twice(limit, now):
    now += 10 * window(limit)
    levels = {}
    admit(levels, [charge(limit, limit.amount)], now)
    back = now - window(limit) // 2
    assert deny(levels, [charge(limit)], back).retry_after > window(limit) / 2 / SECOND
    deny(levels, [charge(limit, limit.amount)], now + window(limit) - limit.tick)
    admit(levels, [charge(limit, limit.amount)], now + window(limit))


@given(windowed, instants)
def test_a_clock_that_was_far_ahead_shuts_nobody_out(limit, now):
    levels = {}
    admit(levels, [charge(limit, limit.amount)], now + 100 * window(limit))
    deny(levels, [charge(limit)], now)
    levels[charge(limit).slot] = settle(levels[charge(limit).slot], (limit, 0, 0), 1, now)
    admit(levels, [charge(limit, limit.amount)], now + 2 * window(limit))


class Textbook:
    """GCRA as ITU-T I.371 has it, in exact seconds, without any giving back."""

    def __init__(self, limit: Limit) -> None:
        self.step = Fraction(window(limit), limit.amount)
        self.window = window(limit)
        self.tat = Fraction(0)

    def conforms(self, now: int, amount: int) -> bool:
        self.tat = max(self.tat, Fraction(now)) + amount * self.step
        return self.tat - now <= self.window


# A history: at growing times, a reservation of so many units, or the end of the n-th hold with a share of it used.
steps = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.one_of(
            st.tuples(st.just("reserve"), st.integers(1, 3)),
            st.tuples(st.just("release"), st.integers(0, 9)),
            st.tuples(st.just("settle"), st.integers(0, 9)),
        ),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(st.integers(1, 6), steps)
def test_what_is_kept_is_never_over_the_limit(amount, history):
    """Whatever is released in between, and whenever: the kept units alone conform to GCRA, in every window."""
    limit = Limit("requests", amount, per="second")
    tick = SECOND // 16
    levels: dict[Slot, Level] = {}
    open_holds: list[tuple[list[int], Slot, Hold]] = []
    admitted: list[list[int]] = []  # [time, units that were kept]
    now = 0
    for delay, (verb, number) in history:
        now += delay * tick
        if verb == "reserve":
            outcome = reserve(levels, [charge(limit, number)], now)
            if not isinstance(outcome, Denial):
                levels.update(outcome[0])
                [(slot, hold)] = outcome[1].items()
                admitted.append([now, number])
                open_holds.append((admitted[-1], slot, hold))
        elif open_holds:
            entry, slot, hold = open_holds.pop(number % len(open_holds))
            entry[1] = 0 if verb == "release" else entry[1] // 2
            levels[slot] = settle(levels[slot], hold, entry[1], now)
    textbook = Textbook(limit)
    assert all(textbook.conforms(time, kept) for time, kept in admitted)


@given(st.integers(1, 6), steps)
def test_without_releases_it_is_exactly_gcra(amount, history):
    """It admits what the textbook admits: nothing more, and nothing less."""
    limit = Limit("requests", amount, per="second")
    levels: dict[Slot, Level] = {}
    textbook = Textbook(limit)
    now = 0
    for delay, (_, number) in history:
        now += delay * SECOND // 8
        before = textbook.tat
        conforms = textbook.conforms(now, number)
        if not conforms:
            textbook.tat = before
        outcome = reserve(levels, [charge(limit, number)], now)
        assert isinstance(outcome, tuple) == conforms
        if isinstance(outcome, tuple):
            levels.update(outcome[0])


# Calendar windows


def at(text: str, zone: str = "Europe/Berlin") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * SECOND


BERLIN = Limit("audio_seconds", 100, per="day", time_zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "hours"),
    [("2026-06-10T00:00", 24), ("2026-03-29T00:00", 23), ("2026-10-25T00:00", 25), ("2026-10-25T20:00", 4)],
)
def test_a_budget_frees_at_local_midnight(now, hours):
    levels = {}
    admit(levels, [charge(BERLIN, 100)], at(now))
    assert deny(levels, [charge(BERLIN)], at(now)).retry_after == hours * 3600
    deny(levels, [charge(BERLIN)], at(now) + hours * 3600 * SECOND - 1)
    admit(levels, [charge(BERLIN, 100)], at(now) + hours * 3600 * SECOND)


@given(budgets, instants, st.data())
def test_a_budget_is_exact_within_its_window(limit, now, data):
    """Whatever is held and settled in one window adds up to the unit."""
    levels, used = {}, 0
    for wanted, spent in data.draw(st.lists(st.tuples(st.integers(0, limit.amount), st.integers(0, limit.amount)))):
        outcome = reserve(levels, [charge(limit, wanted)], now)
        assert isinstance(outcome, Denial) == (used + wanted > limit.amount)
        if not isinstance(outcome, Denial):
            levels.update(outcome[0])
            [(slot, hold)] = outcome[1].items()
            levels[slot] = settle(levels[slot], hold, spent, now)
            used += spent
    assert standing(limit, levels.get(charge(limit).slot), now)[0] == max(0, limit.amount - used)


@given(budgets, instants)
def test_a_release_in_the_next_window_gives_nothing_back(limit, now):
    levels = {}
    [(slot, hold)] = admit(levels, [charge(limit, limit.amount)], now).items()
    later = limit.calendar.window(now)[1]
    admit(levels, [charge(limit, limit.amount)], later)
    levels[slot] = settle(levels[slot], hold, 0, later)
    deny(levels, [charge(limit)], later)


@given(budgets, instants)
def test_a_clock_behind_others_counts_in_their_window(limit, now):
    """At midnight one process may already count in the next window when another still asks in the last one."""
    levels, border = {}, limit.calendar.window(now)[1]
    admit(levels, [charge(limit, limit.amount)], border)
    deny(levels, [charge(limit)], border - 1)
    admit(levels, [charge(limit, 0)], border - 1)
    deny(levels, [charge(limit)], border + 1)


@given(budgets, instants)
def test_a_budget_outlives_a_clock_that_was_far_ahead(limit, now):
    levels = {}
    admit(levels, [charge(limit, limit.amount)], now + 400 * 86400 * SECOND)
    deny(levels, [charge(limit)], now)
    [(slot, level)] = levels.items()
    levels[slot] = settle(level, (limit, 0, 0), 1, now)
    admit(levels, [charge(limit, limit.amount)], limit.calendar.window(now)[1])


# What is left


@given(windowed | budgets | held, instants, st.data())
def test_what_is_said_to_be_left_fits_and_no_more(limit, now, data):
    levels = {}
    admit(levels, [charge(limit, data.draw(st.integers(0, limit.amount)))], now)
    later = now + data.draw(st.integers(0, 10**6)) * limit.tick
    left = standing(limit, levels.get(charge(limit).slot), later)[0]
    deny(levels, [charge(limit, left + 1)], later)
    admit(levels, [charge(limit, left)], later)


def test_the_scarcest_limit_of_a_unit_counts():
    hour, day = Limit("stream_seconds", 100, per="hour"), Limit("stream_seconds", 500, per="day")
    charges = [charge(hour), charge(day), charge(Limit("concurrency", 2))]
    levels = {}
    assert remaining(levels, charges, "stream_seconds", 0) == 100
    admit(levels, [charge(day, 450)], 0)
    assert remaining(levels, charges, "stream_seconds", 0) == 50
    assert remaining(levels, charges, "llm_tokens", 0) is None


# Several at once


class Reservations(RuleBasedStateMachine):
    """Random permits over three limits of two subjects: all or nothing, and what is held is what is open."""

    permits = Bundle("permits")

    @initialize(amounts=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)))
    def start(self, amounts):
        self.limits = [
            Limit("requests", amounts[0], per="second"),
            Limit("audio_seconds", amounts[1], per="day"),
            Limit("concurrency", amounts[2]),
        ]
        self.levels: dict[Slot, Level] = {}
        self.now = 0
        self.open: list[dict[Slot, Hold]] = []

    @rule(microseconds=st.integers(0, 40 * SECOND))
    def wait(self, microseconds):
        self.now += microseconds

    @rule(
        target=permits,
        wanted=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 3)), max_size=4),
    )
    def reserve(self, wanted):
        charges = [Charge(subject, self.limits[index], amount) for subject, index, amount in wanted]
        before = dict(self.levels)
        outcome = reserve(self.levels, charges, self.now)
        assert self.levels == before
        if isinstance(outcome, Denial):
            self.check(outcome, charges)
            return None
        changed, holds = outcome
        assert changed.keys() == holds.keys()
        self.levels.update(changed)
        self.open.append(holds)
        return holds

    def check(self, denial, charges):
        """A denial is true: the charge does not fit now, and does as soon as it says."""
        single = [denial.charge]
        assert isinstance(reserve(self.levels, single, self.now), Denial)
        total = sum(
            one.amount for one in charges if (one.subject, one.limit) == (denial.charge.subject, denial.charge.limit)
        )
        assert denial.charge.amount <= total
        if denial.retry_after is not None:
            later = self.now + round(denial.retry_after * SECOND)
            assert later > self.now
            assert not isinstance(reserve(self.levels, single, later), Denial)
            assert isinstance(reserve(self.levels, charges, later - 1), Denial)

    @rule(holds=consumes(permits), used=st.integers(0, 6))
    def settle(self, holds, used):
        if holds is None:
            return
        for slot, hold in holds.items():
            self.levels[slot] = settle(self.levels.get(slot), hold, used, self.now)
        self.open.remove(holds)

    @rule()
    def forget(self):
        self.levels = {slot: level for slot, level in self.levels.items() if idle_at(level) > self.now}

    @precondition(lambda self: hasattr(self, "open"))
    @invariant()
    def held_is_what_is_open(self):
        held: dict[Slot, int] = {}
        for holds in self.open:
            for slot, (_, amount, _) in holds.items():
                held[slot] = held.get(slot, 0) + amount
        for slot, (limit, value, _) in self.levels.items():
            if limit.unit == "concurrency":
                assert value == held.get(slot, 0) <= limit.amount


TestReservations = Reservations.TestCase


def test_charges_for_one_limit_add_up():
    limit = Limit("requests", 3, per="minute")
    denial = deny({}, [charge(limit, 2), charge(limit, 2)], 0)
    assert denial == Denial(charge(limit, 4), None)
    holds = admit({}, [charge(limit, 2), charge(limit, 1)], 0)
    assert [hold[1] for hold in holds.values()] == [3]


def test_the_denial_that_matters_most():
    """Never, before latest, before nobody knows when."""
    second, hour, at_once = (
        Limit("requests", 1, per="second"),
        Limit("requests", 1, per="hour"),
        Limit("concurrency", 1),
    )
    levels = {}
    admit(levels, [charge(second), charge(hour), charge(at_once)], 0)
    assert deny(levels, [charge(at_once), charge(second)], 0).charge.limit == second
    assert deny(levels, [charge(second), charge(hour), charge(at_once)], 0).charge.limit == hour
    assert deny(levels, [charge(second, 2), charge(hour), charge(at_once)], 0) == Denial(charge(second, 2), None)
    assert deny(levels, [charge(at_once)], 0) == Denial(charge(at_once), None)

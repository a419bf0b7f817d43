"""Quota arithmetic. GCRA is checked against its definition: what was kept, admitted one by one by a textbook GCRA."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from keypool_asgi.core.limits import (
    Charge,
    Denial,
    Hold,
    Level,
    Limit,
    Slot,
    quota_exceeded,
    reserve,
    sentence,
    settle,
    unused,
)
from keypool_asgi.errors import ConfigurationError, QuotaExceeded

SECOND = 10**9
WINDOWS = ("second", "minute", "hour", "day")

windowed = st.builds(Limit, st.just("requests"), st.integers(1, 10**6), st.sampled_from(WINDOWS))
held = st.builds(Limit, st.just("concurrency"), st.integers(1, 100))
instants = st.integers(0, 10**18)


def charge(limit: Limit, amount: int = 1, subject: str = "team:a") -> Charge:
    return Charge(subject, limit, amount)


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


# Values


@pytest.mark.parametrize(
    ("unit", "amount", "per"),
    [
        ("tokens", 1, "minute"),
        ("requests", 1, None),
        ("requests", 1, "week"),
        ("concurrency", 1, "minute"),
        ("requests", 0, "minute"),
        ("requests", -1, "minute"),
        ("requests", 1.5, "minute"),
        ("requests", True, "minute"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(unit, amount, per):
    with pytest.raises(ConfigurationError, match="Limit"):
        Limit(unit, amount, per)


def test_a_negative_charge_is_refused():
    with pytest.raises(ConfigurationError, match="Charge"):
        charge(Limit("concurrency", 1), -1)


@given(st.lists(windowed | held, unique=True, max_size=20))
def test_labels_tell_limits_apart(limits):
    assert len({limit.label for limit in limits}) == len(limits)


def test_derived_fields_are_not_part_of_the_value():
    assert Limit("requests", 5, per="minute") == Limit("requests", 5, "minute")
    assert repr(Limit("requests", 5, per="minute")) == "Limit(unit='requests', amount=5, per='minute')"


# Per window


@given(windowed, instants)
def test_a_whole_amount_may_come_at_once_and_no_more(limit, now):
    levels = {}
    admit(levels, [charge(limit, limit.amount)], now)
    denial = deny(levels, [charge(limit)], now)
    assert denial.retry_after == pytest.approx(limit.window / limit.amount / SECOND, abs=1e-9)


@given(windowed, instants)
def test_after_one_window_everything_is_back(limit, now):
    levels = {}
    for _ in range(3):
        admit(levels, [charge(limit, limit.amount)], now)
        now += limit.window


@given(windowed, instants, st.data())
def test_retry_after_is_exact_to_the_nanosecond(limit, now, data):
    levels = {}
    first = data.draw(st.integers(1, limit.amount))
    second = data.draw(st.integers(limit.amount - first + 1, limit.amount))
    admit(levels, [charge(limit, first)], now)
    denial = deny(levels, [charge(limit, second)], now)
    wait = round(denial.retry_after * SECOND)
    deny(levels, [charge(limit, second)], now + wait - 1)
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


def test_a_hold_far_back_in_the_queue_has_not_drained():
    limit = Limit("requests", 60, per="minute")
    levels = {}
    admit(levels, [charge(limit, 59)], 0)
    [(slot, hold)] = admit(levels, [charge(limit)], 0).items()
    levels[slot] = settle(levels[slot], hold, 0, 30 * SECOND)
    admit(levels, [charge(limit, 31)], 30 * SECOND)
    deny(levels, [charge(limit)], 30 * SECOND)


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
    assert unused(levels.pop(slot), 0)
    levels[slot] = settle(None, hold, 10, 0)
    deny(levels, [charge(limit)], 0)


@given(windowed, instants)
def test_a_negative_use_counts_as_none(limit, now):
    levels = {}
    [(slot, hold)] = admit(levels, [charge(limit)], now).items()
    assert settle(levels[slot], hold, -5, now) == settle(levels[slot], hold, 0, now)


@given(windowed, instants)
def test_unused_once_drained(limit, now):
    levels = {}
    [(slot, hold)] = admit(levels, [charge(limit, limit.amount)], now).items()
    level = settle(levels[slot], hold, limit.amount, now)
    assert not unused(levels[slot], now + limit.window)
    assert not unused(level, now + limit.window - 1)
    assert unused(level, now + limit.window)


class Textbook:
    """GCRA as ITU-T I.371 has it, in exact seconds, without any giving back."""

    def __init__(self, limit: Limit) -> None:
        self.step = Fraction(limit.window, limit.amount)
        self.window = limit.window
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


# Several at once


class Reservations(RuleBasedStateMachine):
    """Random permits over three limits of two subjects: all or nothing, and what is held is what is open."""

    permits = Bundle("permits")

    @initialize(amounts=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)))
    def start(self, amounts):
        self.limits = [
            Limit("requests", amounts[0], per="second"),
            Limit("requests", amounts[1], per="minute"),
            Limit("concurrency", amounts[2]),
        ]
        self.levels: dict[Slot, Level] = {}
        self.now = 0
        self.open: list[dict[Slot, Hold]] = []

    @rule(nanoseconds=st.integers(0, 40 * SECOND))
    def wait(self, nanoseconds):
        self.now += nanoseconds

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
        self.levels = {slot: level for slot, level in self.levels.items() if not unused(level, self.now)}

    @precondition(lambda self: hasattr(self, "open"))
    @invariant()
    def held_is_what_is_open(self):
        held: dict[Slot, int] = {}
        for holds in self.open:
            for slot, (_, amount, _, _) in holds.items():
                held[slot] = held.get(slot, 0) + amount
        for slot, (limit, amount, _, _) in self.levels.items():
            assert amount == held.pop(slot, 0)
            assert limit.window or amount <= limit.amount
        assert not any(held.values())


TestReservations = Reservations.TestCase


def test_charges_for_one_limit_add_up():
    limit = Limit("requests", 3, per="minute")
    denial = deny({}, [charge(limit, 2), charge(limit, 2)], 0)
    assert denial == Denial(charge(limit, 4), None)
    holds = admit({}, [charge(limit, 2), charge(limit, 1)], 0)
    assert [hold[1] for hold in holds.values()] == [3]


def test_the_denial_that_matters_most():
    """Never, before latest, before nobody knows when."""
    second, day, at_once = Limit("requests", 1, per="second"), Limit("requests", 1, per="day"), Limit("concurrency", 1)
    levels = {}
    admit(levels, [charge(second), charge(day), charge(at_once)], 0)
    assert deny(levels, [charge(at_once), charge(second)], 0).charge.limit == second
    assert deny(levels, [charge(second), charge(day), charge(at_once)], 0).charge.limit == day
    assert deny(levels, [charge(second, 2), charge(day), charge(at_once)], 0) == Denial(charge(second, 2), None)
    assert deny(levels, [charge(at_once)], 0) == Denial(charge(at_once), None)


# What the caller reads


@pytest.mark.parametrize(
    ("denial", "expected"),
    [
        (
            Denial(charge(Limit("requests", 600, per="minute")), 1.2),
            "Limit of 600 requests per minute is used up; it frees in 2 seconds.",
        ),
        (
            Denial(charge(Limit("requests", 1, per="second")), 0.0001),
            "Limit of 1 request per second is used up; it frees in 1 second.",
        ),
        (
            Denial(charge(Limit("requests", 2, per="hour")), 119.5),
            "Limit of 2 requests per hour is used up; it frees in 2 minutes.",
        ),
        (
            Denial(charge(Limit("requests", 2, per="day")), 119),
            "Limit of 2 requests per day is used up; it frees in 119 seconds.",
        ),
        (
            Denial(charge(Limit("requests", 2, per="day")), 43_200),
            "Limit of 2 requests per day is used up; it frees in 12 hours.",
        ),
        (
            Denial(charge(Limit("requests", 2, per="day")), None),
            "Limit of 2 requests per day is used up; it frees later.",
        ),
        (
            Denial(charge(Limit("concurrency", 5)), None),
            "Limit of 5 concurrent requests is used up; it frees when one of them ends.",
        ),
        (
            Denial(charge(Limit("concurrency", 1)), None),
            "Limit of 1 concurrent request is used up; it frees when that one ends.",
        ),
        (
            Denial(charge(Limit("requests", 3, per="minute"), 5), None),
            "Limit of 3 requests per minute is too small for this request, which needs 5.",
        ),
    ],
)
def test_sentences(denial, expected):
    assert sentence(denial) == expected
    answer = quota_exceeded(denial)
    assert isinstance(answer, QuotaExceeded)
    assert (answer.sentence, answer.retry_after) == (expected, denial.retry_after)


def test_a_sentence_does_not_name_the_team():
    assert "team" not in sentence(Denial(charge(Limit("concurrency", 1), subject="team:secret-project"), None))

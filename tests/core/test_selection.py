"""Who is chosen, who is passed over, and what is said when nobody can serve."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keypool_asgi.core.health import Health, State, sound
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.selection import Need, Offer, Unavailable, choose
from keypool_asgi.errors import ConfigurationError

NOW = 1000.0
API = Need("api")
DOUBTFUL = Health(doubtful_until=NOW + 1)
RAMP = Health(State.RAMP, 2, NOW + 9, limit=2)


def cooling(seconds: float, *, probe: float | None = None) -> Health:
    return Health(State.COOLING, 1, NOW + seconds, probe=probe)


@dataclass
class Thing:
    """A subject."""

    health: Health = Health()  # noqa: RUF009 - frozen
    in_flight: int = 0


@dataclass
class Card:
    """A candidate."""

    key: UpstreamKey
    in_flight: int = 0
    own: Thing = field(default_factory=Thing)
    account: Thing = field(default_factory=Thing)
    elsewhere: int = 0

    @property
    def subjects(self) -> Sequence[Thing]:
        return (self.own, self.account)

    @property
    def sound(self) -> bool:
        return sound(self.own.health) and sound(self.account.health)


def card(id_: str, in_flight: int = 0, own: Health | None = None, account: Thing | None = None, **key: object) -> Card:
    made = UpstreamKey(id_, f"secret-{id_}", **key)  # type: ignore[arg-type]
    return Card(made, in_flight, Thing(own or Health()), account or Thing())


def chosen(cards: list[Card], need: Need = API, seed: int = 0) -> str:
    found = choose(cards, need, NOW, Random(seed))
    assert isinstance(found, Card), found
    return found.key.id


def refused(cards: list[Card], need: Need = API) -> Unavailable:
    found = choose(cards, need, NOW, Random(0))
    assert isinstance(found, Unavailable)
    return found


def test_least_in_flight_by_weight() -> None:
    assert chosen([card("a", 3), card("b", 2), card("c", 4)]) == "b"
    assert chosen([card("a", 2), card("b", 5, weight=3)]) == "b"


def test_priority_before_balance_and_overflow_when_it_is_full() -> None:
    assert chosen([card("a", 9), card("b", priority=1)]) == "a"
    assert chosen([card("a", 9, max_in_flight=9), card("b", priority=1)]) == "b"


def test_ties_are_spread_evenly_and_by_the_seed() -> None:
    cards = [card("a"), card("b"), card("c"), card("d")]
    random = Random(7)
    counts = Counter(found.key.id for _ in range(4000) if isinstance(found := choose(cards, API, NOW, random), Card))
    assert all(900 < count < 1100 for count in counts.values())
    assert len(counts) == 4
    assert [chosen(cards, seed=5) for _ in range(3)] == [chosen(cards, seed=5)] * 3


def test_filters() -> None:
    cards = [card("us-1", project="p"), card("eu-1", region="eu"), card("us-2", 9)]
    assert chosen(cards, Need("api", regions=frozenset({"eu"}))) == "eu-1"
    assert chosen(cards, Need("api", project="p")) == "us-1"
    assert chosen(cards, Need("api", tried=frozenset({"us-1", "eu-1"}))) == "us-2"


def test_every_subject_must_be_open() -> None:
    assert chosen([card("a", account=Thing(cooling(1))), card("b", 5)]) == "b"
    assert chosen([card("a", own=cooling(1)), card("b", 5)]) == "b"
    assert chosen([card("a", account=Thing(RAMP, 2)), card("b", 5)]) == "b"
    assert chosen([card("a", account=Thing(RAMP, 1)), card("b", 5)]) == "a"


def test_a_key_whose_time_is_over_is_probed() -> None:
    assert chosen([card("a", own=cooling(0)), card("b", 1)]) == "a"
    assert chosen([card("a", own=cooling(-5, probe=NOW + 50)), card("b", 1)]) == "b"
    assert chosen([card("a", own=cooling(-60, probe=NOW)), card("b", 1)]) == "a"


def test_what_cannot_be_repeated_prefers_proven_keys_above_priority() -> None:
    need = Need("api", proven=True)
    cards = [card("new", own=DOUBTFUL), card("busy", 50, priority=3)]
    assert chosen(cards) == "new"
    assert chosen(cards, need) == "busy"
    assert chosen([card("new", own=DOUBTFUL), card("newer", own=DOUBTFUL, priority=1)], need) == "new"
    assert chosen([card("a", 5), card("b", 2), card("c", own=DOUBTFUL)], need) == "b"
    assert chosen([card("a", account=Thing(DOUBTFUL)), card("b", 2)], need) == "b"


def test_nothing_fits() -> None:
    assert refused([]) == Unavailable(fits=False)
    assert refused([card("a")], Need("api", project="other")) == Unavailable(fits=False)
    assert refused([card("a")], Need("api", regions=frozenset({"eu"}))) == Unavailable(fits=False)


def test_retry_after_is_the_first_key_by_its_last_subject() -> None:
    cards = [
        card("a", own=cooling(3), account=Thing(cooling(20))),
        card("b", own=cooling(300), account=Thing(cooling(2))),
    ]
    assert refused(cards) == Unavailable(fits=True, wait=20, retry_after=20)


def test_retry_after_counts_tried_keys_but_waiting_for_them_is_no_use() -> None:
    cards = [card("a", own=cooling(3)), card("b", own=cooling(30))]
    found = refused(cards, Need("api", tried=frozenset({"a"})))
    assert found == Unavailable(fits=True, wait=30, retry_after=3)
    assert refused([card("a")], Need("api", tried=frozenset({"a"}))) == Unavailable(fits=True, retry_after=0)


def test_a_tried_key_that_is_busy_may_be_free_for_a_repeat_at_any_moment() -> None:
    cards = [card("a", 1, max_in_flight=1), card("b", own=cooling(30))]
    assert refused(cards, Need("api", tried=frozenset({"a"}))) == Unavailable(fits=True, wait=30)


def test_busy_keys_are_worth_waiting_for_and_nobody_knows_how_long() -> None:
    assert refused([card("a", 2, max_in_flight=2)]) == Unavailable(fits=True, busy=True)
    ramp = refused([card("a", account=Thing(RAMP, 2)), card("b", own=cooling(3))])
    assert ramp == Unavailable(fits=True, busy=True, wait=3)
    probing = refused([card("a", own=cooling(-1, probe=NOW + 50))])
    assert probing == Unavailable(fits=True, busy=True, wait=50)


def test_a_full_key_whose_account_cools_is_not_worth_waiting_for() -> None:
    cards = [card("a", 2, max_in_flight=2, account=Thing(cooling(300))), card("b", own=cooling(400))]
    assert refused(cards) == Unavailable(fits=True, wait=400, retry_after=400)


def test_an_operators_choice_among_those_that_can_serve() -> None:
    cards = [card("a", own=cooling(1)), card("b", 3, own=DOUBTFUL, weight=2), card("c", own=cooling(-1))]
    seen: list[Sequence[Offer]] = []

    def last(offers: Sequence[Offer], need: Need) -> str:
        seen.append(offers)
        assert need is API
        return offers[-1].id

    found = choose(cards, API, NOW, Random(0), last)
    assert found is cards[2]
    assert seen == [
        [
            Offer("b", "b", "b", "us", 2, 0, 3, proven=False, probing=False),
            Offer("c", "c", "c", "us", 1, 0, 0, proven=True, probing=True),
        ]
    ]


def test_an_operators_choice_may_be_left_to_the_pool() -> None:
    assert choose(cards := [card("a", 1), card("b")], API, NOW, Random(0), lambda offers, need: None) is cards[1]


def test_an_operators_choice_is_not_asked_without_offers() -> None:
    def never(offers: Sequence[Offer], need: Need) -> str:
        raise AssertionError

    assert isinstance(choose([card("a", own=cooling(1))], API, NOW, Random(0), never), Unavailable)


def test_an_operators_choice_of_something_else_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="select"):
        choose([card("a"), card("b", own=cooling(1))], API, NOW, Random(0), lambda offers, need: "b")


healths = st.sampled_from([Health(), DOUBTFUL, RAMP, cooling(4), cooling(-4), cooling(-4, probe=NOW + 9)])
things = st.builds(Thing, healths, st.integers(0, 3))
cards_of = st.builds(
    lambda n, in_flight, region, weight, priority, limit, own, account: Card(
        UpstreamKey(f"k{n}", "s", region=region, weight=weight, priority=priority, max_in_flight=limit),
        in_flight,
        own,
        account,
    ),
    st.integers(0, 3),
    st.integers(0, 4),
    st.sampled_from(["us", "eu"]),
    st.sampled_from([1, 2, 0.5]),
    st.integers(0, 2),
    st.sampled_from([None, 2]),
    things,
    things,
)
needs = st.builds(
    Need,
    st.just("api"),
    st.sampled_from([None, frozenset({"us"}), frozenset({"eu"})]),
    st.sampled_from([None, "k0", "k1"]),
    st.frozensets(st.sampled_from(["k0", "k1", "k2"]), max_size=2),
    st.booleans(),
)


def able(one: Card, need: Need, now: float) -> bool:
    """The definition, spelled out another way than in the code."""
    room = one.key.max_in_flight is None or one.in_flight < one.key.max_in_flight
    region = need.regions is None or one.key.region in need.regions
    project = need.project in (None, one.key.project)
    return room and region and project and one.key.id not in need.tried and all(open_at(s, now) for s in one.subjects)


def open_at(thing: Thing, now: float) -> bool:
    health = thing.health
    if health.state is State.RAMP:
        return thing.in_flight < health.limit or now >= health.until
    return health.state is State.ACTIVE or (now >= health.until and now >= (health.probe or -inf))


@settings(deadline=None)
@given(st.lists(cards_of, max_size=6), needs, st.integers(0, 9))
def test_the_choice_can_serve_and_nobody_better_could(cards: list[Card], need: Need, seed: int) -> None:
    found = choose(cards, need, NOW, Random(seed))
    could = [one for one in cards if able(one, need, NOW)]
    if isinstance(found, Unavailable):
        assert not could
        return
    assert found in could
    in_doubt = {id(one): need.proven and any(s.health is DOUBTFUL for s in one.subjects) for one in could}
    for one in could:
        assert in_doubt[id(found)] <= in_doubt[id(one)]
        if in_doubt[id(found)] == in_doubt[id(one)]:
            assert found.key.priority <= one.key.priority
            if found.key.priority == one.key.priority:
                assert (found.in_flight + 1) / found.key.weight <= (one.in_flight + 1) / one.key.weight


@settings(deadline=None)
@given(st.lists(cards_of, max_size=6), needs)
def test_what_a_refusal_says_is_true(cards: list[Card], need: Need) -> None:
    found = choose(cards, need, NOW, Random(0))
    if not isinstance(found, Unavailable):
        return
    again = Need(need.service, need.regions, need.project)
    assert found.fits == any(able(Card(one.key), Need("api", need.regions, need.project), NOW) for one in cards)
    if found.wait is not None:
        assert any(able(one, need, NOW + found.wait) for one in cards)
    if found.retry_after is not None:
        assert any(able(one, again, NOW + found.retry_after) for one in cards)
        assert found.retry_after == 0 or not any(able(one, again, NOW + found.retry_after - 0.5) for one in cards)
    if not found.busy and found.wait is None:
        assert not any(able(one, need, NOW + 3600) for one in cards)

"""Any history of leases, verdicts, passing time and changing keys leaves the pool true to its promises."""

import asyncio
from collections import Counter
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keypool_asgi.core.health import Health, HealthPolicy, Scope, State, sound
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.selection import Need
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import NoAvailableKeys
from keypool_asgi.stores.pool import Pool
from keypool_asgi.stores.roster import KeyLease, Subject

POLICY = HealthPolicy(ramp_end=4, retry_after_max_seconds=120)
LONGEST = POLICY.exhausted_seconds + POLICY.probe_seconds
KEYS = {
    "a1": ("A", "us", 0),
    "a2": ("A", "us", 0),
    "b1": ("B", "eu", 0),
    "b2": ("B", "us", 1),
    "c1": ("C", "us", 1),
}
ids = st.sampled_from(sorted(KEYS))
services = st.sampled_from(["api", "llm_gateway"])


def make(id_: str, version: int = 1, limit: int | None = None) -> UpstreamKey:
    account, region, priority = KEYS[id_]
    return UpstreamKey(
        id_,
        f"secret-{version}",
        project=id_ if account == "C" else f"{account}-{region}",
        account=account,
        region=region,
        priority=priority,
        max_in_flight=limit,
    )


class PoolMachine(RuleBasedStateMachine):
    """Plays the callers, upstream, the operator and the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = 0.0
        self.keys = {id_: make(id_, limit=2 if id_ == "a1" else None) for id_ in KEYS}
        self.leases: list[KeyLease] = []
        # What upstream would answer now.
        self.refused: set[UpstreamKey] = set()
        self.accounts: dict[str, Fault] = {}
        self.pool = Pool(self.listed, policy=POLICY, wait_seconds=0, clock=lambda: self.now, random=Random(3))
        self.runner.run(self.pool.refresh())

    async def listed(self) -> list[UpstreamKey]:
        return list(self.keys.values())

    def teardown(self) -> None:
        try:
            self.every_key_that_heals_serves_again()
        finally:
            self.runner.close()

    # What happens.

    @rule(service=services, proven=st.booleans(), region=st.sampled_from([None, "us", "eu"]), tried=st.sets(ids))
    def lease(self, service: str, proven: bool, region: str | None, tried: set[str]) -> None:
        need = Need(service, frozenset({region}) if region else None, None, frozenset(tried), proven)
        before = Counter(lease.key.id for lease in self.leases if lease.seat.slot.listed)
        able = self.able(need)
        lease = self.ask(need)
        assert (lease is not None) == bool(able)
        if lease is None:
            return
        assert lease.key in able
        if not proven:
            self.is_the_best(lease.key, able, before)
        if lease.key.max_in_flight is not None:
            assert before[lease.key.id] < lease.key.max_in_flight

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0), retry_after=st.sampled_from([None, 0, 30, 9999]))
    def answered(self, which: int, retry_after: float | None) -> None:
        lease = self.leases.pop(which % len(self.leases))
        self.give_back(lease, Verdict(self.upstream_says(lease.key), retry_after))

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0), fault=st.sampled_from(Fault), certain=st.booleans())
    def ended_in_any_way(self, which: int, fault: Fault, certain: bool) -> None:
        lease = self.leases.pop(which % len(self.leases))
        self.give_back(lease, Verdict(fault, certain=certain))
        self.give_back(lease, Verdict(fault))

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0))
    def told_early(self, which: int) -> None:
        lease = self.leases[which % len(self.leases)]
        self.pool.judge(lease, Verdict(self.upstream_says(lease.key)))

    @rule(seconds=st.sampled_from([0.1, 1, 5, 31, 61, 301]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(id_=ids, version=st.integers(1, 2), limit=st.sampled_from([None, 1, 2]))
    def key_is_listed(self, id_: str, version: int, limit: int | None) -> None:
        self.keys[id_] = make(id_, version, limit)
        self.runner.run(self.pool.refresh())

    @rule(id_=ids)
    def key_is_removed(self, id_: str) -> None:
        self.keys.pop(id_, None)
        self.runner.run(self.pool.refresh())

    @rule(id_=ids)
    def upstream_refuses_a_key(self, id_: str) -> None:
        self.refused |= {self.keys[id_]} if id_ in self.keys else set()

    @rule(account=st.sampled_from("ABC"), fault=st.sampled_from([Fault.THROTTLED, Fault.EXHAUSTED]))
    def upstream_stops_an_account(self, account: str, fault: Fault) -> None:
        self.accounts[account] = fault

    @rule()
    def upstream_heals(self) -> None:
        self.refused.clear()
        self.accounts.clear()

    @rule(service=services)
    def retry_after_is_true(self, service: str) -> None:
        try:
            self.leases.append(self.runner.run(self.pool.lease(Need(service))))
        except NoAvailableKeys as refusal:
            if refusal.retry_after is None:
                assert not self.keys or self.somebody_is_busy(service)
                return
            if refusal.retry_after > 1:
                self.now += refusal.retry_after - 1
                assert self.ask(Need(service)) is None, "retry_after was too long"
                self.now += 1
            else:
                self.now += refusal.retry_after
            self.now += 1e-6
            assert self.ask(Need(service)) is not None, "retry_after was too short"

    # What always holds.

    @invariant()
    def leases_are_counted(self) -> None:
        shown = self.pool.snapshot()
        assert self.pool.in_flight == len(self.leases) == sum(one.in_flight for one in shown)
        counts = Counter(lease.seat.slot for lease in self.leases)
        for slot in counts:
            assert slot.in_flight == counts[slot]

    @invariant()
    def the_list_is_the_list(self) -> None:
        shown = self.pool.snapshot()
        assert {one.id for one in shown if one.listed} == set(self.keys)
        assert all(one.in_flight > 0 for one in shown if not one.listed)

    @invariant()
    def subjects_count_the_leases_of_their_epoch(self) -> None:
        for subject in self.subjects():
            mine = [taken for taken in self.taken_of(subject) if taken.epoch == subject.health.epoch]
            assert 0 <= subject.in_flight <= len(mine)
            assert subject.in_flight == len(mine) or sound(subject.health)

    @invariant()
    def seats_know_how_their_subjects_stand(self) -> None:
        for seats in self.pool._roster._seats.values():
            for seat in seats:
                assert seat.healths == tuple(subject.health for subject in seat.subjects)
                assert seat.sound == all(sound(health) for health in seat.healths)

    @invariant()
    def one_probe_at_a_time(self) -> None:
        for subject in self.subjects():
            probes = [
                taken
                for taken in self.taken_of(subject)
                if taken.epoch == subject.health.epoch and taken.probe is not None and taken.probe > self.now
            ]
            assert len(probes) <= 1

    # How it is checked.

    def ask(self, need: Need) -> KeyLease | None:
        try:
            lease = self.runner.run(self.pool.lease(need))
        except NoAvailableKeys:
            return None
        self.leases.append(lease)
        return lease

    def give_back(self, lease: KeyLease, verdict: Verdict) -> None:
        self.runner.run(self.pool.give_back(lease, verdict))

    def upstream_says(self, key: UpstreamKey) -> Fault:
        return Fault.REJECTED if key in self.refused else self.accounts.get(key.account, Fault.NONE)

    def subjects(self) -> list[Subject]:
        return list(self.pool._roster._subjects.values())

    def taken_of(self, subject: Subject) -> list[Health]:
        pairs = (pair for lease in self.leases for pair in zip(lease.seat.subjects, lease.taken, strict=True))
        return [taken for one, taken in pairs if one is subject]

    def able(self, need: Need) -> list[UpstreamKey]:
        """The keys that can serve, by the snapshot that operators see."""
        self.pool._roster.seats(need.service, self.now)
        return [
            self.keys[one.id]
            for one in self.pool.snapshot()
            if one.listed
            and one.id not in need.tried
            and (need.regions is None or one.region in need.regions)
            and one.health[need.service].opens_in == 0
            and one.in_flight < (self.keys[one.id].max_in_flight or 10**9)
        ]

    def is_the_best(self, key: UpstreamKey, able: list[UpstreamKey], before: Counter[str]) -> None:
        assert key.priority == min(one.priority for one in able)
        assert before[key.id] == min(before[one.id] for one in able if one.priority == key.priority)

    def somebody_is_busy(self, service: str) -> bool:
        seats = self.pool._roster.seats(service, self.now)
        full = any(seat.in_flight >= (seat.key.max_in_flight or 10**9) for seat in seats)
        states = {subject.health.state for seat in seats for subject in seat.subjects}
        return full or State.RAMP in states or any(s.health.probe is not None for seat in seats for s in seat.subjects)

    def every_key_that_heals_serves_again(self) -> None:
        self.upstream_heals()
        for lease in self.leases:
            self.give_back(lease, Verdict(Fault.UNRELATED))
        self.leases.clear()
        self.now += LONGEST
        for service in ("api", "llm_gateway"):
            for id_ in self.keys:
                need = Need(service, tried=frozenset(set(KEYS) - {id_}))
                for _ in range(3):
                    assert self.ask(need) is not None, f"{id_} is still down"
                    self.give_back(self.leases.pop(), Verdict(Fault.NONE))
        healths = [subject.health for subject in self.subjects() if subject.scope is not Scope.PROJECT]
        assert all(health.state in (State.ACTIVE, State.RAMP) for health in healths)
        assert all(health.strikes == 0 for health in healths if health.state is State.ACTIVE)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

"""Who is in the pool: the records of keys, of what they belong to and of leases, as the key list changes.

A lease holds on to the records that it was taken from, not to ids. So a key that is removed or replaced meanwhile
needs no care: its leases end on the old records, which are forgotten with the last of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf

from keypool_asgi.core.health import Health, HealthPolicy, Scope, State, fresh, opens_at, sound
from keypool_asgi.core.keys import UpstreamKey

__all__ = ["KeyLease", "KeySnapshot", "Roster", "Seat", "ServiceHealth", "Slot", "Subject"]

_LOG = logging.getLogger("keypool_asgi.pool")


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """How a key stands at one service.

    Attributes:
        state: the state of the subject that keeps the key back longest.
        scope: which subject that is.
        opens_in: seconds until the key can serve for certain, 0 when it can.
        probing: whether a lease is out that finds out if the subject is healthy again.
    """

    state: State
    scope: Scope
    opens_in: float
    probing: bool


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """One key of the pool at one moment; holds no secret.

    Attributes:
        id: printable name of the key.
        project: what its data belongs to.
        account: what its limits belong to.
        region: data zone.
        in_flight: leases that are out, over all services.
        listed: False for a key that was removed or replaced and whose last leases are still out.
        health: by service, for the services that were asked for since the list last changed.
        elsewhere: leases that other processes have out, as far as they tell.
    """

    id: str
    project: str
    account: str
    region: str
    in_flight: int
    listed: bool
    health: Mapping[str, ServiceHealth]
    elsewhere: int = 0


class Subject:
    """A key, project or account at one service, with the leases of its present epoch.

    Attributes:
        in_flight: leases of its present epoch that are out. Those of sound seats are not counted.
        seats: the keys that it is a subject of, at its service; they are told when its health changes.
        since: the moment at which its present epoch began, here or in the process that found it out.
        heard: id of the last news that was heard of it.
    """

    __slots__ = ("health", "heard", "in_flight", "name", "scope", "seats", "service", "since")

    def __init__(self, scope: Scope, name: str, service: str, health: Health) -> None:
        self.scope = scope
        self.name = name
        self.service = service
        self.health = health
        self.in_flight = 0
        self.seats: list[Seat] = []
        self.since = -inf
        self.heard = ""

    def become(self, health: Health, now: float, *, since: float | None = None) -> None:
        """Take on another health. A new epoch starts without leases of its own, now or at the moment ``since``."""
        before, self.health = self.health, health
        if health.epoch != before.epoch:
            self.in_flight = 0
            self.since = now if since is None else since
        for seat in self.seats:
            seat.look()
        if health.state is not before.state:
            self._report(now)

    def opens_at(self) -> float:
        """The moment from which it takes a lease for certain."""
        return opens_at(self.health, self.in_flight)

    def _report(self, now: float) -> None:
        state, about = self.health.state, (self.scope.value, self.name, self.health.state.value, self.service)
        if state in (State.ACTIVE, State.RAMP):
            _LOG.info("%s %s is %s at %s", *about)
        else:
            _LOG.warning("%s %s is %s at %s; it is tried again in %.1f s", *about, self.health.until - now)


class Slot:
    """A key, over all services. ``elsewhere`` is what other processes tell that they have out of it."""

    __slots__ = ("elsewhere", "in_flight", "key", "listed")

    def __init__(self, key: UpstreamKey) -> None:
        self.key = key
        self.in_flight = 0
        self.elsewhere = 0
        self.listed = True


class Seat:
    """A key as seen from one service: a ``Candidate``.

    Attributes:
        healths: how its subjects stand, as a lease remembers it.
        sound: whether all of them are sound (``core.health``, rule 8): what is left to ask then is next to nothing.
    """

    __slots__ = ("healths", "key", "slot", "sound", "subjects")

    healths: tuple[Health, ...]
    sound: bool

    def __init__(self, slot: Slot, subjects: tuple[Subject, ...]) -> None:
        self.key = slot.key
        self.slot = slot
        self.subjects = subjects
        for subject in subjects:
            subject.seats.append(self)
        self.look()

    def look(self) -> None:
        """Look at the subjects again: one of them has changed."""
        self.healths = tuple([subject.health for subject in self.subjects])
        self.sound = all(map(sound, self.healths))

    @property
    def in_flight(self) -> int:
        """Leases of the key that are out, over all services."""
        return self.slot.in_flight

    @property
    def elsewhere(self) -> int:
        """Leases that other processes have out."""
        return self.slot.elsewhere

    def health(self, now: float) -> ServiceHealth:
        """How the key stands at this service: the health of the subject that opens last."""
        worst = max(self.subjects, key=lambda subject: (subject.opens_at(), subject.health.state is not State.ACTIVE))
        opens_in = max(0.0, worst.opens_at() - now)
        return ServiceHealth(worst.health.state, worst.scope, opens_in, worst.health.probe is not None)


class KeyLease:
    """A key that is checked out for one attempt. All but ``key`` is the pool's business.

    Attributes:
        key: the key.
        seat: the records that it was taken from.
        taken: the health of the seat's subjects at that moment.
        counted: whether the seat was not sound before: its subjects count the lease, and hear of its good end.
        is_out: whether it has not been given back yet.
        proved: whether it has counted as a success already.
    """

    __slots__ = ("counted", "is_out", "key", "proved", "seat", "taken")

    def __init__(self, seat: Seat, *, counted: bool) -> None:
        self.key = seat.key
        self.seat = seat
        self.taken = seat.healths
        self.counted = counted
        self.is_out = True
        self.proved = False

    def __repr__(self) -> str:
        return f"KeyLease({self.key.id!r}, {'out' if self.is_out else 'given back'})"


class Roster:
    """The records of every key that is listed or still has leases out."""

    def __init__(self, policy: HealthPolicy) -> None:
        self._policy = policy
        self._slots: dict[str, Slot] = {}
        self._leaving: list[Slot] = []
        self._subjects: dict[tuple[Scope, str, str], Subject] = {}
        self._seats: dict[str, tuple[Seat, ...]] = {}
        #: Called with every subject that is new here.
        self.met: Callable[[Subject], None] | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def seats(self, service: str, now: float) -> tuple[Seat, ...]:
        """Every listed key as seen from a service."""
        found = self._seats.get(service)
        if found is None:
            found = self._seats[service] = tuple(self._seated(service, now))
        return found

    def slots(self) -> Iterable[Slot]:
        """Every listed key."""
        return self._slots.values()

    def key(self, key_id: str) -> UpstreamKey | None:
        """Return a listed key."""
        slot = self._slots.get(key_id)
        return None if slot is None else slot.key

    def subjects(self) -> Iterable[Subject]:
        """Every key, project and account, at each service that was asked for."""
        return self._subjects.values()

    def install(self, keys: tuple[UpstreamKey, ...]) -> None:
        """Replace the list of keys at once."""
        self._forget_seats()
        before = [*self._slots.values(), *self._leaving]
        self._slots = {key.id: self._slot_for(key, before) for key in keys}
        listed = set(map(id, self._slots.values()))
        self._leaving = [slot for slot in before if id(slot) not in listed and slot.in_flight]
        for slot in self._leaving:
            slot.listed = False
        self._forget_the_unlisted()

    def forget(self, slot: Slot) -> None:
        """Drop a key that is not listed any more; called when its last lease is back."""
        self._leaving.remove(slot)

    def snapshot(self, now: float) -> tuple[KeySnapshot, ...]:
        """Every key as it stands, in the order of the list; those that are only waiting for leases at the end."""
        return tuple(self._snapshot(slot, now) for slot in (*self._slots.values(), *self._leaving))

    def _snapshot(self, slot: Slot, now: float) -> KeySnapshot:
        key = slot.key
        health = {
            service: seat.health(now) for service, seats in self._seats.items() for seat in seats if seat.slot is slot
        }
        return KeySnapshot(
            key.id, key.project, key.account, key.region, slot.in_flight, slot.listed, health, slot.elsewhere
        )

    def _slot_for(self, key: UpstreamKey, before: list[Slot]) -> Slot:
        """The record of a key that was there before, or a new one. Another secret makes another key."""
        for slot in before:
            if slot.key.id == key.id and slot.key.secret == key.secret:
                if slot.key != key or not slot.listed:
                    # Whatever the operator changed may be what upstream refused.
                    self._forget_health_of(key.id)
                slot.key, slot.listed = key, True
                return slot
        self._forget_health_of(key.id)
        return Slot(key)

    def _forget_seats(self) -> None:
        self._seats = {}
        for subject in self._subjects.values():
            subject.seats = []

    def _forget_health_of(self, key_id: str) -> None:
        for name in [name for name in self._subjects if name[:2] == (Scope.KEY, key_id)]:
            del self._subjects[name]

    def _forget_the_unlisted(self) -> None:
        names = {name for slot in self._slots.values() for name in _names(slot.key)}
        self._subjects = {key: subject for key, subject in self._subjects.items() if key[:2] in names}

    def _seated(self, service: str, now: float) -> Iterator[Seat]:
        for slot in self._slots.values():
            yield Seat(slot, tuple(self._subject(scope, name, service, now) for scope, name in _names(slot.key)))

    def _subject(self, scope: Scope, name: str, service: str, now: float) -> Subject:
        found = self._subjects.get((scope, name, service))
        if found is None:
            found = self._subjects[scope, name, service] = Subject(scope, name, service, fresh(now, self._policy))
            if self.met is not None:
                self.met(found)
        return found


def _names(key: UpstreamKey) -> tuple[tuple[Scope, str], ...]:
    return (Scope.KEY, key.id), (Scope.PROJECT, key.project), (Scope.ACCOUNT, key.account)

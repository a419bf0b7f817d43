"""What every ``Ledger`` must do, as tests to subclass (see ``contracts``)."""

# ruff: noqa: S101 - the asserts are the contract

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from keypool_asgi.core.usage import HOUR, Selection, UsageRecord, correction_of, slices, summed
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.ports import Ledger

from .store_contract import StoreContract

__all__ = ["LedgerContract"]

NOON = 1_800_000_000.0 - 1_800_000_000 % 86400 + 12 * HOUR


def record(record_id: str, ended: float = NOON, **facts: Any) -> UsageRecord:
    """Make a record of one request."""
    given: dict[str, Any] = {
        "id": record_id,
        "request_id": record_id,
        "team": "team-a",
        "operation": "transcripts.get",
        "key": "k1",
        "account": "account-1",
        "project": "project-1",
        "started": ended - 1.5,
        "ended": ended,
        "status": 200,
        "used": {"requests": 1},
        "response_bytes": 10,
    }
    return UsageRecord(**(given | facts))


def ids(page: Sequence[UsageRecord]) -> str:
    """Join the ids of a page."""
    return " ".join(one.id for one in page)


class LedgerContract(StoreContract):
    """The behaviour of a ``Ledger``. Subclasses give ``make_store``; it must keep 300 records at least.

    Attributes:
        stories: how many random stories are told to the ledger and to a naive model beside it.
    """

    stories: int = 5

    def test_keeps_records_as_they_are(self) -> None:
        """Every attribute comes back, whatever text is in it."""
        odd = record(
            'it\'s: a \u2603 "quoted" | id',
            NOON + 0.1234567,
            team='team "\u00fc|:{}',
            key=None,
            account=None,
            project=None,
            status=None,
            close_code=4429,
            used={"stream_seconds": 2**49, "cost": 1},
            estimated=True,
            clocked_seconds=1.25,
            request_bytes=2**41,
        )

        async def scenario(ledger: Ledger) -> None:
            assert list(await ledger.append([odd, record("b")])) == [odd, record("b")]
            assert await ledger.find(odd.id) == odd
            assert await ledger.find("c") is None
            assert list(await ledger.page(Selection(), 10)) == [odd, record("b")]
            assert list(await ledger.page(Selection(team=odd.team), 10)) == [odd]

        self.run_with_store(scenario)

    def test_takes_nothing_as_nothing(self) -> None:
        """No records, an empty ledger, a limit of zero."""

        async def scenario(ledger: Ledger) -> None:
            assert list(await ledger.append([])) == []
            assert list(await ledger.page(Selection(), 10)) == []
            assert list(await ledger.sums(Selection())) == []
            await ledger.append([record("a")])
            assert list(await ledger.page(Selection(), 0)) == []

        self.run_with_store(scenario)

    def test_the_first_record_of_an_id_stands(self) -> None:
        """Another one of its id changes nothing; the very same one may be given again after a failure."""
        first = record("a")

        async def scenario(ledger: Ledger) -> None:
            await ledger.append([first])
            other = first._replace(used={"requests": 7})
            assert list(await ledger.append([other, record("b")])) == [record("b")]
            assert list(await ledger.append([first])) == [first]
            assert await ledger.find("a") == first
            (total,) = await ledger.sums(Selection())
            assert total.used["requests"] == 2

        self.run_with_store(scenario)

    def test_a_job_is_settled_once_whoever_polls(self) -> None:
        """Twenty find its figure at the same time: one of their records is kept."""
        job = "transcripts.create:1"
        found = [
            record(correction_of(job), request_id=f"r{number}", used={"audio_seconds": 60}, corrects=job)
            for number in range(20)
        ]

        async def scenario(ledger: Ledger) -> None:
            kept = await asyncio.gather(*(ledger.append([one]) for one in found))
            (winner,) = [one for some in kept for one in some]
            assert await ledger.find(correction_of(job)) == winner
            assert await ledger.knows(correction_of(job))
            assert not await ledger.knows(job)
            (total,) = await ledger.sums(Selection())
            assert total.used["audio_seconds"] == 60

        self.run_with_store(scenario)

    def test_pages_go_from_the_newest_to_the_oldest(self) -> None:
        """Each begins where the one before ended; records of one time are told apart by their ids."""
        records = [record(f"r{number:03}", NOON + number // 4) for number in range(250)]

        async def scenario(ledger: Ledger) -> None:
            await ledger.append(records)
            seen: list[UsageRecord] = []
            while page := await ledger.page(Selection(), 40, seen[-1].place if seen else None):
                assert len(page) <= 40
                seen += page
            assert seen == records[::-1]

        self.run_with_store(scenario)

    def test_a_selection_is_all_of_its_conditions(self) -> None:
        """By team, operation, key and time: at or after ``since``, before ``until``."""

        async def scenario(ledger: Ledger) -> None:
            await ledger.append(
                [
                    record("a", NOON),
                    record("b", NOON + 1, team="team-b"),
                    record("c", NOON + 2, operation="uploads.create"),
                    record("d", NOON + 3, key="k2"),
                    record("e", NOON + HOUR),
                ]
            )
            wanted = {
                "e d c b a": Selection(),
                "e d c a": Selection(team="team-a"),
                "c": Selection(operation="uploads.create"),
                "d": Selection(key="k2"),
                "d c b": Selection(since=NOON + 1, until=NOON + HOUR),
                "d c": Selection(team="team-a", since=NOON + 1, until=NOON + HOUR),
                "e": Selection(team="team-a", operation="transcripts.get", key="k1", since=NOON + 0.5),
                "": Selection(team="team-c"),
            }
            for expected, selection in wanted.items():
                assert ids(await ledger.page(selection, 10)) == expected, selection
            assert ids(await ledger.page(Selection(key="k1"), 2, (NOON + 3, "d"))) == "c b"

        self.run_with_store(scenario)

    def test_sums_are_by_what_is_asked_for(self) -> None:
        """Over all, by one dimension, by two; days and hours as Unix times; bytes are summed too."""

        async def scenario(ledger: Ledger) -> None:
            await ledger.append(
                [
                    record("a", NOON + 1),
                    record("b", NOON + HOUR + 2, used={"requests": 1, "audio_seconds": 30}),
                    record("c", NOON + 13 * HOUR, team="team-b", key=None, used={}, request_bytes=5),
                ]
            )
            everything = {"requests": 2, "audio_seconds": 30, "request_bytes": 5, "response_bytes": 30}
            assert [(one.group, one.used) for one in await ledger.sums(Selection())] == [((), everything)]
            by_team = await ledger.sums(Selection(), ["team"])
            assert [one.group for one in by_team] == [("team-a",), ("team-b",)]
            assert by_team[1].used == {"request_bytes": 5, "response_bytes": 10}
            by_day = await ledger.sums(Selection(), ["day", "key"])
            midnight = int(NOON) - 12 * HOUR
            assert [one.group for one in by_day] == [(str(midnight), "k1"), (str(midnight + 24 * HOUR), "")]
            by_hour = await ledger.sums(Selection(since=NOON, until=NOON + HOUR), ["hour"])
            assert [(one.group, one.used["requests"]) for one in by_hour] == [((str(int(NOON)),), 1)]

        self.run_with_store(scenario)

    def test_sums_of_less_than_an_hour_are_refused(self) -> None:
        """So is a dimension that there is not."""

        async def scenario(ledger: Ledger) -> None:
            for selection, by in ((Selection(since=NOON + 1), ()), (Selection(until=NOON - 1), ()), (Selection(), "x")):
                try:
                    await ledger.sums(selection, by)
                except ConfigurationError:
                    continue
                raise AssertionError(f"{selection} by {by!r} was not refused")

        self.run_with_store(scenario)

    def test_a_duty_is_one_holders(self) -> None:
        """Who has it may keep it. In a ledger that nobody shares, everybody may."""

        async def scenario(ledger: Ledger) -> None:
            assert await ledger.claim("duty", "a", 60)
            others = await ledger.claim("duty", "b", 60)
            assert await ledger.claim("duty", "a" if not others else "b", 60)
            assert await ledger.claim("other", "b", 60)

        self.run_with_store(scenario)

    def test_a_duty_is_free_when_its_time_is_over(self) -> None:
        """Then the first who asks has it."""

        async def scenario(ledger: Ledger) -> None:
            await ledger.claim("duty", "a", 60)
            self.advance(61)
            assert await ledger.claim("duty", "b", 60)

        self.run_with_store(scenario)

    def test_it_adds_up_like_a_naive_model(self) -> None:
        """Random records, appended in random parts, summed and paged by random selections."""
        chance = random.Random(7)  # noqa: S311 - nothing here is a secret
        for _ in range(self.stories):
            self.run_with_store(lambda ledger: _tell(ledger, chance))


async def _tell(ledger: Ledger, chance: random.Random) -> None:
    records = [_any_record(chance, number) for number in range(chance.randint(1, 120))]
    waiting = list(records)
    while waiting:
        size = chance.randint(1, 30)
        await ledger.append(waiting[:size])
        waiting = waiting[size:]
    for _ in range(20):
        selection, by = _any_selection(chance), chance.sample(["team", "operation", "key", "day", "hour"], 2)
        wanted = [one for one in records if selection.has(one)]
        expected = summed(((part, amount) for one in wanted for part, amount in slices(one).items()), by)
        assert list(await ledger.sums(selection, by)) == expected
        newest = sorted(wanted, key=lambda one: one.place, reverse=True)
        assert list(await ledger.page(selection, 7)) == newest[:7]


def _any_record(chance: random.Random, number: int) -> UsageRecord:
    return record(
        f"r{number}",
        NOON + chance.randint(0, 72) * HOUR / 2,
        team=chance.choice(["a", "b", "c"]),
        operation=chance.choice(["o", "p"]),
        key=chance.choice(["k", "l", None]),
        used={unit: chance.randint(0, 9) for unit in chance.sample(["requests", "audio_seconds", "cost"], 2)},
    )


def _any_selection(chance: random.Random) -> Selection:
    since = chance.choice([None, NOON + chance.randint(0, 30) * HOUR])
    return Selection(
        team=chance.choice([None, "a", "b"]),
        operation=chance.choice([None, "o"]),
        key=chance.choice([None, "k"]),
        since=since,
        until=chance.choice([None, NOON + chance.randint(0, 40) * HOUR]),
    )

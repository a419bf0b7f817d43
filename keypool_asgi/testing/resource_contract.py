"""What every ``ResourceStore`` must do, as tests to subclass (see ``contracts``)."""

# ruff: noqa: S101 - the asserts are the contract

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from keypool_asgi.core.resources import CURSOR_SECONDS, RETENTION_SECONDS, Page, Ref, Resource
from keypool_asgi.ports import ResourceStore

from .resource_model import ModelResources, story
from .store_contract import StoreContract

__all__ = ["ResourceStoreContract"]

NOON = 1_800_000_000.0


def transcript(
    resource_id: str, team: str = "team-a", created: float = NOON, status: str | None = "queued"
) -> Resource:
    """Make a transcript."""
    return Resource(Ref("transcript", resource_id), team, "project-1", created, status)


def ids(page: Sequence[Resource]) -> str:
    """Join the ids of a page."""
    return " ".join(one.ref.id for one in page)


class ResourceStoreContract(StoreContract):
    """The behaviour of a ``ResourceStore``. Subclasses give ``make_store``, and the rest where they can.

    Attributes:
        retention: kind to how long the store that ``make_store`` makes remembers its owners, in seconds.
        cursor_seconds: how long that store remembers the place of a forgotten resource.
        stories: how many random stories are told to the store and to a naive model beside it.
    """

    retention: Mapping[str, float] = RETENTION_SECONDS
    cursor_seconds: float = CURSOR_SECONDS
    stories: int = 10

    def tell(self, chance: random.Random, *, steps: int, moving: bool) -> None:
        """Tell the store and a naive model one random story, and compare every answer."""

        async def scenario(store: ResourceStore) -> None:
            model = ModelResources(self.retention, self.cursor_seconds)
            for verb, args in story(chance, steps, moving=moving):
                if verb == "advance":
                    self.advance(*args)
                    model.advance(*args)
                else:
                    expected = getattr(model, verb)(*args)
                    found = await getattr(store, verb)(*args)
                    found = list(found) if verb == "page" else found
                    assert found == expected, f"{verb}{args!r}: {found!r}, not {expected!r}"

        self.run_with_store(scenario)

    def test_behaves_like_a_naive_model(self) -> None:
        """Whatever is recorded, noted, forgotten and asked, in whatever order."""
        for seed in range(self.stories):
            self.tell(random.Random(seed), steps=250, moving=False)  # noqa: S311 - tests are to repeat themselves

    def test_behaves_like_a_naive_model_while_time_passes(self) -> None:
        """The same with retention and cursors running out."""
        self.advance(0)
        for seed in range(self.stories):
            self.tell(random.Random(seed), steps=250, moving=True)  # noqa: S311 - tests are to repeat themselves

    def test_finds_what_was_recorded(self) -> None:
        """Every field comes back as it was."""
        recorded = [
            Resource(
                Ref("transcript", "a"), "team-a", "project-1", NOON + 0.123456, "queued", '{"audio_url": "ü\\"x"}'
            ),
            Resource(Ref("upload", "https://cdn.test/upload/ü?x=1'--"), "team-b", "project-2", 0.0),
        ]

        async def scenario(store: ResourceStore) -> None:
            for resource in recorded:
                await store.record(resource)
            for resource in recorded:
                assert await store.find(resource.ref) == resource

        self.run_with_store(scenario)

    def test_knows_nothing_else(self) -> None:
        """Not another kind's id, a part, another case or an odd text; None, and no exception."""

        async def scenario(store: ResourceStore) -> None:
            await store.record(transcript("abc"))
            assert await store.find(Ref("upload", "abc")) is None
            for resource_id in ("", "ab", "ABC", "abc ", "abc\0", "%", "x" * 5000, "\ud800"):
                ref = Ref("transcript", resource_id)
                assert await store.find(ref) is None
                assert await store.place(ref, None) is None
                await store.note(ref, "completed", "{}")
                await store.forget(ref)
                assert await store.find(ref) is None
            assert await store.page(Page("upload", 10)) == []

        self.run_with_store(scenario)

    def test_the_first_word_stands(self) -> None:
        """Recording again changes neither owners, nor place, nor status."""

        async def scenario(store: ResourceStore) -> None:
            first = transcript("a")
            await store.record(first)
            await store.record(Resource(first.ref, "team-b", "project-2", NOON + 9, "completed", '{"x": 1}'))
            assert await store.find(first.ref) == first
            await store.note(first.ref, "error", "{}")
            await store.record(first)
            assert await store.find(first.ref) == replace(first, status="error")
            assert ids(await store.page(Page("transcript", 10, team="team-b"))) == ""
            assert ids(await store.page(Page("transcript", 10, team="team-a"))) == "a"

        self.run_with_store(scenario)

    def test_racing_for_an_owner(self) -> None:
        """Of 100 that record one resource at the same moment, one stands, in what is found and in lists."""

        async def scenario(store: ResourceStore) -> None:
            await asyncio.gather(*(store.record(transcript("a", f"team-{number}")) for number in range(100)))
            found = await store.find(Ref("transcript", "a"))
            assert found is not None
            assert await store.page(Page("transcript", 10)) == [found]
            assert await store.page(Page("transcript", 10, team=found.team)) == [found]

        self.run_with_store(scenario)

    def test_notes_status_and_summary(self) -> None:
        """Both change, in what is found and in lists; owners and place stay."""

        async def scenario(store: ResourceStore) -> None:
            old = transcript("a")
            await store.record(old)
            for status in ("processing", "completed", "completed"):
                new = replace(old, status=status, summary='{"text": "' + status + '"}')
                await store.note(old.ref, status, new.summary)
                assert await store.find(old.ref) == new
                assert await store.page(Page("transcript", 10, statuses=frozenset({status}))) == [new]
                assert await store.page(Page("transcript", 10, statuses=frozenset({"queued"}))) == []

        self.run_with_store(scenario)

    def test_forgets_but_for_the_place(self) -> None:
        """What is forgotten is in no answer, and marks its place for its team, and for a while."""

        async def scenario(store: ResourceStore) -> None:
            gone = transcript("b", created=NOON + 1)
            for one in (transcript("a"), gone, transcript("c", created=NOON + 2)):
                await store.record(one)
                assert await store.find(one.ref) == one
            await store.forget(gone.ref)
            await store.note(gone.ref, "completed", "{}")
            assert await store.find(gone.ref) is None
            assert ids(await store.page(Page("transcript", 10))) == "c a"
            assert ids(await store.page(Page("transcript", 10, team="team-a"))) == "c a"
            assert await store.place(gone.ref, "team-a") == gone.place
            assert await store.place(gone.ref, None) == gone.place
            assert await store.place(gone.ref, "team-b") is None
            assert ids(await store.page(Page("transcript", 10, before=gone.place))) == "a"
            assert ids(await store.page(Page("transcript", 10, after=gone.place))) == "c"
            self.advance(self.cursor_seconds - 1)
            assert await store.place(gone.ref, "team-a") == gone.place
            self.advance(2)
            assert await store.place(gone.ref, "team-a") is None
            assert await store.place(gone.ref, None) is None

        self.run_with_store(scenario)

    def test_places_are_the_owners(self) -> None:
        """A team learns no place of another's resource."""

        async def scenario(store: ResourceStore) -> None:
            await store.record(transcript("a"))
            assert await store.place(Ref("transcript", "a"), "team-a") == (NOON, "a")
            assert await store.place(Ref("transcript", "a"), None) == (NOON, "a")
            assert await store.place(Ref("transcript", "a"), "team-b") is None
            assert await store.place(Ref("upload", "a"), "team-a") is None

        self.run_with_store(scenario)

    def test_remembers_as_long_as_the_kind_demands(self) -> None:
        """Measured from the recording: neither the time of creation, nor a note, nor a second recording prolongs it."""

        async def scenario(store: ResourceStore) -> None:
            refs = {kind: Ref(kind, "x") for kind in self.retention}
            kept = Resource(Ref("agent", "x"), "team-a", "project-1", 0.0)
            assert "agent" not in self.retention
            await store.record(kept)
            for ref in refs.values():
                await store.record(Resource(ref, "team-a", "project-1", NOON * 2, "queued"))
            passed = 0.0
            for kind, seconds in sorted(self.retention.items(), key=lambda item: item[1]):
                self.advance(max(0.0, seconds - 1 - passed))
                passed = max(passed, seconds - 1)
                if passed < seconds:
                    assert await store.find(refs[kind]) is not None
                    await store.note(refs[kind], "completed", "{}")
                    await store.record(Resource(refs[kind], "team-b", "project-1", NOON))
                self.advance(seconds + 1 - passed)
                passed = seconds + 1
                await store.note(refs[kind], "error", "{}")
                assert await store.find(refs[kind]) is None
                assert await store.place(refs[kind], "team-a") is None
                assert await store.page(Page(kind, 10)) == []
            self.advance(10 * 365 * 86400)
            assert await store.find(kept.ref) == kept
            await store.record(Resource(refs[kind], "team-b", "project-2", NOON))
            assert await store.find(refs[kind]) is not None

        self.run_with_store(scenario)

    def test_pages_are_newest_first_by_place(self) -> None:
        """By time, then by id in order of code points, not in order of recording."""

        async def scenario(store: ResourceStore) -> None:
            for created, resource_id in ((2, "a"), (1, "z"), (2, "B"), (2, "é"), (3, "a1"), (1.5, "m"), (2, "aa")):
                await store.record(transcript(resource_id, created=NOON + created))
            assert ids(await store.page(Page("transcript", 10))) == "a1 é aa a B m z"
            assert ids(await store.page(Page("transcript", 3))) == "a1 é aa"
            assert ids(await store.page(Page("transcript", 2, before=(NOON + 2, "a")))) == "B m"
            assert ids(await store.page(Page("transcript", 2, after=(NOON + 1, "z")))) == "B m"
            assert ids(await store.page(Page("transcript", 9, since=NOON + 1.5, until=NOON + 3))) == "é aa a B m"
            assert ids(await store.page(Page("transcript", 9, after=(NOON + 1, "z"), until=NOON + 2))) == "m"
            assert ids(await store.page(Page("transcript", 0))) == ""

        self.run_with_store(scenario)

    def test_pages_of_one_team_among_many(self) -> None:
        """A walk in both directions over one team's resources, among 1,000 of others, meets each of them once."""

        async def scenario(store: ResourceStore) -> None:
            mine = [f"id-{number:04}" for number in range(0, 1050, 50)]
            every = [transcript(f"id-{number:04}", f"t-{number % 7}", NOON + number // 100) for number in range(1050)]
            every = [replace(one, team="team-a") if one.ref.id in mine else one for one in every]
            for first in range(0, 1050, 50):
                await asyncio.gather(*(store.record(one) for one in every[first : first + 50]))
            page = Page("transcript", 4, team="team-a")
            assert await _walk(store, page) == mine[::-1]
            assert await _walk(store, replace(page, after=(0.0, ""))) == mine

        self.run_with_store(scenario)

    def test_records_many_at_once(self) -> None:
        """Each of 200 concurrent recordings is there when it returns."""

        async def scenario(store: ResourceStore) -> None:
            async def record(number: int) -> None:
                resource = transcript(f"id-{number:03}", created=NOON + number)
                await store.record(resource)
                assert await store.find(resource.ref) == resource

            await asyncio.gather(*(record(number) for number in range(200)))
            assert len(await store.page(Page("transcript", 1000))) == 200

        self.run_with_store(scenario)


async def _walk(store: ResourceStore, page: Page) -> list[str]:
    """Follow the pages to older ones, or to newer ones where ``after`` is given; ids in the order of the walk."""
    walked: list[str] = []
    while found := await store.page(page):
        if page.after is None:
            walked += [one.ref.id for one in found]
            page = replace(page, before=found[-1].place)
        else:
            walked += [one.ref.id for one in reversed(found)]
            page = replace(page, after=found[0].place)
    return walked

"""Asking about all keys at once, a few at a time: each by itself, then those that may belong together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import combinations
from typing import TypeVar

from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.verdicts import Fault
from keypool_asgi.errors import UpstreamError

from .findings import Findings, Funds, KeySight, Pair, Standing, pair_of
from .questions import Answer, Questions

__all__ = ["survey"]

T = TypeVar("T")

Progress = Callable[[int, int, str], None]

_STANDINGS = {
    Fault.NONE: Standing.GOOD,
    Fault.EXHAUSTED: Standing.GOOD,  # it is told as a matter of funds
    Fault.REJECTED: Standing.REJECTED,
    Fault.THROTTLED: Standing.THROTTLED,
    Fault.UNRELATED: Standing.UNCLEAR,
}


async def survey(keys: Iterable[UpstreamKey], questions: Questions, provider: Provider, progress: Progress) -> Findings:
    """Look at all keys, and at the pairs of those that upstream takes.

    Args:
        keys: whom to ask about.
        questions: asks.
        provider: which regions there are.
        progress: called with how many of how many of what are known, each time one more is.
    """
    keys = list(keys)
    looks = [_look(key, questions, provider.origins) for key in keys]
    sights = await _gathered(looks, "keys", progress)
    pairs = [pair for pair in combinations(sights, 2) if _comparable(*pair)]
    same = await _gathered([_same_project(*pair, questions) for pair in pairs], "pairs of keys by project", progress)
    projects = _known(pairs, same)
    # Whoever shares a project shares its account; only one key of each project is asked about the others.
    asked = [pair for pair in pairs if _is_first(pair, sights, projects)]
    same = await _gathered([_same_account(*pair, questions) for pair in asked], "pairs of keys by account", progress)
    return Findings(tuple(sights), projects, _spread(_known(asked, same), sights, projects))


async def _gathered(tasks: Sequence[Awaitable[T]], what: str, progress: Progress) -> list[T]:
    done = 0

    async def counted(task: Awaitable[T]) -> T:
        nonlocal done
        result = await task
        done += 1
        progress(done, len(tasks), what)
        return result

    return list(await asyncio.gather(*map(counted, tasks)))


async def _look(key: UpstreamKey, questions: Questions, regions: Iterable[str]) -> KeySight:
    """Look at one key: in the region that it is declared for, and when that refuses it, in the others."""
    home = await _look_in(key.region, key, questions)
    if home.standing is Standing.REJECTED:
        for region in regions:
            sight = home if region == key.region else await _look_in(region, key, questions)
            if sight.standing is Standing.GOOD:
                return sight
    return home


async def _look_in(region: str, key: UpstreamKey, questions: Questions) -> KeySight:
    try:
        answer = await questions.newest(key, region)
    except UpstreamError as error:
        return KeySight(key, Standing.UNREACHABLE, detail=str(error))
    known = answer.status == 200 or answer.verdict.blames_key
    standing = _STANDINGS[answer.fault] if known else Standing.UNCLEAR
    if standing is not Standing.GOOD:
        # Not its text, which might quote the key.
        return KeySight(key, standing, detail=f"status {answer.status}")
    return KeySight(key, standing, region, await _funds(key, region, questions), _ids(answer))


async def _funds(key: UpstreamKey, region: str, questions: Questions) -> Funds:
    try:
        answer = await questions.funds(key, region)
    except UpstreamError:
        return Funds.UNKNOWN
    known = {Fault.NONE: Funds.THERE, Fault.EXHAUSTED: Funds.NONE}
    return known.get(answer.fault, Funds.UNKNOWN)


def _ids(answer: Answer) -> tuple[str, ...]:
    listed = answer.fields.get("transcripts")
    items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    return tuple(item["id"] for item in items if isinstance(item.get("id"), str))


def _comparable(one: KeySight, other: KeySight) -> bool:
    """Whether it can be told what two keys share: upstream takes both, in one region, and a transcript is known."""
    good = one.standing is other.standing is Standing.GOOD and one.region == other.region
    return good and bool(one.transcripts or other.transcripts)


async def _same_project(one: KeySight, other: KeySight, questions: Questions) -> bool | None:
    if set(one.transcripts) & set(other.transcripts):
        return True
    if one.key.project != other.key.project:
        return False
    # It would be a wrong declaration, so it is made sure of: a busy project's list may have moved on in between.
    return await _asked(questions.sees, one, other)


async def _same_account(one: KeySight, other: KeySight, questions: Questions) -> bool | None:
    return await _asked(questions.account_has, one, other)


async def _asked(
    ask: Callable[[UpstreamKey, str, str], Awaitable[bool | None]], one: KeySight, other: KeySight
) -> bool | None:
    """Ask, with the key of one, about the newest transcript of the other; rather with one whose account has funds."""
    ways = [(asker, owner) for asker, owner in ((one, other), (other, one)) if owner.transcripts]
    asker, owner = min(ways, key=lambda way: way[0].funds is Funds.NONE)
    assert asker.region is not None  # noqa: S101 - the pair is comparable
    try:
        return await ask(asker.key, asker.region, owner.transcripts[0])
    except UpstreamError:
        return None


def _known(pairs: list[tuple[KeySight, KeySight]], same: list[bool | None]) -> dict[Pair, bool]:
    known = zip(pairs, same, strict=True)
    return {pair_of(one.key.id, other.key.id): is_same for (one, other), is_same in known if is_same is not None}


def _is_first(pair: tuple[KeySight, KeySight], sights: list[KeySight], projects: dict[Pair, bool]) -> bool:
    """Whether both keys are the first ones of their projects."""
    return all(_first_mate(sight, sights, projects) is sight for sight in pair)


def _first_mate(sight: KeySight, sights: list[KeySight], projects: dict[Pair, bool]) -> KeySight:
    mates = (other for other in sights if other is sight or projects.get(pair_of(other.key.id, sight.key.id)))
    return next(mates)


def _spread(accounts: dict[Pair, bool], sights: list[KeySight], projects: dict[Pair, bool]) -> dict[Pair, bool]:
    """Say of all keys of a project what is known of its first one."""
    spread: dict[Pair, bool] = {}
    for one, other in combinations(sights, 2):
        pair = pair_of(one.key.id, other.key.id)
        firsts = [_first_mate(sight, sights, projects).key.id for sight in (one, other)]
        known = True if projects.get(pair) else accounts.get(pair_of(*firsts))
        if known is not None:
            spread[pair] = known
    return spread

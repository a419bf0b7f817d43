"""What was seen of the keys, and what of it is a problem. Pure.

What a key belongs to is seen by what it can see: two keys that see the same transcripts are of one project; two that
may use each other's transcripts in the LLM Gateway are of one account. Of a project without transcripts that cannot
be told, and then nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

from keypool_asgi.core.keys import UpstreamKey

__all__ = ["Findings", "Funds", "KeySight", "Pair", "Problem", "Standing", "pair_of", "problems"]

Pair = frozenset[str]
"""Ids of two keys."""


class Standing(Enum):
    """How upstream takes a key."""

    GOOD = "good"
    REJECTED = "rejected"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    UNCLEAR = "unclear"


class Funds(Enum):
    """Whether a key's account can pay."""

    THERE = "yes"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class KeySight:
    """What was seen of one key.

    Attributes:
        key: the key as it is declared.
        standing: how upstream takes it.
        region: whose hosts take it; None when none do.
        funds: whether its account can pay.
        transcripts: ids of the newest transcripts that it sees.
        detail: what upstream said, or what failed, when the standing is not good.
    """

    key: UpstreamKey
    standing: Standing
    region: str | None = None
    funds: Funds = Funds.UNKNOWN
    transcripts: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was seen of all keys.

    Attributes:
        sights: one for each key, in the order of their declaration.
        one_project: pairs of keys to whether they are of one project; a pair of which nobody knows is not there.
        one_account: the same for accounts.
    """

    sights: tuple[KeySight, ...]
    one_project: Mapping[Pair, bool]
    one_account: Mapping[Pair, bool]

    def project_mates(self, key_id: str) -> list[str]:
        """Return the other keys that are seen to be of a key's project."""
        return self._mates(self.one_project, key_id)

    def account_mates(self, key_id: str) -> list[str]:
        """Return the other keys that are seen to be of a key's account."""
        return self._mates(self.one_account, key_id)

    def _mates(self, pairs: Mapping[Pair, bool], key_id: str) -> list[str]:
        others = (sight.key.id for sight in self.sights if sight.key.id != key_id)
        return [other for other in others if pairs.get(pair_of(key_id, other))]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be.

    Attributes:
        kind: printable name, the same in every version.
        keys: ids of the keys that it is about.
        text: what is wrong and what to do.
    """

    kind: str
    keys: tuple[str, ...]
    text: str


def pair_of(one: str, other: str) -> Pair:
    """The pair of two keys, whichever comes first."""
    return frozenset((one, other))


def problems(findings: Findings) -> list[Problem]:
    """List what is wrong with the keys: each by itself first, then those that are not declared as what they are."""
    found = [problem for sight in findings.sights for problem in _of_one(sight)]
    for one, other in combinations((sight.key for sight in findings.sights), 2):
        found += _of_two(one, other, findings)
    return found


def _of_one(sight: KeySight) -> Iterator[Problem]:
    key = sight.key
    texts = {
        Standing.REJECTED: "AssemblyAI refuses it: it is revoked, mistyped, or its account is disabled",
        Standing.THROTTLED: "AssemblyAI throttles it now, so the rest could not be seen; try again later",
        Standing.UNREACHABLE: "AssemblyAI could not be reached with it",
        Standing.UNCLEAR: "AssemblyAI's answer is of no known kind",
    }
    if sight.standing is not Standing.GOOD:
        detail = f" ({sight.detail})" if sight.detail else ""
        yield Problem(sight.standing.value, (key.id,), texts[sight.standing] + detail)
    elif sight.region != key.region:
        text = f"it is declared for the region {key.region!r}, but is a key of {sight.region!r}: set region"
        yield Problem("wrong_region", (key.id,), text)
    if sight.funds is Funds.NONE:
        yield Problem("no_funds", (key.id,), f"the balance of its account ({key.account}) is negative: top it up")


def _of_two(one: UpstreamKey, other: UpstreamKey, findings: Findings) -> Iterator[Problem]:
    ids = (one.id, other.id)
    if one.secret == other.secret:
        yield Problem("same_secret", ids, "they are the same key: take one away")
        return
    project = findings.one_project.get(pair_of(*ids))
    account = findings.one_account.get(pair_of(*ids))
    if project is True and one.project != other.project:
        text = f"they see the same transcripts, but are declared as of two projects, {one.project!r} and "
        yield Problem("one_project_as_two", ids, f"{text}{other.project!r}: give both one project")
    elif account is True and one.account != other.account:
        text = f"they share the limits and funds of one account, but are declared as of two, {one.account!r} and "
        yield Problem("one_account_as_two", ids, f"{text}{other.account!r}: give both one account")
    if project is False and one.project == other.project:
        text = f"they do not see the same transcripts, but are declared as of one project, {one.project!r}: "
        yield Problem("two_projects_as_one", ids, f"{text}give each its own project")
    if account is False and one.account == other.account:
        text = f"they are of different accounts, but are declared as of one, {one.account!r}: give each its own account"
        yield Problem("two_accounts_as_one", ids, text)

"""What is seen of keys, as problems: whatever is seen, each contradiction is told once, and nothing else."""

from __future__ import annotations

import pytest
from harness import secret
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi import UpstreamKey
from keypool_asgi.cli.checking import Findings, Funds, KeySight, Standing, problems
from keypool_asgi.cli.checking.findings import pair_of


def key(name: str, project: str | None = None, account: str | None = None, of: str | None = None) -> UpstreamKey:
    return UpstreamKey(name, secret(of or name), project=project, account=account)


def sight(one: UpstreamKey, **what: object) -> KeySight:
    return KeySight(one, **{"standing": Standing.GOOD, "region": one.region, **what})  # type: ignore[arg-type]


def kinds(*sights: KeySight, project: bool | None = None, account: bool | None = None) -> list[str]:
    pair = pair_of(*(one.key.id for one in sights)) if len(sights) == 2 else None
    known = [{} if same is None or pair is None else {pair: same} for same in (project, account)]
    return [problem.kind for problem in problems(Findings(sights, *known))]


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ({}, None),
        ({"standing": Standing.REJECTED, "region": None}, "rejected"),
        ({"standing": Standing.THROTTLED, "region": None}, "throttled"),
        ({"standing": Standing.UNREACHABLE, "region": None}, "unreachable"),
        ({"standing": Standing.UNCLEAR, "region": None}, "unclear"),
        ({"region": "eu"}, "wrong_region"),
        ({"funds": Funds.NONE}, "no_funds"),
        ({"funds": Funds.UNKNOWN}, None),
    ],
)
def test_each_key_by_itself(what: dict[str, object], kind: str | None) -> None:
    assert kinds(sight(key("a"), **what)) == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("projects", "accounts", "project", "account", "expected"),
    [
        ("pp", "aa", True, True, []),
        ("pq", "aa", False, True, []),
        ("pq", "ab", False, False, []),
        ("pq", "ab", None, None, []),
        ("pp", "aa", None, None, []),
        ("pq", "aa", True, True, ["one_project_as_two"]),
        ("pq", "ab", True, True, ["one_project_as_two"]),
        ("pq", "ab", False, True, ["one_account_as_two"]),
        ("pp", "aa", False, True, ["two_projects_as_one"]),
        ("pp", "aa", False, None, ["two_projects_as_one"]),
        ("pp", "aa", False, False, ["two_projects_as_one", "two_accounts_as_one"]),
        ("pq", "aa", False, False, ["two_accounts_as_one"]),
    ],
)
def test_two_keys_as_declared_and_as_seen(
    projects: str, accounts: str, project: bool | None, account: bool | None, expected: list[str]
) -> None:
    one, other = (sight(key(name, *declared)) for name, *declared in zip("ab", projects, accounts, strict=True))
    assert kinds(one, other, project=project, account=account) == expected


def test_one_secret_under_two_names_is_that_and_nothing_more() -> None:
    one, other = sight(key("a", "p", of="s")), sight(key("b", "q", of="s"))
    assert kinds(one, other, project=True, account=True) == ["same_secret"]


@given(st.lists(st.tuples(*[st.sampled_from("xy")] * 4), min_size=1, max_size=5))
def test_keys_declared_as_what_they_are_are_never_a_problem_and_others_always(truth: list[tuple[str, ...]]) -> None:
    """Each key: declared project and account, then true ones; a project is of its account."""
    sights = tuple(
        sight(key(str(number), f"{account}-{project}", account))
        for number, (project, account, _, _) in enumerate(truth)
    )
    real = [(f"{account}-{project}", account) for _, _, project, account in truth]
    pairs = [(a, b) for a in range(len(truth)) for b in range(a)]
    by_project = {pair_of(str(a), str(b)): real[a][0] == real[b][0] for a, b in pairs}
    by_account = {pair_of(str(a), str(b)): real[a][1] == real[b][1] for a, b in pairs}
    found = {frozenset(problem.keys) for problem in problems(Findings(sights, by_project, by_account))}
    declared = [(one.key.project, one.key.account) for one in sights]
    wrong = {
        pair_of(str(a), str(b))
        for a, b in pairs
        if any((declared[a][n] == declared[b][n]) != (real[a][n] == real[b][n]) for n in (0, 1))
    }
    assert found == wrong

"""``keypool check``: every way in which keys are not what they are declared to be, told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_rig import keypool, write
from harness import secret

from keypool_asgi.testing import Fault, Simulator

NAMES = ("one", "two", "other", "dead", "broke", "europe", "alone")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Three projects of two accounts with transcripts; a dead key, one without funds, and one of the EU."""
    keys = {
        secret("one"): "main/prod",
        secret("two"): "main/prod",
        secret("other"): "main/research",
        secret("dead"): "main/prod",
        secret("broke"): "poor/poor",
        secret("alone"): "alone/alone",
    }
    with Simulator(keys).running() as simulator:
        simulator.add_account("europe", region="eu")
        simulator.add_project("europe", account="europe")
        simulator.add_key(secret("europe"), project="europe")
        for name in ("one", "other", "alone", "broke"):
            transcribe(simulator, secret(name))
        simulator.finish_jobs()
        simulator.revoke_key(secret("dead"))
        simulator.set_balance("poor", -1)
        simulator.forget()
        yield simulator
        assert not simulator.violations
        assert not simulator.bill


def transcribe(simulator: Simulator, key: str) -> None:
    body = {"audio_url": "https://example.com/a.mp3"}
    httpx.post(f"{simulator.url}/v2/transcript", json=body, headers={"authorization": key}).raise_for_status()


def check(simulator: Simulator, folder: Path, keys: list[dict[str, Any]], code: int) -> dict[str, Any]:
    """Run the command on these keys, whose id is the name of their secret unless they say another."""
    api = {region: simulator.origins_in(region)["api"] for region in ("us", "eu")}
    gateway = {region: simulator.origins_in(region)["llm_gateway"] for region in ("us", "eu")}
    tables = [{"secret_env": f"KEY_{key.pop('of', key['id']).upper()}", **key} for key in keys]
    file = write(folder / "keypool.toml", keys=tables, origins={"api": api, "llm_gateway": gateway})
    before = len(simulator.transcripts)
    variables = {f"KEY_{name.upper()}": secret(name) for name in NAMES}
    done = keypool("check", "--config", str(file), "--json", code=code, **variables)
    assert len(simulator.transcripts) == before
    assert not simulator.uploads
    return json.loads(done.stdout)


def kinds(found: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Kind of problem to the keys of each."""
    by_kind: dict[str, list[list[str]]] = {}
    for problem in found["problems"]:
        by_kind.setdefault(problem["kind"], []).append(problem["keys"])
    return by_kind


def test_keys_that_are_as_declared_are_no_problem(simulator: Simulator, tmp_path: Path) -> None:
    keys = [
        {"id": "one", "project": "prod", "account": "main"},
        {"id": "two", "project": "prod", "account": "main"},
        {"id": "other", "project": "research", "account": "main"},
        {"id": "alone"},
        {"id": "europe", "region": "eu"},
    ]
    found = check(simulator, tmp_path, keys, code=0)
    assert found["problems"] == []
    by_id = {key["id"]: key for key in found["keys"]}
    assert [key["standing"] for key in found["keys"]] == ["good"] * 5
    assert [key["funds"] for key in found["keys"]] == ["yes"] * 5
    assert by_id["one"]["same_project_as"] == ["two"]
    assert by_id["one"]["same_account_as"] == ["two", "other"]
    assert by_id["other"]["same_account_as"] == ["one", "two"]
    assert by_id["alone"]["same_account_as"] == []
    assert by_id["europe"]["region"] == "eu"


def test_each_wrong_key_is_told_apart(simulator: Simulator, tmp_path: Path) -> None:
    keys = [
        {"id": "one", "project": "prod", "account": "main"},
        {"id": "two", "project": "second", "account": "main"},
        {"id": "other", "project": "research"},
        {"id": "dead"},
        {"id": "broke"},
        {"id": "europe"},
        {"id": "alone"},
    ]
    assert kinds(check(simulator, tmp_path, keys, code=1)) == {
        "rejected": [["dead"]],
        "no_funds": [["broke"]],
        "wrong_region": [["europe"]],
        "one_project_as_two": [["one", "two"]],
        "one_account_as_two": [["one", "other"], ["two", "other"]],
    }


def test_keys_that_do_not_belong_together_are_told(simulator: Simulator, tmp_path: Path) -> None:
    keys = [
        {"id": "one", "project": "prod", "account": "main"},
        {"id": "other", "project": "prod", "account": "main"},
        {"id": "alone", "account": "main"},
        {"id": "again", "of": "alone", "account": "alone"},
    ]
    assert kinds(check(simulator, tmp_path, keys, code=1)) == {
        "two_projects_as_one": [["one", "other"]],
        "two_accounts_as_one": [["one", "alone"], ["other", "alone"]],
        "same_secret": [["alone", "again"]],
    }


def test_a_list_that_moved_on_is_not_taken_for_another_project(simulator: Simulator, tmp_path: Path) -> None:
    moved_on = Fault.status(200, {"transcripts": [{"id": "00000000-0000-0000-0000-000000000000"}]})
    simulator.fail(moved_on, key=secret("two"), method="GET", path="/v2/transcript")
    keys = [{"id": "two", "project": "prod"}, {"id": "one", "project": "prod"}]
    assert check(simulator, tmp_path, keys, code=0)["keys"][0]["same_project_as"] == ["one"]


def test_accounts_are_asked_about_with_a_key_that_can_pay(simulator: Simulator, tmp_path: Path) -> None:
    keys = [{"id": "broke", "account": "main"}, {"id": "one", "account": "main"}]
    found = check(simulator, tmp_path, keys, code=1)
    assert kinds(found) == {"no_funds": [["broke"]], "two_accounts_as_one": [["broke", "one"]]}


def test_of_a_project_without_transcripts_nothing_is_claimed(simulator: Simulator, tmp_path: Path) -> None:
    empty = simulator.add_key(secret("empty"), project="europe")
    assert empty == secret("empty")
    keys = [{"id": "europe", "region": "eu"}, {"id": "empty", "of": "alone"}]
    found = check(simulator, tmp_path, keys, code=0)
    assert [key["same_project_as"] for key in found["keys"]] == [[], []]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.status(429, headers=[(b"Retry-After", b"5")]), "throttled"),
        (Fault.status(500), "unclear"),
        (Fault.status(200, body=b"not JSON"), None),
    ],
)
def test_upstreams_bad_moments_are_no_fault_of_the_key(
    simulator: Simulator, tmp_path: Path, fault: Fault, kind: str | None
) -> None:
    simulator.fail(fault, method="GET", path="/v2/transcript")
    found = check(simulator, tmp_path, [{"id": "one"}], code=1 if kind else 0)
    assert list(kinds(found)) == ([kind] if kind else [])


def test_an_upstream_that_is_not_there_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "k.toml", keys=[{"id": "one", "secret_env": "KEY"}], origins={"api": "http://127.0.0.1:9"})
    done = keypool("check", "--config", str(file), "--json", code=1, KEY=secret("one"))
    assert kinds(json.loads(done.stdout)) == {"unreachable": [["one"]]}


def test_an_upstream_that_is_silent_is_not_waited_for_long(simulator: Simulator, tmp_path: Path) -> None:
    simulator.fail(Fault.stalled(), path="/v2/transcript")
    file = write(tmp_path / "k.toml", keys=[{"id": "one", "secret_env": "KEY"}], origins={"api": simulator.url})
    done = keypool("check", "--config", str(file), "--seconds", "1", code=1, KEY=secret("one"))
    assert "no answer within 1 s" in done.stdout


def test_the_table_and_the_progress_are_for_people(simulator: Simulator, tmp_path: Path) -> None:
    origins = {"api": simulator.url, "llm_gateway": simulator.origins["llm_gateway"]}
    keys = [{"id": "one", "secret_env": "ONE"}, {"id": "two", "secret_env": "TWO"}]
    write(tmp_path / "keypool.toml", keys=keys, origins=origins)
    done = keypool("check", folder=tmp_path, code=1, ONE=secret("one"), TWO=secret("two"))
    heading, one, two = done.stdout.splitlines()[:3]
    assert heading.split() == [
        "KEY",
        "STANDING",
        "REGION",
        "FUNDS",
        "PROJECT",
        "SEEN",
        "WITH",
        "ACCOUNT",
        "SHARED",
        "WITH",
    ]
    assert one.split() == ["one", "good", "us", "yes", "one", "two", "one", "two"]
    assert two.split() == ["two", "good", "us", "yes", "two", "one", "two", "one"]
    assert "Problems (1):\n  one and two: they see the same transcripts" in done.stdout
    assert "checked 2 of 2 keys" in done.stderr


def test_a_key_can_be_given_by_its_variable_alone() -> None:
    done = keypool("check", "--key-env", "NO_SUCH_KEY", code=2)
    assert "NO_SUCH_KEY is not set" in done.stderr
    done = keypool("check", "--key-env", "KEY", "--region", "mars", code=2, KEY=secret("one"))
    assert "unknown region 'mars'" in done.stderr


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_numbers_are_checked(value: str) -> None:
    assert "must be a whole number of at least 1" in keypool("check", f"--at-once={value}", code=2).stderr


def test_a_file_that_is_not_there_or_has_no_keys_is_a_wrong_use(tmp_path: Path) -> None:
    assert "keypool.toml: cannot be read: No such file" in keypool("check", folder=tmp_path, code=2).stderr
    (tmp_path / "keypool.toml").write_text("")
    assert "there are no keys" in keypool("check", folder=tmp_path, code=2).stderr

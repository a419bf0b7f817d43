"""``keypool token new``: a token that travels everywhere, and a digest that the pool finds it by."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from cli_rig import PEPPER, keypool

from keypool_asgi import Team
from keypool_asgi.configuration import load
from keypool_asgi.core.tokens import travels_in_subprotocol
from keypool_asgi.stores.teams import TokenDigest, team_directory


@pytest.mark.parametrize("how", ["variable", "file", "without"])
def test_the_digest_is_the_tokens_under_the_pepper(tmp_path: Path, how: str) -> None:
    file = tmp_path / "pepper"
    file.write_text(PEPPER + "\n")
    arguments = ["--pepper-file", str(file)] if how == "file" else []
    variables = {"KEYPOOL_PEPPER": PEPPER} if how == "variable" else {}
    made = json.loads(keypool("token", "new", "team-a", "--json", *arguments, **variables).stdout)
    pepper = None if how == "without" else PEPPER
    assert made["team"] == "team-a"
    assert made["digest"] == TokenDigest.of(made["token"], pepper)
    assert made["digest"].startswith("sha256:" if how == "without" else "hmac-sha256:")
    directory = team_directory({TokenDigest(made["digest"]): Team("team-a")}, pepper=pepper)
    assert asyncio.run(directory.find(made["token"])) == Team("team-a")


def test_tokens_are_long_random_and_fit_into_a_subprotocol() -> None:
    tokens = {json.loads(keypool("token", "new", "a", "--json").stdout)["token"] for _ in range(3)}
    assert len(tokens) == 3
    for token in tokens:
        assert re.fullmatch(r"kpt_[A-Za-z0-9_-]{43}", token)
        assert travels_in_subprotocol(token)


def test_what_is_printed_for_people_can_be_put_into_the_file(tmp_path: Path) -> None:
    done = keypool("token", "new", 'Team "Ä" \\ 1', KEYPOOL_PEPPER=PEPPER)
    file = tmp_path / "keypool.toml"
    file.write_text('pepper_env = "KEYPOOL_PEPPER"\n' + done.stdout[done.stdout.index("[[teams]]") :])
    ((digest, team),) = load(file, {"KEYPOOL_PEPPER": PEPPER}).teams.items()
    assert team.id == 'Team "Ä" \\ 1'
    token = re.search(r"kpt_\S+", done.stdout)
    assert token is not None
    assert digest == TokenDigest.of(token[0], PEPPER)
    assert done.stdout.count(token[0]) == 1
    assert "made under the pepper" in done.stdout
    assert done.stderr == ""


def test_a_digest_without_a_pepper_is_told_so() -> None:
    done = keypool("token", "new", "a")
    assert "made without a pepper" in done.stdout
    assert "for a pool without a pepper" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["a", "--pepper-file", "nowhere"], {}, "--pepper-file: nowhere cannot be read: No such file"),
        (["a", "--pepper-file", "empty"], {}, "--pepper-file: empty is empty"),
        (["a", "--pepper-file", "bytes"], {}, "--pepper-file: bytes is not a text file"),
        (["a"], {"KEYPOOL_PEPPER": ""}, "KEYPOOL_PEPPER is empty"),
        ([""], {}, "TEAM must be a name that can be printed"),
        (["a\nb"], {}, "TEAM must be a name that can be printed"),
        ([], {}, "TEAM"),
        (["a", "--pepper", "x"], {}, "unrecognized arguments: --pepper x"),
    ],
)
def test_a_wrong_use_is_told(tmp_path: Path, arguments: list[str], variables: dict[str, str], message: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert message in keypool("token", "new", *arguments, folder=tmp_path, code=2, **variables).stderr

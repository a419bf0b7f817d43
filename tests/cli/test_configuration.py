"""The configuration file: the example says what is true, every setting arrives, and every mistake is named."""

from __future__ import annotations

import asyncio
import inspect
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_rig import PEPPER, ROOT, write
from harness import run, secret, token

from keypool_asgi import HealthPolicy, KeyPool, KeyPoolMiddleware, Limit, SessionLimits, Team, Timeouts
from keypool_asgi.assembly import assemble
from keypool_asgi.configuration import FileKeys, ServerSettings, build, load
from keypool_asgi.configuration.stack_settings import IN_CODE_ONLY, SETTINGS
from keypool_asgi.core.prices import Price
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.settings import Settings
from keypool_asgi.stores.teams import TokenDigest
from keypool_asgi.testing import Simulator

EXAMPLE = ROOT / "examples" / "keypool.toml"
KEY = {"id": "k", "secret_env": "KEY"}
TEAM = {"id": "team-a", "token_digests": [TokenDigest.of(token("a"))]}
VARIABLES = {"KEY": secret("k"), "TOKEN": token("a"), "PEPPER": PEPPER}

OF_THE_EXAMPLE = {
    "KEYPOOL_PEPPER": PEPPER,
    "ASSEMBLYAI_KEY_1": secret("1"),
    "ASSEMBLYAI_KEY_2": secret("2"),
    "ARCHIVE_TOKEN": token("archive"),
}


OF_ROWS = {"state", "pepper", "origins", "prices", "estimates", "key_limits", "account_limits"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keypool.toml"


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


# The example


@pytest.fixture
def example(tmp_path: Path) -> Path:
    (tmp_path / "europe-1.key").write_text(secret("europe") + "\n")
    return Path(shutil.copy(EXAMPLE, tmp_path))


def test_the_example_is_read(example: Path) -> None:
    found = load(example, OF_THE_EXAMPLE)
    assert [(key.id, key.project, key.region, key.priority) for key in found.keys] == [
        ("prod-1", "prod", "us", 0),
        ("prod-2", "prod", "us", 0),
        ("europe-1", "europe", "eu", 1),
    ]
    assert found.keys[2].secret.reveal() == secret("europe")
    research, archive = found.teams.values()
    assert research.limits == (
        Limit("requests", 600, "minute"),
        Limit("requests", 100_000, "month", time_zone="Europe/Berlin", operations=["transcripts.create"]),
    )
    assert archive.operations == {"transcripts.get", "transcripts.list"}
    assert archive.expires_at == datetime(2027, 12, 31, 22, 59, 59, tzinfo=UTC)
    assert TokenDigest.of(token("archive"), PEPPER) in found.teams
    assert found.server == ServerSettings()
    assert secret("")[:6] not in repr(found)
    assert PEPPER not in repr(found)


def test_what_the_example_has_commented_out_are_the_defaults(example: Path) -> None:
    lines = [re.sub(r"^# (?=\w+ = )", "", line) for line in EXAMPLE.read_text().splitlines() if "# example" not in line]
    example.write_text("\n".join(lines))
    found = load(example, OF_THE_EXAMPLE)
    assert found.server == ServerSettings()
    defaults = {name: item.default for name, item in inspect.signature(assemble).parameters.items()}
    defaults |= {"health": HealthPolicy(), "timeouts": Timeouts(), "sessions": SessionLimits()}
    written = {name: value for name, value in found.settings.items() if name not in OF_ROWS}
    assert written == {name: defaults[name] for name in written}
    assert written.keys() >= {
        "isolation",
        "prefix",
        "retries",
        "health",
        "timeouts",
        "sessions",
        "via",
        "drain_seconds",
    }


def test_the_example_names_every_setting() -> None:
    text = EXAMPLE.read_text()
    groups: list[type[Any]] = [HealthPolicy, Timeouts, SessionLimits, ServerSettings]
    names = [*SETTINGS, *(name for group in groups for name in inspect.signature(group).parameters)]
    assert [name for name in names if not re.search(rf"^(# |\[)?{name}\b", text, re.MULTILINE)] == []


def test_every_setting_of_the_stack_is_in_the_file_or_known_not_to_be() -> None:
    in_file = {re.sub("_(env|file)$", "", name) for name in SETTINGS if name != "ca_file"} | {"ssl_context"}
    assert set(Settings.__annotations__) == in_file | IN_CODE_ONLY, "say how a file expresses it, or that it cannot"


# What arrives


def test_every_plain_setting_arrives_as_it_is(file: Path) -> None:
    settings = {
        "isolation": "off",
        "prefix": "/pool",
        "allowed_origins": ["https://a.example"],
        "retries": 3,
        "key_wait_seconds": 0.5,
        "max_connections": 7,
    }
    write(file, keys=[KEY], teams=[TEAM], via="", timeouts={"connect": 2}, health={"ramp_end": 8}, **settings)
    found = load(file).settings
    assert {name: found[name] for name in settings} == settings  # type: ignore[literal-required]
    assert found["via"] is None
    assert found["timeouts"] == Timeouts(connect=2)
    assert found["health"] == HealthPolicy(ramp_end=8)


def test_rows_of_the_operators_own_arrive(file: Path) -> None:
    write(
        file,
        prices={"llm.*@claude-*": {"llm_tokens": {"micros": 9}}, "*": {"audio_seconds": {"micros": 21, "per": 36}}},
        estimates={"llm.*": {"llm_tokens": 2000}},
        key_limits={"prod-*": [{"unit": "concurrency", "amount": 5}]},
        account_limits={"prod": [{"unit": "requests", "amount": 9, "per": "minute"}]},
    )
    found = load(file).settings
    assert found["prices"] == {"llm.*@claude-*": {"llm_tokens": Price(9)}, "*": {"audio_seconds": Price(21, per=36)}}
    assert found["estimates"] == {"llm.*": {"llm_tokens": 2000}}
    assert found["key_limits"] == {"prod-*": [Limit("concurrency", 5)]}
    assert found["account_limits"] == {"prod": [Limit("requests", 9, "minute")]}


@pytest.mark.parametrize("how", ["state", "state_env", "state_file"])
def test_the_state_is_a_secret_that_may_stand_in_the_file(
    file: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE", "sqlite:///a.db")
    (file.parent / "url").write_text("sqlite:///a.db\n")
    given = {"state": "sqlite:///a.db", "state_env": "STATE", "state_file": "url"}[how]
    assert load(write(file, **{how: given})).settings["state"] == "sqlite:///a.db"


def test_secrets_come_from_variables_and_files(file: Path) -> None:
    (file.parent / "old").write_text("o" * 16 + "0123456789abcdef\n")
    write(
        file,
        keys=[KEY, {"id": "l", "secret": secret("l")}],
        teams=[{"id": "a", "token_env": ["TOKEN"], "token_file": "other", "token_digests": [_digest("third")]}],
        pepper_env="PEPPER",
        streaming_tokens="keypool",
        streaming_token_secret_env=["PEPPER"],
        streaming_token_secret_file="old",
    )
    (file.parent / "other").write_text(token("other"), encoding="utf-8-sig")
    found = load(file)
    assert [key.secret.reveal() for key in found.keys] == [secret("k"), secret("l")]
    assert set(found.teams) == {_digest("a"), _digest("other"), _digest("third")}
    assert set(found.teams.values()) == {Team("a")}
    assert found.settings["pepper"] == PEPPER
    assert found.settings["streaming_token_secret"] == [PEPPER, "o" * 16 + "0123456789abcdef"]


def _digest(name: str) -> TokenDigest:
    return TokenDigest.of(token(name), PEPPER)


def test_a_secret_in_the_file_is_warned_of_without_showing_it(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(write(file, keys=[KEY, {"id": "l", "secret": secret("l")}], teams=[TEAM]))
    (record,) = caplog.records
    assert "[[keys]] 2: the secret stands in the file itself" in record.getMessage()
    assert secret("l") not in record.getMessage()


# What is built


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator({secret("k"): "account/prod"}).running() as simulator:
        yield simulator


async def _host(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _ask(app: Any, path: str, method: str = "GET") -> int:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pool") as client:
        client.headers["authorization"] = token("a")
        return (await client.request(method, path, content=b"RIFF" if method == "POST" else None)).status_code


def test_a_pool_and_a_middleware_are_built_of_a_file(file: Path, simulator: Simulator) -> None:
    write(file, keys=[KEY], teams=[TEAM], origins=dict(simulator.origins))

    async def asked() -> list[int]:
        pool = build(KeyPool, file)
        wrapped = build(lambda **settings: KeyPoolMiddleware(_host, **settings), file, {"prefix": "/other"})
        codes = [
            await _ask(pool, "/v1/assemblyai/v2/upload", "POST"),
            await _ask(wrapped, "/other/v2/upload", "POST"),
            await _ask(wrapped, "/v1/assemblyai/v2/upload", "POST"),
        ]
        await pool.aclose()
        await wrapped.aclose()
        return codes

    assert run(asked()) == [200, 200, 204]


def test_teams_in_code_go_before_the_files(file: Path, simulator: Simulator) -> None:
    write(file, keys=[KEY], origins=dict(simulator.origins))

    async def asked() -> int:
        pool = build(KeyPool, file, teams=lambda given: Team("found") if given == token("a") else None)
        code = await _ask(pool, "/v1/assemblyai/v2/upload", "POST")
        await pool.aclose()
        return code

    assert run(asked()) == 200


def test_keys_are_read_again_each_time(file: Path) -> None:
    write(file, keys=[KEY])
    keys = FileKeys(file)
    assert [key.id for key in keys()] == ["k"]
    write(file, keys=[KEY, {"id": "m", "secret_env": "KEY"}])
    assert [key.id for key in keys()] == ["k", "m"]
    write(file)
    with pytest.raises(ConfigurationError, match="there are no keys"):
        keys()


@pytest.mark.parametrize(("settings", "missing"), [({"keys": [KEY]}, "teams"), ({"teams": [TEAM]}, "keys")])
def test_a_file_without_keys_or_teams_builds_nothing(file: Path, settings: dict[str, Any], missing: str) -> None:
    write(file, **settings)
    with pytest.raises(
        ConfigurationError, match=rf"keypool.toml: there are no {missing}: add a table \[\[{missing}\]\]"
    ):
        build(KeyPool, file)


# Mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pepperenv": "X"}, ": there is no setting 'pepperenv'; did you mean 'pepper_env'?"),
        ({"isolation": "teams"}, ": isolation must be one of 'team', 'off', not 'teams'"),
        ({"retries": True}, ": retries must be a whole number, not true"),
        ({"retries": "many"}, ": retries must be a whole number, not 'many'"),
        ({"retries": 2**70}, ": retries must be a whole number, not "),
        ({"drain_seconds": float("nan")}, ": drain_seconds must be a number, and finite, not nan"),
        ({"drain_seconds": -1}, ": drain_seconds must not be negative, not -1"),
        ({"allowed_origins": "https://a"}, ": allowed_origins must be an array of strings"),
        ({"prefix": "pool"}, ": prefix must start with a slash"),
        ({"health": 3}, ": health must be a table, not 3"),
        ({"health": {"ramp": 1}}, r", \[health\]: there is no setting 'ramp'; did you mean 'ramp_end'"),
        ({"health": {"ramp_end": 0}}, r", \[health\]: HealthPolicy: ramp_end must be a finite number greater than 0"),
        ({"timeouts": {"conect": 1}}, r", \[timeouts\]: there is no setting 'conect'; did you mean 'connect'?"),
        ({"timeouts": {"connect": "1"}}, r", \[timeouts\]: connect must be a number, and finite, not '1'"),
        ({"sessions": {"idle_seconds": 0}}, r", \[sessions\]: sessions.idle_seconds: 0 is not a positive number"),
        ({"origins": {"apis": "http://a"}}, r", \[origins\]: origins: unknown service 'apis'"),
        ({"origins": {"api": {"mars": "http://a"}}}, r", \[origins\]: origins: unknown region 'mars'"),
        ({"origins": {"api": "ftp://a"}}, r", \[origins\]: api: origins: 'ftp://a' is not an absolute"),
        ({"origins": {"api": "http://a:99999"}}, r", \[origins\]: api: 'http://a:99999' is not an absolute"),
        ({"origins": {"api": 1}}, r", \[origins\]: api must be a URL, or a table of region to URL"),
        ({"prices": {"transcripts": {}}}, r", \[prices\]: operations: 'transcripts' is no operation"),
        ({"prices": {"*": {"cost": {}}}}, r", \[prices.'\*'\]: there is no setting 'cost'"),
        ({"prices": {"*": {"requests": {"per": 1}}}}, r", \[prices.'\*'\], requests: micros is missing"),
        (
            {"prices": {"*": {"requests": {"micros": -1}}}},
            "requests: Price: micros must be a whole number",
        ),
        ({"estimates": {"*": {"requests": "x"}}}, r", \[estimates.'\*'\]: requests must be a whole number, not 'x'"),
        ({"estimates": {"*": {"requests": 0}}}, r": estimates\['\*'\]: 'requests': 0 is no estimate"),
        ({"key_limits": {"*": [{"unit": "x"}]}}, r", \[\[key_limits.'\*'\]\] 1: amount is missing"),
        (
            {"on_store_failure": "allways"},
            ": on_store_failure must be one of 'refuse', 'allow', 'share', not",
        ),
        ({"server": {"prot": 1}}, r", \[server\]: there is no setting 'prot'; did you mean 'port'?"),
        ({"ca_file": "nowhere.pem"}, r": ca_file: .*nowhere.pem cannot be used: No such file"),
        ({"pepper_env": "UNSET_PEPPER"}, ": pepper_env: the environment variable UNSET_PEPPER is not set"),
        ({"pepper_file": "no.txt"}, ": pepper_file: the file 'no.txt' cannot be read: No such file"),
        ({"pepper_env": "PEPPER", "pepper_file": "keypool.toml"}, ": pepper is given more than once"),
        ({"streaming_tokens": "keypool"}, ": streaming_tokens='keypool' needs streaming_token_secret"),
        ({"keys": []}, "there are no keys"),
        ({"keys": KEY}, ": keys must be an array of tables, written with double brackets, not this table"),
        (
            {"keys": [{**KEY, "projct": "a"}]},
            r", \[\[keys\]\] 1: there is no setting 'projct'; did you mean 'project'?",
        ),
        ({"keys": [{"secret_env": "KEY"}]}, r", \[\[keys\]\] 1: id is missing"),
        ({"keys": [KEY, {"id": "b"}]}, r", \[\[keys\]\] 2: a key needs secret_env"),
        ({"keys": [KEY, KEY]}, r", \[\[keys\]\]: keys: two keys have the id 'k'"),
        ({"keys": [{**KEY, "weight": 0}]}, r", \[\[keys\]\] 1: UpstreamKey 'k': weight must be greater than 0, not 0"),
        ({"keys": [{**KEY, "region": "mars"}]}, r", \[\[keys\]\]: UpstreamKey 'k': unknown region 'mars'"),
        ({"teams": [{"id": "a"}]}, r", \[\[teams\]\] 1: a team needs token_digests, which 'keypool token new' prints"),
        ({"teams": [TEAM, {**TEAM, "id": "b"}]}, r", \[\[teams\]\] 2: team 'team-a' has the same token as 'b'"),
        ({"teams": [TEAM], "pepper_env": "PEPPER"}, r", \[\[teams\]\] 1: .* made without a pepper, and pepper is set"),
        ({"teams": [{**TEAM, "regions": ["us", "uk"]}]}, r", \[\[teams\]\] 1: regions: there is no region 'uk'"),
        (
            {"teams": [{**TEAM, "operations": ["transcript.*"]}]},
            r", \[\[teams\]\] 1: operations: 'transcript.\*' is no operation; did you mean 'transcripts",
        ),
        (
            {"teams": [{**TEAM, "limits": [{"unit": "requests", "amount": 1}]}]},
            r", \[\[teams\]\] 1 \[\[teams.limits\]\] 1: Limit\('requests'\): per must be one of",
        ),
        (
            {"teams": [{**TEAM, "limits": [{"unit": "request", "amount": 1, "per": "day"}]}]},
            r"\[\[teams.limits\]\] 1: Limit: unknown unit 'request'",
        ),
        ({"teams": [{**TEAM, "expires_at": "2027"}]}, r"expires_at must be a date and time with an offset.*not '2027'"),
        ({"teams": [{**TEAM, "expires_at": datetime(2027, 1, 1)}]}, r"expires_at must be .*not this value"),
    ],
)
def test_a_mistake_is_named_with_its_place(file: Path, settings: dict[str, Any], message: str) -> None:
    write(file, **{"keys": [KEY], "teams": [TEAM], **settings})
    with pytest.raises(ConfigurationError, match="keypool.toml.*" + message) as caught:
        build(KeyPool, file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"keys = ]", "is not TOML: .*line 1"),
        (b"\xff", "is not UTF-8"),
        (b"a = " + b"[" * 5000, "is not TOML"),
        (b"a = 2027-13-45", "is not TOML"),
    ],
)
def test_what_is_not_toml_is_told(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        load(file)


@pytest.mark.parametrize(
    "settings",
    [
        {"keys": [{"id": "k", "secret": secret("has spaces ")}]},
        {"keys": [{"id": "k", "secret": [secret("a")]}]},
        {"keys": [{"id": "k", "secret_env": secret("a")}]},
        {"keys": [{"id": "k", "secret": secret("a"), "secret_env": "KEY"}]},
        {"pepper_env": PEPPER},
        {"keys": [{"id": "k", "secret_file": secret("a")}]},
        {"teams": [{"id": "a", "token_digests": [token("a")]}]},
        {"teams": [{"id": "a", "token_digests": token("a")}]},
        {"teams": [{"id": "a", "token_env": token("a")}]},
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(file: Path, settings: dict[str, Any]) -> None:
    write(file, **{"keys": [KEY], "teams": [TEAM], **settings})
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    for mark in ("kp-", "0123456789abcdef"):
        assert mark not in str(caught.value).replace(str(file), "")


@pytest.mark.parametrize(
    "settings",
    [{"keys": [{**KEY, "weight": 0}]}, {"teams": [{"id": "a", "token_env": "TOKEN", "regions": ["mars"]}]}],
)
def test_what_a_traceback_has_of_a_secret_is_not_its_text(file: Path, settings: dict[str, Any]) -> None:
    """Error trackers send the locals of every frame along."""
    write(file, **settings)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    frames = [entry.frame for entry in caught.traceback if "keypool_asgi" in str(entry.path)]
    shown = "".join(repr(value) for frame in frames for value in frame.f_locals.values())
    assert "[[" in shown
    assert secret("k") not in shown
    assert token("a") not in shown


def test_reading_it_needs_no_event_loop(file: Path) -> None:
    write(file, keys=[KEY], teams=[TEAM])
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert load(file).keys

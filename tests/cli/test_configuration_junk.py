"""Whatever stands in a configuration file: it is built, or refused with a sentence; never a traceback."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli_rig import write
from harness import secret, token
from hypothesis import given, settings
from hypothesis import strategies as st

from keypool_asgi import HealthPolicy, KeyPool, SessionLimits, Timeouts
from keypool_asgi.configuration import build, load
from keypool_asgi.configuration.kinds import nearest
from keypool_asgi.configuration.server import _KINDS as SERVER
from keypool_asgi.configuration.stack_settings import SETTINGS
from keypool_asgi.configuration.tables import _KEY, _LIMIT, _TEAM
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.stores.teams import TokenDigest

KEY = {"id": "k", "secret": secret("k")}
TEAM = {"id": "team-a", "token_digests": [TokenDigest.of(token("a"))]}
LIMIT = {"unit": "requests", "amount": 1, "per": "day"}

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["team", "us", "sqlite:///x.db", "sqlite:///", "redis://", "http://[", "http://a:b", "https://é", "Europe/Berlin",
     "../etc", "month", "requests", "*", "[", "/", "/x/", "\x00", "HOME", "sha256:", "keypool", "."]
)  # fmt: skip
PLAIN = (
    TEXTS
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
)
JUNK = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2))


def refusal(read: Callable[[], object]) -> str | None:
    """What reading says when it refuses; None when it does not. Anything else is raised."""
    try:
        read()
    except ConfigurationError as error:
        return str(error)
    return None


def names(*groups: type[Any]) -> list[str]:
    return [name for group in groups for name in group.__dataclass_fields__]


def table(known: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(known) | TEXTS, JUNK, min_size=1, max_size=2)


PLACES = st.one_of(
    table(list(SETTINGS)),
    table(list(_KEY)).map(lambda values: {"keys": [{**KEY, **values}]}),
    table(list(_TEAM)).map(lambda values: {"teams": [{**TEAM, **values}]}),
    table(list(_LIMIT)).map(lambda values: {"teams": [{**TEAM, "limits": [{**LIMIT, **values}]}]}),
    table(names(HealthPolicy)).map(lambda values: {"health": values}),
    table(names(Timeouts)).map(lambda values: {"timeouts": values}),
    table(names(SessionLimits)).map(lambda values: {"sessions": values}),
    table(["api", "streaming"]).map(lambda values: {"origins": values}),
    table(["transcripts.create", "llm.*@x"]).map(lambda values: {"prices": values}),
    table(["audio_seconds"]).map(lambda values: {"prices": {"transcripts.create": values}}),
    table(["micros", "per"]).map(lambda values: {"prices": {"*": {"audio_seconds": {"micros": 1, **values}}}}),
    table(["audio_seconds"]).map(lambda values: {"estimates": {"transcripts.create": values}}),
    table(list(_LIMIT)).map(lambda values: {"key_limits": {"*": [{**LIMIT, **values}]}}),
    table(["k"]).map(lambda values: {"account_limits": values}),
    table(list(SERVER)).map(lambda values: {"server": values}),
    JUNK.map(lambda value: {"keys": value}),
    JUNK.map(lambda value: {"teams": value}),
)


@settings(max_examples=300, deadline=None)
@given(PLACES)
def test_junk_in_known_places_is_refused_with_a_sentence(junk: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / "keypool.toml", **{"keys": [KEY], "teams": [TEAM], **junk})
        said = refusal(lambda: build(KeyPool, file))
        assert said is None or said.startswith(str(file))
        assert secret("k") not in (said or "")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_with_a_sentence(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keypool.toml"
        file.write_bytes(content)
        said = refusal(lambda: load(file))
        assert said is None or said.startswith(str(file))


@given(st.sampled_from(sorted(SETTINGS)), st.data())
def test_a_name_that_is_nearly_right_is_recognised(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name) - 1))
    mistyped = name[:at] + name[at + 1 :]
    assert nearest(mistyped, SETTINGS).startswith("; did you mean ")

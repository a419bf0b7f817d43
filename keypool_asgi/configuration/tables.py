"""What the tables of keys, teams and limits mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.limits import Limit
from keypool_asgi.core.teams import Team, permits
from keypool_asgi.core.tokens import token_fault
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.stores.keys import FixedKeys
from keypool_asgi.stores.teams import TokenDigest, team_directory

from .credentials import Credentials, references
from .kinds import (
    MOMENT,
    NUMBER,
    SECRETS,
    TABLES,
    TEXT,
    TEXT_OR_TEXTS,
    TEXTS,
    WHOLE,
    Kind,
    Place,
    Values,
    checked,
    nearest,
)

__all__ = ["check_pattern", "keys_of", "limits_of", "teams_of"]

_KEY: dict[str, Kind] = {
    "id": TEXT,
    **references("secret", literal=True),
    "project": TEXT,
    "account": TEXT,
    "region": TEXT,
    "weight": NUMBER,
    "priority": WHOLE,
    "max_in_flight": WHOLE,
}
_TEAM: dict[str, Kind] = {
    "id": TEXT,
    **references("token", reference=TEXT_OR_TEXTS),
    "token_digests": SECRETS,  # a token is easily put here by mistake
    "operations": TEXTS,
    "regions": TEXTS,
    "expires_at": MOMENT,
    "limits": TABLES,
}
_LIMIT: dict[str, Kind] = {"unit": TEXT, "amount": WHOLE, "per": TEXT, "time_zone": TEXT, "operations": TEXT_OR_TEXTS}

_OPERATIONS = tuple(dict.fromkeys(row.name for row in ASSEMBLYAI.table.operations))


def keys_of(tables: Iterable[Values], credentials: Credentials, place: Place) -> tuple[UpstreamKey, ...]:
    """Read the tables ``[[keys]]``.

    Raises:
        ConfigurationError: a setting is unknown or wrong, a secret is not there, or the keys contradict each other.
    """
    keys = [_key(values, credentials, place.within(f"[[keys]] {number}")) for number, values in enumerate(tables, 1)]
    with place.within("[[keys]]").named():
        return FixedKeys(keys, ASSEMBLYAI.check_key).keys if keys else ()


def _key(values: Values, credentials: Credentials, place: Place) -> UpstreamKey:
    values = checked(values, _KEY, place)
    name = _taken(values, "id", place)
    secret = credentials.take(values, "secret", place)
    if secret is None:
        raise place.error("a key needs secret_env, the environment variable that has it, or secret_file")
    with place.named():
        return UpstreamKey(name, secret, **values)


def teams_of(
    tables: Iterable[Values], credentials: Credentials, pepper: str | bytes | None, place: Place
) -> dict[str, Team]:
    """Read the tables ``[[teams]]``: ``TokenDigest`` to team.

    Raises:
        ConfigurationError: a setting is unknown or wrong, a token is not there, or two teams have the same.
    """
    teams: dict[str, Team] = {}
    for number, table in enumerate(tables, 1):
        here = place.within(f"[[teams]] {number}")
        values = checked(table, _TEAM, here)
        digests = _digests(values, credentials, pepper, here)
        team = _team(values, here)
        for digest in digests:
            if digest in teams:
                raise here.error(f"team {teams[digest].id!r} has the same token as {team.id!r}")
            teams[digest] = team
            _check_digest(digest, team, pepper, here)
    return teams


def _digests(values: Values, credentials: Credentials, pepper: str | bytes | None, place: Place) -> list[TokenDigest]:
    written = values.pop("token_digests", [])
    tokens = credentials.take_all(values, "token", place)
    if not written and not tokens:
        raise place.error("a team needs token_digests, which 'keypool token new' prints, or token_env, or token_file")
    for token in tokens:
        if fault := token_fault(token.reveal().encode()):
            raise place.error(f"the token cannot be used. {fault.sentence}")
    try:
        return [*map(TokenDigest, written), *(TokenDigest.of(token.reveal(), pepper) for token in tokens)]
    except ConfigurationError as error:
        raise place.error(f"token_digests: {error}") from None


def _check_digest(digest: TokenDigest, team: Team, pepper: str | bytes | None, place: Place) -> None:
    with place.named():
        team_directory({digest: team}, pepper=pepper)


def _team(values: Values, place: Place) -> Team:
    name = _taken(values, "id", place)
    limits = limits_of(values.pop("limits", []), place.within(f"{place.table} [[teams.limits]]"))
    for region in values.get("regions", []):
        if region not in ASSEMBLYAI.origins:
            raise place.error(f"regions: there is no region {region!r}{nearest(region, ASSEMBLYAI.origins)}")
    _check_operations(values, place)
    with place.named():
        return Team(name, limits=limits, **values)


def limits_of(tables: Iterable[Values], place: Place) -> list[Limit]:
    """Read tables of limits.

    Raises:
        ConfigurationError: a setting is unknown or wrong.
    """
    return [_limit(values, place.within(f"{place.table} {number}")) for number, values in enumerate(tables, 1)]


def _limit(values: Values, place: Place) -> Limit:
    values = checked(values, _LIMIT, place)
    unit, amount = _taken(values, "unit", place), _taken(values, "amount", place)
    _check_operations(values, place)
    with place.named():
        return Limit(unit, amount, **values)


def _check_operations(values: Values, place: Place) -> None:
    patterns = values.get("operations", [])
    with place.named():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            check_pattern(pattern)


def check_pattern(pattern: str) -> None:
    """Check that a name or glob is that of some operation.

    Raises:
        ConfigurationError: it is not, and would permit, or count, nothing.
    """
    if not any(permits(frozenset({pattern}), name) for name in _OPERATIONS):
        raise ConfigurationError(f"operations: {pattern!r} is no operation{nearest(pattern, _OPERATIONS)}")


def _taken(values: Values, name: str, place: Place) -> Any:
    if name not in values:
        raise place.error(f"{name} is missing")
    return values.pop(name)

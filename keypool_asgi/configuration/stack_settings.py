"""What the settings of the stack mean, which stand above all tables or in tables of their own."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, cast

from keypool_asgi.core.health import HealthPolicy
from keypool_asgi.core.limits import WINDOWED_UNITS, Limit
from keypool_asgi.core.messages import Origin
from keypool_asgi.core.prices import Price, Prices, PriceTable
from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.settings import Settings
from keypool_asgi.upstream import Timeouts

from .credentials import Credentials, references
from .kinds import (
    BOOLEAN,
    NUMBER,
    TABLE,
    TABLES,
    TEXT,
    TEXT_OR_TEXTS,
    TEXTS,
    WHOLE,
    Kind,
    Place,
    Values,
    checked,
    one_of,
)
from .tables import check_pattern, limits_of

__all__ = ["IN_CODE_ONLY", "SETTINGS", "settings_of"]

_PLAIN: dict[str, Kind] = {
    "isolation": one_of("team", "off"),
    "prefix": TEXT,
    "public_url": TEXT,
    "socket_refusals": one_of("auto", "http", "in_band"),
    "allowed_origins": TEXTS,
    "streaming_tokens": one_of("assemblyai", "keypool"),
    "max_connections": WHOLE,
    "key_wait_seconds": NUMBER,
    "keys_ttl_seconds": NUMBER,
    "teams_ttl_seconds": NUMBER,
    "unknown_teams_ttl_seconds": NUMBER,
    "retries": WHOLE,
    "peek_bytes": WHOLE,
    "max_body_bytes": WHOLE,
    "discard_bytes": WHOLE,
    "drain_seconds": NUMBER,
    "reference": BOOLEAN,
    "on_store_failure": one_of("refuse", "allow", "share"),
    "quota_share": NUMBER,
    "session_window_seconds": WHOLE,
    "job_seconds": NUMBER,
    "rate_limit_fields": BOOLEAN,
    "reconcile_seconds": NUMBER,
    "via": Kind("a string", lambda value: isinstance(value, str)),
}
_GROUPS: dict[str, type[HealthPolicy | Timeouts | SessionLimits]] = {
    "health": HealthPolicy,
    "timeouts": Timeouts,
    "sessions": SessionLimits,
}

SETTINGS: dict[str, Kind] = {
    **_PLAIN,
    **references("state", literal=True),  # the URL of a Redis may have a password
    **references("pepper"),
    **references("streaming_token_secret", reference=TEXT_OR_TEXTS),
    "ca_file": TEXT,
    "origins": TABLE,
    "prices": TABLE,
    "estimates": TABLE,
    "key_limits": TABLE,
    "account_limits": TABLE,
    **dict.fromkeys(_GROUPS, TABLE),
}
"""The stack's settings that a file can express, under their names in ``Settings``; ``ca_file`` is ``ssl_context``."""

IN_CODE_ONLY = frozenset({"quotas", "resources", "ledger", "transport", "on_exchange", "on_usage", "select"})
"""Settings that are objects and functions: for overrides of ``from_config``."""


def settings_of(values: Values, credentials: Credentials, place: Place) -> Settings:
    """Read the settings of the stack, which stand above all tables, and their tables.

    Raises:
        ConfigurationError: a setting is wrong, or a secret is not there.
    """
    settings: dict[str, Any] = {name: value for name, value in values.items() if name in _PLAIN}
    if settings.get("via") == "":
        settings["via"] = None
    for name, group in _GROUPS.items():
        if name in values:
            settings[name] = _group(group, values[name], place.within(f"[{name}]"))
    for name, read in _READ.items():
        if name in values:
            settings[name] = read(values[name], place.within(f"[{name}]"))
    if "ca_file" in values:
        settings["ssl_context"] = _trust(str(credentials.folder / values["ca_file"]), place)
    for name in ("state", "pepper"):
        if (secret := credentials.take(values, name, place)) is not None:
            settings[name] = secret.reveal()
    sealing = credentials.take_all(values, "streaming_token_secret", place)
    if sealing:
        settings["streaming_token_secret"] = [secret.reveal() for secret in sealing]
    return cast("Settings", settings)


def _group(group: type[HealthPolicy | Timeouts | SessionLimits], values: Values, place: Place) -> object:
    kinds = {item.name: WHOLE if item.type == "int" else NUMBER for item in fields(group)}
    with place.named():
        return group(**checked(values, kinds, place))


def _origins(values: Values, place: Place) -> Mapping[str, str | Mapping[str, str]]:
    """Check that every value is a URL, or a table of one for each region; what they may be of, the provider says."""
    for service, given in values.items():
        urls = given.values() if isinstance(given, dict) else [given]
        for url in urls:
            if not isinstance(url, str):
                raise place.error(f"{service} must be a URL, or a table of region to URL")
            try:
                Origin.parse(url)
            except ConfigurationError as error:
                raise place.error(f"{service}: {error}") from None
            except ValueError:  # a port that is none, a host that is not ASCII
                raise place.error(f"{service}: {url!r} is not an absolute http or https URL") from None
    with place.named():
        ASSEMBLYAI.with_origins(values)
    return values


def _prices(values: Values, place: Place) -> PriceTable:
    """Read prices: operations, and after an ``@`` models, to unit to price."""
    kinds = dict.fromkeys(WINDOWED_UNITS.keys() - {"cost"}, TABLE)
    rows = {}
    for row, units in _tables(values, place).items():
        _check_row(row.partition("@")[0], place)
        here = place.within(f"[prices.{row!r}]")
        rows[row] = {unit: _price(price, here, unit) for unit, price in checked(units, kinds, here).items()}
    with place.named():
        Prices(rows)
    return rows


def _price(values: Values, place: Place, unit: str) -> Price:
    here = place.within(f"{place.table}, {unit}")
    values = checked(values, {"micros": WHOLE, "per": WHOLE}, here)
    if "micros" not in values:
        raise here.error("micros is missing: millionths of your money for every 'per' units")
    with here.named():
        return Price(**values)


def _estimates(values: Values, place: Place) -> Mapping[str, Mapping[str, int]]:
    kinds = dict.fromkeys(WINDOWED_UNITS, WHOLE)  # from 1 on, as the stack checks
    for row, units in _tables(values, place).items():
        _check_row(row, place)
        checked(units, kinds, place.within(f"[estimates.{row!r}]"))
    return values


def _limits_by_name(values: Values, place: Place) -> Mapping[str, list[Limit]]:
    name = place.table.strip("[]")
    rows = checked(values, dict.fromkeys(values, TABLES), place)
    return {row: limits_of(tables, place.within(f"[[{name}.{row!r}]]")) for row, tables in rows.items()}


def _tables(values: Values, place: Place) -> Values:
    return checked(values, dict.fromkeys(values, TABLE), place)


def _check_row(pattern: str, place: Place) -> None:
    with place.named():
        check_pattern(pattern)


def _trust(path: str, place: Place) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it has no certificates"
        raise place.error(f"ca_file: {path} cannot be used: {reason}") from None


_READ: dict[str, Callable[[Values, Place], object]] = {
    "origins": _origins,
    "prices": _prices,
    "estimates": _estimates,
    "key_limits": _limits_by_name,
    "account_limits": _limits_by_name,
}
"""Tables with rows of the operator's own naming, to what reads them."""

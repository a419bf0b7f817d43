"""Reading the file, and building a stack of it."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.teams import Team
from keypool_asgi.settings import Keys, Settings, Teams

from .credentials import Credentials
from .kinds import TABLE, TABLES, Kind, Place, Values, checked
from .server import ServerSettings, server_settings
from .stack_settings import SETTINGS, settings_of
from .tables import keys_of, teams_of

__all__ = ["Configuration", "FileKeys", "build", "load"]

logger = logging.getLogger("keypool_asgi")

Built = TypeVar("Built")

_TOP: dict[str, Kind] = {"keys": TABLES, "teams": TABLES, "server": TABLE, **SETTINGS}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a file says.

    Attributes:
        keys: the pool's keys.
        teams: ``TokenDigest`` to team; the tokens themselves are not kept.
        settings: those settings of the stack that the file has.
        server: for ``keypool serve``.
    """

    keys: tuple[UpstreamKey, ...]
    teams: Mapping[str, Team]
    settings: Settings = field(repr=False)  # it has the pepper (I2)
    server: ServerSettings


class FileKeys:
    """The keys of a file as a function for ``keys``, which reads the file again each time it is called.

    So a key that is added, removed or rotated, also in a file that ``secret_file`` names, takes effect within
    ``keys_ttl_seconds`` and without a restart.

    Args:
        path: the configuration file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()  # the process may change its folder

    def __call__(self) -> tuple[UpstreamKey, ...]:
        """Read the keys. It reads files: not for the event loop.

        Raises:
            ConfigurationError: the file cannot be read, or what it says about keys is wrong.
        """
        values, place = _read(self._path)
        credentials = Credentials(os.environ, self._path.parent)
        return keys_of(values.get("keys", []), credentials, place) or _missing("keys", place)


def load(path: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> Configuration:
    """Read a configuration file. It reads files: not for the event loop.

    Args:
        path: of a TOML file; paths in it are relative to its folder.
        environment: variables that the file may refer to. None: the process's own.

    Raises:
        ConfigurationError: the file cannot be read, or something in it is wrong. The message names the file, the
            table, the setting and what is allowed, and shows no secret.
    """
    values, place = _read(path)
    credentials = Credentials(os.environ if environment is None else environment, Path(path).parent)
    _warn_of_secrets(values, place)
    server = server_settings(values.get("server", {}), place, credentials.folder)
    settings = settings_of(values, credentials, place)
    pepper = settings.get("pepper")
    keys = keys_of(values.get("keys", []), credentials, place)
    teams = teams_of(values.get("teams", []), credentials, pepper, place)
    return Configuration(keys, teams, settings, server)


def build(
    make: Callable[..., Built],
    path: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    keys: Keys | None = None,
    teams: Teams | None = None,
) -> Built:
    """Make a stack of a file.

    Args:
        make: takes ``keys``, ``teams`` and the settings by name: ``KeyPool``, or ``KeyPoolMiddleware`` with its app.
        path: the file.
        settings: go before the file's, which cannot express all of them.
        keys: instead of the file's.
        teams: instead of the file's.

    Raises:
        ConfigurationError: the file cannot be read, or something in it or in the settings is wrong.
    """
    configuration, place = load(path), Place(os.fspath(path))
    if keys is None:
        keys = FileKeys(path) if configuration.keys else _missing("keys", place)
    if teams is None:
        teams = configuration.teams or _missing("teams", place)
    with place.named():
        return make(keys=keys, teams=teams, **{**configuration.settings, **(settings or {})})


def _missing(name: str, place: Place) -> NoReturn:
    raise place.error(f"there are no {name}: add a table [[{name}]]")


def _read(path: str | os.PathLike[str]) -> tuple[Values, Place]:
    place = Place(os.fspath(path))
    try:
        text = Path(path).read_bytes().decode()
        values = tomllib.loads(text)
    except OSError as error:
        raise place.error(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise place.error("is not UTF-8, as TOML is") from None
    except tomllib.TOMLDecodeError as error:
        raise place.error(f"is not TOML: {error}") from None
    except (ValueError, RecursionError):  # a path with a null character; dates and depths that Python cannot have
        raise place.error("is not TOML that can be read") from None
    return checked(values, _TOP, place), place


def _warn_of_secrets(values: Values, place: Place) -> None:
    keys = values.get("keys", [])
    written = [str(number) for number, key in enumerate(keys, 1) if "secret" in key]
    if written:
        logger.warning(
            "%s, [[keys]] %s: the secret stands in the file itself; give it by secret_env or secret_file, which keeps "
            "it out of backups and version control",
            place.file,
            ", ".join(written),
        )

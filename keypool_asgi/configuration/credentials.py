"""Secrets of the file, which the file itself should only refer to: by environment variable or by another file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keypool_asgi.core.keys import Secret

from .kinds import SECRET, TEXT, Kind, Place, Values

__all__ = ["Credentials", "references"]

# Names that are written like this are no secrets that were put into the wrong setting, and may be shown.
_USUAL_NAME = re.compile(r"[A-Z]{1,24}(_[A-Z0-9]{1,24})*\Z")
_USUAL_PATH = re.compile(r"[./\\]")


def references(name: str, *, literal: bool = False, reference: Kind = TEXT) -> dict[str, Kind]:
    """The settings that a secret may be given by.

    Args:
        name: of the secret, such as ``"secret"``.
        literal: whether it may also stand in the file itself.
        reference: what the references may be.
    """
    kinds = {f"{name}_env": Kind(reference.words, reference.accepts, secret=True), f"{name}_file": reference}
    return {name: SECRET, **kinds} if literal else kinds


@dataclass(frozen=True, slots=True)
class Credentials:
    """Reads secrets.

    Attributes:
        environment: the environment variables.
        folder: what paths are relative to: the configuration file's folder.
    """

    environment: Mapping[str, str] = field(repr=False)
    folder: Path

    def take(self, values: Values, name: str, place: Place) -> Secret | None:
        """Take the settings of a secret out of a table, and return the secret; None when there is none.

        Raises:
            ConfigurationError: it is given twice, or what it refers to is not there, or empty.
        """
        secrets = self.take_all(values, name, place)
        if len(secrets) > 1:
            raise place.error(f"{name} is given more than once; keep {name}_env or {name}_file")
        return secrets[0] if secrets else None

    def take_all(self, values: Values, name: str, place: Place) -> list[Secret]:
        """Take the settings of a secret of which there may be several; those from variables come first."""
        variables, files = (_listed(values.pop(f"{name}_{by}", [])) for by in ("env", "file"))
        secrets = [Secret(text) for text in _listed(values.pop(name, []))]
        secrets += [self._from_variable(variable, f"{name}_env", place) for variable in variables]
        secrets += [self._from_file(path, f"{name}_file", place) for path in files]
        return secrets

    def _from_variable(self, variable: str, setting: str, place: Place) -> Secret:
        secret = self.environment.get(variable)
        if not secret:
            shown = variable if _USUAL_NAME.match(variable) else "that it names"
            raise place.error(
                f"{setting}: the environment variable {shown} is {'not set' if secret is None else 'empty'}"
            )
        return Secret(secret)

    def _from_file(self, name: str, setting: str, place: Place) -> Secret:
        shown = f"{setting}: the file {repr(name) if _USUAL_PATH.search(name) else 'that it names'}"
        try:
            secret = (self.folder / name).read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            raise place.error(f"{shown} cannot be read: {error.strerror}") from None
        except ValueError:  # not UTF-8, or a path that no file can have
            raise place.error(f"{shown} is not a text file") from None
        if not secret:
            raise place.error(f"{shown} is empty")
        return Secret(secret)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)

"""docs/settings.md is true: its tables are the package's."""

from __future__ import annotations

import inspect

import pytest
from blocks import cells, section

import keypool_asgi
from keypool_asgi.assembly import assemble
from keypool_asgi.stack import KeyPoolMiddleware, Settings

DOCUMENT = "docs/settings.md"


def told_settings() -> dict[str, str]:
    return cells(section(DOCUMENT, "Every setting"))


def test_every_setting_is_told_and_no_other() -> None:
    required = [
        name for name, kind in inspect.signature(KeyPoolMiddleware).parameters.items() if kind.name != "settings"
    ]
    assert sorted(told_settings()) == sorted([*Settings.__annotations__, *(set(required) - {"app"})])


@pytest.mark.parametrize("name", Settings.__annotations__)
def test_the_default_of_a_setting_is_the_real_one(name: str) -> None:
    told = eval(told_settings()[name], {public: getattr(keypool_asgi, public) for public in keypool_asgi.__all__})
    real = inspect.signature(assemble).parameters[name].default
    policies = (keypool_asgi.HealthPolicy(), keypool_asgi.Timeouts(), keypool_asgi.SessionLimits())
    assert told == real or (real is None and told in policies)


def test_the_arguments_of_a_team_are_the_packages() -> None:
    parameters = inspect.signature(keypool_asgi.Team).parameters
    told = cells(section(DOCUMENT, "Teams"))
    assert list(told) == list(parameters)
    assert {name: eval(told[name]) for name in list(told)[1:]} == {
        name: parameter.default for name, parameter in list(parameters.items())[1:]
    }


def test_the_timeouts_are_the_packages() -> None:
    told = {name: float(seconds) for name, seconds in cells(section(DOCUMENT, "Timeouts")).items()}
    real = keypool_asgi.Timeouts()
    assert told == {name: getattr(real, name) for name in keypool_asgi.Timeouts.__dataclass_fields__}

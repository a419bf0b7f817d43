"""What all commands have in common: help, version, exit codes, and that asking for help costs next to nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from cli_rig import ROOT, environment, keypool

COMMANDS = ("serve", "check", "token", "token new", "usage", "adopt", "demo")


def test_the_help_names_every_command() -> None:
    said = keypool("--help").stdout
    assert said.startswith("usage: keypool ")
    for command in COMMANDS:
        assert f"\n    {command.split()[0]} " in said


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_that_explains_its_options(command: str) -> None:
    said = keypool(*command.split(), "--help").stdout
    assert said.startswith(f"usage: keypool {command} ")
    options = [line.split()[0].rstrip(",") for line in said.splitlines() if line.startswith("  -")]
    assert options[0] == "-h"
    assert len(said.splitlines()) > 6


def test_the_version_is_the_packages() -> None:
    assert keypool("--version").stdout.strip() == f"keypool {version('keypool-asgi')}"


@pytest.mark.parametrize("arguments", [[], ["chek"], ["token"], ["adopt", "--team", "a"]])
def test_a_wrong_use_shows_the_usage(arguments: list[str]) -> None:
    assert keypool(*arguments, code=2).stderr.startswith("usage: keypool")


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'httpx', 'wsproto', 'uvicorn', 'tomllib', 'keypool_asgi.stack', 'keypool_asgi.testing'}"
    code = (
        "import sys\n"
        "from keypool_asgi.cli import main\n"
        "try:\n    main(['check', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', sorted({heavy} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment({}), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"

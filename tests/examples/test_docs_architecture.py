"""docs/architecture.md is true: its stages, layers and ports are the package's."""

from __future__ import annotations

import re
import tomllib

from blocks import ROOT, Blocks, rows, section

from keypool_asgi import ports

DOCUMENT = "docs/architecture.md"
PACKAGE = ROOT / "keypool_asgi"


def test_it_has_no_code_to_run() -> None:
    assert Blocks(DOCUMENT) == {}


def test_each_stage_is_a_file() -> None:
    told = [name.strip("`") for name, _ in rows(section(DOCUMENT, "A request's way"))]
    assert [name for name in told if not (PACKAGE / "stages" / f"{name}.py").is_file()] == []


def test_the_layers_are_those_that_are_enforced() -> None:
    told = [name for cell, _ in rows(section(DOCUMENT, "Layers")) for name in re.findall(r"`(\w+)(?:\.py)?`", cell)]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    enforced = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    assert set(told) == enforced - {"__main__"}


def test_the_verbs_of_the_ports_are_the_packages() -> None:
    told = {name.strip("`"): set(re.findall(r"\w+", verbs)) for name, verbs, _ in rows(section(DOCUMENT, "Ports"))}
    real = {name: {verb for verb in vars(getattr(ports, name)) if not verb.startswith("_")} for name in told}
    assert told == real

"""The public names are listed once, can all be imported, and are what type checkers see."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import keypool_asgi

SOURCE = ast.parse(Path(keypool_asgi.__file__).read_text())


@pytest.mark.parametrize("name", keypool_asgi.__all__)
def test_each_name_is_there(name: str) -> None:
    assert getattr(keypool_asgi, name).__name__ == name
    assert name in dir(keypool_asgi)


def test_type_checkers_see_the_same_names() -> None:
    block = next(node for node in SOURCE.body if isinstance(node, ast.If))
    seen = {alias.name for line in block.body if isinstance(line, ast.ImportFrom) for alias in line.names}
    assert seen == set(keypool_asgi.__all__)


def test_a_name_that_is_not_there_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'KeyPol'"):
        keypool_asgi.KeyPol  # noqa: B018 - the access is the test


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, keypool_asgi; print(sorted({'asyncio', 'httpx', 'ssl', 'wsproto', 'h11'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stack_imports_neither_httpx_nor_a_parser() -> None:
    script = (
        "import sys, keypool_asgi; keypool_asgi.KeyPool; print(sorted({'httpx', 'wsproto', 'h11'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

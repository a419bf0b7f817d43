"""docs/security.md is true: its code runs, the fields that it says do not cross are the package's."""

from __future__ import annotations

import re
import shlex

import httpx
import pytest
from blocks import Blocks, section
from readers import PEPPER, here, pool  # noqa: F401 - a fixture

from keypool_asgi import TokenDigest, cli
from keypool_asgi.core import headers

DOCUMENT = "docs/security.md"
BLOCKS = Blocks(DOCUMENT)


def test_every_block_has_a_check() -> None:
    BLOCKS.check(globals())


def new_token(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The token and the digest that the command prints."""
    program, *arguments = shlex.split(BLOCKS["token"])
    assert program == "keypool"
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    found = re.search(r"^  (kpt_\S+)$", said, re.MULTILINE)
    digest = re.search(r'token_digests = \["(.*)"\]', said)
    assert found
    assert digest
    return found[1], digest[1]


def test_block_token(capsys: pytest.CaptureFixture[str]) -> None:
    token, digest = new_token(capsys)
    assert digest == TokenDigest.of(token, PEPPER)


def test_block_digests(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    token, digest = new_token(capsys)
    monkeypatch.setenv("RESEARCH_DIGEST", digest)
    with pool(BLOCKS.execute("digests")["pool"]) as base:
        assert httpx.get(f"{base}/v2/transcript", headers={"x-api-key": token}).status_code == 200
        assert httpx.get(f"{base}/v2/transcript", headers={"x-api-key": digest}).status_code == 401


def quoted(text: str) -> set[bytes]:
    return {name.lower().encode() for name in re.findall(r"`([A-Za-z0-9-]+)`", text)}


def bullet(start: str) -> str:
    """The bullet on header fields that begins so, up to its first full stop."""
    text = " ".join(section(DOCUMENT, "What crosses the pool").split())
    return text.partition(f"- {start}:")[2].partition(". ")[0].partition(" - ")[0].partition(", and the fields")[0]


def test_the_fields_that_do_not_cross_are_the_packages() -> None:
    written_anew = {b"accept-encoding", b"authorization", b"host", b"content-length", b"via"}
    assert quoted(bullet("Ended here, in both directions")) == headers._HOP_BY_HOP
    assert quoted(bullet("Not sent to AssemblyAI")) == headers._NOT_FOR_UPSTREAM - headers._HOP_BY_HOP - written_anew
    assert quoted(bullet("Not sent to callers")) == headers._NOT_FOR_CALLERS - headers._HOP_BY_HOP
    parameters = {name.decode() for name in headers._CREDENTIAL_PARAMETERS}
    told = section(DOCUMENT, "What crosses the pool")
    assert {name for name in parameters if f"`{name}`" in told} == parameters

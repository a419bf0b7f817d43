"""``keypool check``: ask AssemblyAI about every key, and compare that with the configuration."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .failures import DEFAULT_FILE, WrongUse, wrong_use

if TYPE_CHECKING:
    import ssl

    from keypool_asgi.core.keys import UpstreamKey
    from keypool_asgi.core.provider import Provider

    from .checking import Findings, KeySight, Problem

__all__ = ["add_parser", "run"]

_PROGRESS_SECONDS = 1.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check",
        allow_abbrev=False,
        help="ask AssemblyAI whether the keys are good, and what they belong to",
        description="Asks AssemblyAI about every key: whether it is accepted and in which region, whether its account "
        "has funds, and which keys share a project or an account. The questions are free and create nothing. What "
        "cannot be told, such as the project of keys that have no transcripts yet, is shown as '?'.",
        epilog="Exit codes: 0 all keys are good and as declared, 1 there are problems, 2 a wrong use.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="FILE", help=f"configuration file with the keys (default: {DEFAULT_FILE})")
    source.add_argument(
        "--key-env",
        action="append",
        metavar="NAME",
        help="environment variable with a key, instead of a file; may be repeated",
    )
    parser.add_argument("--region", default="us", help="region of the keys of --key-env (default: us)")
    parser.add_argument(
        "--at-once", type=_positive, default=8, metavar="N", help="most requests at a time (default: 8)"
    )
    parser.add_argument(
        "--seconds", type=_positive, default=15, metavar="N", help="longest time for one request (default: 15)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Check the keys and print what was found."""
    import asyncio

    from .checking import problems

    with wrong_use():
        subject = _from_environment(given) if given.key_env else _from_file(given.config or DEFAULT_FILE)
    findings = asyncio.run(_survey(subject, given))
    found = problems(findings)
    if given.json:
        print(json.dumps(_as_json(findings, found)))
    else:
        print("\n".join([*_table(findings), *_listed(found)]))
    return 1 if found else 0


@dataclass(frozen=True)
class _Subject:
    """What is checked: the keys, the provider that has them, and how its certificates are verified."""

    keys: Sequence[UpstreamKey]
    provider: Provider
    ssl_context: ssl.SSLContext | None = None


def _from_file(path: str) -> _Subject:
    from keypool_asgi.configuration import load
    from keypool_asgi.providers.assemblyai import ASSEMBLYAI

    configuration = load(path)
    if not configuration.keys:
        raise WrongUse(f"{path}: there are no keys: add a table [[keys]]")
    settings = configuration.settings
    return _Subject(configuration.keys, ASSEMBLYAI.with_origins(settings.get("origins")), settings.get("ssl_context"))


def _from_environment(given: argparse.Namespace) -> _Subject:
    from keypool_asgi.core.keys import UpstreamKey
    from keypool_asgi.providers.assemblyai import ASSEMBLYAI

    keys = []
    for name in given.key_env:
        secret = os.environ.get(name)
        if not secret:
            raise WrongUse(f"--key-env: the environment variable {name} is not set")
        keys.append(UpstreamKey(name, secret, region=given.region))
        ASSEMBLYAI.check_key(keys[-1])
    return _Subject(keys, ASSEMBLYAI)


async def _survey(subject: _Subject, given: argparse.Namespace) -> Findings:
    from keypool_asgi.upstream import NativeClient

    from .checking.questions import Questions
    from .checking.survey import survey

    client = NativeClient(ssl_context=subject.ssl_context)
    try:
        questions = Questions(client, subject.provider, at_once=given.at_once, seconds=given.seconds)
        return await survey(subject.keys, questions, subject.provider, _Progress())
    finally:
        await client.aclose()


class _Progress:
    """Prints how far it is, at most once a second, and when a part is done."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if done == total or now >= self._next:
            self._next = now + _PROGRESS_SECONDS
            print(f"checked {done} of {total} {what}", file=sys.stderr, flush=True)


def _as_json(findings: Findings, found: Iterable[Problem]) -> dict[str, Any]:
    return {
        "keys": [_key_as_json(sight, findings) for sight in findings.sights],
        "problems": [{"kind": problem.kind, "keys": problem.keys, "text": problem.text} for problem in found],
    }


def _key_as_json(sight: KeySight, findings: Findings) -> dict[str, Any]:
    key = sight.key
    return {
        "id": key.id,
        "standing": sight.standing.value,
        "region": sight.region,
        "funds": sight.funds.value,
        "declared": {"region": key.region, "project": key.project, "account": key.account},
        "same_project_as": findings.project_mates(key.id),
        "same_account_as": findings.account_mates(key.id),
    }


_HEADINGS = ("KEY", "STANDING", "REGION", "FUNDS", "PROJECT", "SEEN WITH", "ACCOUNT", "SHARED WITH")


def _table(findings: Findings) -> list[str]:
    rows = [_HEADINGS, *(_row(sight, findings) for sight in findings.sights)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _row(sight: KeySight, findings: Findings) -> tuple[str, ...]:
    key = sight.key
    by_project, by_account = findings.project_mates(key.id), findings.account_mates(key.id)
    return (
        key.id,
        sight.standing.value,
        sight.region or "?",
        "?" if sight.funds.value == "unknown" else sight.funds.value,
        key.project,
        _mates(by_project, key.id, findings.one_project),
        key.account,
        _mates(by_account, key.id, findings.one_account),
    )


def _mates(mates: list[str], key_id: str, known: Iterable[frozenset[str]]) -> str:
    """Who shares it; a dash for nobody, and a question mark where nothing is known."""
    return ", ".join(mates) or ("-" if any(key_id in pair for pair in known) else "?")


def _listed(found: Sequence[Problem]) -> list[str]:
    if not found:
        return ["", "All keys are good, and nothing contradicts what is declared."]
    return ["", f"Problems ({len(found)}):", *(f"  {' and '.join(one.keys)}: {one.text}." for one in found)]


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)

"""Command line for the SQLite file of keys and teams.

::

    export KEYPOOL_PEPPER=...                                    # long, random, kept apart from the file
    python -m examples.fastapi_app.manage init                   # two teams; their tokens are shown once
    python -m examples.fastapi_app.manage add-key prod-1 --project prod
    python -m examples.fastapi_app.manage rotate-key prod-1
    python -m examples.fastapi_app.manage issue-token research

Secrets of keys are read from the terminal or from a pipe, never from the arguments: other users of a machine can read
those.
"""

from __future__ import annotations

import argparse
import getpass
import sqlite3
import sys

from .store import Store

__all__ = ["main", "seed"]


def seed(store: Store) -> dict[str, str]:
    """Add two teams, and return the token of each: one that may do everything, and one that may only read."""
    store.add_team("research", requests_per_minute=600)
    store.add_team("archive", operations=["transcripts.get", "transcripts.list", "transcripts.srt", "transcripts.vtt"])
    return {team: store.issue_token(team) for team in ("research", "archive")}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(arguments)
    store = Store.from_environment()
    try:
        args.run(store, args)
    except sqlite3.IntegrityError as error:
        return _fail(f"not possible: {error}")
    except (LookupError, ValueError) as error:
        return _fail(str(error))
    return 0


def _init(store: Store, _args: argparse.Namespace) -> None:
    for team, token in seed(store).items():
        _say(f"team {team}, token {token}")
    _say(f"{store.path} is ready. Add a key with: python -m examples.fastapi_app.manage add-key ID --project PROJECT")


def _add_key(store: Store, args: argparse.Namespace) -> None:
    store.add_key(args.id, _secret(args.id), project=args.project, region=args.region, priority=args.priority)


def _rotate_key(store: Store, args: argparse.Namespace) -> None:
    store.rotate_key(args.id, _secret(args.id))


def _issue_token(store: Store, args: argparse.Namespace) -> None:
    _say(store.issue_token(args.team))


def _list(store: Store, _args: argparse.Namespace) -> None:
    for key in store.load_keys():
        _say(f"key {key.id}, project {key.project}, region {key.region}, priority {key.priority}")


def _secret(key: str) -> str:
    return getpass.getpass(f"Secret of {key}: ") if sys.stdin.isatty() else sys.stdin.readline().strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.fastapi_app.manage", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("init", help="make the file, with two teams").set_defaults(run=_init)
    add_key = commands.add_parser("add-key", help="add a key; its secret is asked for")
    add_key.add_argument("id")
    add_key.add_argument("--project", required=True)
    add_key.add_argument("--region", default="us", choices=("us", "eu"))
    add_key.add_argument("--priority", type=int, default=0)
    add_key.set_defaults(run=_add_key)
    rotate_key = commands.add_parser("rotate-key", help="give a key a new secret, which is asked for")
    rotate_key.add_argument("id")
    rotate_key.set_defaults(run=_rotate_key)
    issue_token = commands.add_parser("issue-token", help="give a team a further token")
    issue_token.add_argument("team")
    issue_token.set_defaults(run=_issue_token)
    commands.add_parser("list", help="show the keys, without their secrets").set_defaults(run=_list)
    return parser


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _fail(line: str) -> int:
    sys.stderr.write(f"{line}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

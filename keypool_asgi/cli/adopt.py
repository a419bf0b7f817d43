"""``keypool adopt``: give a team the transcripts that a project holds already."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from keypool_asgi.errors import ConfigurationError

if TYPE_CHECKING:
    from keypool_asgi.stack import KeyPool

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "adopt",
        allow_abbrev=False,
        help="import a project's existing transcripts for a team",
        description="Records every transcript that the project of a key holds as the team's, so that a pool can be put "
        "in front of an account that is in use. It may be repeated; what a team owns already stays with that team.",
    )
    parser.add_argument("--team", required=True, help="id of the team, as in Team(id)")
    parser.add_argument("--project", required=True, help="name of the project, as in UpstreamKey(..., project=...)")
    parser.add_argument("--state", required=True, help="where owners are kept, such as sqlite:///keypool.db")
    parser.add_argument("--region", default="us", help="region of the key (default: us)")
    parser.add_argument(
        "--key-env",
        default="ASSEMBLYAI_API_KEY",
        metavar="NAME",
        help="environment variable with a key of the project (default: ASSEMBLYAI_API_KEY)",
    )
    parser.add_argument("--api", metavar="URL", help="base URL of the API, instead of the region's")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Adopt, and print how many transcripts there were."""
    import asyncio

    from keypool_asgi.core.keys import UpstreamKey
    from keypool_asgi.stack import KeyPool

    secret = os.environ.get(given.key_env)
    if not secret:
        raise ConfigurationError(f"--key-env: the environment variable {given.key_env} is not set")
    key = UpstreamKey("adopt", secret, project=given.project, region=given.region)
    origins = {"api": given.api} if given.api else None
    count = asyncio.run(_adopt(KeyPool(keys=[key], teams={}, state=given.state, origins=origins), given))
    if given.json:
        print(json.dumps({"team": given.team, "project": given.project, "transcripts": count}))
    else:
        print(f"{count} transcripts of project {given.project} belong to team {given.team} now.")
    return 0


async def _adopt(pool: KeyPool, given: argparse.Namespace) -> int:
    try:
        return await pool.adopt(given.team, given.project, progress=_print_progress)
    finally:
        await pool.aclose()


def _print_progress(seen: int) -> None:
    print(f"{seen} transcripts so far", file=sys.stderr)

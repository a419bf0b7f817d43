"""``keypool token new``: make a team token, and the digest that the configuration has instead of it."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from pathlib import Path

from .failures import WrongUse

__all__ = ["add_parser", "run"]

_PEPPER_VARIABLE = "KEYPOOL_PEPPER"

# By this, scanners for secrets know a token that was published by mistake.
_PREFIX = "kpt_"

_RANDOM_BYTES = 32


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "token",
        allow_abbrev=False,
        help="make team tokens",
        description="Makes team tokens.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    new = verbs.add_parser(
        "new",
        allow_abbrev=False,
        help="make a token for a team",
        description="Makes a token and prints it, this once: nothing keeps it. Beside it stands its digest, which is "
        "what the configuration file and the teams mapping need. The digest is made under the pepper in the "
        f"environment variable {_PEPPER_VARIABLE} or in --pepper-file, which must be the pool's; without one it is a "
        "plain SHA-256, which is safe for tokens as long as these.",
    )
    new.add_argument("team", metavar="TEAM", help="id of the team")
    new.add_argument("--pepper-file", type=Path, metavar="FILE", help="file with the pepper")
    new.add_argument("--json", action="store_true", help="print team, token and digest as JSON")
    new.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Make a token and print it."""
    from keypool_asgi.stores.teams import TokenDigest

    if not given.team or not given.team.isprintable():
        raise WrongUse("TEAM must be a name that can be printed")
    pepper = _pepper(given.pepper_file)
    # Its characters are those that a subprotocol may have, which is how browsers present it (RFC 9110, section 5.6.2).
    token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    digest = TokenDigest.of(token, pepper)
    if given.json:
        print(json.dumps({"team": given.team, "token": token, "digest": digest}))
    else:
        _print(given.team, token, digest)
    return 0


def _pepper(file: Path | None) -> str | None:
    if file is None:
        pepper = os.environ.get(_PEPPER_VARIABLE)
        if pepper == "":
            raise WrongUse(f"the environment variable {_PEPPER_VARIABLE} is empty")
        return pepper
    try:
        pepper = file.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise WrongUse(f"--pepper-file: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WrongUse(f"--pepper-file: {file} is not a text file") from None
    if not pepper:
        raise WrongUse(f"--pepper-file: {file} is empty")
    return pepper


def _print(team: str, token: str, digest: str) -> None:
    print(f"The token of team {team}. It is shown this once:\n\n  {token}\n", flush=True)
    made = "under the pepper" if digest.startswith("hmac-") else "without a pepper"
    print(f"For the configuration file, its digest, made {made}:\n")
    print(f'  [[teams]]\n  id = {json.dumps(team, ensure_ascii=False)}\n  token_digests = ["{digest}"]')
    if not digest.startswith("hmac-"):
        print(f"keypool: {_PEPPER_VARIABLE} is not set: this digest is for a pool without a pepper", file=sys.stderr)

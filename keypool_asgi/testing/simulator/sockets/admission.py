"""Who may open a session: keys and temporary tokens, funds, and how many sessions an account may have."""

from __future__ import annotations

from typing import NamedTuple

from keypool_asgi.testing.simulator.values import Request
from keypool_asgi.testing.simulator.world import Account, Key, Token, World

from .dialogue import Denied
from .sessions import Ledger

__all__ = ["Credential", "admit", "credential"]

_UNAUTHORIZED = "Unauthorized Connection: "


class Credential(NamedTuple):
    """What an upgrade request presents: the text, the token that it is, and the key that it stands for."""

    text: str | None
    token: Token | None
    key: Key | None


def credential(world: World, request: Request) -> Credential:
    """Look at what a request presents, whether it is good or not."""
    query, text = request.query.get("token"), request.header(b"authorization")
    if text is not None and request.service == "agents" and text.lower().startswith("bearer "):
        text = text[7:].strip()
    token = world.tokens.get(query or text or "")
    if query is not None:
        return Credential(query, token, None if token is None else token.key)
    return Credential(text, token, world.keys.get(text or "") if token is None else token.key)


def admit(world: World, ledger: Ledger, request: Request, *, tokens_once: bool) -> Key:
    """Return the key that a session is to run on.

    Raises:
        Denied: it is not admitted.
    """
    text, token, key = credential(world, request)
    if not text:
        raise Denied(401, 1008, "unauthorized", _UNAUTHORIZED + "Missing Authorization header")
    if key is None or key.revoked or key.account.region != request.region:
        raise Denied(401, 1008, "unauthorized", _UNAUTHORIZED + "Invalid API key")
    if token is not None:
        _check_token(token, request, spent=tokens_once and ledger.spent(token.value))
    _check_account(key.account, ledger, request)
    return key


def _check_token(token: Token, request: Request, *, spent: bool) -> None:
    if token.service != request.service or spent:
        raise Denied(401, 1008, "unauthorized", _UNAUTHORIZED + "Invalid token")
    if request.now > token.expires:
        code = 3008 if request.service == "streaming" else 1008
        raise Denied(401, code, "unauthorized", "Session Expired: the token has expired")


def _check_account(account: Account, ledger: Ledger, request: Request) -> None:
    if account.disabled:
        raise Denied(403, 1008, "account_disabled", _UNAUTHORIZED + "Account is disabled")
    if account.balance < 0:
        raise Denied(400, 1008, "insufficient_funds", _UNAUTHORIZED + "Insufficient account balance")
    throttle = account.throttle
    if throttle is not None and throttle.service in (None, request.service):
        raise Denied(throttle.status, 3009, "rate_limited", _UNAUTHORIZED + "Too many concurrent sessions")
    starts = ledger.starts(account, request.now)
    at_once, each_minute = account.sessions_at_once, account.sessions_per_minute
    if (at_once is not None and len(ledger.running(request.now, account)) >= at_once) or (
        each_minute is not None and len(starts) >= each_minute
    ):
        raise Denied(429, 3009, "rate_limited", _UNAUTHORIZED + "Too many concurrent sessions")
    starts.append(request.now)

"""Every refusal that an SDK can meet when it opens a live session: how it comes about, and what its user must read."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from harness import free_port, token
from websockets.sync.client import ClientConnection, connect

from keypool_asgi import Limit, Team

from .cases import LONG_AGO, NO_KEY_NOW, STORE_FAILED, failing, keys_revoked, no_funds, no_keys
from .gateway import TOKEN
from .streaming_pool import Live, live

__all__ = ["CASES", "NO_KEYS", "Case", "dialed", "one_open", "team"]

FINAL, OVER_QUOTA, AGAIN = 4001, 4002, 1013

NO_KEYS = "The pool has no keys: its operator must add one."
NO_KEY_THERE = "The pool has no key for this region and project: its operator must add one."
SHUTDOWN = "This server is shutting down; send the request again, to another one."
UNREACHABLE = "AssemblyAI could not be reached. Try again later."


def as_it_is(_pool: Live) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Case:
    """One way to be refused.

    Attributes:
        name: what went wrong.
        status: of the refusal, where it is shown by a status.
        code: of the refusal, where it is shown in band.
        sentence: what the SDK's user must read.
        settings: makes changes to the pool's settings.
        given: what must be so while the user acts.
        token: what the user presents.
        typical: whether it stands for its like where trying them all would tell no more.
    """

    name: str
    status: int
    code: int
    sentence: str
    settings: Callable[[], dict[str, Any]] = dict
    given: Callable[[Live], AbstractContextManager[None]] = as_it_is
    token: str = field(default=TOKEN, repr=False)
    typical: bool = False

    @contextlib.contextmanager
    def arranged(self, **settings: Any) -> Iterator[Live]:
        """Open a pool at which the refusal is due."""
        with live(**self.settings(), **settings) as pool, self.given(pool):
            yield pool


def team(**rights: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"teams": {TOKEN: Team("sdk-users", **rights)}}


@contextlib.contextmanager
def dialed(pool: Live, path: str = "/v3/ws?sample_rate=16000", scheme: str = "") -> Iterator[ClientConnection]:
    """Open a session without an SDK."""
    trust = ssl.create_default_context(cafile=pool.served.ca)
    headers = {"Authorization": scheme + pool.token}
    url = f"wss://{pool.api_host}{path}"
    with connect(url, ssl=trust, additional_headers=headers, proxy=None) as socket:
        yield socket


@contextlib.contextmanager
def one_open(pool: Live) -> Iterator[None]:
    """Have a session of the same team going on."""
    with dialed(pool) as socket:
        assert json.loads(socket.recv())["type"] == "Begin"
        yield
        socket.send('{"type":"Terminate"}')


@contextlib.contextmanager
def one_ended(pool: Live) -> Iterator[None]:
    with one_open(pool):
        pass
    pool.rest()
    yield


@contextlib.contextmanager
def draining(pool: Live) -> Iterator[None]:
    pool.served.call(pool.app.drain, 0)
    yield


def dead_host() -> dict[str, Any]:
    nobody = f"http://127.0.0.1:{free_port()}"
    return {"origins": {"streaming": nobody, "tts": nobody}}


CASES = (
    Case(
        "an unknown token",
        401,
        FINAL,
        "The token is unknown: it is no team token of this service, and no temporary token that was made here lately.",
        token=token("nobody"),
        typical=True,
    ),
    Case(
        "an expired token",
        401,
        FINAL,
        "The team token has expired. Ask the operator of this service for a new one.",
        team(expires_at=LONG_AGO),
    ),
    Case("a team without any right", 403, FINAL, "This team may not use this service.", team(operations=[])),
    Case(
        "a team without this right",
        403,
        FINAL,
        "This team may not use the operation streaming.session.",
        team(operations=["transcripts.create"]),
        typical=True,
    ),
    Case(
        "a limit of concurrency",
        429,
        OVER_QUOTA,
        "Limit of 1 concurrent request is used up; it frees when that one ends.",
        team(limits=[Limit("concurrency", 1)]),
        one_open,
        typical=True,
    ),
    Case(
        "a limit of requests",
        429,
        OVER_QUOTA,
        "Limit of 1 request per hour is used up; it frees in 60 minutes.",
        team(limits=[Limit("requests", 1, per="hour")]),
        one_ended,
    ),
    Case("no keys", 503, AGAIN, NO_KEYS, lambda: {"keys": no_keys}, typical=True),
    Case("all keys revoked", 503, AGAIN, NO_KEY_NOW, given=keys_revoked, typical=True),
    Case("no funds", 503, AGAIN, NO_KEY_NOW, given=no_funds),
    Case("no key of the team's region", 503, AGAIN, NO_KEY_THERE, team(regions=["eu"])),
    Case("failing teams", 503, AGAIN, STORE_FAILED, lambda: {"teams": failing}),
    Case("a shutdown", 503, AGAIN, SHUTDOWN, given=draining),
    Case("no connection to upstream", 502, AGAIN, UNREACHABLE, dead_host, typical=True),
)

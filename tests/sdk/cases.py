"""Every refusal that an SDK can meet over HTTP: how it comes about, and the sentence that its user must read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
from harness import free_port, token

from keypool_asgi import Limit, QuotaCallbacks, Team, Timeouts, UpstreamKey
from keypool_asgi.testing import Fault

from .gateway import KEY_A, KEY_B, TOKEN, Gateway, opened

__all__ = ["CASES", "Act", "Case"]

Act = Literal["list", "list too many", "get", "submit", "upload", "upload unsized", "upload big"]
"""What the user does: ``get`` an id that nobody has; ``upload`` 400 kB with a length or without one, or 16 MB."""

SUBMIT = "/v2/transcript"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
STORE_FAILED = "The service cannot check this request now, so it was refused. Try again later."
BROKEN_OFF = "AssemblyAI broke off the connection, or its answer was not valid HTTP."
TOO_LATE = "AssemblyAI did not answer in time."
NO_KEY_NOW = "No key can serve this request now; try again later."
TOO_LARGE = "The request body is larger than the 100000 bytes that are allowed."


def as_it_is(_gateway: Gateway) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Case:
    """One way to be refused.

    Attributes:
        name: what went wrong.
        code: the row of the error table.
        sentence: what the SDK's user must read.
        act: what the user does.
        settings: makes changes to the pool's settings.
        given: what must be so while the user acts.
        token: what the user presents.
        below: what the user wrote behind the base URL by mistake.
        retry_after: bounds of ``Retry-After`` in seconds; None when it must not be there.
    """

    name: str
    code: str
    sentence: str
    act: Act = "list"
    settings: Callable[[], dict[str, Any]] = dict
    given: Callable[[Gateway], AbstractContextManager[None]] = as_it_is
    token: str = TOKEN
    below: str = ""
    retry_after: tuple[int, int] | None = None

    @contextlib.contextmanager
    def arranged(self) -> Iterator[Gateway]:
        """Open a gateway at which the refusal is due."""
        with opened(**self.settings()) as gateway, self.given(gateway):
            yield gateway


def team(*, token: str = TOKEN, **rights: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"teams": {token: Team("sdk-users", **rights)}}


def broken(fault: Fault, path: str) -> Callable[[Gateway], AbstractContextManager[None]]:
    @contextlib.contextmanager
    def given(gateway: Gateway) -> Iterator[None]:
        gateway.sim.fail(fault, path=path)
        yield
        gateway.sim.release()

    return given


@contextlib.contextmanager
def one_in_progress(gateway: Gateway) -> Iterator[None]:
    """Have upstream keep a request of the same team waiting."""
    gateway.sim.fail(Fault.stalled(), path=SUBMIT, times=1)
    wanted = {"json": {"audio_url": gateway.audio_url}, "headers": {"authorization": gateway.token}}
    other = threading.Thread(target=httpx.post, args=(gateway.url + SUBMIT,), kwargs=wanted)
    other.start()
    gateway.sim.wait_until(lambda sim: sim.open_requests == 1)
    yield
    gateway.sim.release()
    other.join()


@contextlib.contextmanager
def used_up(gateway: Gateway) -> Iterator[None]:
    httpx.get(gateway.url + SUBMIT, headers={"authorization": gateway.token}).raise_for_status()
    yield


@contextlib.contextmanager
def keys_revoked(gateway: Gateway) -> Iterator[None]:
    gateway.sim.revoke_key(KEY_A)
    gateway.sim.revoke_key(KEY_B)
    yield


@contextlib.contextmanager
def no_funds(gateway: Gateway) -> Iterator[None]:
    gateway.sim.set_balance("acme", -1)
    gateway.sim.set_balance("beta-corp", -1)
    yield


@contextlib.contextmanager
def draining(gateway: Gateway) -> Iterator[None]:
    gateway.served.call(gateway.app.drain, 0)
    yield


def failing(*_: object) -> Any:
    raise ConnectionError("the database is away")


def one_busy_key() -> dict[str, Any]:
    return {"keys": [UpstreamKey("a", KEY_A, project="alpha", max_in_flight=1)], "key_wait_seconds": 0.05}


def no_keys() -> list[UpstreamKey]:
    return []


class FailingResources:
    record = find = note = forget = place = page = staticmethod(failing)


CASES = (
    Case("a limit out of range", "BAD_REQUEST", "The parameter limit must be a number from 1 to 200.", "list too many"),
    Case(
        "an unknown token",
        "UNAUTHORIZED",
        "The team token is unknown. Use the token that the operator of this service gave you.",
        "upload",
        token=token("nobody"),
    ),
    Case(
        "an expired token",
        "UNAUTHORIZED",
        "The team token has expired. Ask the operator of this service for a new one.",
        settings=team(expires_at=LONG_AGO),
    ),
    Case(
        "a scheme that is not Bearer",
        "UNAUTHORIZED",
        "The Authorization header has a scheme other than Bearer: to present a team token, send it as "
        "Authorization: Bearer <token>, as Authorization: <token>, or as x-api-key: <token>.",
        token=f"Token {TOKEN}",
    ),
    Case("a team without any right", "FORBIDDEN", "This team may not use this service.", settings=team(operations=[])),
    Case(
        "a team without this right",
        "FORBIDDEN",
        "This team may not use the operation transcripts.create.",
        "submit",
        settings=team(operations=["uploads.create"]),
    ),
    Case(
        "an id that is not the team's",
        "NOT_FOUND",
        "Not found: there is no such resource, or it is not this team's.",
        "get",
    ),
    Case(
        "a base URL with the version in it",
        "NOT_FOUND",
        "Unknown operation: this method and path are not part of the AssemblyAI API that is served.",
        "upload",
        below="/v2",
    ),
    *[
        Case(f"a body over the limit ({act})", "BODY_TOO_LARGE", TOO_LARGE, act, lambda: {"max_body_bytes": 100_000})
        for act in ("upload", "upload unsized", "upload big")
    ],
    Case(
        "a limit of requests",
        "QUOTA_EXCEEDED",
        "Limit of 1 request per hour is used up; it frees in 60 minutes.",
        settings=team(limits=[Limit("requests", 1, per="hour")]),
        given=used_up,
        retry_after=(3540, 3600),
    ),
    Case(
        "a limit of concurrency",
        "QUOTA_EXCEEDED",
        "Limit of 1 concurrent request is used up; it frees when that one ends.",
        settings=team(limits=[Limit("concurrency", 1)]),
        given=one_in_progress,
    ),
    Case(
        "no connection to upstream",
        "UPSTREAM_FAILED",
        "AssemblyAI could not be reached. Try again later.",
        "submit",
        lambda: {"origins": {"api": f"http://127.0.0.1:{free_port()}"}},
    ),
    Case(
        "a reset in the middle of an upload",
        "UPSTREAM_FAILED",
        BROKEN_OFF,
        "upload",
        given=broken(Fault.reset("request body", 100_000), "/v2/upload"),
    ),
    Case(
        "a reset instead of an answer",
        "UPSTREAM_FAILED",
        BROKEN_OFF,
        "submit",
        given=broken(Fault.reset("response head"), SUBMIT),
    ),
    Case(
        "a reset in the middle of an answer that names something new",
        "UPSTREAM_FAILED",
        BROKEN_OFF,
        "submit",
        given=broken(Fault.reset("response body", 20), SUBMIT),
    ),
    Case(
        "an answer that is not HTTP",
        "UPSTREAM_FAILED",
        BROKEN_OFF,
        "submit",
        given=broken(Fault.malformed("status line"), SUBMIT),
    ),
    Case(
        "an upstream that stops reading",
        "UPSTREAM_FAILED",
        TOO_LATE,
        "upload big",
        settings=lambda: {"timeouts": Timeouts(write=0.3)},
        given=broken(Fault.stalled("request body", 1000), "/v2/upload"),
    ),
    Case(
        "an upstream that stops in the middle of an answer",
        "UPSTREAM_FAILED",
        TOO_LATE,
        "submit",
        settings=lambda: {"timeouts": Timeouts(read=0.3)},
        given=broken(Fault.stalled("response body", 20), SUBMIT),
    ),
    Case("all keys revoked", "NO_AVAILABLE_KEYS", NO_KEY_NOW, "submit", given=keys_revoked, retry_after=(1, 5)),
    Case("no funds", "NO_AVAILABLE_KEYS", NO_KEY_NOW, "submit", given=no_funds, retry_after=(290, 300)),
    Case(
        "a revoked key, and a body too long to be sent again",
        "NO_AVAILABLE_KEYS",
        "The key that was chosen cannot serve; send the request again.",
        "upload",
        given=keys_revoked,
        retry_after=(1, 1),
    ),
    Case(
        "no keys",
        "NO_AVAILABLE_KEYS",
        "The pool has no keys: its operator must add one.",
        "submit",
        lambda: {"keys": no_keys},
    ),
    Case(
        "no key of the team's region",
        "NO_AVAILABLE_KEYS",
        "The pool has no key for this region and project: its operator must add one.",
        "submit",
        settings=team(regions=["eu"]),
    ),
    Case(
        "a busy key",
        "NO_AVAILABLE_KEYS",
        "Every key that could serve this request is busy; try again later.",
        "submit",
        settings=one_busy_key,
        given=one_in_progress,
    ),
    Case("failing teams", "STORE_UNAVAILABLE", STORE_FAILED, settings=lambda: {"teams": failing}),
    Case(
        "failing quotas",
        "STORE_UNAVAILABLE",
        STORE_FAILED,
        settings=lambda: {**team(limits=[Limit("concurrency", 1)])(), "quotas": QuotaCallbacks(reserve=failing)},
    ),
    Case(
        "failing keys",
        "STORE_UNAVAILABLE",
        "The list of upstream keys cannot be loaded now.",
        "submit",
        lambda: {"keys": failing},
        retry_after=(1, 60),
    ),
    Case(
        "failing resources",
        "STORE_UNAVAILABLE",
        STORE_FAILED,
        "get",
        lambda: {"resources": FailingResources()},
    ),
    Case(
        "resources that cannot be recorded",
        "STORE_UNAVAILABLE",
        STORE_FAILED,
        "upload",
        lambda: {"resources": FailingResources()},
    ),
    Case(
        "a shutdown",
        "DRAINING",
        "This server is shutting down; send the request again, to another one.",
        "submit",
        given=draining,
        retry_after=(1, 1),
    ),
)
"""All but GONE, whose endpoints only old SDKs know; see ``test_refusals_shown.py``."""

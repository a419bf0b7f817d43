"""Every error of the package: one tree, one table, one place that renders.

::

    KeyPoolError
    ├── ConfigurationError        bad settings; raised while the stack is built, never to a caller
    ├── AdoptionFailed            a project's existing resources could not be listed
    ├── MissingStage              a stage was composed without the one that it needs
    ├── UpstreamError             what the upstream connection reports; the forwarder turns it into UpstreamFailed
    │   ├── ConnectFailed         the request never left: no connection could be made
    │   ├── UpstreamTimeout       connected, but upstream was too slow
    │   ├── ProtocolViolation     upstream did not speak HTTP/1.1, or not WebSocket
    │   ├── UpgradeRefused        upstream answered a WebSocket upgrade with an ordinary response
    │   └── ConnectionBroken      upstream closed the connection too early
    └── Refusal                   an answer of ours to the caller; one row of ``ERROR_TABLE`` each
        ├── BadRequest            400
        ├── Unauthorized          401
        ├── Forbidden             403
        ├── NotFound              404
        ├── Gone                  410
        ├── BodyTooLarge          413
        ├── QuotaExceeded         429
        ├── UpstreamFailed        502
        ├── NoAvailableKeys       503
        ├── StoreUnavailable      503
        └── Draining              503

A ``Refusal`` carries its reply: the sentence that the official SDKs show, and ``Retry-After`` where it is known.
No message of this module ever holds a key's secret or a team token (design invariant I2).
"""

from __future__ import annotations

import json
import math
from typing import ClassVar, NamedTuple

__all__ = [
    "ERROR_TABLE",
    "AdoptionFailed",
    "BadRequest",
    "BodyTooLarge",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionBroken",
    "Draining",
    "ErrorRow",
    "Forbidden",
    "Gone",
    "KeyPoolError",
    "MissingStage",
    "NoAvailableKeys",
    "NotFound",
    "ProtocolViolation",
    "QuotaExceeded",
    "Refusal",
    "StoreUnavailable",
    "Unauthorized",
    "UpgradeRefused",
    "UpstreamError",
    "UpstreamFailed",
    "UpstreamTimeout",
    "render",
]


class KeyPoolError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(KeyPoolError, ValueError):
    """A setting is missing or wrong; the message names the setting."""


class AdoptionFailed(KeyPoolError):
    """A project's existing resources could not be listed."""


class MissingStage(KeyPoolError, RuntimeError):
    """A stage ran without the stage that must stand before it; the message names that stage."""


class UpstreamError(KeyPoolError):
    """The upstream connection failed.

    Attributes:
        sent: whether any byte of the request may have reached upstream. Only a request that never
            left may be repeated whatever its method (design invariant I6).
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ConnectFailed(UpstreamError):
    """No connection could be made (DNS, refused, TLS, timeout); nothing of the request left."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class UpstreamTimeout(UpstreamError):
    """Upstream stopped reading, or did not answer, within the configured seconds."""


class ProtocolViolation(UpstreamError):
    """Upstream sent something that is not a valid HTTP/1.1 response (RFC 9112), or WebSocket (RFC 6455)."""


class UpgradeRefused(UpstreamError):
    """Upstream answered a WebSocket upgrade with an ordinary response (RFC 6455, section 4.1).

    Attributes:
        status: HTTP status.
        headers: its header fields.
        body: the beginning of its body.
    """

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(f"the upgrade was answered with HTTP {status}", sent=True)
        self.status = status
        self.headers = headers
        self.body = body


class ConnectionBroken(UpstreamError):
    """Upstream closed the connection before its response was complete."""


class Refusal(KeyPoolError):
    """An answer of ours instead of upstream's.

    Attributes:
        sentence: what the caller reads, one sentence.
        retry_after: seconds until a repeat can succeed, or None when nobody knows.
        headers: further response fields of this answer, such as ``RateLimit``.
    """

    code: ClassVar[str]

    def __init__(
        self,
        sentence: str,
        *,
        retry_after: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.retry_after = retry_after
        self.headers = headers

    @property
    def status(self) -> int:
        """The HTTP status of this refusal, from ``ERROR_TABLE``."""
        return ERROR_TABLE[self.code].status


class BadRequest(Refusal):
    """The request contradicts itself (RFC 9112 section 6.3), so it cannot be forwarded safely."""

    code = "BAD_REQUEST"


class Unauthorized(Refusal):
    """The team token is missing, malformed, unknown or expired."""

    code = "UNAUTHORIZED"


class Forbidden(Refusal):
    """The team is known, but may not use this operation or region."""

    code = "FORBIDDEN"


class NotFound(Refusal):
    """Unknown operation, or a resource that is not the team's: the same body for both (I3)."""

    code = "NOT_FOUND"


class Gone(Refusal):
    """An endpoint that AssemblyAI has retired; the sentence says what to use instead."""

    code = "GONE"


class BodyTooLarge(Refusal):
    """The request body is over the configured limit."""

    code = "BODY_TOO_LARGE"


class QuotaExceeded(Refusal):
    """A limit of the team is used up; the sentence names the limit and its window."""

    code = "QUOTA_EXCEEDED"


class UpstreamFailed(Refusal):
    """Upstream could not be reached, timed out, or broke the protocol."""

    code = "UPSTREAM_FAILED"

    @classmethod
    def because(cls, error: UpstreamError) -> UpstreamFailed:
        """Say to the caller what kind of failure it was, and no more."""
        if isinstance(error, ConnectFailed):
            return cls("AssemblyAI could not be reached. Try again later.")
        if isinstance(error, UpstreamTimeout):
            return cls("AssemblyAI did not answer in time.")
        if isinstance(error, UpgradeRefused):
            return cls(f"AssemblyAI answered the WebSocket upgrade with HTTP {error.status}.")
        return cls("AssemblyAI broke off the connection, or its answer was not valid HTTP.")


class NoAvailableKeys(Refusal):
    """No key of the pool can serve this request now."""

    code = "NO_AVAILABLE_KEYS"


class StoreUnavailable(Refusal):
    """A configured store failed, and a store that fails refuses (I9)."""

    code = "STORE_UNAVAILABLE"


class Draining(Refusal):
    """This process is shutting down and takes no new work."""

    code = "DRAINING"


class ErrorRow(NamedTuple):
    """One row of the error table: the status, and when a caller gets it."""

    status: int
    when: str


ERROR_TABLE: dict[str, ErrorRow] = {
    "BAD_REQUEST": ErrorRow(400, "the request's framing contradicts itself"),
    "UNAUTHORIZED": ErrorRow(401, "team token missing, malformed, unknown or expired"),
    "FORBIDDEN": ErrorRow(403, "the team may not use the service, or this operation"),
    "NOT_FOUND": ErrorRow(404, "unknown operation, or a resource that is not the team's"),
    "GONE": ErrorRow(410, "retired by AssemblyAI: LeMUR and v2 realtime, with what to use instead"),
    "BODY_TOO_LARGE": ErrorRow(413, "over the configured limit, before the rest is read"),
    "QUOTA_EXCEEDED": ErrorRow(429, "names the limit, its window and when it frees"),
    "UPSTREAM_FAILED": ErrorRow(502, "AssemblyAI could not be reached, timed out or broke the protocol"),
    "NO_AVAILABLE_KEYS": ErrorRow(503, "no key can serve now; Retry-After is when the first one can"),
    "STORE_UNAVAILABLE": ErrorRow(503, "a configured store failed"),
    "DRAINING": ErrorRow(503, "this process is shutting down"),
}


def render(refusal: Refusal, request_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Render a refusal as ``(status, header fields, body)``.

    The body is ``{"error": sentence, "code": CODE, "request_id": id}``; ``error`` is a string because every official
    SDK shows it then. A 404 has no ``request_id`` in the body, only in ``X-Request-Id``: two of them must not differ in
    a byte, whether a resource is somebody else's or nobody's (I3). ``Retry-After`` is in whole seconds, rounded up (RFC
    9110, section 10.2.3).
    """
    fields = {"error": refusal.sentence, "code": refusal.code}
    if refusal.status != 404:
        fields["request_id"] = request_id
    body = json.dumps(fields).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
    ]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(refusal.retry_after))).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    headers.extend(refusal.headers)
    return refusal.status, headers, body

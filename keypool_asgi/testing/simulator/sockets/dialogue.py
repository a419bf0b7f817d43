"""What the services have in common: a session's messages come in, what is to be done goes into an outbox. No I/O."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keypool_asgi.testing.simulator.values import Headers
from keypool_asgi.testing.simulator.world import Key, World

from .acts import Act, Close, Say
from .frames import Received
from .sessions import Ledger, Session

__all__ = ["LONG_REASON", "Call", "Denied", "Dialogue"]

LONG_REASON = "See Error message for details"


class Denied(Exception):
    """A session is not admitted.

    Attributes:
        status: the HTTP status that tells it, where refusals are not told in band.
        code: the close code that tells it in band.
        kind: a machine-readable word for it.
        text: the sentence.
    """

    def __init__(self, status: int, code: int, kind: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code, self.kind, self.text = status, code, kind, text


@dataclass(frozen=True, slots=True)
class Call:
    """What a service knows of a session when it begins. The caller holds the lock.

    Attributes:
        world: what is known of accounts and what they own.
        ledger: where sessions are ended.
        session: the session.
        key: that it runs on; None if it is refused.
        query: parameters of the upgrade request.
        headers: of the upgrade request, names in lower case.
        ahead: seconds by which audio may be ahead of the clock; None for any.
    """

    world: World
    ledger: Ledger
    session: Session
    key: Key | None
    query: Mapping[str, str]
    headers: Headers
    ahead: float | None = None


class Dialogue:
    """The service's side of one session. Times are Unix seconds.

    Attributes:
        outbox: what is to be done, one thing after the other.
        most: the size of the biggest message that is taken; None for any.
        deadline: when ``tick`` is wanted.
    """

    most: int | None = 131_072

    def __init__(self, call: Call) -> None:
        self.call = call
        self.session = call.session
        self.outbox: deque[Act] = deque()
        self.deadline = call.session.expires

    def begin(self, now: float) -> None:
        """The session has been admitted."""

    def receive(self, message: Received, now: float) -> None:
        """A message has come."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """The deadline has come."""
        if now >= self.session.expires:
            self.fail(3008, "Session Expired: Maximum session duration exceeded", now)

    def gone(self, now: float) -> None:
        """The client has left."""
        if self.session.refusal is not None:
            self.call.ledger.end(self.session, "closed", now)
        else:
            self.call.ledger.drop(self.session, self.runs_until(now), now)

    def runs_until(self, now: float) -> float:
        """Tell when a session ends that the client has left without a word."""
        return now

    def farewell(self, code: int | None, reason: str) -> Close:  # noqa: ARG002 # an echo repeats the reason
        """Return the answer to the client's close frame."""
        return Close(code)

    def deny(self, denied: Denied, now: float) -> None:
        """Refuse the session in band."""
        self.fail(denied.code, denied.text, now, kind=denied.kind)

    def fail(self, code: int, text: str, now: float, *, kind: str = "") -> None:
        """End the session with an error, in the place of all that is still to be said."""
        self.session.refusal = text
        self.outbox.clear()
        self.outbox.append(Say.json(self.error(code, text, now, kind)))
        self.outbox.append(Close(code, text if len(text.encode()) <= 123 else LONG_REASON))

    def error(self, code: int, text: str, now: float, kind: str) -> dict[str, Any]:  # noqa: ARG002 # for the others
        """Return the message that tells of an error."""
        return {"type": "Error", "error_code": code, "error": text}

    def say(self, value: dict[str, Any], *, pause: float = 0.0) -> None:
        """Send a JSON object."""
        self.outbox.append(Say.json(value, pause=pause))

    def say_begin(self, value: dict[str, Any]) -> None:
        """Send the message that tells that the session was admitted."""
        self.outbox.append(Say.json(value, begins=True))

    def hush(self) -> None:
        """Leave unsaid what was still to be said."""
        self.outbox = deque(act for act in self.outbox if not isinstance(act, Say) or act.begins)

    def close(self, code: int = 1000) -> None:
        """Close the session, once all was said."""
        self.outbox.append(Close(code))

    def terminated(self, now: float) -> int:
        """The client has said that the session is to end; returns for how many seconds it has run."""
        self.call.ledger.end(self.session, "terminated", now)
        return round(now - self.session.opened)

    def read(self, message: Received, now: float) -> dict[str, Any] | None:
        """Return a message that has to be a JSON object with a type; or fail, and return None."""
        try:
            value = json.loads(message.data)
        except ValueError:
            self.fail(3006, f"Invalid JSON: {message.data!r}", now)
            return None
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            self.fail(3006, f"Invalid Message: {message.data!r}", now)
            return None
        return value

    def number(self, name: str, least: float, most: float) -> float | None:
        """Return a parameter that has to be a number in a range; None if it is not given.

        Raises:
            ValueError: it is not.
        """
        text = self.call.query.get(name)
        if text is None:
            return None
        value = float(text)
        if not least <= value <= most:
            raise ValueError(f"{name} is {text}, from {least:g} to {most:g} is expected")
        return value

"""A session that returns what it is sent, for tests of what lies between."""

from __future__ import annotations

from typing import Any

from .acts import Close, Say
from .dialogue import Call, Denied, Dialogue
from .frames import Received

__all__ = ["Echo"]


class Echo(Dialogue):
    """Begins as ``service`` does, and then returns every message, and the code and the reason of the close."""

    most = None

    def __init__(self, call: Call, service: Dialogue) -> None:
        super().__init__(call)
        self._service = service
        self.outbox = service.outbox

    def begin(self, now: float) -> None:
        """Begin as the service does."""
        self._service.begin(now)

    def deny(self, denied: Denied, now: float) -> None:
        """Refuse as the service does."""
        self._service.deny(denied, now)

    def error(self, code: int, text: str, now: float, kind: str) -> dict[str, Any]:
        """Fail as the service does."""
        return self._service.error(code, text, now, kind)

    def receive(self, message: Received, now: float) -> None:  # noqa: ARG002 # the others tell the time
        """Return a message as it came: its type, its frames."""
        self.session.begun = True
        self.outbox.append(Say(message.data, fragments=message.fragments))

    def farewell(self, code: int | None, reason: str) -> Close:
        """Return the close as it came."""
        return Close(code, reason)

"""The answer as it passes the quota stage: what is left is added to its head, and its figures are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from keypool_asgi.asgi import Message, Send
from keypool_asgi.core.charging import Plan
from keypool_asgi.core.messages import Headers
from keypool_asgi.core.metering import Scanning, scanner_for
from keypool_asgi.core.rate_fields import RATE_FIELDS

from .quota_account import Account

__all__ = ["MeteredAnswer", "ToldAnswer"]


class ToldAnswer:
    """A ``send`` that adds to the head of the answer what is left.

    Args:
        send: where the answer goes.
        plan: whose limits are told of.
        fields: makes the response fields, when the answer begins; ours replace upstream's of the same names, which are
            about the operator's account.
    """

    __slots__ = ("_fields", "_plan", "_send")

    def __init__(self, send: Send, plan: Plan, fields: Callable[[Plan], Headers]) -> None:
        self._send = send
        self._plan = plan
        self._fields = fields

    def __call__(self, message: Message) -> Awaitable[None]:
        """Pass a message on. What is only looked at needs no coroutine of its own."""
        return self._send(self._told(message) if message["type"] == "http.response.start" else message)

    def _told(self, start: Message) -> Message:
        fields = self._fields(self._plan)
        if not fields:
            return start
        return {**start, "headers": [one for one in start["headers"] if one[0] not in RATE_FIELDS] + fields}


class MeteredAnswer(ToldAnswer):
    """One that also reads figures of a successful answer, without holding anything of it.

    Args:
        send: where the answer goes.
        account: whose plan says what is looked for.
        fields: makes the response fields that say what is left.
        begun: awaited with the id of the job that the answer begins, before the caller sees its end.

    Attributes:
        status: of the answer, None while there is none.
    """

    __slots__ = ("_account", "_begun", "_field", "_scanner", "status")

    def __init__(
        self,
        send: Send,
        account: Account,
        fields: Callable[[Plan], Headers],
        begun: Callable[[Account, str], Awaitable[None]],
    ) -> None:
        super().__init__(send, account.plan, fields)
        self._account = account
        self._begun = begun
        self._field: str | None = None
        self._scanner: Scanning | None = None
        self.status: int | None = None

    @property
    def succeeded(self) -> bool:
        """Whether upstream did what was asked."""
        return self.status is not None and 200 <= self.status < 300

    def __call__(self, message: Message) -> Awaitable[None]:
        """Pass a message on."""
        if self._scanner is not None and message["type"] == "http.response.body":
            return self._pass_read(self._scanner, message)
        if message["type"] == "http.response.start":
            self._look(message["status"], message["headers"])
        return super().__call__(message)

    def figures(self) -> tuple[Mapping[str, int] | None, str | None]:
        """What the answer says was used, by unit, and the model; None where it does not say so."""
        metering, found = self._plan.metering, self._scanner.found if self._scanner is not None else {}
        if metering.field is not None:
            return _of_field(metering.units[0], self._field), None
        if metering.figures is None:
            return None, None
        return metering.figures.used(found), metering.figures.model(found)

    def _look(self, status: int, headers: Headers) -> None:
        self.status, wanted, field = status, self._plan.wanted, self._plan.metering.field
        if self.succeeded and wanted is not None:
            self._scanner = scanner_for(wanted, headers)
        if self.succeeded and field is not None:
            self._field = next((value.decode("latin-1") for name, value in headers if name == field), None)

    async def _pass_read(self, scanner: Scanning, message: Message) -> None:
        scanner.feed(message.get("body", b""))
        begins = self._plan.metering.begins
        job = scanner.found.get(begins) if begins is not None else None
        if isinstance(job, str):
            self._scanner = None
            await self._begun(self._account, job)
        await self._send(message)


def _of_field(unit: str, text: str | None) -> Mapping[str, int] | None:
    return {unit: int(text)} if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None

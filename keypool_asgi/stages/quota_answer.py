"""The answer as it passes the quota stage: what is left is added to its head, and its figures are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from keypool_asgi.asgi import Message, Send
from keypool_asgi.core.charging import Plan
from keypool_asgi.core.messages import Headers
from keypool_asgi.core.metering import Scanning, scanner_for
from keypool_asgi.core.rate_fields import RATE_FIELDS

from .quota_account import Account

__all__ = ["MeteredAnswer"]


class MeteredAnswer:
    """A ``send`` that reads figures of a successful answer, without holding anything of it.

    Args:
        send: where the answer goes.
        account: whose plan says what is looked for.
        fields: makes the response fields that say what is left, when the answer begins; ours replace upstream's of the
            same names, which are about the operator's account.
        begun: awaited with the id of the job that the answer begins, before the caller sees its end.

    Attributes:
        status: of the answer, None while there is none.
    """

    __slots__ = ("_account", "_begun", "_field", "_fields", "_scanner", "_send", "status")

    def __init__(
        self,
        send: Send,
        account: Account,
        fields: Callable[[Plan], Headers],
        begun: Callable[[Account, str], Awaitable[None]],
    ) -> None:
        self._send = send
        self._account = account
        self._fields = fields
        self._begun = begun
        self._field: str | None = None
        self._scanner: Scanning | None = None
        self.status: int | None = None

    @property
    def succeeded(self) -> bool:
        """Whether upstream did what was asked."""
        return self.status is not None and 200 <= self.status < 300

    def __call__(self, message: Message) -> Awaitable[None]:
        """Pass a message on. What is only looked at needs no coroutine of its own."""
        if message["type"] == "http.response.start":
            return self._send(self._start(message))
        if self._scanner is not None and message["type"] == "http.response.body":
            return self._pass_read(self._scanner, message)
        return self._send(message)

    def figures(self) -> tuple[Mapping[str, int] | None, str | None]:
        """What the answer says was used, by unit, and the model; None where it does not say so."""
        metering, found = self._account.plan.metering, self._scanner.found if self._scanner is not None else {}
        if metering.field is not None:
            return _of_field(metering.units[0], self._field), None
        if metering.figures is None:
            return None, None
        return metering.figures.used(found), metering.figures.model(found)

    def _start(self, message: Message) -> Message:
        self.status, headers = message["status"], message["headers"]
        plan = self._account.plan
        if not plan.fixed and self.succeeded:
            self._look(plan, headers)
        fields = self._fields(plan)
        if not fields:
            return message
        return {**message, "headers": [one for one in headers if one[0] not in RATE_FIELDS] + fields}

    def _look(self, plan: Plan, headers: Headers) -> None:
        if plan.wanted is not None:
            self._scanner = scanner_for(plan.wanted, headers)
        if plan.metering.field is not None:
            named = (value.decode("latin-1") for name, value in headers if name == plan.metering.field)
            self._field = next(named, None)

    async def _pass_read(self, scanner: Scanning, message: Message) -> None:
        scanner.feed(message.get("body", b""))
        begins = self._account.plan.metering.begins
        job = scanner.found.get(begins) if begins is not None else None
        if isinstance(job, str):
            self._scanner = None
            await self._begun(self._account, job)
        await self._send(message)


def _of_field(unit: str, text: str | None) -> Mapping[str, int] | None:
    return {unit: int(text)} if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None

"""The answer as it passes the quota stage: what is left is added to its head, and its figures are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from keypool_asgi.asgi import Message, Send
from keypool_asgi.core.charging import Plan
from keypool_asgi.core.messages import Headers
from keypool_asgi.core.metering import Figures, Found, Scanning, scanner_for
from keypool_asgi.core.rate_fields import RATE_FIELDS

__all__ = ["MeteredAnswer"]


class MeteredAnswer:
    """A ``send`` that reads figures of a successful answer, without holding anything of it.

    Args:
        send: where the answer goes.
        plan: says what is looked for.
        fields: makes the response fields that say what is left, when the answer begins; ours replace upstream's of the
            same names, which are about the operator's account.
        begun: awaited with the id of the job that the answer begins, before the caller sees its end.

    Attributes:
        status: of the answer, None while there is none.
    """

    def __init__(
        self, send: Send, plan: Plan, fields: Callable[[], Headers], begun: Callable[[str], Awaitable[None]]
    ) -> None:
        self._send = send
        self._plan = plan
        self._fields = fields
        self._begun = begun
        self._field: str | None = None
        self._scanner: Scanning | None = None
        self.status: int | None = None

    @property
    def succeeded(self) -> bool:
        """Whether upstream did what was asked."""
        return self.status is not None and 200 <= self.status < 300

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            message = self._start(message)
        elif self._scanner is not None and message["type"] == "http.response.body":
            self._scanner.feed(message.get("body", b""))
            await self._check_begun()
        await self._send(message)

    def figures(self) -> tuple[Mapping[str, int] | None, str | None]:
        """What the answer says was used, by unit, and the model; None where it does not say so."""
        metering, found = self._plan.metering, self._scanner.found if self._scanner is not None else {}
        if metering.field is not None:
            return _of_field(metering.units[0], self._field), None
        if metering.figures is None:
            return None, None
        return metering.figures.used(found), metering.figures.model(found)

    def _start(self, message: Message) -> Message:
        self.status, headers = message["status"], message["headers"]
        wanted = self._wanted()
        if self.succeeded and wanted is not None:
            self._scanner = scanner_for(wanted, headers)
        if self.succeeded and self._plan.metering.field is not None:
            named = (value.decode("latin-1") for name, value in headers if name == self._plan.metering.field)
            self._field = next(named, None)
        fields = self._fields()
        if not fields:
            return message
        return {**message, "headers": [*(one for one in headers if one[0] not in RATE_FIELDS), *fields]}

    def _wanted(self) -> Figures | None:
        plan, metering = self._plan, self._plan.metering
        if metering.begins is not None and plan.job:
            return Figures(frozenset({metering.begins}), _nothing)
        return metering.figures if plan.settles or plan.finishes else None

    async def _check_begun(self) -> None:
        begins = self._plan.metering.begins
        if begins is None or self._scanner is None:
            return
        job = self._scanner.found.get(begins)
        if isinstance(job, str):
            self._scanner = None
            await self._begun(job)


def _of_field(unit: str, text: str | None) -> Mapping[str, int] | None:
    return {unit: int(text)} if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None


def _nothing(_: Found) -> None:
    return None

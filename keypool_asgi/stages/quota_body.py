"""A request body that is counted as it streams, and broken off when the team runs out in the middle."""

from __future__ import annotations

from keypool_asgi.asgi import Message, Receive

from .quota_account import Account

__all__ = ["CountedBody"]


class CountedBody:
    """A ``receive`` that holds the next part of the quota before more of a body passes than was held.

    When no more fits, the stages behind are told that the caller has left: so upstream never gets a complete upload
    (invariant I7), and the answer is the quota stage's to give.

    Args:
        receive: the caller's receive.
        account: what the exchange holds, with ``parts`` where a limit counts its bytes.
        step: bytes that are held at once of a body whose length nobody knows.

    Attributes:
        total: bytes so far.
        broken_off: whether the team ran out.
    """

    def __init__(self, receive: Receive, account: Account, step: int) -> None:
        self._receive = receive
        self._account = account
        self._step = step
        self.total = 0
        self.broken_off = False

    async def __call__(self) -> Message:
        """Return the caller's next message, if what it brings is within the quota."""
        if self.broken_off:
            return {"type": "http.disconnect"}
        message = await self._receive()
        size = len(message.get("body") or b"")
        if size:
            await self._count(size)
        return {"type": "http.disconnect"} if self.broken_off else message

    async def _count(self, size: int) -> None:
        account, parts = self._account, self._account.parts
        missing = 0 if parts is None else self.total + size - parts.admitted
        if missing > 0:
            # Near the limit a whole step does not fit, though what is needed now may.
            amounts = sorted({max(missing, self._step), max(missing, self._step // 16), missing}, reverse=True)
            self.broken_off = not await account.reserve_part(account.plan.body, amounts)
            await account.settle_passed()
        self.total += 0 if self.broken_off else size

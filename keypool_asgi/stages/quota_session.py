"""A session's seconds: each window is admitted before the one before it is over, or the session is ended in time."""

from __future__ import annotations

import asyncio
import logging
import math

from keypool_asgi.core.close_codes import shortened
from keypool_asgi.core.limits import sentence
from keypool_asgi.core.sessions import Close
from keypool_asgi.errors import Refusal
from keypool_asgi.exchange import Exchange

from .quota_account import Account

__all__ = ["OUT_OF_QUOTA", "SessionQuota"]

logger = logging.getLogger("keypool_asgi")

OUT_OF_QUOTA = 4429
"""Close code of a session whose team has used up a limit: 4000 and the HTTP status, as codes from 4000 on are free."""

_TRY_LATER = 1013


class SessionQuota:
    """Admits one session's time, window by window.

    Args:
        exchange: whose ``session`` says since when upstream charges, and which is asked to stop.
        account: what it holds, with ``parts`` for the session's seconds.
        window: seconds that are admitted at once.
        stop_seconds: how long before the end of what was admitted the session is ended.
    """

    def __init__(self, exchange: Exchange, account: Account, window: int, stop_seconds: float) -> None:
        self._exchange = exchange
        self._account = account
        self._window = window
        self._stop_seconds = stop_seconds
        # Early enough for some tries, late enough not to hold much that is never used.
        self._ask_seconds = stop_seconds + max(window / 3, 2)
        self._asking: asyncio.Task[None] | None = None
        self._failed = False

    def visit(self) -> None:
        """Ask for the next window when it is time, or end the session. Called about every second."""
        meter, parts = self._exchange.session, self._account.parts
        if meter is None or meter.opened is None or meter.closed is not None or parts is None:
            return
        loop = asyncio.get_running_loop()
        left = meter.opened + parts.admitted - loop.time()
        # A late visit may be the first one within a short window: then there is still time to ask, and to know why.
        if left <= (self._stop_seconds / 2 if self._is_unasked() else self._stop_seconds):
            self._exchange.stop(self._close())
        elif left <= self._ask_seconds and self._asking is None:
            self._asking = loop.create_task(self._ask())

    def _is_unasked(self) -> bool:
        """Whether nobody has said yet that there is no next window."""
        return self._account.denial is None and not self._failed and self._asking is None

    def used(self) -> int:
        """Seconds that the session was open: upstream's figure where it has come, else our own clock, rounded up."""
        meter = self._exchange.session
        if meter is None or meter.opened is None:
            return 0
        closing = self._account.plan.metering.closing or {}
        for member, unit in closing.items():
            if unit == self._account.plan.metering.session and member in meter.figures:
                return math.ceil(meter.figures[member])
        closed = meter.closed if meter.closed is not None else asyncio.get_running_loop().time()
        return math.ceil(max(0.0, closed - meter.opened))

    async def end(self) -> None:
        """Ask for nothing more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self) -> None:
        window, account = self._window, self._account
        # The last bit of a limit is used, too, as far as it is worth the while.
        amounts = [window, *(part for part in (window // 2, window // 4) if part > self._stop_seconds)]
        try:
            admitted = await account.reserve_part(account.plan.session, amounts)
            self._failed = False
            if admitted:
                await account.settle_passed()
        except Refusal:
            self._failed = True
        except Exception:
            self._failed = True
            logger.exception("request %s: the next window could not be asked for", self._exchange.request_id)
        finally:
            self._asking = None

    def _close(self) -> Close:
        denial = self._account.denial
        if self._failed or denial is None:
            return Close(_TRY_LATER, "The service cannot check this session now, so it was ended. Try again later.")
        return Close(OUT_OF_QUOTA, shortened(sentence(denial)))

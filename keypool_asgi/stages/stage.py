"""What all stages behind intercept share: they act on exchanges, and answer their own refusals.

A stage answers where it refuses, instead of raising through the stack: another middleware between two stages sees an
ordinary response then, not an exception.
"""

from __future__ import annotations

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send, send_refusal
from keypool_asgi.core.verdicts import Verdict
from keypool_asgi.errors import KeyPoolError, Refusal
from keypool_asgi.exchange import SCOPE_KEY, Exchange, exchange_of

__all__ = ["AnswerBroken", "KeyRefused", "SessionMoves", "Stage"]


class AnswerBroken(KeyPoolError):
    """Upstream's answer has begun and will never end. ``exchange.attempt.failure`` says why.

    Not a ``Refusal``, because only the outermost stage knows whether anything of the answer has reached the caller: a
    stage may be holding it. Raised so that no stage between takes what it holds for all there is (invariant I7).
    """


class KeyRefused(KeyPoolError):
    """Upstream does not serve a WebSocket session on this key, and the caller has seen nothing of it yet.

    Raised by the relay for the key selector, which tries another.

    Attributes:
        verdict: what it says about the key.
        said: upstream's own words, if it has said any.
    """

    def __init__(self, verdict: Verdict, said: str = "") -> None:
        super().__init__(f"the key does not serve the session ({verdict.fault.value}): {said}")
        self.verdict = verdict
        self.said = said


class SessionMoves(KeyPoolError):
    """The caller's first message wants ``exchange.project``, and the session runs on another one.

    Raised by the session's ``receive``, before anything has gone upstream, for the key selector.
    """


class Stage:
    """Base of the stages that act on an exchange.

    Args:
        app: the next stage.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Act on the exchange of the scope, and answer when that raises a refusal."""
        if SCOPE_KEY not in scope:
            await self._pass_on(scope, receive, send)
            return
        exchange: Exchange = scope[SCOPE_KEY]
        try:
            await self.act(exchange, scope, receive, send)
        except Refusal as refusal:
            exchange.refused = refusal.code
            await send_refusal(scope, send, refusal, exchange.request_id)

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the stage's work and call ``self.app``.

        Raises:
            Refusal: only while nothing of a response has been sent.
        """
        raise NotImplementedError

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand what is no request, such as a lifespan, to the next app.

        Raises:
            MissingStage: it is a request, and the intercept stage does not stand before.
        """
        if scope["type"] in ("http", "websocket"):
            exchange_of(scope)
        await self.app(scope, receive, send)

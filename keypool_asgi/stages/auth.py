"""Auth: which team asks, and may it ask for this."""

from __future__ import annotations

import time
from collections.abc import Callable

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.keys import Secret
from keypool_asgi.core.teams import Team, permits
from keypool_asgi.core.tokens import NoToken, presented_token
from keypool_asgi.errors import Forbidden, Unauthorized
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import TeamDirectory

from .stage import Stage

__all__ = ["Auth"]


class Auth(Stage):
    """Finds the team of the presented token and checks what it may do.

    Args:
        app: the next stage.
        teams: who knows the teams.
        clock: Unix time in seconds, for teams whose token expires.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        teams: TeamDirectory,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(app)
        self.teams = teams
        self.clock = clock

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, authorise, go on."""
        presented = presented_token(scope["headers"])
        if isinstance(presented, NoToken):
            if exchange.operation.anonymous and presented.absent:
                await _answer_warm_up(send)
                return
            raise Unauthorized(presented.sentence)
        exchange.token = presented
        exchange.team = team = await self._team(presented)
        _authorise(team, exchange)
        await self.app(scope, receive, send)

    async def _team(self, token: Secret) -> Team:
        team = await self.teams.find(token.reveal())
        if team is None:
            raise Unauthorized("The team token is unknown. Use the token that the operator of this service gave you.")
        if team.expires_at is not None and team.expires_at.timestamp() <= self.clock():
            raise Unauthorized("The team token has expired. Ask the operator of this service for a new one.")
        return team


def _authorise(team: Team, exchange: Exchange) -> None:
    """Raise Forbidden when the team may not use the operation."""
    if permits(team.operations, exchange.operation.name):
        return
    if not team.operations:
        raise Forbidden("This team may not use this service.")
    raise Forbidden(f"This team may not use the operation {exchange.operation.name}.")


async def _answer_warm_up(send: Send) -> None:
    """Answer a warm-up without a token: pipecat sends it bare, and it needs nothing that is worth a key."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})

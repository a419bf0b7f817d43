"""Auth: which team asks, and may it ask for this."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.headers import checked_origins, comes_from
from keypool_asgi.core.keys import Secret
from keypool_asgi.core.ownership import ResourceRules
from keypool_asgi.core.teams import Team, permits
from keypool_asgi.core.temporary_tokens import Grant, TokenIssuer, open_grant
from keypool_asgi.core.tokens import NoToken, Presented, presented_on_socket, presented_token
from keypool_asgi.errors import Forbidden, Unauthorized
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import ResourceStore, TeamDirectory

from .stage import Stage

__all__ = ["Auth"]

_ON_SOCKETS = (
    " A browser sends it as the subprotocol keypool-token.<token>, or a temporary token as ?token=<temporary token>."
)
_UNKNOWN = "The team token is unknown. Use the token that the operator of this service gave you."
_UNKNOWN_ON_SOCKET = (
    "The token is unknown: it is no team token of this service, and no temporary token that was made here lately."
)
_UNKNOWN_IN_URL = (
    "The token in the URL is no temporary token that was made here lately. A team token is not taken from a URL, which "
    "is logged and kept in histories: send it in the Authorization header or as the subprotocol keypool-token.<token>, "
    "or make a temporary token."
)
_SOCKETS_ONLY = "This is a temporary token, which opens WebSocket sessions only. Use the team token here."
_TEMPORARY_EXPIRED = "The temporary token has expired. Make a new one for each connection."
_OTHER_SERVICE = "The temporary token was made for the sessions of another service."
_TEAM_GONE = "The team token that this temporary token was made with is not valid any more."


class Auth(Stage):
    """Finds the team of the presented token and checks what it may do.

    A WebSocket session may also be opened with a temporary token, as often as one likes until that expires. Those of
    AssemblyAI are known by what ``ownership`` recorded when they were made; where several processes serve, they must
    share that store.

    Args:
        app: the next stage.
        teams: who knows the teams.
        resources: where AssemblyAI's temporary tokens are recorded; None knows none of them.
        rules: how those records are named.
        issuer: reads our own temporary tokens; None knows none of them.
        allowed_origins: web pages that may open sessions, such as ``"https://app.example.com"``; None is any. What
            names no origin is not a web page, and is not meant.
        clock: Unix time in seconds, for tokens that expire.

    Raises:
        ConfigurationError: one of ``allowed_origins`` is no origin.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        teams: TeamDirectory,
        resources: ResourceStore | None = None,
        rules: ResourceRules | None = None,
        issuer: TokenIssuer | None = None,
        allowed_origins: Iterable[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(app)
        self.teams = teams
        self.resources = resources
        self.rules = rules
        self.issuer = issuer
        self.allowed_origins = None if allowed_origins is None else checked_origins(allowed_origins)
        self.clock = clock

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, authorise, go on."""
        if scope["type"] == "websocket":
            team = await self._team_of_session(exchange, scope)
        else:
            presented = presented_token(scope["headers"])
            if not isinstance(presented, Secret):
                if exchange.operation.anonymous and presented.absent:
                    await _answer_warm_up(send)
                    return
                raise Unauthorized(presented.sentence)
            exchange.token = presented
            found = await self.teams.find(presented.reveal())
            if found is None:
                raise self._unknown(presented)
            team = self._unexpired(found)
        exchange.team = team
        if not permits(team.operations, exchange.operation.name):
            raise _forbidden(team, exchange)
        await self.app(scope, receive, send)

    def _unknown(self, presented: Secret) -> Unauthorized:
        return Unauthorized(_UNKNOWN if self._made_here(presented.reveal()) is None else _SOCKETS_ONLY)

    def _unexpired(self, team: Team) -> Team:
        if team.expires_at is not None and team.expires_at.timestamp() <= self.clock():
            raise Unauthorized("The team token has expired. Ask the operator of this service for a new one.")
        return team

    async def _team_of_session(self, exchange: Exchange, scope: Scope) -> Team:
        """Find the team of a WebSocket upgrade.

        Raises:
            Forbidden: it comes from a web page that may not.
            Unauthorized: it presents no token that opens this session.
        """
        headers = scope["headers"]
        if self.allowed_origins is not None and not comes_from(headers, self.allowed_origins):
            raise Forbidden("Web pages of this origin may not open sessions here.")
        presented = presented_on_socket(headers, scope["subprotocols"], scope["query_string"])
        if isinstance(presented, NoToken):
            raise Unauthorized(presented.sentence + _ON_SOCKETS if presented.absent else presented.sentence)
        exchange.token = presented.token
        return await self._team_of_either(presented, exchange)

    async def _team_of_either(self, presented: Presented, exchange: Exchange) -> Team:
        """Find the team of a token that may be a temporary one; only such a one may stand in the URL."""
        token = presented.token.reveal()
        found = self._made_here(token)
        if found is None and not presented.in_url:
            team = await self.teams.find(token)
            if team is not None:
                return self._unexpired(team)
        found = found or await self._recorded(token)
        if found is None:
            raise Unauthorized(_UNKNOWN_IN_URL if presented.in_url else _UNKNOWN_ON_SOCKET)
        return await self._redeem(found, exchange)

    def _made_here(self, token: str) -> _Temporary | None:
        grant = None if self.issuer is None else self.issuer.read(token)
        return None if grant is None else _Temporary(grant, None, None)

    async def _recorded(self, token: str) -> _Temporary | None:
        if self.resources is None or self.rules is None:
            return None
        found = await self.resources.find(self.rules.refer("token", token))
        grant = None if found is None else open_grant(token, found.summary)
        return None if found is None or grant is None else _Temporary(grant, found.team, found.project)

    async def _redeem(self, temporary: _Temporary, exchange: Exchange) -> Team:
        """Check what a temporary token stands for, find its team anew, and note what it allows."""
        grant = temporary.grant
        if grant.expires <= self.clock():
            raise Unauthorized(_TEMPORARY_EXPIRED)
        if grant.service != exchange.operation.service:
            raise Unauthorized(_OTHER_SERVICE)
        team = await self.teams.find(grant.team_token.reveal())
        if team is None or temporary.team not in (None, team.id):
            raise Unauthorized(_TEAM_GONE)
        exchange.temporary = True
        exchange.project = temporary.project
        exchange.max_session_seconds = grant.max_session_seconds
        return self._unexpired(team)


class _Temporary(NamedTuple):
    """A temporary token: what it stands for, and the ids of its team and project as far as they were recorded."""

    grant: Grant
    team: str | None
    project: str | None


def _forbidden(team: Team, exchange: Exchange) -> Forbidden:
    if not team.operations:
        return Forbidden("This team may not use this service.")
    return Forbidden(f"This team may not use the operation {exchange.operation.name}.")


async def _answer_warm_up(send: Send) -> None:
    """Answer a warm-up without a token: pipecat sends it bare, and it needs nothing that is worth a key."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})

"""Lists: a team sees exactly what is its own, over all projects of the pool, page by page (invariant I3).

A list of transcripts is *composed* of what the store knows. Items that were not finished when last seen are brought up
to date first: one request per project for its newest items, then one per item that was not among them. A finished item
is never asked about again, and no more than a budget of items one by one, so the work for a page is bounded, whatever
other teams do.

A list of agents or webhook subscriptions is upstream's own, *filtered*: only the team's items stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.listing import ListQuery
from keypool_asgi.core.ownership import NO_SUCH_RESOURCE, decoded_json
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.errors import NotFound, UpstreamError, UpstreamFailed
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import ResourceStore

from .asking import Asker, Reply
from .refreshing import Refresher
from .stage import Stage

__all__ = ["Lists"]

_MOST_ROUNDS = 10
_MOST_FILTERED = 1000

Place = tuple[float, str]


class Lists(Stage):
    """Answers the operations that list resources; everything else goes on.

    Args:
        app: the next stage.
        resources: who owns what.
        provider: how lists look.
        asker: asks upstream for what has changed.
        shared: whether teams share their resources, so that everybody's are listed.
    """

    def __init__(
        self, app: ASGIApp, *, resources: ResourceStore, provider: Provider, asker: Asker, shared: bool = False
    ) -> None:
        super().__init__(app)
        self.resources = resources
        self.provider = provider
        self.asker = asker
        self.shared = shared

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a list, or go on."""
        name, rules = exchange.operation.name, self.provider.lists
        try:
            if name in rules.composed:
                reply = await self._composed(rules.composed[name], exchange, scope)
            elif name in rules.filtered:
                reply = await self._filtered(rules.filtered[name], exchange, scope)
            else:
                await self.app(scope, receive, send)
                return
        except UpstreamError as error:
            raise UpstreamFailed.because(error) from error
        exchange.reached_upstream = True
        await _send(send, reply)

    async def _composed(self, kind: str, exchange: Exchange, scope: Scope) -> Reply:
        rules = self.provider.lists
        query = rules.parse(scope["query_string"])
        team = None if self.shared else exchange.team.id
        walk = _Walk(self, kind, team, query)
        items, older, newer = await walk.page()
        return Reply(200, [], rules.compose(query, items, older, newer, exchange.own_base()))

    async def _filtered(self, kind: str, exchange: Exchange, scope: Scope) -> Reply:
        """Ask each project in which the team owns something, and keep what is the team's."""
        team = None if self.shared else exchange.team.id
        own = await self.resources.page(Page(kind, limit=_MOST_FILTERED, team=team))
        projects: Iterable[str | None] = dict.fromkeys(row.project for row in own) or (None,)
        query: bytes = scope["query_string"]
        replies = [await self.asker.ask(exchange.operation.name, project, query=query) for project in projects]
        refused = next((reply for reply in replies if reply.status != 200), None)
        if refused is not None:
            return Reply(refused.status, [], refused.body)
        found = [decoded_json(reply.headers, reply.body) or {} for reply in replies]
        return Reply(200, [], self.provider.lists.filter(found, frozenset(row.ref.id for row in own)))


class _Walk:
    """One way along a list: from a cursor, to older items or to newer ones, until a page is full."""

    def __init__(self, lists: Lists, kind: str, team: str | None, query: ListQuery) -> None:
        self.lists = lists
        self.kind = kind
        self.team = team
        self.query = query
        wanted = None if query.status is None else frozenset({query.status}) | lists.provider.lists.unfinished
        self.refresher = Refresher(resources=lists.resources, provider=lists.provider, asker=lists.asker)
        self.part = Page(kind, limit=query.limit + 1, team=team, since=query.since, until=query.until, statuses=wanted)

    async def page(self) -> tuple[list[Resource], str | None, str | None]:
        """Return the items, newest first, and the ids after which older and newer pages begin, None for no more.

        Raises:
            NotFound: the cursor is not one of the team's items.
        """
        query = self.query
        cursor = await self._place(query.before or query.after)
        upwards = query.after is not None
        found, last = await self._collect(cursor, upwards=upwards)
        items, onward = found[: query.limit], found[query.limit - 1].ref.id if len(found) > query.limit else last
        if upwards:
            items.reverse()
        back = await self._behind(items, cursor, upwards=upwards)
        return (items, back, onward) if upwards else (items, onward, back)

    async def _place(self, cursor: str | None) -> Place | None:
        if cursor is None:
            return None
        place = await self.lists.resources.place(Ref(self.kind, cursor), self.team)
        if place is None:
            raise NotFound(NO_SUCH_RESOURCE)
        return place

    async def _collect(self, cursor: Place | None, *, upwards: bool) -> tuple[list[Resource], str | None]:
        """Collect one item more than a page, in the direction of the walk.

        Returns:
            The items, and the id at which to go on should the rounds not suffice for a page.
        """
        found: list[Resource] = []
        for _ in range(_MOST_ROUNDS):
            rows = await self._rows(cursor, self.query.limit + 1, upwards=upwards)
            if not rows:
                return found, None
            found += [row for row in await self.refresher.refreshed(rows) if self._is_wanted(row)]
            if len(found) > self.query.limit or len(rows) <= self.query.limit:
                return found, None
            cursor = rows[-1].place
        return found, cursor[1] if cursor else None

    async def _rows(self, cursor: Place | None, limit: int, *, upwards: bool) -> Sequence[Resource]:
        before, after = (None, cursor) if upwards else (cursor, None)
        part = replace(self.part, limit=limit, before=before, after=after)
        rows = await self.lists.resources.page(part)
        return rows[::-1] if upwards else rows

    def _is_wanted(self, row: Resource) -> bool:
        return self.query.status is None or row.status == self.query.status

    async def _behind(self, items: Sequence[Resource], cursor: Place | None, *, upwards: bool) -> str | None:
        """Return the id at which a page in the other direction begins, None when nothing lies there."""
        if not items:
            return None
        edge = items[-1] if upwards else items[0]
        if cursor is None and not upwards:
            return None
        return edge.ref.id if await self._rows(edge.place, 1, upwards=not upwards) else None


async def _send(send: Send, reply: Reply) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})

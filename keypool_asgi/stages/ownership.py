"""Ownership: a team reaches only what it created, on the project that owns it (invariant I3)."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from keypool_asgi.asgi import ASGIApp, Message, Receive, Scope, Send, send_refusal
from keypool_asgi.core.minting import MintRules
from keypool_asgi.core.operations import Operation, named_in_head
from keypool_asgi.core.ownership import (
    NO_SUCH_RESOURCE,
    Creates,
    ResourceRules,
    check_owner,
    decoded_json,
    named_values,
    owner_project,
)
from keypool_asgi.core.resources import Ref, Resource
from keypool_asgi.core.temporary_tokens import Grant, seal_grant
from keypool_asgi.errors import (
    BadRequest,
    NoAvailableKeys,
    NotFound,
    Refusal,
    UpstreamError,
    UpstreamFailed,
)
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import ResourceStore

from .asking import Asker
from .json_body import read_whole, replayed
from .session_names import SessionNames
from .stage import Stage

__all__ = ["Ownership"]

logger = logging.getLogger("keypool_asgi")

_EXAMINED_BYTES = 64 * 1024

# A message that names something is a short one; this bounds the time that looking through it takes.
_SESSION_MESSAGE_BYTES = 256 * 1024

Seal = Callable[[str, dict[str, Any]], str]
"""A temporary token, and AssemblyAI's answer with it, to the summary that its record has."""


class Ownership(Stage):
    """Checks the resources that a request names, and records those that its answer creates.

    Args:
        app: the next stage.
        resources: who owns what.
        rules: how resources are named.
        minting: what requests for temporary tokens ask for, so that the tokens open sessions here too; None records
            who owns a token, and no more.
        asker: finds the project of an unknown resource; None when teams are isolated, and unknown means refused.
        max_json_bytes: longest JSON body that may name resources, in bytes. It is read whole before it is forwarded.
        max_answer_bytes: longest answer that creates a resource, in bytes.
        forgets: whether the store forgets at a restart, and knows nothing of other processes; said in the log, once.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        resources: ResourceStore,
        rules: ResourceRules,
        minting: MintRules | None = None,
        asker: Asker | None = None,
        max_json_bytes: int = 1024**2,
        max_answer_bytes: int = 1024**2,
        forgets: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(app)
        self.resources = resources
        self.rules = rules
        self.minting = minting
        self.asker = asker
        self.max_json_bytes = max_json_bytes
        self.max_answer_bytes = max_answer_bytes
        self.clock = clock
        self._warns = forgets

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Resolve what is named, go on, and record or forget by the answer."""
        operation = exchange.operation
        named = named_in_head(operation, exchange.ids, scope["query_string"])
        in_body = operation.named_in_body
        body = None
        if scope["type"] == "http" and (in_body or (self._mints(operation) and operation.method == "POST")):
            body = await self._body(scope, receive)
            if body is None:
                return
            named += [(in_body[field], text) for field, text in named_values(body, in_body)]
            receive = replayed(body, receive)
        owners = await self._owners(named, exchange) if named else []
        # A temporary token has named a project already, which nothing else may widen to "any".
        exchange.project = owner_project(owners) or exchange.project
        if scope["type"] == "websocket":
            receive, send = await self._watched(exchange, receive, send)
        elif operation.creates is not None:
            seal = self._sealing(exchange, scope, body)
            send = _Recorder(self, exchange, operation.creates, scope, send, seal=seal)
        elif exchange.ids and owners and self._speaks_of_existence(exchange, owners[0].ref):
            send = _Undertaker(self, exchange, owners[0].ref, send).pass_on
        await self.app(scope, receive, send)

    async def _watched(self, exchange: Exchange, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """The session's two directions, checked where its messages name or create resources."""
        if not exchange.operation.named_in_body:
            return receive, send
        names = SessionNames(
            exchange,
            resources=self.resources,
            rules=self.rules,
            owner_of=self._owner,
            now=self.clock(),
            max_bytes=_SESSION_MESSAGE_BYTES,
            receive=receive,
            send=send,
        )
        await names.pin()
        return names.receive, names.send

    def _mints(self, operation: Operation) -> bool:
        """Whether an operation makes a temporary token that is to open sessions here too."""
        kind = operation.creates and operation.creates.kind
        return self.minting is not None and kind == self.minting.kind

    def _sealing(self, exchange: Exchange, scope: Scope, body: bytes | None) -> Seal | None:
        """Return what makes the summary of a temporary token, None for other resources.

        Raises:
            BadRequest: what is asked for could be read in two ways.
        """
        minting, operation = self.minting, exchange.operation
        if minting is None or not self._mints(operation):
            return None
        asked = minting.likely_terms(operation.service, scope["query_string"], body)

        def seal(token: str, found: dict[str, Any]) -> str:
            terms = minting.given_terms(asked, found)
            expires = self.clock() + terms.window
            key_id = exchange.attempt.key.id
            return seal_grant(token, Grant(exchange.token, terms.service, expires, terms.session, key_id))

        return seal

    def _speaks_of_existence(self, exchange: Exchange, ref: Ref) -> bool:
        """Whether "not found" in an answer is about the resource itself, and not about a part of it."""
        read, _ = self.rules.safe_reads.get(ref.kind, ("", ""))
        return exchange.operation.deletes or exchange.operation.name == read

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        if any(name == b"content-encoding" for name, _ in scope["headers"]):
            raise BadRequest("The request body must not be compressed here: it may name resources, which are checked.")
        return await read_whole(receive, self.max_json_bytes)

    async def _owners(self, named: Iterable[tuple[str, str]], exchange: Exchange) -> list[Resource]:
        """Return the owners of what is named, each once; see ``_owner``."""
        owners = []
        for kind, text in dict.fromkeys(named):
            owner = await self._owner(self.rules.refer(kind, text), exchange)
            if owner is not None:
                owners.append(owner)
        return owners

    async def _owner(self, ref: Ref, exchange: Exchange) -> Resource | None:
        """Return the owner of a resource, or None when it is nobody's and need not be anybody's.

        Raises:
            NotFound: it is not the team's.
        """
        found = await self.resources.find(ref)
        if found is None and self.asker is not None:
            found = await self._discover(self.asker, ref, exchange)
        if found is None and (self.asker is not None or not self.rules.is_known(ref)):
            return None
        if found is None:
            self._warn()
        return check_owner(found, exchange.team.id, shared=self.asker is not None)

    async def _discover(self, asker: Asker, ref: Ref, exchange: Exchange) -> Resource | None:
        """Find the project of an unknown resource by asking each in turn, and remember it.

        Raises:
            NotFound: no project has it.
            UpstreamFailed: a project could not be asked.
        """
        if ref.kind not in self.rules.safe_reads:
            return None
        operation, parameter = self.rules.safe_reads[ref.kind]
        exchange.reached_upstream = True
        unknown = True
        for project in asker.pool.projects():
            try:
                reply = await asker.ask(operation, project, {parameter: ref.id})
            except (NoAvailableKeys, UpstreamError) as error:
                logger.warning("request %s: project %s could not be asked: %s", exchange.request_id, project, error)
                unknown = False
                continue
            if reply.status == 200:
                resource = self.describe(ref, exchange.team.id, project, decoded_json(reply.headers, reply.body) or {})
                await self.resources.record(resource)
                return resource
            unknown &= self.rules.says_gone(reply.status, reply.body)
        if unknown:
            raise NotFound(NO_SUCH_RESOURCE)
        raise UpstreamFailed("AssemblyAI could not be asked which project has this. Try again later.")

    def describe(self, ref: Ref, team: str, project: str, found: dict[str, object]) -> Resource:
        """Make the record of a resource of what upstream says about it."""
        status, summary = self.rules.describe(ref.kind, found)
        return Resource(ref, team, project, self.clock(), status, summary)

    def _warn(self) -> None:
        if self._warns:
            self._warns = False
            logger.warning(
                "An unknown id was refused. Owners are kept in this process's memory: a restart forgets them, and "
                "other worker processes do not know them. Set state='sqlite:///keypool.db' to keep and share them."
            )


class _Recorder:
    """A ``send`` that holds a successful answer until what it creates is recorded: before the caller sees the id."""

    def __init__(
        self, stage: Ownership, exchange: Exchange, creates: Creates, scope: Scope, send: Send, *, seal: Seal | None
    ) -> None:
        self.stage = stage
        self.exchange = exchange
        self.creates = creates
        self.seal = seal
        self.scope = scope
        self.send = send
        self.start: Message | None = None
        self.pieces: list[bytes] = []
        self.size = 0
        self.done = False

    async def __call__(self, message: Message) -> None:
        """Hold, or pass on what is not held."""
        if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
            self.start = message
        elif self.start is None:
            await self.send(message)
        elif not self.done:
            await self._hold(message)

    async def _hold(self, message: Message) -> None:
        self.pieces.append(message.get("body", b""))
        self.size += len(self.pieces[-1])
        if self.size > self.stage.max_answer_bytes:
            await self._refuse(UpstreamFailed("AssemblyAI's answer is too long for this operation."))
        elif not message.get("more_body", False):
            await self._record(b"".join(self.pieces))

    async def _record(self, body: bytes) -> None:
        start = self.start or {}
        found = decoded_json(start["headers"], body) or {}
        created = found.get(self.creates.field)
        if not isinstance(created, str):
            await self._refuse(UpstreamFailed(f"AssemblyAI's answer has no {self.creates.field!r} to go on with."))
            return
        ref = self.stage.rules.refer(self.creates.kind, created)
        team, project = self.exchange.team.id, self.exchange.attempt.key.project
        resource = self.stage.describe(ref, team, project, found)
        if self.seal is not None:
            resource = replace(resource, summary=self.seal(created, found))
        try:
            await self.stage.resources.record(resource)
        except Refusal as refusal:
            await self._refuse(refusal)
            return
        self.done = True
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})

    async def _refuse(self, refusal: Refusal) -> None:
        """Answer ourselves: the caller could never reach what it does not own."""
        self.done = True
        self.exchange.refused = refusal.code
        logger.error("request %s: what upstream has created could not be recorded", self.exchange.request_id)
        await send_refusal(self.scope, self.send, refusal, self.exchange.request_id)


class _Undertaker:
    """A ``send`` that forgets a resource when upstream deletes it, or says that it is gone."""

    __slots__ = ("exchange", "held", "ref", "send", "stage")

    def __init__(self, stage: Ownership, exchange: Exchange, ref: Ref, send: Send) -> None:
        self.stage = stage
        self.exchange = exchange
        self.ref = ref
        self.send = send
        self.held: list[Message] = []

    def pass_on(self, message: Message) -> Awaitable[None]:
        """Look at what may mean "gone" before passing it on.

        Not a coroutine itself, for nearly every message goes straight on.
        """
        if self.held or (message["type"] == "http.response.start" and self._is_telling(message["status"])):
            return self._look(message)
        return self.send(message)

    def _is_telling(self, status: int) -> bool:
        return status in (400, 404) or self.exchange.operation.deletes

    async def _look(self, message: Message) -> None:
        """Look at the status, and at the body of one that may mean "gone"."""
        if self.held:
            self.held.append(message)
            await self._examine(whole=not message.get("more_body", False))
            return
        status = message["status"]
        if status in (400, 404) and not self.exchange.refused:
            self.held.append(message)
            return
        if self.exchange.operation.deletes and 200 <= status < 300:
            await self._forget()
        await self.send(message)

    async def _examine(self, *, whole: bool) -> None:
        body = b"".join([message.get("body", b"") for message in self.held[1:]])
        if not whole and len(body) < _EXAMINED_BYTES:
            return
        if self.stage.rules.says_gone(self.held[0]["status"], body):
            await self._forget()
        held, self.held = self.held, []
        for message in held:
            await self.send(message)

    async def _forget(self) -> None:
        # The store has logged a failure; the row then goes the next time that upstream says so.
        with suppress(Refusal):
            await self.stage.resources.forget(self.ref)

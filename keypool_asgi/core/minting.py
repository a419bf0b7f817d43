"""Minting: what a request for a temporary token asks for, and how much of that it may have. Pure.

What a session may last is capped before the request goes upstream, so every reading of the request that upstream might
have must be capped: a parameter that comes twice, or is no plain number, is refused instead of being guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_plus

from keypool_asgi.errors import BadRequest

__all__ = ["MintRules", "Terms"]

_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,9}\Z")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a temporary token is to be.

    Attributes:
        window: seconds within which it opens sessions.
        session: seconds that such a session may last.
        service: the provider's service whose sessions it opens; empty for one that we do not serve.
    """

    window: int
    session: int
    service: str


@dataclass(frozen=True, slots=True)
class MintRules:
    """What a provider knows about its requests for temporary tokens.

    They name what they ask for in the query or, where there is a body, as members of its JSON object.

    Attributes:
        kind: kind of resource that such an operation creates.
        window: name of the parameter with the seconds within which the token opens sessions. It is required.
        session: name of the one with the seconds that a session may last.
        product: name of the one that tells what the token is for, where the operation does not.
        windows: least and most seconds of a window.
        sessions: least and most seconds of a session; the most is also the default.
        narrowing: name of the one that narrows what the token may be used for, which only the provider can keep to.
        products: product to the service that its sessions are opened at.
        product_service: service of the operation that names a product.
    """

    kind: str
    window: str
    session: str
    product: str
    narrowing: str
    windows: tuple[int, int]
    sessions: tuple[int, int]
    products: Mapping[str, str]
    product_service: str

    def checked_terms(self, service: str, query: bytes, body: bytes | None) -> Terms:
        """Return what a request asks for, as strictly as the provider itself would.

        Args:
            service: the operation's.
            query: raw query string.
            body: the request body, if the operation has one.

        Raises:
            BadRequest: something is missing, no number, out of its range, or asked for twice.
        """
        asked = self._asked(query, body)
        if self.narrowing in asked:
            raise BadRequest(f"{self.narrowing} cannot be given to tokens that are made here.")
        terms = Terms(
            window=_in_range(self.window, asked.get(self.window), self.windows),
            session=_in_range(self.session, asked.get(self.session, self.sessions[1]), self.sessions),
            service=self._service(service, asked.get(self.product)),
        )
        if not terms.service:
            raise BadRequest(f"{self.product} must be one of: {', '.join(self.products)}")
        return terms

    def likely_terms(self, service: str, query: bytes, body: bytes | None) -> Terms:
        """Return what a request that the provider is to judge asks for, with its bounds for what is out of range.

        Raises:
            BadRequest: something is asked for twice, or the body is not a JSON object.
        """
        asked = self._asked(query, body)
        return Terms(
            window=self._bounded_window(asked.get(self.window)),
            session=min(_number(asked.get(self.session)) or self.sessions[1], self.sessions[1]),
            # A narrowed one would open more here than it may: it is good at the provider's own endpoint only.
            service="" if self.narrowing in asked else self._service(service, asked.get(self.product)),
        )

    def given_terms(self, asked: Terms, answer: Mapping[str, object]) -> Terms:
        """Return the terms with the window that the provider's answer names, if that is a shorter one."""
        return replace(asked, window=min(asked.window, self._bounded_window(answer.get(self.window))))

    def capped_query(self, query: bytes, most: int) -> bytes:
        """Return the query string with no more seconds for a session than ``most``; the rest as it came.

        What is out of range stays, for the provider to refuse.

        Raises:
            BadRequest: they are asked for twice, or are no plain number.
        """
        if most >= self.sessions[1]:
            return query
        asked = self._asked_in_query(query).get(self.session)
        if asked is not None and not self._is_over(asked, most):
            return query
        parts = [part for part in query.split(b"&") if part and _pair(part)[0] != self.session]
        return b"&".join([*parts, f"{self.session}={most}".encode()])

    def capped_body(self, body: bytes, most: int) -> bytes:
        """Do the same with a JSON object, which is then written anew, each member once.

        Raises:
            BadRequest: it is no JSON object, or the seconds are no plain number.
        """
        if most >= self.sessions[1]:
            return body
        members = _members(body)
        asked = members.get(self.session)
        if asked is None or self._is_over(asked, most):
            members[self.session] = most
        return json.dumps(members).encode()

    def _bounded_window(self, seconds: object) -> int:
        """A number of seconds as far as a window may last; the longest window for what is no number."""
        return min(_number(seconds) or self.windows[1], self.windows[1])

    def _is_over(self, asked: object, most: int) -> bool:
        seconds = _number(asked)
        if seconds is None:
            raise BadRequest(f"{self.session} must be a number")
        return most < seconds <= self.sessions[1]

    def _service(self, service: str, product: object) -> str:
        if service != self.product_service:
            return service
        return self.products.get(product, "") if isinstance(product, str) else ""

    def _asked(self, query: bytes, body: bytes | None) -> Mapping[str, object]:
        return self._asked_in_query(query) if body is None else _members(body)

    def _asked_in_query(self, query: bytes) -> Mapping[str, object]:
        asked: dict[str, object] = {}
        for name, value in (_pair(part) for part in query.split(b"&")):
            if name not in (self.window, self.session, self.product, self.narrowing):
                continue
            if name in asked:
                raise BadRequest(f"{name} is given more than once")
            asked[name] = value
        return asked


def _pair(part: bytes) -> tuple[str, str]:
    """Name and value of a query parameter, decoded as forms are."""
    name, _, value = part.decode("latin-1").partition("=")
    return unquote_plus(name), unquote_plus(value)


def _members(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadRequest("The request body is not valid JSON in UTF-8.") from None
    if not isinstance(found, dict):
        raise BadRequest("The request body is not a JSON object.")
    return found


def _number(value: object) -> int | None:
    """A plain whole number, as JSON or a query has it; None for anything else, however somebody might read it."""
    if isinstance(value, str) and _PLAIN_NUMBER.match(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _in_range(name: str, value: object, bounds: tuple[int, int]) -> int:
    number, (least, most) = _number(value), bounds
    if number is None or not least <= number <= most:
        raise BadRequest(f"{name} must be a number from {least} to {most}")
    return number

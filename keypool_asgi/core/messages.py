"""HTTP messages as frozen values: what the forwarder asks of the upstream connection, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from keypool_asgi.errors import ConfigurationError

__all__ = ["Headers", "Origin", "RequestHead", "ResponseHead"]

Headers = list[tuple[bytes, bytes]]
"""Header fields in wire order, duplicates kept, names as given."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a service lives: scheme, host and port, and the path that every target starts with.

    ``path`` has no trailing slash, so ``path + "/v2/upload"`` is a request target.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    authority: bytes = field(init=False)

    def __post_init__(self) -> None:
        default = {"http": 80, "https": 443}[self.scheme]
        host = f"[{self.host}]" if ":" in self.host else self.host
        text = host if self.port == default else f"{host}:{self.port}"
        object.__setattr__(self, "authority", text.encode("ascii"))

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Parse an absolute ``http`` or ``https`` base URL.

        Raises:
            ConfigurationError: another scheme, no host, or a query, fragment or user part.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"origins: {url!r} is not an absolute http or https URL")
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise ConfigurationError(f"origins: {url!r} must not have a user, a query or a fragment")
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority.decode()}{self.path}"


@dataclass(slots=True)  # not frozen: one is made for every request, and that would take longer than the rest of it
class RequestHead:
    """The head of one upstream request (RFC 9112, section 3).

    Attributes:
        method: as it goes on the wire, such as ``b"POST"``.
        origin: scheme, host and port to connect to.
        target: path and query as they go on the wire, including ``origin.path``.
        headers: complete header fields in order, with ``host`` and the framing fields: either one
            ``content-length``, or ``transfer-encoding: chunked``, or neither when there is no body.
        patience: seconds to wait for the response head after the request is complete.
    """

    method: bytes
    origin: Origin
    target: bytes
    headers: Headers = field(repr=False)  # it holds the key (I2)
    patience: float


@dataclass(slots=True)
class ResponseHead:
    """The head of one upstream response: status, reason phrase and header fields in wire order."""

    status: int
    reason: bytes
    headers: Headers

"""Reference: serves the OpenAPI document and the API reference page below the pool's prefix."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version
from pathlib import Path

from keypool_asgi.asgi import ASGIApp, Location, Receive, Scope, Send, locate, own_base
from keypool_asgi.core.operations import OperationTable
from keypool_asgi.providers.assemblyai import ASSEMBLYAI

from .assemblyai import ASSEMBLYAI_PAGES
from .document import document
from .files import File, Template, page_files, read, template
from .pages import Pages

__all__ = ["Reference"]

_DOCUMENT = "/openapi.json"
_PAGE = "/reference"

# Everything comes from the pool itself. Swagger UI sets its styles through the CSSOM, which needs no exception here;
# its icons and players are data: and blob: URLs. 'self' includes the WebSockets of the same host and port.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
).encode()

_HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", _POLICY),
]
_ALLOW = b"GET, HEAD"


class Reference:
    """Serves ``/openapi.json``, ``/reference`` and its files below the pool, and passes every other request on.

    No token is needed to read it. Everything is read when it is first asked for, and then kept.

    Args:
        app: the pool, or whatever else answers all other requests.
        table: the pool's operations.
        pages: what is written about them.
        prefix: the pool's path, without a trailing slash.
        public_url: the pool's absolute URL, when it cannot be told from requests; see ``Settings``.
        mounted: whether it stands in a framework's mount, as ``KeyPool`` does.

    Raises:
        ConfigurationError: the package with Swagger UI is not installed.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        table: OperationTable = ASSEMBLYAI.table,
        pages: Pages = ASSEMBLYAI_PAGES,
        prefix: str = "/v1/assemblyai",
        public_url: str | None = None,
        mounted: bool = False,
    ) -> None:
        self.app = app
        self.table = table
        self.pages = pages
        self.prefix = prefix
        self.public_url = public_url.rstrip("/") if public_url else None
        self.mounted = mounted
        self._paths = page_files()
        self._files: dict[str, File] = {}
        self._template: Template | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request for the reference, or pass on one that is not."""
        location = locate(scope, self.prefix, mounted=self.mounted) if scope["type"] == "http" else None
        if location is not None and self.knows(location.path):
            await self.answer(location, scope, send)
        else:
            await self.app(scope, receive, send)

    def knows(self, path: str) -> bool:
        """Whether a path below the pool is the reference's."""
        return path in self._paths or path in (_DOCUMENT, _PAGE + "/")

    async def answer(self, location: Location, scope: Scope, send: Send) -> None:
        """Answer an ``http`` request whose path ``knows`` knows."""
        if scope["method"] not in ("GET", "HEAD"):
            await _refuse_method(send)
        elif location.path == _PAGE + "/":
            # The page's links are relative to the path without the slash.
            await _send(send, 307, [(b"location", b"../reference")], b"")
        else:
            await _serve(await self._file(location, scope), scope, send)

    async def _file(self, location: Location, scope: Scope) -> File:
        if location.path == _DOCUMENT:
            if self._template is None:
                self._template = await asyncio.to_thread(self._make_template)
            return self._template.filled(self.public_url or own_base(scope, location.mount))
        file = self._files.get(location.path)
        if file is None:
            path: Path = self._paths[location.path]
            file = self._files[location.path] = await asyncio.to_thread(read, path)
        return file

    def _make_template(self) -> Template:
        release = version("keypool-asgi")
        return template(lambda base: document(self.table, self.pages, base=base, version=release))


async def _serve(file: File, scope: Scope, send: Send) -> None:
    headers = [*_HEADERS, (b"etag", file.etag.encode())]
    if _is_known(file.etag, scope):
        await _send(send, 304, headers, b"")
        return
    headers += [(b"content-type", file.media.encode()), (b"content-length", str(len(file.body)).encode())]
    await _send(send, 200, headers, b"" if scope["method"] == "HEAD" else file.body)


def _is_known(etag: str, scope: Scope) -> bool:
    """Whether the caller has this already (RFC 9110, section 13.1.2; weak comparison)."""
    fields = [value.decode("latin-1") for name, value in scope["headers"] if name == b"if-none-match"]
    tags = {tag.strip().removeprefix("W/") for field in fields for tag in field.split(",")}
    return etag in tags or "*" in tags


async def _refuse_method(send: Send) -> None:
    fields = {"error": "The API reference can only be read: use GET or HEAD.", "code": "METHOD_NOT_ALLOWED"}
    body = json.dumps(fields).encode()
    headers = [(b"allow", _ALLOW), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await _send(send, 405, headers, body)


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

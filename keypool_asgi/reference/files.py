"""The files of the reference page: our own, and Swagger UI's from the package that brings them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from keypool_asgi.errors import ConfigurationError

__all__ = ["File", "Template", "page_files", "read", "template"]

_OWN = Path(__file__).with_name("static")
_UI_PACKAGE = "fastapi_offline"
_UI_FILES = ("swagger-ui.css", "swagger-ui-bundle.js")
_OWN_FILES = ("page.css", "page.js", "live.js", "microphone.js", "sample.wav", "icon.svg")
_MEDIA = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wav": "audio/wav",
}
_BASE = "urn:keypool:base"


@dataclass(frozen=True, slots=True)
class File:
    """What is served at one path.

    Attributes:
        media: its media type.
        body: its content.
        etag: changes whenever the content does (RFC 9110, section 8.8.3).
    """

    media: str
    body: bytes
    etag: str

    @classmethod
    def of(cls, media: str, body: bytes) -> File:
        """Make one, with its entity tag."""
        return cls(media, body, f'"{sha256(body).hexdigest()[:32]}"')


@dataclass(frozen=True, slots=True)
class Template:
    """The document's bytes around the one place where the pool's URL stands, which differs from caller to caller."""

    head: bytes
    tail: bytes

    def filled(self, base: str) -> File:
        """Return the document for callers who see the pool at ``base``."""
        return File.of("application/json", self.head + json.dumps(base).encode() + self.tail)


def template(document: Callable[[str], object]) -> Template:
    """Return the template of a document, given by a function of the pool's URL."""
    head, tail = json.dumps(document(_BASE), separators=(",", ":")).split(json.dumps(_BASE))
    return Template(head.encode(), tail.encode())


def page_files() -> Mapping[str, Path]:
    """Return the files of the page by their path below the pool.

    Raises:
        ConfigurationError: the package with Swagger UI is not installed.
    """
    spec = find_spec(_UI_PACKAGE)  # does not import it, and FastAPI with it
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise ConfigurationError("the API reference page needs Swagger UI: pip install 'keypool-asgi[reference]'")
    ui = Path(places[0]) / "static"
    return {
        "/reference": _OWN / "page.html",
        **{f"/reference/{name}": _OWN / name for name in _OWN_FILES},
        **{f"/reference/{name}": ui / name for name in _UI_FILES},
    }


def read(path: Path) -> File:
    """Read a file of the page."""
    return File.of(_MEDIA[path.suffix], path.read_bytes())

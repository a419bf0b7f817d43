"""The API reference: an OpenAPI document of everything the pool serves, and a page to read it and try it out.

::

    operations table ─┐
    what is written    ├─> document() ─> Reference (serves it) ─> the page, in the reader's browser
    about each row ────┤             └─> merged() (into the host's own document)
    error table ───────┘
"""

from __future__ import annotations

from .app import Reference
from .assemblyai import ASSEMBLYAI_PAGES
from .document import document
from .merging import merged, with_pool

__all__ = ["ASSEMBLYAI_PAGES", "Reference", "document", "merged", "with_pool"]

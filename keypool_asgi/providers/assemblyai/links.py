"""AssemblyAI's lists hold absolute links to itself; a client that follows one must come back to us.

The Node SDK sends its credential wherever such a link points, so an unchanged one would hand the team token to upstream.
"""

from __future__ import annotations

import re

__all__ = ["rewrite_links"]

# Inside a JSON string a quote is escaped, so an unescaped `"prev_url"` can only be a member's name.
_LINK = re.compile(rb'("(?:prev_url|next_url|current_url|resource_url)"\s*:\s*")((?:[^"\\]|\\.)*)(")')


def rewrite_links(body: bytes, upstream: str, own: str) -> bytes:
    """Let the links of a JSON body lead to ``own`` where they lead to ``upstream``; every other byte stays.

    Args:
        body: a JSON document in UTF-8.
        upstream: base URL without a trailing slash.
        own: base URL without a trailing slash.
    """
    old, new = f"{upstream}/".encode(), f"{own}/".encode()

    def replaced(link: re.Match[bytes]) -> bytes:
        url = link[2].replace(b"\\/", b"/")
        return link[1] + new + url[len(old) :] + link[3] if url.startswith(old) else link[0]

    return _LINK.sub(replaced, body)

"""TLS of one connection, as bytes in and bytes out over the standard library's ``SSLObject``.

asyncio's own TLS transport drops what it has received but not yet decrypted when a write fails. That loses an early
answer (a 401 or 413 sent in the middle of an upload by a server that then closes), so encryption is done here, above a
plain transport whose last bytes can still be read. It also tells a closed TLS session from a cut one.
"""

from __future__ import annotations

import contextlib
import ssl

__all__ = ["TlsSession", "default_context"]

_PIECE = 256 * 1024


def default_context() -> ssl.SSLContext:
    """A context that trusts what the system trusts, checks names, and offers HTTP/1.1 (RFC 7301)."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class TlsSession:
    """The client's side of one TLS session.

    Attributes:
        established: whether the handshake is complete.
        closed: whether the peer has ended the session properly, with a closure alert (RFC 8446, section 6.1).
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "closed", "established")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.established = False
        self.closed = False

    def handshake(self) -> None:
        """Go on with the handshake as far as possible.

        Raises:
            ssl.SSLError: it failed.
        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True

    def decrypt(self, data: bytes) -> bytes:
        """Take bytes from the wire and return what they say; nothing during the handshake.

        Raises:
            ssl.SSLError: they are no TLS records of this session.
        """
        self._incoming.write(data)
        if not self.established:
            self.handshake()
            if not self.established:
                return b""
        pieces: list[bytes] = []
        while piece := self._read():
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def encrypt(self, data: bytes) -> bytes:
        """Return data as records for the wire."""
        view = memoryview(data)
        while view:
            view = view[self._object.write(view) :]
        return self._outgoing.read()

    def take_outgoing(self) -> bytes:
        """Return what the session itself has to send: handshake, alerts, key updates."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """Return our closure alert, if there is still somebody to send it to."""
        with contextlib.suppress(ssl.SSLError):  # "want read" is the normal case: the peer's alert is not waited for
            self._object.unwrap()
        return self._outgoing.read()

    def _read(self) -> bytes:
        try:
            piece = self._object.read(_PIECE)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            piece = b""
        self.closed = not piece
        return piece

"""The table ``[server]``: what ``keypool serve`` listens on, and how. A stack inside a host app ignores it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from .kinds import BOOLEAN, TEXT, TEXTS, WHOLE, Kind, Place, Values, checked

__all__ = ["ServerSettings", "check_server", "server_settings"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What ``keypool serve`` needs to know beside the pool."""

    host: str = "127.0.0.1"
    """Address to listen on; ``"0.0.0.0"`` and ``"::"`` are all of the machine's."""

    port: int = 8000
    """Port to listen on; 0 takes a free one."""

    workers: int = 1
    """Processes. More than one needs ``state``, or each counts and remembers for itself."""

    tls_certificate: str | None = None
    """File with the certificate chain (PEM), to serve https. None: http."""

    tls_key: str | None = None
    """File with its private key (PEM). None: it is in ``tls_certificate``."""

    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1",)
    """Reverse proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed; ``"*"`` is all."""

    log_exchanges: bool = True
    """Whether a line is logged for each exchange."""


_KINDS: dict[str, Kind] = {
    "host": TEXT,
    "port": WHOLE,
    "workers": WHOLE,
    "tls_certificate": TEXT,
    "tls_key": TEXT,
    "forwarded_allow_ips": TEXTS,
    "log_exchanges": BOOLEAN,
}
_PATHS = ("tls_certificate", "tls_key")


def server_settings(values: Values, place: Place, folder: Path) -> ServerSettings:
    """Read the table; paths are relative to ``folder``. What is in them, ``check_server`` checks where it is used.

    Raises:
        ConfigurationError: a setting is unknown, or of another kind.
    """
    place = place.within("[server]")
    values = checked(values, _KINDS, place)
    for name in _PATHS:
        if name in values:
            values[name] = str(folder / values[name])
    if "forwarded_allow_ips" in values:
        values["forwarded_allow_ips"] = tuple(values["forwarded_allow_ips"])
    return ServerSettings(**values)


def check_server(server: ServerSettings, place: Place) -> None:
    """Check the settings' values, and what is in the files for TLS.

    Raises:
        ConfigurationError: a value is out of its range, or a file cannot be used.
    """
    if not 0 <= server.port <= 65_535:
        raise place.error(f"port must be from 0 to 65535, not {server.port}")
    if not 1 <= server.workers <= 256:
        raise place.error(f"workers must be from 1 to 256, not {server.workers}")
    if server.tls_key is not None and server.tls_certificate is None:
        raise place.error("tls_key needs tls_certificate")
    if server.tls_certificate is not None:
        _check_certificate(server.tls_certificate, server.tls_key, place)


def _check_certificate(certificate: str, key: str | None, place: Place) -> None:
    """Load them once, so that what is wrong with them is told by name and not by the server's traceback."""
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        try:
            if path is not None:
                Path(path).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no path"
            raise place.error(f"{name}: {path} cannot be read: {reason}") from None
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError, OSError):
        raise place.error("tls_certificate and tls_key are not a certificate (PEM) and its key") from None

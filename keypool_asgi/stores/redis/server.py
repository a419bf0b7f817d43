"""One Redis server that several stores use, from any event loop and process."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.stores.callables import store_failed

from .line import Argument, Job, Line, is_refused_credential, need_client
from .scripts import Script

__all__ = ["RedisServer"]

log = logging.getLogger("keypool_asgi.stores")

_FORM = "must be redis://[[user]:password@]host[:port][/database], or rediss:// for TLS"


class RedisServer:
    """A Redis server, its connections, and what to do when it fails.

    Calls that wait at the same time share a round trip, in their order, on one connection per event loop. A call that
    has begun runs to its end even if its caller is cancelled.

    - Every script that is called must be one that may run twice: what could not be sent, or whose answer was lost with
      the connection, is sent once more on a new one.
    - A server that does not answer in time, or cannot be reached, makes every waiting call a ``StoreUnavailable``.
      Then ``pause_seconds`` pass before it is tried again, so that an outage does not cost each request its waiting
      time. It is logged when it begins and when it ends.
    - A restarted server is used again without more ado: it is given the scripts anew when it does not know them.

    It is connected to at first use, from any event loop, and again after ``aclose()``, in a forked process too.
    Needs Redis 5 or newer.

    Args:
        url: ``redis://[[user]:password@]host[:port][/database]``, ``rediss://`` for TLS. Its query may have redis-py's
            own settings, such as ``?ssl_ca_certs=/path``. A cluster cannot be named.
        prefix: begins the name of every key. Pools with different prefixes share nothing.
        connect_seconds: how long connecting may take.
        answer_seconds: how long an answer may take.
        pause_seconds: how long calls are refused at once after the server could not be reached.

    Raises:
        ConfigurationError: a setting is wrong, or redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "keypool",
        connect_seconds: float = 1.0,
        answer_seconds: float = 2.0,
        pause_seconds: float = 0.25,
    ) -> None:
        self._name = _checked_url(url)
        if not re.fullmatch(r"[A-Za-z0-9._:-]+", prefix):
            raise ConfigurationError(f"state: prefix must be letters, digits, dots, dashes, colons, not {prefix!r}")
        for name, value in (("connect_seconds", connect_seconds), ("answer_seconds", answer_seconds)):
            if not value > 0:
                raise ConfigurationError(f"state: {name} must be above 0, not {value!r}")
        if not pause_seconds >= 0:
            raise ConfigurationError(f"state: pause_seconds must not be negative, not {pause_seconds!r}")
        need_client()
        self.prefix = prefix
        self._url = url
        self._seconds = {
            "connect_seconds": connect_seconds,
            "answer_seconds": answer_seconds,
            "pause_seconds": pause_seconds,
        }
        # A process that was forked keeps its parent's lines, untouched: to end them would end the parent's.
        self._lines: dict[tuple[int, asyncio.AbstractEventLoop], Line] = {}

    def __repr__(self) -> str:
        return f"<RedisServer {self._name}>"

    async def open(self) -> None:
        """Connect now, and warn of a server that is set up to lose what is kept in it.

        A server that cannot be reached now may be back when a request comes: that is logged only.

        Raises:
            ConfigurationError: the server does not accept the credentials, or the database.
        """
        try:
            about = await self.command("INFO")
        except StoreUnavailable as refusal:
            if is_refused_credential(refusal.__cause__):
                raise ConfigurationError(f"state: {self._name} does not let us in: {refusal.__cause__}") from None
            return
        policy = about.get("maxmemory_policy", "noeviction")
        if policy.startswith("allkeys"):
            log.warning("state: %s may drop any key (maxmemory-policy %s): use noeviction", self._name, policy)
        if about.get("aof_enabled", 1) in (0, "0"):
            log.warning(
                "state: %s keeps no append-only file: what was recorded since its last snapshot is lost when it dies",
                self._name,
            )

    async def call(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        then: Callable[[Any], object] | None = None,
    ) -> Any:
        """Return what a script returns: bytes, integers, None, and lists of them.

        Args:
            script: may run twice.
            keys: every key that it touches; all with one hash tag.
            arguments: what else it needs.
            then: called with the answer, in the order of the server's answers, even if the caller is cancelled.

        Raises:
            StoreUnavailable: the server cannot be reached, or the script failed.
        """
        try:
            words = [_encoded(word) for word in (len(keys), *keys, *arguments)]
        except UnicodeEncodeError as error:
            # Found out here, because in a round trip it would fail those of others too.
            raise store_failed("state", script.name, error) from error
        return await self._submit(Job(script.name, script, words, then))

    def post(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        failed: Callable[[], object] | None = None,
    ) -> None:
        """Have a script called after what is waiting already, without waiting for it.

        Args:
            script: may run twice.
            keys: every key that it touches.
            arguments: what else it needs.
            failed: called if it could not be done.
        """
        words = [_encoded(word) for word in (len(keys), *keys, *arguments)]
        self._submit(Job(script.name, script, words, None)).add_done_callback(partial(_posted, failed))

    async def command(self, *words: Argument) -> Any:
        """Return what a plain command returns.

        Raises:
            StoreUnavailable: the server cannot be reached, or refuses it.
        """
        return await self._submit(Job(str(words[0]), None, words, None))

    async def aclose(self) -> None:
        """Finish what has begun, and disconnect. The next use connects again."""
        line = self._lines.pop((os.getpid(), asyncio.get_running_loop()), None)
        if line is not None:
            await asyncio.shield(line.close())

    def _submit(self, job: Job) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        line = self._lines.get((os.getpid(), loop))
        if line is None:
            line = self._line_of(loop)
        return line.submit(job)

    def _line_of(self, loop: asyncio.AbstractEventLoop) -> Line:
        own = os.getpid()
        for pid, other in list(self._lines):
            if pid == own and other.is_closed():
                del self._lines[pid, other]
        line = self._lines[own, loop] = Line(self._name, self._url, **self._seconds)
        return line


def _posted(failed: Callable[[], object] | None, future: asyncio.Future[Any]) -> None:
    # Asking for the exception takes note of it: it is logged already.
    went_wrong = future.cancelled() or future.exception() is not None
    if went_wrong and failed is not None:
        failed()


def _encoded(word: Argument) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


def _checked_url(url: str) -> str:
    """Return what a URL may be called in a log: without user, password and parameters.

    Raises:
        ConfigurationError: it is not a URL of one Redis server.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in ("redis", "rediss"):
        raise ConfigurationError(f"state: a Redis URL {_FORM}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 6379
    except ValueError:
        raise ConfigurationError(f"state: a Redis URL {_FORM}; its host or port is not one") from None
    if not host or not re.fullmatch(r"(/[0-9]*)?", parts.path):
        raise ConfigurationError(f"state: a Redis URL {_FORM}; a database is a number")
    return f"{scheme}://{host}:{port}{parts.path}"

"""The board on which processes leave word about keys, in a Redis server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from keypool_asgi.core.health import Scope, State
from keypool_asgi.core.shared_health import Bulletin, News, Report
from keypool_asgi.errors import ConfigurationError

from .line import Argument
from .scripts import Script, key_names
from .server import RedisServer

__all__ = ["RedisHealthBoard"]

_EXCHANGE = Script.load("health", "exchange")

# How long news is kept after its subject opens. By then everybody who heard it has sent a probe.
_KEPT_SECONDS = 60


class RedisHealthBoard:
    """A ``HealthBoard`` in a Redis server: one script, and one round trip, for each exchange.

    Args:
        server: the server; it is its owner's to close.
        lease_seconds: how long the leases of a process count after its last report.

    Raises:
        ConfigurationError: ``lease_seconds`` is not above 0.
    """

    def __init__(self, server: RedisServer, *, lease_seconds: float = 5.0) -> None:
        if not lease_seconds > 0:
            raise ConfigurationError(f"state: lease_seconds must be above 0, not {lease_seconds!r}")
        self._server = server
        self._lease_seconds = lease_seconds
        self._keys = key_names(server.prefix, "health", ("news", "counts"))

    def __repr__(self) -> str:
        return f"<RedisHealthBoard in {self._server!r}>"

    async def exchange(self, report: Report) -> Bulletin:
        """Leave a report and return what there is."""
        durations = (_micro(self._lease_seconds), _micro(_KEPT_SECONDS))
        words: list[Argument] = [report.process, *durations, json.dumps(dict(report.in_flight))]
        for one in report.news:
            subject = json.dumps([one.scope.value, one.name, one.service])
            words += (subject, one.id, one.state.value, _micro(one.age), _micro(one.opens_in), one.strikes)
        told, counts = await self._server.call(_EXCHANGE, self._keys, words)
        others: Counter[str] = Counter()
        for text in counts:
            others.update(json.loads(text))
        news = [_news(subject, facts) for subject, facts in zip(told[::2], told[1::2], strict=True)]
        return Bulletin(news, others)


def _news(subject: bytes, facts: Sequence[bytes]) -> News:
    scope, name, service = json.loads(subject)
    news_id, process, state, age, opens_in, strikes = (fact.decode() for fact in facts)
    return News(
        news_id,
        process,
        Scope(scope),
        name,
        service,
        State(state),
        age=int(age) / 1e6,
        opens_in=int(opens_in) / 1e6,
        strikes=int(strikes),
    )


def _micro(seconds: float) -> int:
    return int(seconds * 1e6)

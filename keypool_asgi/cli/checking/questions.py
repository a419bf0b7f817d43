"""What upstream is asked about a key. Every question is free, and changes and creates nothing.

Funds are told by the text of a refusal, and only requests that would cost something are refused for want of them: so a
job is asked for whose file cannot exist, which is refused in any case. Whether two projects are of one account is asked
by having the LLM Gateway *validate*, not run, a request about a transcript: it knows those of the whole account.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from keypool_asgi.core.headers import Framing
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.messages import Headers
from keypool_asgi.core.ownership import decoded_json
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.requests import upstream_request
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import UpstreamTimeout
from keypool_asgi.ports import UpstreamClient
from keypool_asgi.stages.asking import read_limited

__all__ = ["NEWEST", "Answer", "Questions"]

NEWEST = 100
"""How many transcripts of each key are looked at."""

_NO_UPLOAD = "https://cdn.assemblyai.com/upload/00000000-0000-0000-0000-000000000000"
_FEATURE = {"request": {"translation": {"target_languages": ["de"]}}}
_FIELDS: Headers = [(b"accept", b"application/json"), (b"content-type", b"application/json")]
_MAX_BYTES = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class Answer:
    """What upstream answered.

    Attributes:
        status: HTTP status.
        verdict: what it says about the key.
        fields: the members of its JSON object; empty when it is none.
    """

    status: int
    verdict: Verdict
    fields: Mapping[str, Any]

    @property
    def fault(self) -> Fault:
        """What the verdict blames on the key."""
        return self.verdict.fault


class Questions:
    """Asks upstream.

    Args:
        client: connections to upstream.
        provider: where services are, and what answers say about keys.
        at_once: most requests at the same time.
        seconds: longest time for one of them.
    """

    def __init__(self, client: UpstreamClient, provider: Provider, *, at_once: int, seconds: float) -> None:
        self._client = client
        self._provider = provider
        self._seconds = seconds
        self._room = asyncio.Semaphore(at_once)

    async def newest(self, key: UpstreamKey, region: str) -> Answer:
        """Ask for the newest transcripts that a key sees."""
        return await self._ask("transcripts.list", key, region, query=b"limit=%d" % NEWEST)

    async def sees(self, key: UpstreamKey, region: str, transcript: str) -> bool | None:
        """Ask whether a transcript is of the key's project; None when the answer tells nothing."""
        answer = await self._ask("transcripts.get", key, region, ids={"transcript_id": transcript})
        return _yes_or_no(answer, no=(400, 404))

    async def funds(self, key: UpstreamKey, region: str) -> Answer:
        """Ask for a job that cannot be."""
        return await self._ask("transcripts.create", key, region, content={"audio_url": _NO_UPLOAD})

    async def account_has(self, key: UpstreamKey, region: str, transcript: str) -> bool | None:
        """Ask whether a transcript is of the key's account; None when the answer tells nothing."""
        content = {"transcript_id": transcript, "speech_understanding": _FEATURE}
        answer = await self._ask("llm.understanding_validate", key, region, content=content)
        return _yes_or_no(answer, no=(404,))

    async def _ask(
        self,
        operation: str,
        key: UpstreamKey,
        region: str,
        *,
        ids: Mapping[str, str] | None = None,
        query: bytes = b"",
        content: object = None,
    ) -> Answer:
        """Send a request.

        Raises:
            UpstreamError: upstream failed, or was too slow.
        """
        row = replace(self._provider.table.named(operation), patience=self._seconds)
        body = b"" if content is None else json.dumps(content).encode()
        request = upstream_request(
            row.method,
            row.path.format(**(ids or {})),
            query,
            _FIELDS if body else _FIELDS[:1],
            operation=row,
            framing=Framing(len(body), chunked=False),
            origin=self._provider.origins[region][row.service],
            key=key,
            token="",
            via=None,
        )
        async with self._room:
            try:
                async with asyncio.timeout(self._seconds):
                    call = await self._client.open(request)
                    try:
                        if body:
                            await call.write(body)
                        await call.finish()
                        head = await call.head()
                        answer = await read_limited(call, _MAX_BYTES)
                    finally:
                        call.close()
            except TimeoutError:
                raise UpstreamTimeout(f"no answer within {self._seconds:g} s", sent=True) from None
        verdict = self._provider.judge(row, head.status, head.headers, answer, 0.0)
        return Answer(head.status, verdict, decoded_json(head.headers, answer) or {})


def _yes_or_no(answer: Answer, *, no: tuple[int, ...]) -> bool | None:
    if answer.status == 200:
        return True
    return False if answer.status in no and not answer.verdict.blames_key else None

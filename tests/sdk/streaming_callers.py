"""The official SDKs' users, each with the same session: what they were told is the same for all of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assemblyai.streaming.v3 import (
    AsyncRealTimeTranscriber,
    RealTimeEvents,
    RealTimeParameters,
    RealTimeSessionParameters,
    RealTimeTranscriber,
    RealTimeTranscriberOptions,
)
from harness import need

from keypool_asgi.testing import tone_wav

from .streaming_pool import Live

__all__ = [
    "AUDIO",
    "CALLERS",
    "Caller",
    "Heard",
    "Wish",
    "async_python",
    "chunks",
    "minted",
    "node",
    "python",
    "python_at",
]

AUDIO = tone_wav(3)[44:]
CHUNK_BYTES = 3200  # 100 ms
ANSWER_SECONDS = 20.0
NODE_FOLDER = Path(__file__).with_name("node")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user does.

    Attributes:
        credential: the team token, or a temporary one.
        temporary: whether it is a temporary one.
        mint: parameters of a temporary token that the SDK is to make first, with the credential.
        audio: what is streamed, 16 bits at 16 kHz.
        pace: seconds between two chunks of 100 ms.
        patience: settings of the SDK by the names of the Python one: ``connect_timeout``, ``max_connection_retries``
            and ``connection_retry_delay``, in seconds.
    """

    credential: str = field(repr=False)
    temporary: bool = False
    mint: dict[str, int] | None = None
    audio: bytes = field(default=AUDIO, repr=False)
    pace: float = 0.0
    patience: dict[str, float] = field(default_factory=dict)


@dataclass
class Heard:
    """What a user was told.

    Attributes:
        messages: of the session, as the SDK gave them to its user.
        errors: texts and codes, as the SDK gave them to its user.
        seconds: how long it took to connect, or to fail at it.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    errors: list[tuple[str, int | None]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kinds(self) -> set[str]:
        return {message["type"] for message in self.messages}

    @property
    def said(self) -> list[str]:
        """The transcript, turn by turn."""
        return [message["transcript"] for message in self.messages if message.get("end_of_turn")]


Caller = Callable[[Live, Wish], Heard]


def chunks(audio: bytes) -> list[bytes]:
    return [audio[start : start + CHUNK_BYTES] for start in range(0, len(audio), CHUNK_BYTES)]


# Python

PARAMETERS = RealTimeParameters(
    sample_rate=16_000, speech_model="universal-streaming-english", format_turns=True, keyterms_prompt=["a", "b"]
)
CHANGED = RealTimeSessionParameters(max_turn_silence=500)


def options(host: str, wish: Wish, token: str | None = None) -> RealTimeTranscriberOptions:
    """What a user of the Python SDK configures; its token goes where the key went, or into ``token``."""
    if token or wish.temporary:
        return RealTimeTranscriberOptions(api_host=host, token=token or wish.credential, **wish.patience)
    return RealTimeTranscriberOptions(api_host=host, api_key=wish.credential, **wish.patience)


def python(pool: Live, wish: Wish) -> Heard:
    return python_at(pool.api_host, wish)


def python_at(host: str, wish: Wish) -> Heard:
    """Play the session on ``RealTimeTranscriber``."""
    token = minted(host, wish.credential, wish.mint) if wish.mint else None
    client = RealTimeTranscriber(options(host, wish, token))
    heard, decided = Heard(), threading.Event()
    for event in RealTimeEvents:
        client.on(event, lambda _, message: (note(heard, message), decided.set()))
    began = time.monotonic()
    client.connect(PARAMETERS)
    assert decided.wait(ANSWER_SECONDS), "neither Begin nor an error"
    heard.seconds = time.monotonic() - began
    if not heard.errors:
        client.stream(paced(wish))
        client.set_params(CHANGED)
        client.force_endpoint()
        client.keep_alive()
    client.disconnect(terminate=True)
    return heard


def minted(host: str, credential: str, terms: dict[str, int]) -> str:
    """Make a temporary token with the SDK, as a user's backend does."""
    minter = RealTimeTranscriber(options(host, Wish(credential)))
    try:
        return minter.create_temporary_token(**terms)
    finally:
        minter._client._http_client.close()  # which has no other way to be closed


def paced(wish: Wish) -> Iterator[bytes]:
    for chunk in chunks(wish.audio):
        time.sleep(wish.pace)
        yield chunk


def async_python(pool: Live, wish: Wish) -> Heard:
    return asyncio.run(async_python_at(pool.api_host, wish))


async def async_python_at(host: str, wish: Wish) -> Heard:
    """Play the session on ``AsyncRealTimeTranscriber``."""
    minter = AsyncRealTimeTranscriber(options(host, wish))
    token = await minter.create_temporary_token(**wish.mint) if wish.mint else None
    await minter.disconnect()
    heard, decided = Heard(), asyncio.Event()
    async with AsyncRealTimeTranscriber(options(host, wish, token)) as client:
        for event in RealTimeEvents:
            client.on(event, lambda _, message: (note(heard, message), decided.set()))
        began = time.monotonic()
        await client.connect(PARAMETERS)
        await asyncio.wait_for(decided.wait(), ANSWER_SECONDS)
        heard.seconds = time.monotonic() - began
        if not heard.errors:
            for chunk in chunks(wish.audio):
                await asyncio.sleep(wish.pace)
                await client.stream(chunk)
            await client.set_params(CHANGED)
            await client.force_endpoint()
            await client.keep_alive()
        await client.disconnect(terminate=True)
    return heard


def note(heard: Heard, message: Any) -> None:
    """Write down what a handler was given."""
    if isinstance(message, Exception):
        heard.errors.append((str(message), message.code))
    else:
        heard.messages.append(json.loads(message.json()))


# Node

NODE_NAMES = {
    "connect_timeout": "connectTimeout",
    "max_connection_retries": "maxConnectionRetries",
    "connection_retry_delay": "connectionRetryDelay",
}
NODE_UNITS = {"connect_timeout": 1000, "max_connection_retries": 1, "connection_retry_delay": 1000}


def node(pool: Live, wish: Wish) -> Heard:
    """Play the session on Node's ``streaming.transcriber``, in a process that trusts the pool's certificate."""
    need("node", "npm:assemblyai")
    settings = {NODE_NAMES[name]: each * NODE_UNITS[name] for name, each in wish.patience.items()}
    plan = {
        "base": pool.url,
        "socket": pool.socket_url,
        "credential": wish.credential,
        "temporary": wish.temporary,
        "mint": wish.mint,
        "chunks": [chunk.hex() for chunk in chunks(wish.audio)],
        "pace": wish.pace * 1000,
        "settings": settings,
    }
    done = subprocess.run(
        ["node", "streaming.mjs"],
        cwd=NODE_FOLDER,
        env={"PATH": os.environ["PATH"], "NODE_EXTRA_CA_CERTS": str(pool.served.ca)},
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=ANSWER_SECONDS * 2,
        check=True,
    )
    told = json.loads(done.stdout)
    return Heard(told["messages"], [(each["text"], each["code"]) for each in told["errors"]], told["seconds"])


CALLERS: dict[str, Caller] = {"python": python, "async python": async_python, "node": node}

"""Speech as it is written: ``/v1/ws`` of the text-to-speech hosts."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from . import tones
from .acts import Act, Close, Say
from .dialogue import LONG_REASON, Call, Dialogue
from .frames import Received

__all__ = ["Speaking"]

_NAMES = ("jane", "alba", "anna", "charles", "eve", "george", "jean", "mary", "michael", "paul", "vera")
VOICES = frozenset(f"aai-{name}" for name in _NAMES)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_WIDTHS = {"pcm_s16le": 2, "pcm_mulaw": 1, "pcm_alaw": 1, "mulaw": 1, "alaw": 1}
_RATES = (8000, 16_000, 22_050, 24_000, 44_100, 48_000)
_MODEL = "assemblyai-tts-1"
MOST_TEXT, BACKLOG, IDLE = 2000, 8000, 120.0
RETRYABLE = frozenset({1011, 3005, 3008, 3009})


class Speaking(Dialogue):
    """A session of speech: texts come in, audio goes out piece by piece. It is paid by the character."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._text = ""
        self._flush_id = 0
        self._pieces: dict[int, int] = {}
        self._characters = 0
        self._idle = IDLE
        self._heard_of = self.session.opened
        self._rate, self._width = 24_000, 2
        self._boundaries = call.query.get("word_boundaries", "true").lower() == "true"

    # Beginning and ending

    def begin(self, now: float) -> None:
        """Check the parameters, which is done after the upgrade, and send ``Begin``."""
        query = self.call.query
        voice = query.get("voice_id", "aai-jane")
        if voice not in VOICES and not _UUID.fullmatch(voice):
            self.fail(3006, f"Voice {voice!r} was not found", now, kind="voice_not_found")
            return
        try:
            self._configure()
        except ValueError as error:
            self.fail(3006, f"Bad connection parameters: {error}", now, kind="invalid_parameter")
            return
        configuration = {
            "model": query.get("model_id", _MODEL),
            "voice_id": voice,
            "language": query.get("language", "english").lower(),
            "encoding": query.get("encoding", "pcm_s16le"),
            "sample_rate": self._rate,
            "session_ttl_sec": int(self.session.expires - self.session.opened),
            "limits": {"max_generate_text_length": MOST_TEXT},
        }
        expires = int(self.session.expires)
        self.say_begin({"type": "Begin", "id": self.session.id, "expires_at": expires, "configuration": configuration})
        self._touch(now)

    def tick(self, now: float) -> None:
        """Look at the idle time and the end of the session."""
        if now >= self._heard_of + self._idle:
            self.fail(3006, "Session terminated due to inactivity", now, kind="inactivity_timeout")
        else:
            super().tick(now)

    def fail(self, code: int, text: str, now: float, *, kind: str = "") -> None:
        """End the session; the reason of the close is always the same."""
        super().fail(code, text, now, kind=kind)
        self.outbox[-1] = Close(code, LONG_REASON)

    def error(self, code: int, text: str, now: float, kind: str) -> dict[str, Any]:  # noqa: ARG002 # as the others
        """Return the ``Error`` message."""
        value = {"type": "Error", "error_code": code, "error_type": kind or "error", "error": text}
        return {**value, "retryable": code in RETRYABLE}

    # Messages

    def receive(self, message: Received, now: float) -> None:
        """Take one of five messages."""
        if isinstance(message.data, bytes):
            self.fail(3006, "Invalid Message: binary messages are not taken", now, kind="invalid_message")
            return
        value = self.read(message, now)
        if value is None:
            return
        self._touch(now)
        match value["type"]:
            case "Generate":
                self._generate(value.get("text"), now)
            case "Flush":
                self._flush()
            case "Cancel":
                self._cancel()
            case "Terminate":
                self._terminate(now)
            case "KeepAlive":
                pass
            case unknown:
                self.fail(3006, f"Invalid Message Type: {unknown}", now, kind="invalid_message")

    def _generate(self, text: Any, now: float) -> None:
        if not isinstance(text, str) or len(text) > MOST_TEXT:
            self.fail(3006, f"text has to be at most {MOST_TEXT} characters", now, kind="text_too_long")
            return
        self._text += text
        if len(self._text) > BACKLOG:
            self.fail(3010, f"More than {BACKLOG} characters wait to be spoken", now, kind="backlog_exceeded")

    def _flush(self) -> None:
        text, self._text = self._text, ""
        ident, self._flush_id = self._flush_id, self._flush_id + 1
        count = self._pieces[ident] = tones.pieces(text)
        if text and self.call.key is not None:
            self.call.world.charge(self.call.key, "tts", "characters", len(text), self.session.id)
        self._characters += len(text)
        audio = tones.tone(self._rate, self._width)
        for number in range(count):
            pause = self.call.world.stream_interval if number else 0.0
            self.say({"type": "Audio", "flush_id": ident, "audio": audio}, pause=pause)
        self.say({"type": "FlushDone", "flush_id": ident, "audio_duration_ms": count * tones.PIECE_MS})
        if self._boundaries and text.split():
            self._say_words(text.split(), ident, count)

    def _say_words(self, words: list[str], ident: int, count: int) -> None:
        start = sum(self._pieces[each] for each in range(ident) if each in self._pieces) * tones.PIECE_MS
        step = count * tones.PIECE_MS // len(words)
        timed = [
            {"word": word, "start": start + n * step, "end": start + (n + 1) * step, "confidence": 0.95}
            for n, word in enumerate(words)
        ]
        self.say({"type": "WordBoundaries", "flush_id": ident, "audio_start_ms": start, "words": timed})

    def _cancel(self) -> None:
        left = Counter(ident for act in self.outbox if (ident := _audio_of(act)) is not None)
        current = min(left, default=None)
        spoken = 0 if current is None else self._pieces[current] - left[current]
        self.hush()
        self._text = ""
        ident, self._flush_id = self._flush_id, self._flush_id + 1
        self._pieces[ident] = 0
        self.say({"type": "Cancelled", "flush_id": ident, "audio_duration_seconds": spoken * tones.PIECE_MS / 1000})

    def _terminate(self, now: float) -> None:
        if self._text:
            self._flush()
        seconds = self.terminated(now)
        audio = sum(self._pieces.values()) * tones.PIECE_MS / 1000
        closing = {"session_duration_seconds": seconds, "total_input_char_length": self._characters}
        self.say({"type": "Termination", **closing, "audio_duration_seconds": audio})
        self.close()

    # Parameters

    def _configure(self) -> None:
        encoding = self.call.query.get("encoding", "pcm_s16le")
        if encoding not in _WIDTHS:
            raise ValueError(f"encoding is {encoding}")
        self._rate = int(self.number("sample_rate", _RATES[0], _RATES[-1]) or self._rate)
        if self._rate not in _RATES:
            raise ValueError(f"sample_rate is {self._rate}")
        self._width = _WIDTHS[encoding]
        self._idle = self.number("inactivity_timeout", 5, IDLE) or self._idle

    def _touch(self, now: float) -> None:
        self._heard_of = now
        self.deadline = min(self.session.expires, now + self._idle)


def _audio_of(act: Act) -> int | None:
    """Return the request that an ``Audio`` message is of; None for anything else."""
    if not isinstance(act, Say) or not isinstance(act.data, str) or not act.data.startswith('{"type":"Audio"'):
        return None
    return int(json.loads(act.data)["flush_id"])

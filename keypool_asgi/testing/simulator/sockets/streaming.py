"""Streaming transcription: ``/v3/ws`` of the streaming host."""

from __future__ import annotations

from typing import Any

from .dialogue import Call, Dialogue
from .frames import Received
from .hearing import WIDTHS, Ear

__all__ = ["Streaming"]

API_VERSION, MODEL = "2025-05-12", "universal-3-6-pro"
ENCODINGS = frozenset({*WIDTHS, "opus", "ogg_opus", "aac"})
LEAST_MS, MOST_MS = 50, 1000
HEARTBEAT = 5.0
TURN_WORDS = 6


class Streaming(Dialogue):
    """A session of streaming transcription: a word for every 400 ms of audio, a turn for every six words."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._encoding, self._rate = "pcm_s16le", 16_000
        self._idle: float | None = None
        self._heard_of = self.session.opened
        self._heartbeat = call.query.get("session_heartbeat", "").lower() == "true"
        self._next_heartbeat = self.session.opened + HEARTBEAT
        self._formatted = call.query.get("format_turns", "true").lower() == "true"
        self._partial = call.query.get("include_partial_turns", "true").lower() == "true"
        self._ear = Ear(self._encoding, self._rate)
        self._words: list[dict[str, Any]] = []
        self._turn = 0

    # Beginning and ending

    def begin(self, now: float) -> None:
        """Send ``Begin`` at once."""
        try:
            self._configure()
        except ValueError as error:
            self.fail(3006, f"Invalid parameter: {error}", now)
            return
        query, headers = self.call.query, dict(self.call.headers)
        configuration = {
            "model": query.get("speech_model", MODEL),
            "mode": query.get("mode", "balanced"),
            "api_version": headers.get(b"assemblyai-version", API_VERSION.encode()).decode("latin-1"),
        }
        expires = int(self.session.expires)
        self.say_begin({"type": "Begin", "id": self.session.id, "expires_at": expires, "configuration": configuration})
        self._set_deadline()

    def tick(self, now: float) -> None:
        """Look at the idle time, the heartbeat, and the end of the session."""
        if self._idle is not None and now >= self._heard_of + self._idle:
            self.fail(3006, "Session terminated due to inactivity", now)
        elif self._heartbeat and self._next_heartbeat <= now < self.session.expires:
            self._next_heartbeat = now + HEARTBEAT
            self._beat(now)
            self._set_deadline()
        else:
            super().tick(now)

    def runs_until(self, now: float) -> float:  # noqa: ARG002 # the others need it
        """Without a ``Terminate`` it runs on to its limit, or until it has been idle for too long."""
        expires = self.session.expires
        return expires if self._idle is None else min(expires, self._heard_of + self._idle)

    # Messages

    def receive(self, message: Received, now: float) -> None:
        """Take audio, or one of four messages."""
        if isinstance(message.data, bytes):
            self._audio(message.data, now)
            return
        value = self.read(message, now)
        if value is None:
            return
        match value["type"]:
            case "Terminate":
                self._terminate(now)
            case "ForceEndpoint":
                self._end_turn()
            case "UpdateConfiguration":
                self._formatted = bool(value.get("format_turns", self._formatted))
            case "KeepAlive":
                self._heard_of = now
                self._set_deadline()
            case unknown:
                self.fail(3006, f"Invalid Message Type: {unknown}", now)

    def _audio(self, data: bytes, now: float) -> None:
        length = self._ear.measure(data)
        if self._encoding in WIDTHS and not LEAST_MS <= length <= MOST_MS:
            self.fail(3007, f"Input duration violation: {length:g} ms. Expected between 50 and 1000 ms", now)
            return
        words = self._ear.hear(data)
        received, run = self._ear.milliseconds / 1000, now - self.session.opened
        self.session.audio_seconds = received
        if self.call.ahead is not None and received > run + self.call.ahead:
            text = f"Audio Transmission Rate Exceeded: Received {received:g} sec. audio in {run:g} sec"
            self.fail(3007, text, now)
            return
        self._heard_of = now
        self._set_deadline()
        self._hear(words)

    def _hear(self, words: list[dict[str, Any]]) -> None:
        for word in words:
            if not self._words:
                self.say({"type": "SpeechStarted", "timestamp": word["start"], "confidence": word["confidence"]})
            self._words.append(word)
            if len(self._words) == TURN_WORDS:
                self._end_turn()
        if words and self._words and self._partial:
            self.say(self._told(ended=False))

    def _end_turn(self) -> None:
        if self._words:
            self.say(self._told(ended=True))
            self._words = []
            self._turn += 1

    def _terminate(self, now: float) -> None:
        self._end_turn()
        seconds = self.terminated(now)
        audio = round(self._ear.milliseconds / 1000)
        self.say({"type": "Termination", "audio_duration_seconds": audio, "session_duration_seconds": seconds})
        self.close()

    def _told(self, *, ended: bool) -> dict[str, Any]:
        text = " ".join(word["text"] for word in self._words)
        formatted = ended and self._formatted
        if formatted:
            text = text.capitalize() + "."
        speaker = (
            {"speaker": "AB"[self._turn % 2]} if self.call.query.get("speaker_labels", "").lower() == "true" else {}
        )
        words = [
            {**word, "word_is_final": ended or number < len(self._words), **speaker}
            for number, word in enumerate(self._words, 1)
        ]
        return {
            "type": "Turn",
            "turn_order": self._turn,
            "turn_is_formatted": formatted,
            "end_of_turn": ended,
            "end_of_turn_confidence": 0.9 if ended else 0.1,
            "transcript": text,
            "utterance": text if ended else "",
            "words": words,
            "language_code": "en" if ended else None,
            "language_confidence": 0.99 if ended else None,
            **({"speaker_label": speaker["speaker"]} if speaker else {}),
        }

    def _beat(self, now: float) -> None:
        run = max(now - self.session.opened, 0.001)
        self.say(
            {
                "type": "Heartbeat",
                "total_audio_received_ms": round(self._ear.milliseconds),
                "total_duration_ms": round(run * 1000),
                "realtime_factor": round(self._ear.milliseconds / 1000 / run, 3),
                "max_speech_probability": 0.9 if self._words else 0.0,
            }
        )

    # Parameters

    def _configure(self) -> None:
        self._encoding = self.call.query.get("encoding", self._encoding)
        if self._encoding not in ENCODINGS:
            raise ValueError(f"encoding is {self._encoding}")
        self._rate = int(self.number("sample_rate", 8000, 96_000) or self._rate)
        self._idle = self.number("inactivity_timeout", 5, 3600)
        self._ear = Ear(self._encoding, self._rate)

    def _set_deadline(self) -> None:
        self.deadline = self.session.expires
        if self._idle is not None:
            self.deadline = min(self.deadline, self._heard_of + self._idle)
        if self._heartbeat:
            self.deadline = min(self.deadline, self._next_heartbeat)

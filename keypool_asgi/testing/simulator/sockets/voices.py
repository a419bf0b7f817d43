"""Voice agents: ``/v1/ws`` of the agents' host. All messages are JSON; the client speaks first."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from datetime import UTC, datetime
from typing import Any

from . import tones
from .acts import Close
from .dialogue import Call, Denied, Dialogue
from .frames import Received
from .hearing import Ear

__all__ = ["GRACE", "Voices"]

GRACE = 30.0
"""For so many seconds a session goes on, and costs, whose client has left without ``session.end``."""

_TURN_WORDS = 6
_FORMATS = {"audio/pcm": ("pcm_s16le", 24_000), "audio/pcmu": ("pcm_mulaw", 8000), "audio/pcma": ("pcm_mulaw", 8000)}


class Voices(Dialogue):
    """A session with a voice agent: it answers after every six words that it hears."""

    most = 1_048_576

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._ready = False
        self._ear = Ear(*_FORMATS["audio/pcm"])
        self._words: list[str] = []

    # Beginning and ending

    def tick(self, now: float) -> None:
        """End the session at its limit."""
        if now >= self.session.expires:
            seconds = round(now - self.session.opened)
            self.call.ledger.end(self.session, "closed", now)
            self._say_ended(seconds)

    def runs_until(self, now: float) -> float:
        """It can be resumed for a while, and is paid for as long."""
        return min(self.session.expires, now + GRACE)

    def deny(self, denied: Denied, now: float) -> None:
        """Refuse the session; all refusals close with the same code."""
        self.fail(1008, denied.text, now, kind=denied.kind)

    def error(self, code: int, text: str, now: float, kind: str) -> dict[str, Any]:
        """Return a ``session.error``."""
        kind = kind or ("unauthorized" if code == 1008 else "server_error")
        stamp = datetime.fromtimestamp(now, UTC).isoformat()
        return {"type": "session.error", "code": kind, "message": text, "timestamp": stamp}

    def _say_ended(self, seconds: int) -> None:
        audio = round(self._ear.milliseconds / 1000)
        self.say({"type": "session.ended", "session_duration_seconds": seconds, "audio_duration_seconds": audio})
        self.outbox.append(Close(1000))

    # Messages

    def receive(self, message: Received, now: float) -> None:
        """Take a message. What cannot be understood is told of, and the session goes on."""
        try:
            value = json.loads(message.data if isinstance(message.data, str) else b"")
        except ValueError:
            value = None
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "session.end":
            self.hush()
            self._say_ended(self.terminated(now))
        elif kind == "session.update":
            self._update(value.get("session"), now)
        elif kind == "session.resume":
            self._resume(str(value.get("session_id")), now)
        elif kind in ("input.audio", "tool.result", "reply.create") and not self._ready:
            self._complain("session_not_ready", f"{kind} came before session.ready", now)
        elif kind == "input.audio":
            self._audio(value.get("audio"), now)
        elif kind in ("tool.result", "reply.create"):
            self._reply(str(value.get("result") or value.get("instructions") or "So be it."))
        else:
            self._complain("invalid_format", "Invalid message format", now)

    def _update(self, wanted: Any, now: float) -> None:
        if not isinstance(wanted, dict):
            self._complain("invalid_format", "session has to be an object", now)
        elif self._is_own_agent(wanted.get("agent_id"), now):
            form = ((wanted.get("input") or {}).get("format") or {}).get("encoding", "audio/pcm")
            if form not in _FORMATS:
                self._complain("invalid_value", f"input.format.encoding is {form!r}", now)
            elif self._ready:
                self.say({"type": "session.updated"})
            else:
                self._ear = Ear(*_FORMATS[form])
                self._say_ready()
                if wanted.get("greeting"):
                    self._reply(str(wanted["greeting"]))

    def _is_own_agent(self, ident: str | None, now: float) -> bool:
        key, world = self.call.key, self.call.world
        if ident is None or key is None:
            return True
        project, _ = world.documents.get(("agent", ident), (None, {}))
        if project is not None and project.account is key.account:
            return True
        if project is not None:
            world.note_foreign(self.session.number, "agent", ident, project, key)
        self.fail(1008, "No such agent", now, kind="session_forbidden")
        return False

    def _resume(self, ident: str, now: float) -> None:
        key, ledger = self.call.key, self.call.ledger
        ledger.settle(now)
        old = ledger.find(ident)
        owner = None if old is None else self.call.world.keys.get(old.key or "")
        if old is None or key is None or owner is None or old is self.session or old.state != "dropped":
            self.fail(1008, "No such session", now, kind="session_not_found")
        elif owner.account is not key.account:
            self.call.world.note_foreign(self.session.number, "agent_session", ident, owner.project, key)
            self.fail(1008, "No such session", now, kind="session_forbidden")
        elif not old.running:
            self.fail(1008, "The session has ended", now, kind="session_expired")
        else:
            ledger.end(old, "dropped", now)
            self.session.id = ident
            self._say_ready()

    def _say_ready(self) -> None:
        self._ready = True
        self.say_begin({"type": "session.ready", "session_id": self.session.id})

    def _audio(self, text: Any, now: float) -> None:
        try:
            data = base64.b64decode(text, validate=True)
        except (TypeError, ValueError, binascii.Error):
            self._complain("invalid_audio", "audio is not base64", now)
            return
        words = self._ear.hear(data)
        self.session.audio_seconds = self._ear.milliseconds / 1000
        for word in words:
            if not self._words:
                self.say({"type": "input.speech.started"})
            self._words.append(word["text"])
            said = " ".join(self._words)
            self.say({"type": "transcript.user.delta", "text": said})
            if len(self._words) == _TURN_WORDS:
                self.say({"type": "input.speech.stopped"})
                self.say({"type": "transcript.user", "text": said, "item_id": f"item_{uuid.uuid4().hex}"})
                self._words = []
                self._reply("I see.")

    def _reply(self, text: str) -> None:
        reply = {"reply_id": f"reply_{uuid.uuid4().hex}"}
        self.say({"type": "reply.started", **reply})
        for _ in range(min(tones.pieces(text), 25)):
            self.say({"type": "reply.audio", "data": tones.tone(24_000, 2)}, pause=self.call.world.stream_interval)
        item = f"item_{uuid.uuid4().hex}"
        self.say({"type": "transcript.agent", "text": text, **reply, "item_id": item, "interrupted": False})
        self.say({"type": "reply.done", **reply, "status": "completed"})

    def _complain(self, kind: str, text: str, now: float) -> None:
        self.say(self.error(0, text, now, kind))

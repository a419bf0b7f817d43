"""The pre-recorded API (``api.assemblyai.com``): uploads, transcripts, what is made of them, and their list."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from keypool_asgi.testing.audio import wav_seconds

from . import speech
from .values import Refused, Reply, Request, json_reply
from .world import UPLOAD_BASE, Transcript, Upload, World

__all__ = [
    "create_transcript",
    "delete_transcript",
    "get_paragraphs",
    "get_redacted_audio",
    "get_sentences",
    "get_srt",
    "get_transcript",
    "get_vtt",
    "list_transcripts",
    "own_transcript",
    "search_words",
    "upload",
]

LOOKUP_ERROR = "Transcript lookup error, transcript id not found"
FOREIGN_UPLOAD = "Cannot access uploaded file"
MAX_UPLOAD = 2_200_000_000
_MIN_SECONDS = 0.16
_BYTES_PER_SECOND = 16_000  # what a file of unknown format is taken for: 128 kbit/s
_NOT_AUDIO = ("application/json", "multipart/", "text/")
_MIRRORED_NOT = frozenset({"id", "status", "text", "words", "error", "webhook_auth_header_value"})
_REDACTED_LIFE = 24 * 3600.0


def upload(world: World, request: Request) -> Reply:
    """``POST /v2/upload``: keep a file for the project."""
    body = request.body
    if body.size == 0:
        raise Refused(400, "Upload failed, the request body is empty")
    if body.size > MAX_UPLOAD:
        raise Refused(400, "Upload failed, the file is too large")
    kind = (request.header(b"content-type") or "").lower()
    seconds = wav_seconds(body.start, body.size)
    stored = Upload(
        id=str(uuid.uuid4()),
        project=request.key.project,
        size=body.size,
        sha256=body.sha256,
        seconds=body.size / _BYTES_PER_SECOND if seconds is None else seconds,
        playable=not kind.startswith(_NOT_AUDIO),
        created=request.now,
    )
    world.store(stored)
    return json_reply({"upload_url": stored.url})


def create_transcript(world: World, request: Request) -> Reply:
    """``POST /v2/transcript``: accept a job."""
    wanted = request.json()
    audio_url = wanted.get("audio_url")
    if not isinstance(audio_url, str) or not audio_url.startswith(("http://", "https://")):
        raise Refused(400, "Invalid endpoint schema, please refer to documentation for examples.")
    stored = None
    if audio_url.startswith(UPLOAD_BASE):
        stored = _own_upload(world, request, audio_url.removeprefix(UPLOAD_BASE))
    job = world.submit(request.key, wanted, now=request.now, upload=stored)
    if stored is not None and stored.seconds < _MIN_SECONDS:
        job.failure = "Audio duration is too short."
    return json_reply(_transcript(job))


def get_transcript(world: World, request: Request) -> Reply:
    """``GET /v2/transcript/{id}``: poll a job. A failed one is a 200 too."""
    job = own_transcript(world, request, request.names["id"])
    if not job.throttled:
        job.polls += 1
        world.advance(job.key.account, request.now)
    return json_reply(_transcript(job))


def delete_transcript(world: World, request: Request) -> Reply:
    """``DELETE /v2/transcript/{id}``: forget the data and the upload."""
    job = own_transcript(world, request, request.names["id"])
    world.delete(job)
    return json_reply(_transcript(job))


def get_sentences(world: World, request: Request) -> Reply:
    """``GET /v2/transcript/{id}/sentences``."""
    job = _completed(world, request)
    said = speech.words(job.seed, job.seconds)
    return _texts(job, "sentences", speech.sentences(said, speakers=_speakers(job)))


def get_paragraphs(world: World, request: Request) -> Reply:
    """``GET /v2/transcript/{id}/paragraphs``."""
    job = _completed(world, request)
    said = speech.words(job.seed, job.seconds)
    return _texts(job, "paragraphs", speech.paragraphs(said, speakers=_speakers(job)))


def get_srt(world: World, request: Request) -> Reply:
    """``GET /v2/transcript/{id}/srt``."""
    return _captions(world, request, vtt=False)


def get_vtt(world: World, request: Request) -> Reply:
    """``GET /v2/transcript/{id}/vtt``."""
    return _captions(world, request, vtt=True)


def search_words(world: World, request: Request) -> Reply:
    """``GET /v2/transcript/{id}/word-search``."""
    job = _completed(world, request)
    wanted = [text for text in request.query.get("words", "").split(",") if text.strip()]
    if not wanted:
        raise Refused(400, "Please provide words to search for, as a comma-separated list")
    return json_reply({"id": job.id, **speech.search(speech.words(job.seed, job.seconds), wanted)})


def get_redacted_audio(world: World, request: Request) -> Reply:
    """``GET /v2/transcript/{id}/redacted-audio``: 202 while it is made, 400 once it is no longer there."""
    job = own_transcript(world, request, request.names["id"])
    if not job.request.get("redact_pii_audio") or job.deleted or job.status == "error":
        raise Refused(400, "There is no redacted audio for this transcript")
    if job.completed is None:
        return json_reply({"status": "redacted_audio_pending"}, 202)
    if request.now > job.completed + _REDACTED_LIFE:
        raise Refused(400, "The redacted audio is no longer available")
    url = f"https://s3.us-west-2.amazonaws.com/api.assembly.ai.usw2/redacted-audio/{job.id}.mp3"
    return json_reply({"status": "redacted_audio_ready", "redacted_audio_url": url})


def list_transcripts(world: World, request: Request) -> Reply:
    """``GET /v2/transcript``: the project's transcripts, newest first; ``prev_url`` leads to older ones."""
    world.advance(request.key.account, request.now)
    limit = number(request, "limit", 1, 200, default=10)
    mine = [job for job in reversed(world.transcripts.values()) if job.key.project is request.key.project]
    mine = [job for job in mine if _wanted(job, request)]
    page = mine[:limit]
    if "before_id" in request.query:
        cursor = own_transcript(world, request, request.query["before_id"]).number
        page = [job for job in mine if job.number < cursor][:limit]
    elif "after_id" in request.query:
        cursor = own_transcript(world, request, request.query["after_id"]).number
        page = [job for job in mine if job.number > cursor][-limit:]
    return json_reply(
        {
            "page_details": _page_details(request, mine, page, limit),
            "transcripts": [_item(job, request.base) for job in page],
        }
    )


def own_transcript(world: World, request: Request, ident: str) -> Transcript:
    """Return a transcript of the caller's project, brought up to date.

    Raises:
        Refused: 400 with the same text whether it is somebody else's or nobody's.
    """
    world.advance(request.key.account, request.now)
    job = world.transcripts.get(ident)
    if job is not None and job.key.project is not request.key.project:
        world.note_foreign(request.number, "transcript", ident, job.key.project, request.key)
        job = None
    if job is None:
        raise Refused(400, LOOKUP_ERROR)
    return job


def number(request: Request, name: str, low: int, high: int, *, default: int | None = None) -> int:
    """Return a query parameter as a number in a range.

    Raises:
        Refused: 400, it is missing (and has no default), no number, or out of range.
    """
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    value = int(text) if text is not None and text.isascii() and text.isdigit() else -1
    if not low <= value <= high:
        raise Refused(400, f"{name} must be a number from {low} to {high}", code="invalid_parameter")
    return value


def _own_upload(world: World, request: Request, ident: str) -> Upload:
    stored = world.uploads.get(ident)
    if stored is not None and stored.project is not request.key.project:
        world.note_foreign(request.number, "upload", ident, stored.project, request.key)
        stored = None
    if stored is None:
        raise Refused(403, FOREIGN_UPLOAD)
    return stored


def _completed(world: World, request: Request) -> Transcript:
    job = own_transcript(world, request, request.names["id"])
    if job.status != "completed" or job.deleted:
        raise Refused(400, f"This transcript has a status of '{job.status}'. It must be 'completed'.")
    return job


def _texts(job: Transcript, name: str, texts: list[dict[str, Any]]) -> Reply:
    facts = {"id": job.id, "confidence": _confidence(job), "audio_duration": _duration(job)}
    return json_reply({name: texts, **facts, "speech_model_used": _model(job)})


def _captions(world: World, request: Request, *, vtt: bool) -> Reply:
    job = _completed(world, request)
    width = number(request, "chars_per_caption", 1, 10_000, default=128)
    text = speech.captions(speech.words(job.seed, job.seconds), width=width, vtt=vtt)
    return Reply(200, [(b"Content-Type", b"text/plain; charset=utf-8")], text.encode())


def _wanted(job: Transcript, request: Request) -> bool:
    query = request.query
    if query.get("throttled_only", "").lower() == "true":
        return job.throttled
    if query.get("status", job.status) != job.status:
        return False
    return _time(job.created).startswith(query.get("created_on", ""))


def _page_details(request: Request, mine: list[Transcript], page: list[Transcript], limit: int) -> dict[str, Any]:
    older = page and mine[-1].number < page[-1].number
    newer = page and mine[0].number > page[0].number
    return {
        "limit": limit,
        "result_count": len(page),
        "current_url": _list_url(request),
        "prev_url": _list_url(request, limit=limit, before_id=page[-1].id) if older else None,
        "next_url": _list_url(request, limit=limit, after_id=page[0].id) if newer else None,
    }


def _list_url(request: Request, **changes: object) -> str:
    query = dict(request.query)
    if changes:
        query = {name: value for name, value in query.items() if name not in ("before_id", "after_id")}
    query |= {name: str(value) for name, value in changes.items()}
    return f"{request.base}/v2/transcript" + ("?" + urlencode(query) if query else "")


def _item(job: Transcript, base: str) -> dict[str, Any]:
    return {
        "id": job.id,
        "resource_url": f"{base}/v2/transcript/{job.id}",
        "status": job.status,
        "created": _time(job.created),
        "completed": None if job.completed is None else _time(job.completed),
        "audio_url": "http://deleted_by_user" if job.deleted else job.request["audio_url"],
        "error": job.failure,
    }


def _transcript(job: Transcript) -> dict[str, Any]:
    asked = {name: value for name, value in job.request.items() if name not in _MIRRORED_NOT}
    state = {
        "id": job.id,
        "status": job.status,
        "audio_url": job.request["audio_url"],
        "language_code": job.request.get("language_code"),
        "speech_model": job.request.get("speech_model"),
        "throttled": job.throttled,
        "webhook_url": job.request.get("webhook_url"),
        "webhook_auth": "webhook_auth_header_name" in job.request,
        "webhook_status_code": None,
        "error": job.failure if job.status == "error" else None,
    }
    whole = {**_EMPTY, **asked, **state}
    if job.deleted:
        return {**whole, **_EMPTY, "audio_url": "http://deleted_by_user", "text": "Deleted by user."}
    return {**whole, **_result(job)} if job.status == "completed" else whole


_EMPTY: dict[str, Any] = {
    "text": None,
    "words": None,
    "utterances": None,
    "confidence": None,
    "audio_duration": None,
    "audio_channels": None,
    "language_confidence": None,
    "speech_model_used": None,
}


def _result(job: Transcript) -> dict[str, Any]:
    said = speech.words(job.seed, job.seconds)
    result: dict[str, Any] = {
        "text": " ".join(word.text for word in said),
        "words": [word.json(speakers=_speakers(job)) for word in said],
        "confidence": _confidence(job),
        "audio_duration": _duration(job),
        "audio_channels": 1,
        "speech_model_used": _model(job),
        "language_code": job.request.get("language_code") or "en",
    }
    if _speakers(job):
        result["utterances"] = speech.utterances(said)
    if job.request.get("language_detection"):
        result |= {"language_code": "en", "language_confidence": 0.9712}
    return result


def _confidence(job: Transcript) -> float:
    said = speech.words(job.seed, job.seconds)
    return round(sum(word.confidence for word in said) / len(said), 5)


def _duration(job: Transcript) -> int:
    return max(1, round(job.seconds))


def _speakers(job: Transcript) -> bool:
    return bool(job.request.get("speaker_labels"))


def _model(job: Transcript) -> str:
    models = job.request.get("speech_models")
    return str(models[0]) if isinstance(models, list) and models else "universal-3-5-pro"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()

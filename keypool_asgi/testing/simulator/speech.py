"""What was said: believable words with timings, the same for the same audio, and the forms they are returned in."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["Word", "captions", "group", "paragraphs", "search", "sentences", "spoken", "timed", "utterances", "words"]

_SAID = (
    "the a we they it this our your new first last good team meeting call customer report number system service "
    "question answer product market release plan budget quarter week morning is was has will can should would wants "
    "needs sees knows says takes makes before after about with from into over under and but because so very quite "
    "almost never always today tomorrow again here there"
)
_VOCABULARY = tuple(_SAID.split())
_WORDS_PER_SECOND, _SENTENCE, _PARAGRAPH, _MOST_WORDS = 2.5, (6, 14), 4, 20_000


class Word(NamedTuple):
    """One word: its text, its times in milliseconds, how sure we are of it (0 to 1), and who said it."""

    text: str
    start: int
    end: int
    confidence: float
    speaker: str

    def json(self, *, speakers: bool = False) -> dict[str, Any]:
        """Return the word as the API does."""
        return {**self._asdict(), "speaker": self.speaker if speakers else None}


@functools.lru_cache(maxsize=64)
def words(seed: str, seconds: float) -> tuple[Word, ...]:
    """Return the words of an audio of ``seconds``; sentences end in a full stop, two speakers take turns."""
    chance = random.Random(seed)  # noqa: S311 # nothing here is a secret
    count = min(max(1, int(seconds * _WORDS_PER_SECOND)), _MOST_WORDS)
    step = seconds * 1000 / count
    said: list[Word] = []
    left = place = 0
    for n in range(count):
        if left == 0:
            left, place = min(chance.randint(*_SENTENCE), count - n), place + 1
            text = chance.choice(_VOCABULARY).capitalize()
        else:
            text = chance.choice(_VOCABULARY)
        left -= 1
        start = int(n * step)
        confidence = round(chance.uniform(0.85, 0.99), 5)
        said.append(
            Word(text + "." * (left == 0), start, max(start + 1, int((n + 0.9) * step)), confidence, "BA"[place % 2])
        )
    return tuple(said)


def spoken(number: int, seed: int) -> str:
    """Return the so-many-th word of an audio that is still coming; ``seed`` is of the piece it is said in."""
    return _VOCABULARY[(seed + 31 * number) % len(_VOCABULARY)]


def group(said: Sequence[Word], sentences_each: int = 1) -> Iterator[Sequence[Word]]:
    """Split words after every so many sentences."""
    first = ended = 0
    for n, word in enumerate(said, 1):
        ended += word.text.endswith(".")
        if ended == sentences_each or n == len(said):
            yield said[first:n]
            first, ended = n, 0


def timed(run: Sequence[Word], *, speakers: bool = False) -> dict[str, Any]:
    """Return a run of words as one timed text."""
    return {
        "text": " ".join(word.text for word in run),
        "start": run[0].start,
        "end": run[-1].end,
        "confidence": round(sum(word.confidence for word in run) / len(run), 5),
        "words": [word.json(speakers=speakers) for word in run],
    }


def sentences(said: Sequence[Word], *, speakers: bool = False) -> list[dict[str, Any]]:
    """Return the sentences as ``/sentences`` does."""
    return [
        {**timed(run, speakers=speakers), "speaker": run[0].speaker if speakers else None, "channel": None}
        for run in group(said)
    ]


def paragraphs(said: Sequence[Word], *, speakers: bool = False) -> list[dict[str, Any]]:
    """Return the paragraphs as ``/paragraphs`` does."""
    return [timed(run, speakers=speakers) for run in group(said, _PARAGRAPH)]


def utterances(said: Sequence[Word]) -> list[dict[str, Any]]:
    """Return what each speaker said at a time, for ``speaker_labels``."""
    return [{**timed(run, speakers=True), "speaker": run[0].speaker} for run in group(said)]


def captions(said: Sequence[Word], *, width: int, vtt: bool) -> str:
    """Return subtitles as SRT or WebVTT, each caption at most ``width`` characters (but at least one word)."""
    lines = ["WEBVTT", ""] if vtt else []
    for number, run in enumerate(_captions(said, width), 1):
        times = f"{_clock(run[0].start, vtt=vtt)} --> {_clock(run[-1].end, vtt=vtt)}"
        lines += [*([] if vtt else [str(number)]), times, " ".join(word.text for word in run), ""]
    return "\n".join(lines)


def search(said: Sequence[Word], wanted: Sequence[str]) -> dict[str, Any]:
    """Return where the wanted words and phrases are, as ``/word-search`` does."""
    bare = [word.text.lower().strip(".,") for word in said]
    matches = [match for text in wanted if (match := _match(said, bare, text)) is not None]
    return {"total_count": sum(match["count"] for match in matches), "matches": matches}


def _match(said: Sequence[Word], bare: Sequence[str], text: str) -> dict[str, Any] | None:
    phrase = text.lower().split()
    size = len(phrase)
    found = [n for n in range(len(bare) - size + 1) if size and list(bare[n : n + size]) == phrase]
    if not found:
        return None
    times = [[said[n].start, said[n + size - 1].end] for n in found]
    return {"text": " ".join(phrase), "count": len(found), "timestamps": times, "indexes": found}


def _captions(said: Sequence[Word], width: int) -> Iterator[Sequence[Word]]:
    first, length = 0, -1
    for n, word in enumerate(said):
        length += 1 + len(word.text)
        if length > width and n > first:
            yield said[first:n]
            first, length = n, len(word.text)
    yield said[first:]


def _clock(milliseconds: int, *, vtt: bool) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    if vtt:
        return f"{hour:02}:{minute:02}:{second:02}.{rest:03}" if hour else f"{minute:02}:{second:02}.{rest:03}"
    return f"{hour:02}:{minute:02}:{second:02},{rest:03}"

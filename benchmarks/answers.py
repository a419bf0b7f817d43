"""What the upstream of the benchmarks answers, and how its peers are asked to behave."""

from __future__ import annotations

__all__ = ["KEYS", "PREFIX", "SMALL_ANSWER", "TOKEN", "TRANSCRIPT_ID"]

PREFIX = "/v1/assemblyai"
TOKEN = "bench-team-token-0123456789abcdef"
KEYS = ("prod-1", "prod-2", "prod-3")
TRANSCRIPT_ID = "5551722f-f677-48a6-9287-39c0aafd9ac1"

_START = f'{{"id":"{TRANSCRIPT_ID}","status":"completed","language_code":"en_us","text":"'
_END = '","confidence":0.93,"audio_duration":12}'

SMALL_ANSWER = (_START + "x" * (307 - len(_START) - len(_END)) + _END).encode("ascii")
"""A transcript in 307 bytes, a common size of one that is still being made. It also answers a submission."""

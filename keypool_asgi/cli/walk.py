"""The steps of the demo: what a caller does with a team token, by plain HTTP."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection, HTTPException
from textwrap import shorten
from typing import Any

from keypool_asgi.testing import tone_wav

from .failures import Failed

__all__ = ["Walk"]

_BASE = "/v1/assemblyai"
_RECORDING_SECONDS = 5.0
_POLLING_SECONDS = 0.25
_SHOWN_CHARACTERS = 80
_PATIENCE_SECONDS = 30.0


class Walk:
    """Uploads, transcribes and is refused, and says what to try next.

    Args:
        url: where the pool is served.
        token: a team token.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._authority = url.removeprefix("http://")

    def run(self, *, has_reference: bool) -> None:
        """Do all steps.

        Args:
            has_reference: whether the pool has its API reference before it.

        Raises:
            Failed: a step did not go as it should.
        """
        _say(f"AssemblyAI is simulated. The pool is on {self._url}{_BASE}, with three keys, tried in this order:")
        _say("old-1, which AssemblyAI refuses, then prod-1 and prod-2. Below, keys= are those that a request tried.")
        _say("\n1. Upload a recording and transcribe it, with a team token as the API key")
        upload = self._send("POST", "/v2/upload", tone_wav(_RECORDING_SECONDS))
        job = self._send("POST", "/v2/transcript", json.dumps({"audio_url": upload["upload_url"]}).encode())
        job = self._finished(job["id"])
        _say(f"   The text: {shorten(str(job['text']), _SHOWN_CHARACTERS)}")
        _say("\n2. Try a token that nobody has")
        refusal = self._send("GET", "/v2/transcript", token="not-a-token", status=401)  # noqa: S106 - nobody's
        _say(f"   {refusal['code']}: {refusal['error']}")
        _say(self._invitation(job["id"], has_reference=has_reference))

    def _finished(self, transcript_id: str) -> dict[str, Any]:
        ends = time.monotonic() + _PATIENCE_SECONDS
        while True:
            job = self._send("GET", f"/v2/transcript/{transcript_id}")
            if job["status"] == "completed":
                return job
            if job["status"] == "error" or time.monotonic() > ends:
                raise Failed(f"the transcript is not completed, but {job['status']}")
            time.sleep(_POLLING_SECONDS)

    def _send(
        self, method: str, path: str, body: bytes | None = None, *, token: str | None = None, status: int = 200
    ) -> dict[str, Any]:
        connection = HTTPConnection(self._authority, timeout=_PATIENCE_SECONDS)
        try:
            connection.request(method, _BASE + path, body, {"authorization": token or self._token})
            response = connection.getresponse()
            answer: dict[str, Any] = json.load(response)
        except (OSError, HTTPException, ValueError) as error:
            raise Failed(f"{method} {path} failed: {type(error).__name__}") from error
        finally:
            connection.close()
        if response.status != status:
            raise Failed(f"{method} {path} was answered with status {response.status}: {answer.get('error')}")
        return answer

    def _invitation(self, transcript_id: str, *, has_reference: bool) -> str:
        base, credential = self._url + _BASE, f'-H "Authorization: {self._token}"'
        page = f"{base}/reference" if has_reference else "not installed: pip install 'keypool-asgi[reference]'"
        return f"""
All steps are done. Try these; the token was made for this run:

  The token, for the official SDKs: base URL {base}, API key
    {self._token}
  Read and try out the API, in a browser:
    {page}
  List the transcripts:
    curl {credential} {base}/v2/transcript
  Fetch one of them:
    curl {credential} {base}/v2/transcript/{transcript_id}
  Be refused, for want of a token:
    curl -i {base}/v2/transcript
"""


def _say(line: str) -> None:
    print(line, flush=True)

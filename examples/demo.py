"""The demo: the pool inside a FastAPI app, used with the official SDK. It needs no account and no network.

::

    pip install '.[demo]' && python -m examples.demo

It stays up until Ctrl-C, for requests of your own. With ``ASSEMBLYAI_API_KEY`` set it uses the real AssemblyAI.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

__all__ = ["main"]

NEEDED = ("asgiref", "assemblyai", "cachetools", "fastapi", "fastapi_offline", "httpx", "uvicorn", "wsproto")

RECORDING_SECONDS = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    args = _parser().parse_args(arguments)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        return _fail(
            f"Not installed: {', '.join(missing)}.\n"
            f"Install what the demo needs, from the folder of the checkout:\n"
            f"  {sys.executable} -m pip install '.[demo]'"
        )
    signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="     log of %(name)s: %(message)s")
    try:
        with tempfile.TemporaryDirectory(prefix="keypool-demo-") as folder:
            return _run(args, Path(folder))
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
        return 0


def _run(args: argparse.Namespace, folder: Path) -> int:
    # Imported here, so that a missing package is named above.
    import assemblyai
    import httpx

    from examples.demo_parts.output import Journal, say
    from examples.demo_parts.serving import listen, serving
    from examples.demo_parts.steps import Steps
    from examples.demo_parts.upstream import real, simulated
    from examples.fastapi_app.app import create_app
    from examples.fastapi_app.manage import seed
    from examples.fastapi_app.store import Store

    store = Store(folder / "keypool.db", pepper=os.urandom(16).hex())
    tokens = seed(store)
    recording = args.file or _tone(folder)
    try:
        sock = listen(args.port)
    except OSError as error:
        return _fail(f"Port {args.port} cannot be used: {error.strerror}. Choose another with --port.")
    journal = Journal()
    use_real = bool(os.environ.get("ASSEMBLYAI_API_KEY"))
    with sock, real(store, args.region) if use_real else simulated(store) as upstream:
        app = create_app(store, on_exchange=journal, keys_ttl_seconds=0.5, **upstream.settings)
        with serving(app, sock) as url:
            say(f"The notes service is on {url}, and the pool in it on {url}/v1/assemblyai.")
            say("\n".join(upstream.lines))
            try:
                transcript_id = Steps(url, tokens, store, upstream, journal).run(recording, own=args.file is not None)
            except (assemblyai.AssemblyAIError, httpx.HTTPError) as error:
                return _fail(f"\nThe demo could not go on: {error}")
            if args.once:
                say("\nAll steps are done.")
                return 0
            page = f"{url}/live/#token={tokens['research']}"
            say(_invitation(url, tokens["research"], recording, transcript_id, page))
            if not args.no_browser and _has_screen():
                webbrowser.open(page)
            while not _pause(1.0):
                pass
    return 0


def _invitation(url: str, token: str, recording: Path, transcript_id: str, page: str) -> str:
    base, credential = f"{url}/v1/assemblyai", f'-H "Authorization: {token}"'
    return f"""
All steps are done. The service stays up until Ctrl-C, and prints a line for each request to the pool. Try these;
the token is the team research's, made for this run:

  Transcribe live, in a browser:
    {page}
  Read about every operation and try it out, in a browser, with the token {token}:
    {base}/reference
  List the transcripts:
    curl {credential} {base}/v2/transcript
  Fetch one of them:
    curl {credential} {base}/v2/transcript/{transcript_id}
  Upload the recording:
    curl {credential} --data-binary "@{recording}" {base}/v2/upload
  Be refused, for want of a token:
    curl -i {base}/v2/transcript
  Ask the notes service:
    curl {url}/notes
"""


def _tone(folder: Path) -> Path:
    from keypool_asgi.testing import tone_wav

    recording = folder / "recording.wav"
    recording.write_bytes(tone_wav(RECORDING_SECONDS))
    return recording


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, help="port to serve on (8000, or any free one when that is taken)")
    parser.add_argument("--once", action="store_true", help="end after the steps, instead of serving until Ctrl-C")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page for live transcription")
    parser.add_argument("--file", type=Path, help="a recording of your own, instead of a generated tone")
    parser.add_argument("--region", choices=("us", "eu"), default="us", help="region of the key in ASSEMBLYAI_API_KEY")
    return parser


def _has_screen() -> bool:
    """Whether a browser would open in a window, and not in this terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return sys.stdout.isatty() and bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _pause(seconds: float) -> bool:
    """Wait in pieces: on Windows a longer wait would not see Ctrl-C."""
    return threading.Event().wait(seconds)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(message: str) -> int:
    print(message, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())

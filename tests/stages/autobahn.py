"""Run the Autobahn test-suite through the relay, both ways.

``PYTHONPATH=tests:. python tests/stages/autobahn.py WSTEST``, where ``WSTEST`` is the suite's program, such as
``"python2.7 -m autobahntestsuite.wstest"``. It needs Python 2.7, so this is a tool and no test;
``test_relay_conformance.py`` has the same cases. First the suite's client speaks to the pool, over an upstream which
echoes; then its server is the upstream, and a client that echoes speaks to the pool. The sections on compression
(12, 13) are left out: the relay does not offer any.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.rig import PREFIX, TOKEN, keys_of, simulated
from harness import Served, free_port, serve
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from keypool_asgi import KeyPool, Team
from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.providers.assemblyai import ASSEMBLYAI

CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
ROOMY = SessionLimits(message_bytes=32 * 1024**2, closing_seconds=1.0)
END = '{"type":"session.end"}'
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}


def main() -> int:
    """Run both ways; returns 1 if a case has failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wstest", type=shlex.split, help="how the suite's program is run")
    parser.add_argument("--server", default="uvicorn-wsproto", help="one of harness.SOCKET_SERVERS")
    parser.add_argument("--cases", nargs="*", default=CASES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failed = _callers_side(options, Path(folder)) + _upstreams_side(options, Path(folder))
    return 1 if failed else 0


def _callers_side(options: argparse.Namespace, folder: Path) -> int:
    with simulated("k1", echo=True).running() as simulator, _pool(simulator.origins, options.server) as served:
        url = f"{served.ws_url}{PREFIX}/v1/ws"
        spec = {"outdir": "callers", "servers": [{"agent": "relay", "url": url}], "cases": options.cases}
        subprocess.run([*options.wstest, "-m", "fuzzingclient", "-s", _written(spec, folder)], cwd=folder, check=True)
    return _told(folder / "callers", f"callers' side, {options.server}")


def _upstreams_side(options: argparse.Namespace, folder: Path) -> int:
    port = free_port()
    spec = {"outdir": "upstream", "url": f"ws://127.0.0.1:{port}", "cases": options.cases}
    command = [*options.wstest, "-m", "fuzzingserver", "-u", "0", "-s", _written(spec, folder)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as suite:
        try:
            time.sleep(3)
            asyncio.run(_echo_cases(port, options.server))
        finally:
            suite.terminate()
    return _told(folder / "upstream", "upstream's side")


async def _echo_cases(suite: int, server: str) -> None:
    """Have each case played by the suite as upstream, and return what it says through the pool."""

    async def to_suite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _spliced(reader, writer, suite)

    way = await asyncio.start_server(to_suite, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{way.sockets[0].getsockname()[1]}"
    async with way, connect(f"ws://127.0.0.1:{suite}/getCaseCount", proxy=None) as asked:
        count = int(await asked.recv())
        with _pool({"agents": origin}, server) as served:
            for case in range(1, count + 1):
                with contextlib.suppress(WebSocketException, OSError):
                    await _echo(f"{served.ws_url}{PREFIX}/v1/ws?case={case}&agent=relay")
    async with connect(f"ws://127.0.0.1:{suite}/updateReports?agent=relay", proxy=None):
        pass


async def _echo(url: str) -> None:
    options: dict[str, Any] = {"proxy": None, "max_size": None, "max_queue": None, "compression": None}
    async with connect(url, ping_interval=None, **options) as client:
        async for message in client:
            await client.send(message)


async def _spliced(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Pass a connection on to the suite, which wants its own path and its own port in ``Host``."""
    there, back = await asyncio.open_connection("127.0.0.1", port)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = [
        b"Host: 127.0.0.1:%d" % port if line.lower().startswith(b"host:") else line for line in head.split(b"\r\n")
    ]
    back.write(b"\r\n".join(lines).replace(b"/v1/ws?", b"/runCase?", 1))
    await asyncio.gather(_passed(reader, back), _passed(there, writer))


async def _passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def _pool(origins: Any, server: str) -> Iterator[Served]:
    """Serve a pool whose voice agents' sessions may say anything: the suite's messages are no JSON."""
    for row in ASSEMBLYAI.table.operations:
        if row.name == "agents.session":
            object.__setattr__(row, "names", ())  # in this process only
            object.__setattr__(row, "creates", None)
    pool = KeyPool(keys=keys_of("k1"), teams={TOKEN: Team("team-a")}, origins=origins, sessions=ROOMY)

    async def authenticated(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", TOKEN.encode())]}
        await pool(scope, receive, send)

    more = {"ws_max_size": 64 * 1024**2, "ws_per_message_deflate": False} if server.startswith("uvicorn") else {}
    with serve(authenticated, server, guarded=False, **more) as served:
        yield served


def _written(spec: dict[str, Any], folder: Path) -> str:
    file = folder / f"{spec['outdir']}.json"
    file.write_text(json.dumps({"exclude-cases": [], "exclude-agent-cases": {}, **spec}), encoding="ascii")
    return str(file)


def _told(folder: Path, name: str) -> int:
    """Say which cases have failed; return how many."""
    (cases,) = json.loads((folder / "index.json").read_text(encoding="utf-8")).values()
    failed = {}
    for case, found in cases.items():
        report = json.loads((folder / found["reportfile"]).read_text(encoding="utf-8"))
        if not (_is_good(report) and found["behaviorClose"] in GOOD):
            failed[case] = report["result"], report["resultClose"]
    print(f"{name}: {len(cases) - len(failed)} of {len(cases)} cases have passed", *failed.items(), sep="\n  ")
    return len(failed)


def _is_good(report: dict[str, Any]) -> bool:
    """Whether a case has passed; an upstream that breaks the protocol is sent the end message before the close."""
    received = [event for event in report["received"] if END not in event]
    return report["behavior"] in GOOD or received in report["expected"].values()


if __name__ == "__main__":
    sys.exit(main())

"""Connections with TLS, and what is saved when one is reset."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from keypool_asgi.core.messages import Origin
from keypool_asgi.errors import ConnectFailed, ConnectionBroken, ProtocolViolation
from keypool_asgi.upstream import NativeClient, Timeouts
from keypool_asgi.upstream.call import NativeCall

from .tools import CHUNKED, OK, Wire, answering, fetch, read_all, request, run, serve, sized

LOOPS = ["asyncio"] + (["uvloop"] if importlib.util.find_spec("uvloop") else [])
loops = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody but these tests trusts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=keypool test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def client(certificate: Path, **settings: object) -> NativeClient:
    context = ssl.create_default_context(cafile=str(certificate))
    return NativeClient(ssl_context=context, **settings)  # type: ignore[arg-type]


@loops
def test_exchanges_over_tls(loop: str, certificate: Path) -> None:
    async def main() -> None:
        requests: list[tuple[bytes, bytes]] = []
        big = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"y" * 3_000_000
        async with serve(answering(requests, big), context=server_context(certificate)) as peer:
            upstream = client(certificate)
            for body in (b"", b"abc", b"z" * 3_000_000):
                head, received = await fetch(upstream, peer.origin, b"POST", body)
                assert (head.status, len(received)) == (200, 3_000_000)
            assert peer.connections == 1
            assert [len(body) for _, body in requests] == [0, 3, 3_000_000]
            await upstream.aclose()
            await peer.settled()

    run(main(), loop=loop)


@loops
def test_back_pressure_over_tls(loop: str, certificate: Path) -> None:
    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await asyncio.sleep(0.3)
            await wire.request()
            await wire.send(OK)

        async with serve(handler, context=server_context(certificate)) as peer:
            upstream = client(certificate)
            call = await upstream.open(request(peer.origin, b"POST", headers=CHUNKED))
            most = 0
            for _ in range(300):
                await call.write(b"x" * 65_536)
                most = max(most, call._conn._transport.get_write_buffer_size())
            await call.finish()
            assert (await call.head()).status == 200
            assert most < 4 * 65_536
            call.close()
            await upstream.aclose()

    run(main(), loop=loop)


def test_a_certificate_that_is_not_trusted(certificate: Path) -> None:
    async def main() -> None:
        async with serve(answering(None, OK), context=server_context(certificate)) as peer:
            upstream = NativeClient()
            with pytest.raises(ConnectFailed, match="TLS"):
                await upstream.open(request(peer.origin))
            await upstream.aclose()
            await peer.settled()

    run(main())


def test_a_certificate_for_another_name(certificate: Path) -> None:
    async def main() -> None:
        async with serve(answering(None, OK), context=server_context(certificate)) as peer:
            upstream = client(certificate)
            with pytest.raises(ConnectFailed, match="TLS"):
                await upstream.open(request(Origin("https", "localhost", peer.origin.port)))
            await upstream.aclose()

    run(main())


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Plain HTTP\r\n\r\n", b""])
def test_a_peer_without_tls(certificate: Path, answer: bytes) -> None:
    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await wire.reader.read(100)
            await wire.send(answer)

        async with serve(handler) as peer:
            upstream = client(certificate)
            with pytest.raises(ConnectFailed):
                await upstream.open(request(Origin("https", "127.0.0.1", peer.origin.port)))
            await upstream.aclose()
            await peer.settled()

    run(main())


def test_a_handshake_that_never_ends(certificate: Path) -> None:
    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await wire.reader.read()

        async with serve(handler) as peer:
            upstream = client(certificate, timeouts=Timeouts(connect=0.1))
            with pytest.raises(ConnectFailed, match=r"within 0\.1 s"):
                await upstream.open(request(Origin("https", "127.0.0.1", peer.origin.port)))
            await peer.settled()
            await upstream.aclose()

    run(main())


def test_the_default_context_checks() -> None:
    from keypool_asgi.upstream.tls import default_context

    context = default_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


# A server in a thread goes on while the client's event loop is busy.


@contextmanager
def threaded(certificate: Path | None, answer: bytes, *, alert: bool = False) -> Iterator[Origin]:
    """Answer one request after its head, and close; what was not read by then makes that a reset."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one() -> None:
        sock, _ = listener.accept()
        sock.settimeout(5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the reset discards what Nagle held back
        if certificate is not None:
            sock = server_context(certificate).wrap_socket(sock, server_side=True)
        with sock:
            data = b""
            while b"\r\n\r\n" not in data:
                data += sock.recv(1000)
            sock.sendall(answer)
            time.sleep(0.05)
            if alert:
                with suppress(OSError):
                    sock.unwrap()  # type: ignore[attr-defined]

    thread = threading.Thread(target=serve_one)
    thread.start()
    try:
        yield Origin("https" if certificate else "http", "127.0.0.1", listener.getsockname()[1])
    finally:
        thread.join()
        listener.close()


async def flood(call: NativeCall, *, yielding: bool = False) -> None:
    for _ in range(500):
        await call.write(b"x" * 65_536)
        if yielding:
            await asyncio.sleep(0)


@loops
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("yielding", [False, True])
def test_an_answer_that_only_the_kernel_has_is_saved(loop: str, tls: bool, yielding: bool, certificate: Path) -> None:
    """Answer and reset arrive while the event loop is busy; then a write fails before anything was read."""

    async def main(origin: Origin) -> None:
        upstream = client(certificate)
        call = await upstream.open(request(origin, b"POST", headers=sized(60_000_000)))
        await call.write(b"x" * 100_000)
        time.sleep(0.2)  # noqa: ASYNC251 - on purpose
        with pytest.raises(ConnectionBroken):
            await flood(call, yielding=yielding)
        assert (await call.head()).status == 401
        assert await read_all(call) == b"y" * 20_000
        call.close()
        await upstream.aclose()

    answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 20000\r\n\r\n" + b"y" * 20_000
    with threaded(certificate if tls else None, answer) as origin:
        run(main(origin), loop=loop)


@pytest.mark.parametrize("alert", [True, False])
def test_a_cut_tls_session_is_no_end_of_a_response(alert: bool, certificate: Path) -> None:
    """I7, RFC 8446 section 6.1: without a closure alert, a body that ends with the connection may lack its end."""

    async def main(origin: Origin) -> None:
        upstream = client(certificate)
        if alert:
            assert (await fetch(upstream, origin))[1] == b"abc"
        else:
            with pytest.raises(ConnectionBroken):
                await fetch(upstream, origin)
        await upstream.aclose()

    with threaded(certificate, b"HTTP/1.1 200 OK\r\n\r\nabc", alert=alert) as origin:
        run(main(origin))


def test_broken_records_break_the_response(certificate: Path) -> None:
    async def main() -> None:
        async def handler(wire: Wire) -> None:
            await wire.request()
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
            wire.writer.transport._ssl_protocol._transport.write(b"no TLS record at all")
            await asyncio.sleep(1)

        async with serve(handler, context=server_context(certificate)) as peer:
            upstream = client(certificate)
            with pytest.raises((ConnectionBroken, ProtocolViolation)):
                await fetch(upstream, peer.origin)
            await upstream.aclose()

    run(main())

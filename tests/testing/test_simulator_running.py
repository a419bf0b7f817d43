"""Starting and stopping, in every way there is; the fixture; the parts that need no socket."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import httpx
import pytest

from keypool_asgi import testing
from keypool_asgi.testing import Fault, Simulator, silence_wav, tone_wav, wav_seconds
from keypool_asgi.testing.simulator.bodies import BodySummary, Multipart, Scanner


def get(sim: Simulator) -> int:
    return httpx.get(f"{sim.url}/v2/transcript", headers={"authorization": sim.key}).status_code


def test_it_stops_and_starts_again_on_its_port_with_what_it_knew() -> None:
    sim = Simulator()
    with pytest.raises(RuntimeError, match="not running"):
        _ = sim.url
    with sim.running():
        url = sim.url
        httpx.post(f"{url}/v2/upload", content=b"a", headers={"authorization": sim.key})
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    with sim.running():
        assert (sim.url, get(sim), len(sim.uploads)) == (url, 200, 1)
    sim.stop()


def test_it_runs_once_and_says_when_its_port_is_taken() -> None:
    with Simulator().running() as sim:
        with pytest.raises(RuntimeError, match="running already"):
            sim.start()
        second = Simulator(port=int(sim.url.rpartition(":")[2]))
        with pytest.raises(OSError, match="address already in use"):
            second.start()
        assert get(sim) == 200


def test_it_serves_in_the_loop_of_an_async_test() -> None:
    async def check() -> None:
        sim = Simulator()
        async with sim.serving() as origins, httpx.AsyncClient(headers={"authorization": sim.key}) as client:
            answers = await asyncio.gather(*(client.get(origins["api"] + "/v2/transcript") for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}
        with pytest.raises(RuntimeError, match="not running"):
            _ = sim.url

    asyncio.run(check())


def test_a_stop_cuts_what_is_in_progress() -> None:
    sim = Simulator()
    sim.fail(Fault.stalled())
    errors: list[Exception] = []

    def call() -> None:
        try:
            get(sim)
        except httpx.TransportError as error:
            errors.append(error)

    with sim.running():
        caller = threading.Thread(target=call)
        caller.start()
        sim.wait_until(lambda sim: sim.open_requests == 1)
    caller.join(5)
    assert len(errors) == 1
    assert (sim.open_requests, sim.requests[0].outcome) == (0, "abandoned")


def test_many_threads_at_once(sim) -> None:
    def work() -> None:
        with httpx.Client(base_url=sim.url, headers={"authorization": sim.key}) as client:
            for _ in range(20):
                client.post("/v2/upload", content=b"audio")

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sim.uploads) == 100
    assert sorted(record.number for record in sim.requests) == list(range(1, 101))


def test_keys_are_put_where_they_are_wanted() -> None:
    sim = Simulator({"secret-1": "a/p", "secret-2": "a/q", "secret-3": "b/r"})
    assert sim.key == "secret-1"
    assert sim.add_key("secret-4", project="q") == "secret-4"
    with pytest.raises(ValueError, match="already"):
        sim.add_key("secret-4", project="q")
    with pytest.raises(ValueError, match="region"):
        sim.add_account("c", region="mars")
    assert "secret" not in repr(sim._world.keys["secret-1"])


def test_records_can_be_bounded_and_forgotten() -> None:
    with Simulator(keep_requests=2).running() as sim:
        assert [get(sim) for _ in range(3)] == [200] * 3
        assert [record.number for record in sim.requests] == [2, 3]
        sim.forget()
        assert sim.requests == sim.bill == []


def test_the_plugin_offers_the_fixture(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import httpx\n"
        "def test_it(assemblyai_simulator):\n"
        "    sim = assemblyai_simulator\n"
        "    assert httpx.get(sim.url + '/v2/transcript', headers={'authorization': sim.key}).status_code == 200\n"
    )
    root = Path(testing.__file__).parents[2]
    installed = entry_points(group="pytest11", name="keypool_asgi")
    plugin = [] if installed else ["-p", "keypool_asgi.testing.plugin"]
    command = [sys.executable, "-m", "pytest", "-q", *plugin, str(tmp_path)]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_the_package_does_not_import_pytest() -> None:
    code = "import keypool_asgi.testing, sys; sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(testing.__file__).parents[2], check=True)


def test_the_public_names_are_there() -> None:
    assert [name for name in testing.__all__ if not hasattr(testing, name)] == []


# Recordings


@pytest.mark.parametrize("made", [silence_wav, tone_wav])
@pytest.mark.parametrize("seconds", [0.0, 0.16, 2.5])
def test_recordings_last_as_long_as_they_say(made, seconds) -> None:
    wav = made(seconds, sample_rate=8000)
    assert wav_seconds(wav[:64], len(wav)) == pytest.approx(seconds)


def test_lengths_of_streamed_and_cut_recordings() -> None:
    wav = bytearray(silence_wav(2))
    wav[40:44] = b"\xff" * 4
    assert wav_seconds(bytes(wav), len(wav)) == pytest.approx(2)
    assert wav_seconds(silence_wav(2), 44 + 32_000) == pytest.approx(1)
    assert wav_seconds(b"ID3" + bytes(100), 103) is None


# Bodies in pieces


BODY = (
    b'--b\r\nContent-Disposition: form-data; name="config"\r\nContent-Type: application/json\r\n\r\n{"a": 1}\r\n'
    b'--b\r\nContent-Disposition: form-data; filename="x name=.wav"; name="audio"\r\n\r\n'
    + b"\r\n--a" * 50
    + b"\r\n--b--\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_multipart_in_pieces_of_any_size(size) -> None:
    reader = Multipart(b"b", keep=100)
    for start in range(0, len(BODY), size):
        reader.feed(BODY[start : start + size])
    config, audio = reader.parts
    assert (config.name, config.content_type, config.start) == ("config", "application/json", b'{"a": 1}')
    assert (audio.name, audio.size, len(audio.start)) == ("audio", 250, 100)
    assert reader.ended


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_needles_in_pieces_of_any_size(size) -> None:
    scanner = Scanner([b"needle", b"n", b"absent", b""])
    hay = b"x" * 7 + b"needle" + b"y" * 9
    for start in range(0, len(hay), size):
        scanner.feed(hay[start : start + size])
    assert scanner.found == {b"needle", b"n"}


def test_a_summary_holds_no_more_than_it_was_told() -> None:
    summary = BodySummary(b"", keep=10)
    for _ in range(100):
        summary.feed(b"0123456")
    assert summary.size == 700
    assert summary.body().start == b"0123456012"
    assert summary.body().parts is None

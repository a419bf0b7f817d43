"""A Redis server that restarts, hangs, forgets its scripts or refuses: what the calls that wait for it get."""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from harness import free_port, run, secret
from harness.redis import redis_server

from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.stores.redis.scripts import Script, key_names
from keypool_asgi.stores.redis.server import RedisServer

ROOT = Path(__file__).parents[2]
ECHO = Script("test.echo", "return ARGV[1]")
COUNT = Script("test.count", "return redis.call('INCR', KEYS[1])")
BROKEN = Script("test.broken", "return nonsense.at.all")
KEYS = key_names("test", "count", ("a",))
NAMES = (f"server-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def running():
    with redis_server() as server:
        yield server


@pytest.fixture
def own():
    """A server that a test may end."""
    with redis_server(appendonly="yes") as server:
        yield server


def use(url, scenario, **settings):
    async def main():
        server = RedisServer(url, **{"connect_seconds": 10, "answer_seconds": 10, **settings})
        try:
            return await scenario(server)
        finally:
            await server.aclose()

    return run(main())


def ours(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("keypool_asgi")]


async def until(scenario, refused=StoreUnavailable):
    """Call again and again until it is not refused any more."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await scenario()
            except refused:
                await asyncio.sleep(0.02)


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:///0",
        "redis://host:port",
        "redis://host/name",
        "redis+cluster://host",
        "unix:///tmp/redis.sock",
        "http://host",
        "",
    ],
)
def test_it_checks_its_url(url):
    with pytest.raises(ConfigurationError, match="state: a Redis URL must be redis://"):
        RedisServer(url)


@pytest.mark.parametrize(
    "wrong", [{"connect_seconds": 0}, {"answer_seconds": -1}, {"pause_seconds": -1}, {"prefix": "a{b}"}, {"prefix": ""}]
)
def test_it_checks_its_settings(wrong):
    with pytest.raises(ConfigurationError, match=f"state: {next(iter(wrong))}"):
        RedisServer("redis://localhost", **wrong)


def test_it_shows_no_password():
    password = secret("redis")
    server = RedisServer(f"rediss://me:{password}@host.test:7000/3?ssl_ca_certs=/x")
    assert repr(server) == "<RedisServer rediss://host.test:7000/3>"


def test_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'keypool-asgi\[redis\]'"):
        RedisServer("redis://localhost")


def test_with_tls_it_checks_whose_server_it_is():
    async def scenario(server):
        return await server.call(ECHO, KEYS, ["x"])

    with redis_server(bind="127.0.0.1 127.0.0.2") as own:
        url, certificate = own.add_tls()
        own.stop()
        own.start()
        trusting = f"{url}?ssl_ca_certs={certificate}"
        assert use(trusting, scenario) == b"x"
        elsewhere = trusting.replace("localhost", "127.0.0.2")
        assert use(f"{elsewhere}&ssl_check_hostname=false", scenario) == b"x"
        for wrong in (url, elsewhere):
            with pytest.raises(StoreUnavailable) as caught:
                use(wrong, scenario)
            assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.__cause__)


# Calls


def test_calls_get_their_own_answers(running):
    async def scenario(server):
        texts = [f"text {number}" * (number % 50) for number in range(500)]
        answers = await asyncio.gather(*(server.call(ECHO, KEYS, [text]) for text in texts))
        assert answers == [text.encode() for text in texts]

    use(running.url, scenario)


def test_a_failing_script_refuses_its_own_caller_only(running, caplog):
    async def scenario(server):
        calls = [server.call(script, KEYS, [1]) for script in (ECHO, BROKEN, ECHO)]
        calls.append(server.call(ECHO, KEYS, ["the data \ud800"]))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [bytes, StoreUnavailable, bytes, StoreUnavailable]

    use(running.url, scenario)
    assert "test.broken failed" in caplog.text
    assert "the data" not in caplog.text


def test_a_call_happens_although_its_caller_is_cancelled(running):
    keys = key_names("test", next(NAMES), ("a",))
    seen = []

    async def scenario(server):
        for steps in range(6):
            task = asyncio.create_task(server.call(COUNT, keys, [], seen.append))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        return await server.call(COUNT, keys, [])

    # The first task is cancelled before it has begun.
    assert use(running.url, scenario) == 6
    assert seen == [1, 2, 3, 4, 5]


def test_it_serves_several_event_loops(running):
    server = RedisServer(running.url)
    answers = []

    async def scenario():
        answers.extend(await asyncio.gather(*(server.call(ECHO, KEYS, [number]) for number in range(20))))
        await server.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(scenario(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for _ in range(3):
        run(scenario())
    assert sorted(answers, key=int) == sorted([str(number).encode() for number in range(20)] * 6, key=int)
    assert server._lines == {}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_event_loop_that_ended_is_forgotten(running):
    server = RedisServer(running.url)

    async def scenario():
        return await server.call(ECHO, KEYS, ["x"])

    for _ in range(3):
        assert run(scenario()) == b"x"
        assert len(server._lines) == 1
    server._lines.clear()
    gc.collect()


FORK = """
import asyncio, os, sys
from keypool_asgi.stores.redis.scripts import Script, key_names
from keypool_asgi.stores.redis.server import RedisServer

COUNT = Script("test.count", "return redis.call('INCR', KEYS[1])")
keys = key_names("test", "forked", ("a",))
server = RedisServer(sys.argv[1])

async def child():
    counted = await server.call(COUNT, keys, [])
    await server.aclose()
    return 0 if counted == 2 else 2

async def parent():
    await server.call(COUNT, keys, [])
    process = os.fork()
    if not process:
        asyncio._set_running_loop(None)
        os._exit(asyncio.run(child()))
    assert os.waitpid(process, 0) == (process, 0)
    assert await server.call(COUNT, keys, []) == 3
    await server.aclose()

asyncio.run(parent())
"""


def test_a_forked_process_connects_for_itself(running):
    # In a process without the threads of a test run: a fork copies the locks that they hold, and nobody to open them.
    command = [sys.executable, "-c", FORK, running.url]
    done = subprocess.run(command, timeout=30, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


# Failures


def test_scripts_that_the_server_forgot_are_sent_again(running):
    async def scenario(server):
        for _ in range(2):
            calls = [server.call(ECHO, KEYS, [number]) for number in range(10)]
            assert await asyncio.gather(*calls) == [str(number).encode() for number in range(10)]
            await server.command("SCRIPT", "FLUSH")

    use(running.url, scenario)


def test_a_restart_between_calls_is_not_noticed(own, caplog):
    keys = key_names("test", "restart", ("a",))

    async def scenario(server):
        assert await server.call(COUNT, keys, []) == 1
        own.stop()
        own.start()
        assert await server.call(COUNT, keys, []) == 2

    use(own.url, scenario)
    assert ours(caplog) == []


def test_an_outage_refuses_and_ends_by_itself(own, caplog):
    async def scenario(server):
        assert await server.call(ECHO, KEYS, ["x"]) == b"x"
        own.kill()
        for _ in range(5):
            calls = [server.call(ECHO, KEYS, ["x"]) for _ in range(10)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            assert len({id(outcome) for outcome in outcomes}) == 10
        own.start()
        assert await until(lambda: server.call(ECHO, KEYS, ["y"])) == b"y"

    use(own.url, scenario, pause_seconds=0.05)
    began, ended = ours(caplog)
    assert "test.echo failed" in began
    assert "is back after" in ended
    assert int(ended.rpartition(" ")[2]) >= 50


def test_a_server_that_hangs_refuses_in_time(own, caplog):
    async def scenario(server):
        assert await server.call(ECHO, KEYS, ["x"]) == b"x"
        own.pause()
        async with asyncio.timeout(10):
            for _ in range(20):
                with pytest.raises(StoreUnavailable):
                    await server.call(ECHO, KEYS, ["x"])
        own.resume()
        # No answer to one of those that were given up is taken for another's.
        texts = [str(number) for number in range(50)]
        answers = [await until(lambda text=text: server.call(ECHO, KEYS, [text])) for text in texts]
        assert answers == [text.encode() for text in texts]

    use(own.url, scenario, connect_seconds=0.2, answer_seconds=0.2, pause_seconds=0.3)
    assert len(ours(caplog)) == 2


def test_it_opens_without_a_server(caplog):
    async def scenario(server):
        await server.open()
        with pytest.raises(StoreUnavailable):
            await server.call(ECHO, KEYS, ["x"])

    use(f"redis://127.0.0.1:{free_port()}", scenario)
    assert len(ours(caplog)) == 1


def test_it_warns_of_a_server_that_loses_data(running, own, caplog):
    use(running.url, RedisServer.open)
    assert "no append-only file" in ours(caplog)[0]
    caplog.clear()
    own.ask("config", "set", "maxmemory-policy", "allkeys-lru")
    use(own.url, RedisServer.open)
    assert len(ours(caplog)) == 1
    assert "use noeviction" in ours(caplog)[0]


def test_a_wrong_password_is_a_mistake_in_the_settings():
    with redis_server(requirepass="right") as server:
        wrong = server.url.replace("//", f"//:{secret('redis')}@")
        with pytest.raises(ConfigurationError, match="does not let us in"):
            use(wrong, RedisServer.open)
        with pytest.raises(ConfigurationError, match="does not let us in"):
            use(server.url, RedisServer.open)
        right = server.url.replace("//", "//:right@")
        assert use(right, lambda server: server.call(ECHO, KEYS, ["x"])) == b"x"


def test_a_full_server_refuses_what_needs_room(own, caplog):
    async def scenario(server):
        await server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable):
            await server.call(COUNT, KEYS, [])
        assert "OutOfMemoryError" in caplog.text
        await server.command("CONFIG", "SET", "maxmemory", "0")
        assert await server.call(COUNT, KEYS, []) == 1

    use(own.url, scenario)


def test_a_replica_is_an_outage(own, caplog):
    async def scenario(server):
        assert await server.call(COUNT, KEYS, []) == 1
        await server.command("REPLICAOF", "127.0.0.1", str(free_port()))
        with pytest.raises(StoreUnavailable):
            await server.call(COUNT, KEYS, [])
        own.ask("replicaof", "no", "one")
        assert await until(lambda: server.call(COUNT, KEYS, [])) == 2

    use(own.url, scenario, pause_seconds=0.05)
    assert "is back" in ours(caplog)[-1]

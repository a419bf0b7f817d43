"""Team directories: the contract for every way to pass one, caching, single flight, and failing look-ups."""

from __future__ import annotations

import asyncio
import hashlib
import hmac

import pytest
from harness.leaks import token

from keypool_asgi.core.teams import Team
from keypool_asgi.errors import ConfigurationError, Forbidden, StoreUnavailable
from keypool_asgi.ports import TeamDirectory
from keypool_asgi.stores.teams import TokenDigest, team_directory
from keypool_asgi.testing.contracts import TeamDirectoryContract

A, B = Team("team-a"), Team("team-b")
TOKEN = token("a")
PEPPER = "pepper"


class Directory:
    def __init__(self, teams):
        self.teams = teams

    async def find(self, token):
        await asyncio.sleep(0)
        return self.teams.get(token)


class SyncDirectory(Directory):
    def find(self, token):
        return self.teams.get(token)


def async_function(teams):
    async def look_up(token):
        await asyncio.sleep(0)
        return teams.get(token)

    return look_up


# Every way to pass the same teams.
WAYS = {
    "mapping": dict,
    "mapping of digests": lambda teams: {TokenDigest.of(token, PEPPER): team for token, team in teams.items()},
    "sync function": lambda teams: teams.get,
    "async function": async_function,
    "object": Directory,
    "sync object": SyncDirectory,
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


class TestContract(TeamDirectoryContract):
    @pytest.fixture(autouse=True, params=WAYS)
    def _way(self, request):
        self.way = WAYS[request.param]

    def make_directory(self, teams):
        return team_directory(self.way(teams), pepper=PEPPER)


def test_each_way_gives_a_directory(way):
    directory = team_directory(way({TOKEN: A}), pepper=PEPPER)
    assert isinstance(directory, TeamDirectory)
    assert team_directory(directory) is directory


class LookUp:
    """A user's function that counts, and waits for ``go``."""

    def __init__(self, teams, *, error=None):
        self.teams, self.error = teams, error
        self.asked = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, token):
        self.asked.append(token)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.teams.get(token)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def drive(coroutine):
    """Run a coroutine that must not wait for anything."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it yielded to the event loop")


# Mappings


def test_a_mapping_is_copied_and_kept_as_digests():
    teams = {TOKEN: A}
    directory = team_directory(teams, pepper="pepper")
    teams.clear()
    assert drive(directory.find(TOKEN)) is A
    assert TOKEN not in repr(vars(directory))


# Digests


def test_a_digest_stands_for_its_token():
    directory = team_directory({TokenDigest.of(TOKEN): A, token("b"): B})
    assert drive(directory.find(TOKEN)) is A
    assert drive(directory.find(token("b"))) is B
    assert drive(directory.find(str(TokenDigest.of(TOKEN)))) is None, "whoever has read the digest has no token"


def test_a_digest_says_how_it_was_made_and_can_be_written_down():
    plain, peppered = TokenDigest.of(TOKEN), TokenDigest.of(TOKEN, PEPPER)
    assert (plain.peppered, peppered.peppered) == (False, True)
    assert plain.startswith("sha256:")
    assert peppered.startswith("hmac-sha256:")
    assert TokenDigest(str(peppered)) == peppered
    assert plain.raw == hashlib.sha256(TOKEN.encode()).digest()
    assert peppered.raw == hmac.digest(PEPPER.encode(), TOKEN.encode(), "sha256")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 63,
        "md5:" + "0" * 64,
        "sha256:" + "0" * 64 + "\n",
        b"x",
        TOKEN,
    ],
)
def test_what_is_no_digest_is_refused_and_not_shown(text):
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits") as caught:
        TokenDigest(text)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("digest", "pepper", "message"),
    [
        (TokenDigest.of(TOKEN), PEPPER, "the digest of 'team-a' was made without a pepper, and pepper is set"),
        (TokenDigest.of(TOKEN, PEPPER), None, "the digest of 'team-a' was made under a pepper: set pepper"),
    ],
)
def test_a_digest_that_no_token_can_have_is_refused(digest, pepper, message):
    with pytest.raises(ConfigurationError, match=message):
        team_directory({digest: A}, pepper=pepper)


# Entries that are wrong


@pytest.mark.parametrize(
    ("teams", "message"),
    [
        ({TOKEN: "team-a"}, "entry 1 must be a Team, not str"),
        ({TOKEN: A, token("b"): None}, "entry 2 must be a Team, not NoneType"),
        ({"": A}, "the token of 'team-a' cannot be used. The team token is empty"),
        ({b"bytes": A}, "the token of 'team-a' must be a string, not bytes"),
        ({TOKEN + " x": A}, "malformed"),
        ({TOKEN + "\n": A}, "malformed"),
        ({TOKEN + "é": A}, "malformed"),
        ({TOKEN + "\ud800": A}, "malformed"),
        ({TOKEN * 400: A}, "too long"),
    ],
)
def test_a_wrong_entry_is_named_without_its_token(teams, message):
    with pytest.raises(ConfigurationError, match="teams: ") as caught:
        team_directory(teams)
    assert message in str(caught.value)
    assert "tt-kp" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("value", [None, "token", b"token", 5, [A], Directory, A])
def test_anything_else_is_refused(value):
    with pytest.raises(ConfigurationError, match="teams: must be a mapping"):
        team_directory(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl_seconds": -1}, "teams: ttl_seconds"),
        ({"negative_ttl_seconds": float("nan")}, "teams: negative_ttl_seconds"),
        ({"max_entries": 0}, "teams: max_entries"),
        ({"pepper": ""}, "pepper"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        team_directory(print, **options)


# Caching


def test_answers_are_remembered_for_their_time():
    async def run():
        clock, look_up = Clock(), LookUp({TOKEN: A})
        directory = team_directory(look_up, ttl_seconds=60, negative_ttl_seconds=10, clock=clock)
        for now, calls in ((0, 2), (9.9, 2), (10, 3), (59.9, 4), (60, 5)):
            clock.now = now
            for _ in range(3):
                assert await directory.find(TOKEN) is A
                assert await directory.find("unknown") is None
            assert len(look_up.asked) == calls, now

    asyncio.run(run())


def test_a_remembered_answer_does_not_yield():
    async def run():
        directory = team_directory(LookUp({TOKEN: A}), pepper="pepper")
        await directory.find(TOKEN)
        await directory.find("unknown")
        return directory

    directory = asyncio.run(run())
    assert drive(directory.find(TOKEN)) is A
    assert drive(directory.find("unknown")) is None


def test_no_time_to_live_is_no_memory():
    async def run():
        look_up = LookUp({TOKEN: A})
        directory = team_directory(look_up, ttl_seconds=0, negative_ttl_seconds=0)
        for _ in range(3):
            assert await directory.find(TOKEN) is A
            assert await directory.find("unknown") is None
        assert len(look_up.asked) == 6

    asyncio.run(run())


def test_unknown_tokens_do_not_push_teams_out():
    async def run():
        look_up = LookUp({TOKEN: A})
        directory = team_directory(look_up, max_entries=10)
        await directory.find(TOKEN)
        for number in range(1000):
            await directory.find(f"made-up-{number}")
        asked = len(look_up.asked)
        assert await directory.find(TOKEN) is A
        assert len(look_up.asked) == asked
        assert len(directory._found) == 1
        assert len(directory._unknown) == 10
        assert not directory._flights

    asyncio.run(run())


def test_the_caches_keep_no_token():
    async def run():
        directory = team_directory(LookUp({TOKEN: A}))
        await directory.find(TOKEN)
        await directory.find(token("unknown"))
        assert "tt-kp" not in repr(vars(directory))

    asyncio.run(run())


# One look-up per token


def test_a_hundred_waiters_share_one_look_up_although_the_first_leaves():
    async def run():
        look_up = LookUp({TOKEN: A})
        look_up.go.clear()
        directory = team_directory(look_up)
        waiters = [asyncio.create_task(directory.find(TOKEN)) for _ in range(100)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.wait(waiters[:1])
        look_up.go.set()
        found = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == [A] * 99
        assert look_up.asked == [TOKEN]
        assert not directory._flights

    asyncio.run(run())


def test_a_look_up_that_everybody_left_is_remembered_all_the_same():
    async def run():
        look_up = LookUp({TOKEN: A})
        look_up.go.clear()
        directory = team_directory(look_up)
        waiters = [asyncio.create_task(directory.find(TOKEN)) for _ in range(3)]
        await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
        look_up.go.set()
        await asyncio.sleep(0.01)
        assert drive(directory.find(TOKEN)) is A

    asyncio.run(run())


def test_different_tokens_do_not_wait_for_each_other():
    async def run():
        look_up = LookUp({})
        look_up.go.clear()
        directory = team_directory(look_up)
        tasks = [asyncio.create_task(directory.find(f"token-{number}")) for number in range(5)]
        await asyncio.sleep(0.01)
        assert len(look_up.asked) == 5
        look_up.go.set()
        assert await asyncio.gather(*tasks) == [None] * 5

    asyncio.run(run())


def test_a_look_up_that_ended_with_its_loop_blocks_nobody():
    """A directory may outlive the event loop that it was first used in."""
    directory = team_directory(async_function({TOKEN: A}))

    async def leave():
        waiter = asyncio.create_task(directory.find(TOKEN))
        await asyncio.sleep(0)
        for flight in directory._flights.values():
            flight.cancel()  # as a loop does that ends, here even before the first step
        await asyncio.wait([waiter])

    for _ in range(2):
        asyncio.run(leave())
    assert asyncio.run(directory.find(TOKEN)) is A


# Failures


def ours(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("keypool_asgi")]


def test_a_failure_reaches_all_waiters_and_is_not_remembered(caplog):
    async def run():
        look_up = LookUp({TOKEN: A}, error=KeyError(TOKEN))
        look_up.go.clear()
        directory = team_directory(look_up)
        waiters = [asyncio.create_task(directory.find(TOKEN)) for _ in range(100)]
        await asyncio.sleep(0)
        look_up.go.set()
        found = await asyncio.gather(*waiters, return_exceptions=True)
        assert all(isinstance(failure, StoreUnavailable) for failure in found)
        assert len({id(failure) for failure in found}) == 100
        assert "tt-kp" not in repr(found[0].__cause__)
        assert len(look_up.asked) == 1
        look_up.error = None
        assert await directory.find(TOKEN) is A

    asyncio.run(run())
    assert len(ours(caplog)) == 1
    assert "teams: find failed" in ours(caplog)[0]
    assert "KeyError" in ours(caplog)[0]


class Fails:
    def __init__(self, error):
        self.error = error

    def find(self, token):
        raise self.error


@pytest.fixture(params=["object", "function"])
def failing(request):
    """Each way to pass a look-up that raises."""
    return Fails if request.param == "object" else lambda error: Fails(error).find


def test_each_failure_becomes_ours(failing, caplog):
    directory = team_directory(failing(OSError("down")))
    with pytest.raises(StoreUnavailable) as caught:
        asyncio.run(directory.find(TOKEN))
    assert isinstance(caught.value.__cause__, OSError)
    assert len(ours(caplog)) == 1


@pytest.mark.parametrize("way", ["sync function", "object"])
@pytest.mark.parametrize("answer", ["team-a", True, {"id": "team-a"}])
def test_an_answer_that_is_no_team_refuses(way, answer, caplog):
    directory = team_directory(WAYS[way]({TOKEN: answer}))
    with pytest.raises(StoreUnavailable):
        asyncio.run(directory.find(TOKEN))
    assert f"it returned {type(answer).__name__}" in ours(caplog)[0]


def test_a_refusal_of_the_users_own_passes_with_all_it_says(failing, caplog):
    refusal = Forbidden("This team is suspended.", retry_after=5)
    directory = team_directory(failing(refusal))
    with pytest.raises(Forbidden) as caught:
        asyncio.run(directory.find(TOKEN))
    assert (caught.value.sentence, caught.value.retry_after) == (refusal.sentence, 5)
    assert not ours(caplog)

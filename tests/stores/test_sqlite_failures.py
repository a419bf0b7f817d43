"""A SQLite file that is damaged, full or out of reach: every verb is refused, the log says what to do, repair helps."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from keypool_asgi.core.resources import Page, Ref
from keypool_asgi.errors import StoreUnavailable
from keypool_asgi.stores.sqlite import SqliteResources

from .resource_tools import transcript

A = Ref("transcript", "a")


def ours(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("keypool_asgi")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.db"


async def refused(store):
    """Every verb is refused."""
    uses = [
        store.record(transcript("a")),
        store.find(A),
        store.note(A, "completed", "{}"),
        store.forget(A),
        store.place(A, None),
        store.page(Page("transcript", 10)),
    ]
    outcomes = [type(outcome) for outcome in await asyncio.gather(*uses, return_exceptions=True)]
    assert outcomes == [StoreUnavailable] * 6


def use(path, scenario):
    async def main():
        store = SqliteResources(path)
        try:
            return await scenario(store)
        finally:
            await store.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("content", [b"this is no database " * 500, b"SQLite format 3\0" + b"\xff" * 9000])
def test_a_damaged_file_refuses_until_it_is_repaired(path, content, caplog):
    path.write_bytes(content)

    async def scenario(store):
        await refused(store)
        path.unlink()
        await store.record(transcript("a"))
        assert await store.find(A) == transcript("a")

    use(path, scenario)
    assert ours(caplog)
    assert "SQLITE_NOTADB" in ours(caplog)[0]
    assert "move it away" in ours(caplog)[0]


def test_damage_in_the_middle_of_a_file_refuses(path, caplog):
    async def fill(store):
        await asyncio.gather(*(store.record(transcript(f"t{number}")) for number in range(500)))

    use(path, fill)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    use(path, refused)
    assert "SQLITE_CORRUPT" in caplog.text
    assert "restore a copy" in caplog.text
    assert "t1" not in caplog.text


def test_a_full_disk_refuses_until_there_is_room(path, caplog):
    async def scenario(store):
        await store.record(transcript("a"))
        await store._file.read(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone())
        many = [store.record(transcript(f"t{number}" * 500)) for number in range(20)]
        outcomes = await asyncio.gather(*many, return_exceptions=True)
        assert StoreUnavailable in {type(outcome) for outcome in outcomes}
        assert "the disk is full" in caplog.text
        await store.record(transcript("b"))
        assert await store.find(A) is not None

    use(path, scenario)


@pytest.fixture
def open_folder():
    """A folder that another user can come to, for whom nothing in it is writable."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def without_rights(scenario):
    """Run something as a user for whom the rights of files hold."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        scenario()
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_file_refuses(open_folder, caplog):
    path = open_folder / "a.db"

    async def fill(store):
        await store.record(transcript("a"))

    use(path, fill)
    path.chmod(0o444)
    open_folder.chmod(0o555)
    without_rights(lambda: use(path, refused))
    open_folder.chmod(0o755)
    assert "must be writable" in caplog.text
    assert "'a'" not in caplog.text


def test_a_folder_without_rights_refuses(open_folder, caplog):
    open_folder.chmod(0o555)
    without_rights(lambda: use(open_folder / "a.db", refused))
    open_folder.chmod(0o755)
    assert "SQLITE_CANTOPEN" in caplog.text
    assert "its folder must exist and be writable" in caplog.text


def test_a_failure_is_logged_once_for_all_that_wait(path, caplog):
    path.write_bytes(b"x" * 5000)

    async def scenario(store):
        outcomes = await asyncio.gather(*(store.record(transcript(f"{n}")) for n in range(100)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        assert len({id(outcome) for outcome in outcomes}) == 100

    use(path, scenario)
    assert 1 <= len(ours(caplog)) < 50


def test_what_cannot_be_text_is_refused_without_its_data(path, caplog):
    async def scenario(store):
        with pytest.raises(StoreUnavailable):
            await store.record(transcript("the data \ud800"))
        await store.record(transcript("a"))

    use(path, scenario)
    assert "UnicodeEncodeError" in caplog.text
    assert "the data" not in caplog.text

"""What the tests of resource stores share."""

from __future__ import annotations

from keypool_asgi.core.resources import Ref, Resource

VERBS = ("record", "find", "note", "forget", "place", "page")


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


def drive(coroutine):
    """Run a coroutine that must not wait for anything."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it yielded to the event loop")


def transcript(resource_id, team="team-a", created=5.0, status="queued"):
    return Resource(Ref("transcript", resource_id), team, "project-1", created, status)


def ids(page):
    return " ".join(one.ref.id for one in page)

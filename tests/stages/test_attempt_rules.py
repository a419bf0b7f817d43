"""When an attempt may be repeated (invariant I6): the whole decision table."""

from __future__ import annotations

import pytest
from harness import secret

from keypool_asgi import UpstreamKey
from keypool_asgi.core.attempts import Next, after_answer, after_failure, is_borne_out, without_key
from keypool_asgi.core.verdicts import Fault, Verdict


@pytest.mark.parametrize(
    ("fault", "repeatable", "expected"),
    [
        (Fault.NONE, True, Next.DELIVER),
        (Fault.NONE, False, Next.DELIVER),
        (Fault.UNRELATED, True, Next.DELIVER),
        (Fault.UNRELATED, False, Next.DELIVER),
        (Fault.THROTTLED, True, Next.REPEAT),
        (Fault.THROTTLED, False, Next.DELIVER),
        (Fault.EXHAUSTED, True, Next.REPEAT),
        (Fault.EXHAUSTED, False, Next.REFUSE),
        (Fault.REJECTED, True, Next.REPEAT),
        (Fault.REJECTED, False, Next.REFUSE),
    ],
)
@pytest.mark.parametrize("certain", [True, False])
def test_after_an_answer(fault: Fault, repeatable: bool, expected: Next, certain: bool) -> None:
    verdict = Verdict(fault, retry_after=3.0, certain=certain)
    assert after_answer(verdict, repeatable=repeatable) is expected
    if not repeatable:
        assert without_key(verdict) is expected


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("retries_left", [0, 1, 2])
def test_after_a_failure_only_what_never_left_is_repeated(sent: bool, repeatable: bool, retries_left: int) -> None:
    decision = after_failure(sent=sent, repeatable=repeatable, retries_left=retries_left)
    assert (decision is Next.REPEAT) == (not sent and repeatable and retries_left > 0)
    assert decision in (Next.REPEAT, Next.DELIVER)


def key(name: str, account: str) -> UpstreamKey:
    return UpstreamKey(name, secret=secret(name), project=name, account=account)


@pytest.mark.parametrize(
    ("fault", "served", "believed"),
    [
        (Fault.REJECTED, key("b", "one"), True),
        (Fault.REJECTED, key("a", "one"), False),
        (Fault.THROTTLED, key("b", "one"), False),
        (Fault.THROTTLED, key("b", "two"), True),
    ],
)
def test_a_doubt_is_borne_out_by_whoever_then_serves(fault: Fault, served: UpstreamKey, believed: bool) -> None:
    assert is_borne_out(Verdict(fault, certain=False), key("a", "one"), served) is believed

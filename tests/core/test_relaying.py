"""The relay's decisions: rules that hold for every order of events, and the words by which sessions begin and end."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keypool_asgi.core.close_codes import DRAINING, for_caller, for_upstream
from keypool_asgi.core.relaying import (
    NO_KEY,
    Accept,
    CallerLeft,
    CloseCaller,
    CloseUpstream,
    EndUpstream,
    FromCaller,
    FromUpstream,
    GiveUp,
    Judge,
    NoteFigures,
    Overdue,
    Phase,
    StopAsked,
    ToCaller,
    ToUpstream,
    Upgraded,
    UpstreamEnded,
    begin,
    closing_figures,
    is_notable,
    step,
)
from keypool_asgi.core.sessions import Close, SessionRules
from keypool_asgi.core.verdicts import Fault, Verdict

END = '{"type":"Terminate"}'
FIGURES = '{"type":"Termination","session_duration_seconds":7,"audio_duration_seconds":5}'
REFUSAL = "refused"
TOLD = '{"type":"Error","error":"Too bad"}'
FAILURE = "failed"
BAD_KEY = Verdict(Fault.REJECTED)
UNRELATED = Verdict(Fault.UNRELATED)
PHASES = list(Phase)
SERVED = Judge(Verdict(Fault.NONE))


def _judge(first: str | bytes | Close) -> Verdict | None:
    said = first.reason if isinstance(first, Close) else first
    return {REFUSAL: BAD_KEY, TOLD: BAD_KEY, FAILURE: UNRELATED}.get(said)


def rules(*, speaks_first: bool = True, audio_figure: str | None = "audio_duration_seconds") -> SessionRules:
    return SessionRules(
        speaks_first=speaks_first,
        end_message=END,
        ends=frozenset({"Terminate"}),
        closing=frozenset({"Termination"}),
        judge=_judge,
        audio_figure=audio_figure,
    )


def played(session, *events):
    """Play events; return the state after them and everything that was commanded."""
    commands = []
    for event in events:
        session, more = step(session, event)
        commands += more
    return session, commands


def live(**settings):
    """A session that is served."""
    session, _ = played(begin(rules(**settings)), Upgraded(), FromUpstream('{"type":"Begin"}'))
    assert session.phase is Phase.LIVE
    return session


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from(["Terminate", "Termination", "Turn", "Begin", "terminate", "", "Terminate "]) | anything
objects = st.builds(lambda kind, rest: {**rest, "type": kind}, kinds, st.dictionaries(st.text(max_size=6), anything))
texts = (
    st.text(st.characters(codec=None), max_size=30)
    | objects.map(json.dumps)
    | objects.map(lambda value: json.dumps(value, ensure_ascii=False))
    | st.sampled_from([END, FIGURES, REFUSAL, FAILURE, "Terminate", '{"type":"\\u0054erminate"}', '["Terminate"]', "{"])
    | st.sampled_from(['{"type":"Turn","transcript":"Terminate the Termination"}', "[" * 5000 + '"Terminate"'])
)
messages = texts | st.binary(max_size=12)
closes = st.builds(Close, st.sampled_from([1000, 1001, 1005, 1006, 1011, 3005, 3008, 4001]), texts)


# A message that is passed on without asking


def notable(session, event) -> bool:
    """Whether an event's message is notable from the side that it came from."""
    kinds = session.rules.ends if isinstance(event, FromCaller) else session.rules.closing
    return is_notable(session, event.message, kinds)


@given(messages, st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=250)
def test_what_is_not_notable_is_passed_on_and_changes_nothing(message, from_caller, speaks_first, ended) -> None:
    session, _ = played(live(speaks_first=speaks_first), *[FromCaller(END)] * ended)
    event = FromCaller(message) if from_caller else FromUpstream(message)
    assume(not notable(session, event))
    command = ToUpstream(message) if from_caller else ToCaller(message)
    assert step(session, event) == (session, (command,))


@given(st.binary(max_size=20))
def test_audio_is_never_notable_once_a_session_is_served(data) -> None:
    assert not notable(live(), FromCaller(data))
    assert not notable(live(), FromUpstream(data))


@pytest.mark.parametrize("speaks_first", [True, False])
def test_everything_is_notable_until_the_key_is_proved_and_when_it_ends(speaks_first) -> None:
    opening, _ = played(begin(rules(speaks_first=speaks_first)), Upgraded())
    ending, _ = played(live(), StopAsked(DRAINING))
    for session in (opening, ending):
        assert notable(session, FromUpstream(b"audio"))
        assert notable(session, FromCaller(b"audio"))


# What ends a session, and its figures


@given(messages)
@settings(max_examples=200)
def test_only_the_end_message_itself_ends_a_session_in_order(message) -> None:
    """Words in a transcript or a prompt are not the end."""
    session, commands = played(live(), FromCaller(message))
    try:
        found = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        found = None
    is_end = isinstance(found, dict) and found.get("type") == "Terminate" and "Terminate" in message
    assert session.ended == is_end
    assert commands == [ToUpstream(message)]


@given(messages)
@settings(max_examples=200)
def test_figures_are_finite_numbers_whatever_the_message_says(message) -> None:
    figures = closing_figures(message, rules()) if isinstance(message, str) else None
    for value in (figures or {}).values():
        assert type(value) is float
        assert math.isfinite(value)
        assert value >= 0


@pytest.mark.parametrize(
    "value",
    ["null", "true", '"7"', "[7]", "{}", "-1", "NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "9" * 4300],
)
def test_what_is_no_figure_is_left_out(value) -> None:
    message = f'{{"type":"Termination","session_duration_seconds":{value},"audio_duration_seconds":5}}'
    assert closing_figures(message, rules()) == {"audio_duration_seconds": 5.0}


def test_figures_that_cannot_be_read_at_all() -> None:
    message = '{"type":"Termination","session_duration_seconds":' + "9" * 5000 + "}"  # json.loads refuses it
    assert closing_figures(message, rules()) is None
    assert played(live(), FromUpstream(message))[1] == [ToCaller(message)]


@pytest.mark.parametrize("kind", ["[]", "{}", '["Termination"]', '{"Termination":1}', "null", "1", "true"])
def test_a_type_may_be_anything(kind) -> None:
    message = f'{{"type":{kind},"of":"Terminate Termination"}}'
    assert played(live(), FromCaller(message))[1] == [ToUpstream(message)]
    assert played(live(), FromUpstream(message))[1] == [ToCaller(message)]


def test_figures_of_a_service_without_audio() -> None:
    assert closing_figures(FIGURES, rules(audio_figure=None)) == {"session_duration_seconds": 7.0}
    assert closing_figures('{"type":"Termination"}', rules()) == {}
    assert closing_figures('{"type":"Turn","session_duration_seconds":7}', rules()) is None


# Opening


def test_the_caller_is_accepted_by_the_first_message_of_a_session_that_is_served() -> None:
    session, commands = played(begin(rules()), Upgraded())
    assert (session.phase, commands) == (Phase.OPENING, [])
    session, commands = played(session, FromUpstream("hello"))
    assert (session.phase, commands) == (Phase.LIVE, [SERVED, Accept(), ToCaller("hello")])


def test_the_caller_is_accepted_at_once_where_it_speaks_first() -> None:
    session, commands = played(begin(rules(speaks_first=False)), Upgraded())
    assert (session.phase, session.proved, commands) == (Phase.LIVE, False, [Accept()])
    session, commands = played(session, FromCaller("hello"), FromUpstream("good day"))
    assert (session.proved, commands) == (True, [ToUpstream("hello"), SERVED, ToCaller("good day")])


@pytest.mark.parametrize(
    ("event", "verdict", "said"),
    [
        (FromUpstream(REFUSAL), BAD_KEY, ""),
        (FromUpstream(TOLD), BAD_KEY, "Too bad"),
        (FromUpstream(FAILURE), UNRELATED, ""),
        (UpstreamEnded(Close(1008, REFUSAL)), BAD_KEY, REFUSAL),
        (UpstreamEnded(Close(1011, FAILURE)), UNRELATED, FAILURE),
    ],
)
def test_a_refusal_before_the_caller_is_accepted_leaves_the_way_open_to_another_key(event, verdict, said) -> None:
    session, commands = played(begin(rules()), Upgraded(), event)
    assert (session.phase, commands) == (Phase.OVER, [GiveUp(verdict, said)])


@pytest.mark.parametrize("how", [FromUpstream, lambda said: UpstreamEnded(Close(1008, said))])
def test_a_refused_key_is_not_shown_to_a_caller_that_was_accepted(how) -> None:
    session, commands = played(begin(rules(speaks_first=False)), Upgraded(), how(REFUSAL))
    assert session.phase is Phase.OVER
    assert Judge(BAD_KEY) in commands
    assert commands[-1] == CloseCaller(NO_KEY)
    assert REFUSAL not in repr([each for each in commands if isinstance(each, ToCaller | CloseCaller)])


def test_a_failure_that_tells_nothing_of_a_key_is_shown_to_a_caller_that_was_accepted() -> None:
    unproved, _ = played(begin(rules(speaks_first=False)), Upgraded())
    session, commands = played(unproved, FromUpstream(FAILURE))
    assert (session.phase, commands) == (Phase.LIVE, [ToCaller(FAILURE)])
    session, commands = played(unproved, UpstreamEnded(Close(3005, FAILURE)))
    assert (session.phase, commands) == (Phase.OVER, [CloseCaller(Close(3005, FAILURE))])


@given(closes)
def test_a_close_that_is_the_callers_affair_is_passed_on_before_any_message(close) -> None:
    assume(_judge(close) is None)
    session, commands = played(begin(rules()), Upgraded(), UpstreamEnded(close))
    assert (session.phase, commands) == (Phase.OVER, [Accept(), CloseCaller(for_caller(close))])


@pytest.mark.parametrize("event", [StopAsked(DRAINING), Overdue()])
def test_opening_is_given_up_without_a_word_on_the_key(event) -> None:
    assert played(begin(rules()), Upgraded(), event)[1] == [GiveUp(UNRELATED)]


# The ways out


@given(closes)
def test_a_caller_that_leaves_ends_the_session_upstream(close) -> None:
    session, commands = played(live(), CallerLeft(close))
    assert (session.phase, commands) == (Phase.ENDING, [EndUpstream(END)])
    session, commands = played(session, FromUpstream("last words"), FromUpstream(FIGURES))
    assert session.phase is Phase.OVER
    assert [type(each) for each in commands] == [NoteFigures, CloseUpstream], "nothing goes to who has left"
    assert commands[-1] == CloseUpstream(for_upstream(close))


def test_a_caller_that_has_ended_the_session_is_not_ended_again() -> None:
    _, commands = played(live(), FromCaller(END), CallerLeft(Close(1000)))
    assert commands == [ToUpstream(END), EndUpstream(None)]


def test_a_stop_passes_on_the_last_words_and_says_why() -> None:
    why = Close(4429, "The quota ran out.")
    _, commands = played(live(), StopAsked(why), FromUpstream("turn"), FromUpstream(FIGURES))
    figures = {"session_duration_seconds": 7.0, "audio_duration_seconds": 5.0}
    assert commands == [
        EndUpstream(END),
        ToCaller("turn"),
        ToCaller(FIGURES),
        NoteFigures(figures),
        CloseUpstream(Close(1000)),
        CloseCaller(why),
    ]


@pytest.mark.parametrize("last", [UpstreamEnded(Close(1011, "x")), UpstreamEnded(Close(1006, REFUSAL)), Overdue()])
@pytest.mark.parametrize("speaks_first", [True, False])
def test_why_we_have_stopped_is_said_however_upstream_ends_then(last, speaks_first) -> None:
    session = live() if speaks_first else played(begin(rules(speaks_first=False)), Upgraded())[0]
    _, commands = played(session, StopAsked(DRAINING), last)
    assert commands[-1] == CloseCaller(DRAINING)


@given(closes.filter(lambda close: close.reason != "refused"))
def test_upstreams_own_end_is_told_as_it_came(close) -> None:
    session, commands = played(live(), UpstreamEnded(close))
    assert (session.phase, commands) == (Phase.OVER, [CloseCaller(for_caller(close))])


def test_a_key_that_is_refused_in_the_middle_is_told_of_and_the_caller_is_not_told_why() -> None:
    _, commands = played(live(), UpstreamEnded(Close(1008, "refused")))
    assert commands == [Judge(Verdict(Fault.REJECTED)), CloseCaller(NO_KEY)]


def test_the_first_reason_to_stop_counts() -> None:
    why = Close(4429, "The quota ran out.")
    assert played(live(), StopAsked(why), StopAsked(DRAINING), Overdue())[1][-1] == CloseCaller(why)


def test_a_caller_that_leaves_before_the_first_message_is_not_come_back_to() -> None:
    session, commands = played(begin(rules()), Upgraded(), CallerLeft(Close(1001)), FromUpstream("hello"))
    assert (session.phase, commands) == (Phase.ENDING, [EndUpstream(END), SERVED])


def test_a_session_with_figures_is_not_ended_again_when_the_caller_leaves() -> None:
    assert played(live(), FromUpstream(FIGURES), CallerLeft(Close(1000)))[1][-1] == EndUpstream(None)


def test_nothing_of_the_caller_is_passed_on_after_a_stop() -> None:
    ending, _ = played(live(), StopAsked(DRAINING))
    assert played(ending, FromCaller(b"audio"), FromCaller(END))[1] == []


def test_closing_figures_in_the_middle_wait_for_upstreams_close() -> None:
    session, commands = played(live(), FromCaller(END), FromUpstream(FIGURES))
    assert session.phase is Phase.LIVE
    assert [type(each) for each in commands] == [ToUpstream, ToCaller, NoteFigures]
    assert played(session, UpstreamEnded(Close(1000)))[1] == [CloseCaller(Close(1000))]
    assert played(session, Overdue())[1] == [CloseUpstream(Close(1000)), CloseCaller(Close(1000))]


# Every order of events


class Sessions(RuleBasedStateMachine):
    """What may be commanded, whatever happens and in whatever order.

    The shell says ``Overdue`` only while it waits for something: the opening, the closing figures, or the close after
    them.
    """

    @initialize(speaks_first=st.booleans())
    def begin(self, speaks_first) -> None:
        self.session = begin(rules(speaks_first=speaks_first))
        self.commands: list = []
        self.up: list = []  # messages that must have gone upstream, in order
        self.down: list = []
        self.caller_there, self.upstream_there = True, True
        self.ended_by_caller = self.end_is_ours = self.figures = False

    def play(self, event) -> None:
        before = self.session
        self.session, commands = step(before, event)
        self.commands += commands
        assert before.phase is not Phase.OVER or (self.session == before and commands == ())
        assert PHASES.index(self.session.phase) >= PHASES.index(before.phase), "there is no way back"
        if isinstance(event, FromCaller | FromUpstream) and not notable(before, event):
            assert self.session == before
        if any(isinstance(each, CloseCaller) for each in commands):
            assert self.caller_there, "a close for a caller that has left"
        self.figures |= any(isinstance(each, NoteFigures) for each in commands)

    @rule()
    def upgraded(self) -> None:
        self.play(Upgraded())

    @precondition(lambda self: self.upstream_there)
    @rule(message=messages)
    def upstream_says(self, message) -> None:
        before, verdict = self.session, None if self.session.proved else _judge(message)
        refused = verdict is not None and (before.phase is Phase.OPENING or verdict.blames_key)
        if before.phase is not Phase.OVER and self.caller_there and not refused:
            self.down.append(message)
        self.play(FromUpstream(message))

    @precondition(lambda self: self.caller_there and Accept() in self.commands)
    @rule(message=messages)
    def caller_says(self, message) -> None:
        if self.session.phase is Phase.LIVE:
            self.up.append(message)
        self.play(FromCaller(message))
        self.ended_by_caller = self.session.ended

    @precondition(lambda self: self.upstream_there)
    @rule(close=closes)
    def upstream_ends(self, close) -> None:
        self.upstream_there = False
        self.play(UpstreamEnded(close))

    @precondition(lambda self: self.caller_there)
    @rule(close=closes)
    def caller_leaves(self, close) -> None:
        self.caller_there = False
        self.end_is_ours |= self.session.phase in (Phase.OPENING, Phase.LIVE)
        self.play(CallerLeft(close))

    @rule(close=closes)
    def stopped(self, close) -> None:
        self.end_is_ours |= self.session.phase is Phase.LIVE
        self.play(StopAsked(close))

    @precondition(lambda self: self.session.phase is not Phase.LIVE or self.figures)
    @rule()
    def overdue(self) -> None:
        self.play(Overdue())

    def count(self, kind) -> int:
        return sum(isinstance(each, kind) for each in self.commands)

    def place(self, kind) -> int:
        return next((n for n, each in enumerate(self.commands) if isinstance(each, kind)), len(self.commands))

    @invariant()
    def messages_keep_their_order(self) -> None:
        assert [each.message for each in self.commands if isinstance(each, ToUpstream)] == self.up
        assert [each.message for each in self.commands if isinstance(each, ToCaller)] == self.down

    @invariant()
    def the_caller_is_accepted_once_and_before_all_else(self) -> None:
        assert self.count(Accept) <= 1
        for kind in (ToCaller, ToUpstream):
            assert not self.count(kind) or self.place(Accept) < self.place(kind)
        if self.count(CloseCaller):
            assert self.place(Accept) < self.place(CloseCaller), "what is not accepted is refused, not closed"

    @invariant()
    def nothing_follows_a_way_back(self) -> None:
        if self.count(GiveUp):
            assert self.commands[-1] == self.commands[self.place(GiveUp)]
            assert not self.count(Accept), "the caller has seen something"

    @invariant()
    def the_callers_side_is_closed_once_and_last(self) -> None:
        closed = self.count(CloseCaller)
        assert closed <= 1
        if closed:
            assert isinstance(self.commands[-1], CloseCaller)
        if self.session.phase is Phase.OVER and self.caller_there and not self.count(GiveUp):
            assert closed == 1, "the caller waits for ever"

    @invariant()
    def upstream_is_told_to_end_exactly_when_we_end_it(self) -> None:
        ends = [each for each in self.commands if isinstance(each, EndUpstream)]
        assert len(ends) == self.end_is_ours
        if ends and self.ended_by_caller:
            assert ends == [EndUpstream(None)], "upstream has been told already"
        told = sum(each.message is not None for each in ends)
        assert self.count(CloseUpstream) <= 1
        assert told <= 1

    @invariant()
    def a_key_is_judged_once(self) -> None:
        assert self.count(Judge) <= 1
        assert self.session.proved == (SERVED in self.commands)

    @invariant()
    def what_upstream_is_closed_with_can_be_sent(self) -> None:
        assert self.session.leaving == for_upstream(self.session.leaving)


Sessions.TestCase.settings = settings(max_examples=100, stateful_step_count=14, deadline=None)
test_every_order_of_events = Sessions.TestCase

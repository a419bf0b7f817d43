"""Voice agents (``agents.assemblyai.com``): sessions, stored agents, voices, webhook subscriptions."""

from __future__ import annotations

from keypool_asgi.reference.pages import Answer, Body, Example, Frame, Page, Schema, Socket
from keypool_asgi.reference.schemas import listed, record, ref, text

from .common import AGENTS, ByOperation, json
from .tokens import EXPIRES, MINTED, SESSION

__all__ = ["PAGES", "SCHEMAS"]

_AGENT = {
    "name": text("For people."),
    "system_prompt": text("What the agent is and does, in your own words."),
    "greeting": text("What it says first."),
    "voice": record("How it sounds.", voice_id=text("A voice's id.")),
    "tools": listed(record(), "Functions that it may ask you to call."),
}
_SUBSCRIPTION = {
    "url": text("Where events are posted to, directly by AssemblyAI.", format="uri"),
    "events": listed(text(), "Which events."),
    "agent_id": text("Only those of this agent of your team's."),
}

SCHEMAS: dict[str, Schema] = {
    "AgentRequest": record("An agent. Fields that are not described here work as well.", required=("name",), **_AGENT),
    "Agent": record(required=("id",), id=text("For the other operations and for sessions."), **_AGENT),
    "AgentList": record(required=("agents",), agents=listed(ref("Agent"), "Your team's agents.")),
    "VoiceList": record(
        required=("voices",),
        voices=listed(record(required=("id",), id=text("The voice's id."), name=text("For people."))),
    ),
    "WebhookSubscriptionRequest": record(required=("url",), **_SUBSCRIPTION),
    "WebhookSubscription": record(required=("id",), id=text("For the other operations."), **_SUBSCRIPTION),
    "WebhookSubscriptionList": record(
        required=("webhook_subscriptions",),
        webhook_subscriptions=listed(ref("WebhookSubscription"), "Your team's subscriptions."),
    ),
}

_NEW_AGENT = Body(
    ref("AgentRequest"),
    examples={
        "receptionist": Example(
            "A receptionist",
            {
                "name": "Receptionist",
                "system_prompt": "You answer the phone of a dentist's practice.",
                "greeting": "Good morning, how can I help you?",
            },
        )
    },
)
_NEW_SUBSCRIPTION = Body(
    ref("WebhookSubscriptionRequest"),
    examples={"mine": Example("All events", {"url": "https://example.com/events"})},
)
_DELETED = {204: Answer("It is deleted.")}

_MESSAGES = Socket(
    sends=(
        Frame(
            "session.update",
            "the first message: which agent, or what kind of agent.",
            {"type": "session.update", "session": {"system_prompt": "You are brief.", "greeting": "Hello!"}},
        ),
        Frame("session.resume", "takes up a session that broke off less than 30 s ago."),
        Frame("input.audio", "audio in Base64, 16-bit PCM of 24 kHz.", {"type": "input.audio", "audio": "AAAA"}),
        Frame("tool.result", "what a function returned that the agent had asked for."),
        Frame("reply.create", "has the agent speak now.", {"type": "reply.create"}),
        Frame(
            "session.end",
            "ends the session. Without it, a closed session is paid for 30 s longer; the pool sends it for you.",
            {"type": "session.end"},
        ),
    ),
    receives=(
        Frame("session.ready", "the session is open.", {"type": "session.ready", "session_id": "0f2d"}),
        Frame("session.updated", "an update has been taken."),
        Frame("input.speech.started", "the caller has begun to speak; `input.speech.stopped` follows."),
        Frame("transcript.user", "what the caller said; `transcript.user.delta` while it is being said."),
        Frame("reply.started", "the agent begins to speak; `reply.done` follows."),
        Frame("reply.audio", "a piece of its speech in Base64.", {"type": "reply.audio", "data": "AAAA"}),
        Frame("transcript.agent", "what the agent says."),
        Frame("tool.call", "the agent wants a function called."),
        Frame("session.error", "something is wrong.", {"type": "session.error", "code": "invalid_value"}),
        Frame(
            "session.ended",
            "the session has ended in order.",
            {"type": "session.ended", "session_duration_seconds": 12, "audio_duration_seconds": 9},
        ),
    ),
    closes={
        1000: "The session has ended in order.",
        1008: "The token or the session is unknown, forbidden or expired.",
        1011: "An internal error.",
    },
)


def _page(summary: str, description: str, status: int, schema: str, body: Body | None = None) -> Page:
    answers = {status: Answer(summary, json(ref(schema)))}
    return Page(tag=AGENTS, summary=summary, description=description, body=body, answers=answers)


def _deletion(summary: str) -> Page:
    return Page(tag=AGENTS, summary=summary, description="It cannot be undone.", answers=_DELETED)


PAGES: ByOperation = {
    ("agents.session", "WEBSOCKET"): Page(
        tag=AGENTS,
        summary="Talk to a voice agent",
        description="A conversation: audio goes in, speech comes out. All messages are JSON.",
        socket=_MESSAGES,
        when="if the query names none of these",
    ),
    ("agents.token", "GET"): Page(
        tag=AGENTS,
        summary="Make a voice agent token",
        description="A token that opens a conversation, to be handed to a browser or a device.",
        parameters=(EXPIRES, SESSION),
        answers=MINTED,
        when="if it names none",
    ),
    ("agents.create", "POST"): _page(
        "Create an agent", "Stores an agent, which then belongs to your team.", 201, "Agent", _NEW_AGENT
    ),
    ("agents.list", "GET"): _page("List agents", "Your team's agents.", 200, "AgentList"),
    ("agents.get", "GET"): _page("Get an agent", "One of your team's agents.", 200, "Agent"),
    ("agents.update", "PUT"): _page("Change an agent", "Changes one of your team's agents.", 200, "Agent", _NEW_AGENT),
    ("agents.delete", "DELETE"): _deletion("Delete an agent"),
    ("voices.list", "GET"): _page("List voices", "The voices that agents can have.", 200, "VoiceList"),
    ("webhook_subscriptions.create", "POST"): _page(
        "Subscribe to events",
        "Has AssemblyAI post events to a URL, which it calls directly, not through the pool.",
        201,
        "WebhookSubscription",
        _NEW_SUBSCRIPTION,
    ),
    ("webhook_subscriptions.list", "GET"): _page(
        "List subscriptions", "Your team's webhook subscriptions.", 200, "WebhookSubscriptionList"
    ),
    ("webhook_subscriptions.get", "GET"): _page(
        "Get a subscription", "One of your team's webhook subscriptions.", 200, "WebhookSubscription"
    ),
    ("webhook_subscriptions.update", "PUT"): _page(
        "Change a subscription",
        "Changes one of your team's webhook subscriptions.",
        200,
        "WebhookSubscription",
        _NEW_SUBSCRIPTION,
    ),
    ("webhook_subscriptions.delete", "DELETE"): _deletion("Delete a subscription"),
}

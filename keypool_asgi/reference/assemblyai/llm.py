"""The LLM Gateway (``llm-gateway.assemblyai.com``)."""

from __future__ import annotations

from keypool_asgi.reference.pages import Answer, Body, Example, Page, Schema
from keypool_asgi.reference.schemas import choice, flag, integer, listed, maybe, number, record, ref, text

from .common import LLM, ByOperation, json

__all__ = ["PAGES", "SCHEMAS"]

_TRANSCRIPT_ID = text("A transcript of your team's.")
_USAGE = record(
    "What the request is charged by.",
    input_tokens=integer("", 0),
    output_tokens=integer("", 0),
    total_tokens=integer("", 0),
)

SCHEMAS: dict[str, Schema] = {
    "ModelList": record(
        required=("data",),
        data=listed(
            record(
                required=("id",),
                id=text("For `model` of a chat completion."),
                name=text("For people."),
                description=text(),
                context_length=integer("The most tokens that it takes.", 0),
                pricing=record("Price of a token by region, in US dollars."),
                available_regions=listed(text()),
            ),
            "The models.",
        ),
    ),
    "Message": record(
        required=("role", "content"),
        role=choice("Who says it.", "system", "developer", "user", "assistant", "tool"),
        content={
            "description": "What is said. `{{ transcript }}` in it stands for the text of `transcript_id`.",
            "type": ["string", "array", "null"],
        },
    ),
    "ChatRequest": record(
        "As OpenAI's chat completions take it, with additions.",
        required=("model", "messages"),
        model=text("A model's `id` from `GET /v1/models`."),
        messages=listed(ref("Message"), "What has been said so far.", minItems=1),
        max_tokens=integer("The most tokens of the answer.", 1),
        temperature=number("How freely the model may choose.", 0, 2),
        stream=flag("Answer in server-sent events, piece by piece; not every model can.", default=False),
        tools=listed(record(), "Functions that the model may ask you to call."),
        transcript_id=text("A transcript of your team's, for `{{ transcript }}` in the messages."),
        fallbacks=listed(record(), "Models to turn to when this one fails."),
    ),
    "ChatCompletion": record(
        required=("choices",),
        request_id=text("What AssemblyAI's support knows the request by."),
        choices=listed(
            record(index=integer("", 0), finish_reason=maybe(text()), message=record(role=text())), "The answer."
        ),
        usage=_USAGE,
    ),
    "UnderstandingRequest": record(
        required=("speech_understanding",),
        transcript_id=_TRANSCRIPT_ID,
        speech_understanding=record(
            required=("request",),
            request=record("Feature name (`translation`, `speaker_identification`) to its settings."),
        ),
    ),
    "Understanding": record(
        request_id=text("What AssemblyAI's support knows the request by."),
        speech_understanding=record("What was asked for, and what came of it."),
        usage=_USAGE,
    ),
    "Validation": record(valid=flag("Whether the request would be taken."), request_id=text()),
}

_TRANSLATION = {"request": {"translation": {"target_languages": ["de", "fr"]}}}
_QUESTION = [{"role": "user", "content": "Give me three ideas for the name of a podcast about beekeeping."}]


PAGES: ByOperation = {
    ("llm.models", "GET"): Page(
        tag=LLM,
        summary="List the language models",
        description="The models that the gateway offers, with their prices and regions.",
        answers={200: Answer("The models.", json(ref("ModelList")))},
    ),
    ("llm.chat", "POST"): Page(
        tag=LLM,
        summary="Chat completion",
        description=(
            "Has a language model answer, as OpenAI's API of this name. Any OpenAI client works with this pool's URL "
            "followed by `/v1` as its base URL. With `transcript_id`, `{{ transcript }}` in a message stands for the "
            "transcript's text."
        ),
        body=Body(
            ref("ChatRequest"),
            examples={
                "question": Example(
                    "A question", {"model": "claude-sonnet-5", "messages": _QUESTION, "max_tokens": 200}
                ),
                "streamed": Example("Piece by piece", {"model": "gpt-5", "messages": _QUESTION, "stream": True}),
            },
        ),
        answers={
            200: Answer(
                "The answer; with `stream`, in events that end with `data: [DONE]`.",
                (Body(ref("ChatCompletion")), Body({"description": "Server-sent events."}, "text/event-stream")),
            )
        },
    ),
    ("llm.understanding", "POST"): Page(
        tag=LLM,
        summary="Understand a transcript",
        description="Runs features of speech understanding over a completed transcript of your team's.",
        body=Body(
            {**ref("UnderstandingRequest"), "required": ["transcript_id"]},
            examples={
                "translation": Example(
                    "Into German and French",
                    {
                        "transcript_id": "39487a83-1b6a-4d0b-8c3c-0a6d3f7e5c11",
                        "speech_understanding": _TRANSLATION,
                    },
                )
            },
        ),
        answers={200: Answer("What came of it.", json(ref("Understanding")))},
    ),
    ("llm.understanding_validate", "POST"): Page(
        tag=LLM,
        summary="Check an understanding request",
        description="Tells whether `POST /v1/understanding` would take the same body, and runs nothing.",
        body=Body(
            ref("UnderstandingRequest"),
            examples={"translation": Example("A translation", {"speech_understanding": _TRANSLATION})},
        ),
        answers={200: Answer("It would be taken.", json(ref("Validation")))},
    ),
}

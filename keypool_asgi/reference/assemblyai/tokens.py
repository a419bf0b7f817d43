"""The unified token service (``token.assemblyai.com``), and the token that all services answer with."""

from __future__ import annotations

from keypool_asgi.reference.pages import Answer, Body, Example, Page, Parameter, Schema
from keypool_asgi.reference.schemas import integer, record, ref, text

from .common import TOKENS, ByOperation, json

__all__ = ["EXPIRES", "MINTED", "PAGES", "SCHEMAS", "SESSION"]

_EXPIRES = integer("Seconds within which the token must be used.", 1, 600)
_SESSION = integer("Seconds that a session opened with it may last.", 60, 10_800, default=10_800)

EXPIRES = Parameter(
    "expires_in_seconds", integer("", 1, 600), "Seconds within which the token must be used.", required=True, example=60
)
SESSION = Parameter(
    "max_session_duration_seconds",
    integer("", 60, 10_800, default=10_800),
    "Seconds that a session opened with it may last.",
)
MINTED = {200: Answer("The token.", json(ref("Token")))}

_PRODUCT = text("The product that the token is for, such as `tts`.")
_ABOUT = (
    "A token for one product, to be handed to a browser or a device instead of the team token. It opens sessions until "
    "it expires; it cannot make further tokens."
)
_WHEN = "if the query names a `product`"

SCHEMAS: dict[str, Schema] = {
    "Token": record(
        required=("token",),
        token=text("To open a session with, in `Authorization` or as `?token=`."),
        expires_in_seconds=integer("Seconds within which it must be used.", 1, 600),
    ),
    "TokenRequest": record(
        required=("product", "expires_in_seconds"),
        product=_PRODUCT,
        expires_in_seconds=_EXPIRES,
        max_session_duration_seconds=_SESSION,
        access=record("What the token may be used for, if not for everything that the product offers."),
    ),
}

PAGES: ByOperation = {
    ("tokens.create", "GET"): Page(
        tag=TOKENS,
        summary="Make a temporary token",
        description=_ABOUT,
        parameters=(Parameter("product", _PRODUCT, "The product that the token is for."), EXPIRES, SESSION),
        answers=MINTED,
        when=_WHEN,
    ),
    ("tokens.create", "POST"): Page(
        tag=TOKENS,
        summary="Make a temporary token",
        description=_ABOUT,
        body=Body(
            ref("TokenRequest"),
            examples={"speech": Example("For text to speech", {"product": "tts", "expires_in_seconds": 60})},
        ),
        answers=MINTED,
    ),
}

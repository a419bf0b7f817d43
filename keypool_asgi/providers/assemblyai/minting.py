"""AssemblyAI's requests for temporary tokens: ``GET /v3/token``, the agents' ``GET /v1/token`` and the token service.

The ranges are those of the streaming and agents' API references; the token service documents a ``product`` and
``expires_in_seconds``.
"""

from __future__ import annotations

from keypool_asgi.core.minting import MintRules

__all__ = ["MINT_RULES"]

MINT_RULES = MintRules(
    kind="token",
    window="expires_in_seconds",
    session="max_session_duration_seconds",
    product="product",
    narrowing="access",
    windows=(1, 600),
    sessions=(60, 10_800),
    # A product that is not named here is the token service's to know, and opens no session of ours.
    products={"tts": "tts", "streaming": "streaming", "agents": "agents"},
    product_service="token",
)

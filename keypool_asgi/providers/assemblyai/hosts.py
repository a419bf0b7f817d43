"""AssemblyAI's hosts by region and service."""

from __future__ import annotations

from keypool_asgi.core.messages import Origin

__all__ = ["ORIGINS"]

_HOSTS = {
    "us": {
        "api": "api.assemblyai.com",
        "streaming": "streaming.assemblyai.com",
        "llm_gateway": "llm-gateway.assemblyai.com",
        "sync": "sync.assemblyai.com",
        "dictation": "dictation.assemblyai.com",
        "agents": "agents.assemblyai.com",
        "tts": "tts.us.assemblyai.com",
        "token": "token.assemblyai.com",
    },
    "eu": {
        "api": "api.eu.assemblyai.com",
        "streaming": "streaming.eu.assemblyai.com",
        "llm_gateway": "llm-gateway.eu.assemblyai.com",
        "sync": "sync.eu.assemblyai.com",
        "dictation": "dictation.eu.assemblyai.com",
        "agents": "agents.eu.assemblyai.com",
        "tts": "tts.eu.assemblyai.com",
        "token": "token.eu.assemblyai.com",
    },
}

ORIGINS: dict[str, dict[str, Origin]] = {
    region: {service: Origin("https", host, 443) for service, host in services.items()}
    for region, services in _HOSTS.items()
}
"""Base of each service by region. A key's region decides; nothing that a caller sends can change the host."""

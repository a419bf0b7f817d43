"""A provider as one value: everything the stages need to know about an upstream API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from keypool_asgi.errors import ConfigurationError

from .keys import UpstreamKey
from .listing import ListRules
from .messages import Headers, Origin
from .metering import Metering
from .minting import MintRules
from .operations import Operation, OperationTable
from .ownership import ResourceRules
from .sessions import SessionRules
from .verdicts import Verdict

__all__ = ["OriginOverrides", "Provider"]

OriginOverrides = Mapping[str, str | Mapping[str, str]]
"""Service name to a base URL for every region, or to base URLs by region."""

JudgeAnswer = Callable[[Operation, int, Headers, bytes, float], Verdict]
"""Operation, status, header fields, beginning of the body and Unix time to a verdict on the key."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An upstream API.

    Attributes:
        name: printable name.
        table: its operations.
        origins: base of each service by region, as ``origins[region][service]``.
        suspicious: statuses that may be the key's fault, so that their body's beginning is read before judging.
        judge: what an answer says about the key that it was made with.
        resources: how its resources are named and described.
        lists: how its lists look.
        metering: operation to what it uses up.
        minting: how requests for temporary tokens say what they ask for.
        sessions: service to how its WebSocket sessions begin and end.
    """

    name: str
    table: OperationTable
    origins: Mapping[str, Mapping[str, Origin]]
    suspicious: frozenset[int]
    judge: JudgeAnswer
    resources: ResourceRules
    lists: ListRules
    metering: Mapping[str, Metering]
    minting: MintRules
    sessions: Mapping[str, SessionRules]

    def with_origins(self, overrides: OriginOverrides | None) -> Provider:
        """Return this provider with some services elsewhere, such as on a simulator or a private gateway.

        Raises:
            ConfigurationError: an unknown service or region, or a value that is no base URL.
        """
        if not overrides:
            return self
        origins = {region: dict(services) for region, services in self.origins.items()}
        services = {service for by_service in origins.values() for service in by_service}
        for service, value in overrides.items():
            if service not in services:
                raise ConfigurationError(
                    f"origins: unknown service {service!r}; there are {', '.join(sorted(services))}"
                )
            by_region = dict.fromkeys(origins, value) if isinstance(value, str) else value
            for region, url in by_region.items():
                if region not in origins:
                    raise ConfigurationError(
                        f"origins: unknown region {region!r}; there are {', '.join(sorted(origins))}"
                    )
                origins[region][service] = Origin.parse(url)
        return replace(self, origins=origins)

    def check_key(self, key: UpstreamKey) -> None:
        """Raise ConfigurationError when a key's region has no hosts here."""
        if key.region not in self.origins:
            raise ConfigurationError(
                f"UpstreamKey {key.id!r}: unknown region {key.region!r}; there are {', '.join(sorted(self.origins))}"
            )

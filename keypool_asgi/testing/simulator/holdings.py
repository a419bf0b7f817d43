"""The part of the simulator that says who its customers are: accounts, projects, keys, tokens, and their limits."""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Mapping
from typing import Literal

from .routes import REGIONS
from .server import Settings
from .values import Service
from .world import Account, Key, Project, Throttle, Token, World

__all__ = ["Holdings"]


class Holdings:
    """Accounts, projects and keys. Every method may be called from any thread.

    Attributes:
        settings: conduct of the server; may be changed while it runs.
    """

    settings: Settings

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.RLock()

    @property
    def key(self) -> str:
        """The secret of the first key."""
        with self._lock:
            return next(iter(self._world.keys))

    def add_account(
        self,
        name: str,
        *,
        region: str = "us",
        balance: float = 100.0,
        free: bool = False,
        rate_limit: tuple[int, float] | None = None,
    ) -> Account:
        """Add an account; ``balance`` is in dollars, ``rate_limit`` is requests in so many seconds."""
        if region not in REGIONS:
            raise ValueError(f"region is {region!r}, one of {REGIONS} is expected")
        with self._lock:
            self._new(name, self._world.accounts)
            account = self._world.accounts[name] = Account(name, region, balance, free, rate_limit=rate_limit)
            return account

    def add_project(self, name: str, *, account: str) -> Project:
        """Add a project to an account."""
        with self._lock:
            self._new(name, self._world.projects)
            project = self._world.projects[name] = Project(name, self._world.accounts[account])
            return project

    def add_key(self, secret: str | None = None, *, project: str) -> str:
        """Add a key to a project; returns its secret, which is made up if it is not given."""
        secret = secret or uuid.uuid4().hex
        with self._lock:
            self._new(secret, self._world.keys)
            self._world.keys[secret] = Key(secret, self._world.projects[project])
        return secret

    def revoke_key(self, secret: str) -> None:
        """Have a key refused from now on."""
        with self._lock:
            self._world.keys[secret].revoked = True

    def restore_key(self, secret: str) -> None:
        """Have a revoked key accepted again."""
        with self._lock:
            self._world.keys[secret].revoked = False

    def set_balance(self, account: str, balance: float) -> None:
        """Put an account out of funds (below zero), or top it up."""
        with self._lock:
            self._world.accounts[account].balance = balance

    def throttle(
        self,
        account: str,
        *,
        status: Literal[429, 403] = 429,
        retry_after: float | None = 1.0,
        http_date: bool = False,
        error: str = "Too Many Requests",
        service: Service | None = None,
    ) -> None:
        """Refuse an account for sending too much, until ``unthrottle``; the arguments are those of ``Throttle``."""
        with self._lock:
            self._world.accounts[account].throttle = Throttle(status, retry_after, http_date, error, service)

    def unthrottle(self, account: str) -> None:
        """Accept an account's requests again."""
        with self._lock:
            self._world.accounts[account].throttle = None

    def disable_account(self, account: str, *, disabled: bool = True) -> None:
        """Have all keys of an account refused, or accepted again."""
        with self._lock:
            self._world.accounts[account].disabled = disabled

    def limit_sessions(self, account: str, *, at_once: int | None = None, per_minute: int | None = None) -> None:
        """Limit an account's sessions over WebSocket; without arguments the limits are taken away."""
        with self._lock:
            owner = self._world.accounts[account]
            owner.sessions_at_once, owner.sessions_per_minute = at_once, per_minute

    def add_token(
        self,
        key: str | None = None,
        *,
        service: Service = "streaming",
        expires_in: float = 60.0,
        max_session_seconds: int = 10_800,
    ) -> str:
        """Mint a temporary token with a key (the first one), as ``GET /v3/token`` would; times are in seconds."""
        with self._lock:
            owner = self._world.keys[self.key if key is None else key]
            expires = self.settings.clock() + expires_in
            token = Token(secrets.token_urlsafe(32), owner, service, expires, max_session_seconds)
            self._world.tokens[token.value] = token
            return token.value

    @property
    def tokens(self) -> list[Token]:
        """Every temporary token that was minted, oldest first."""
        with self._lock:
            return list(self._world.tokens.values())

    @staticmethod
    def _new(name: str, known: Mapping[str, object]) -> None:
        if name in known:
            raise ValueError("there is one of that name already")

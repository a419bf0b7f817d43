"""The FastAPI example: over real sockets, with the official SDK, its keys and teams in a real SQLite file."""

from __future__ import annotations

import io
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import assemblyai
import httpx
import pytest
from harness import need, secret, serve, token

from keypool_asgi import ExchangeRecord
from keypool_asgi.testing import Simulator, silence_wav

from .conftest import DEAD, GOOD, SPARE  # isort: skip

need("fastapi")
from examples.fastapi_app.app import create_app  # noqa: E402
from examples.fastapi_app.manage import main, seed  # noqa: E402
from examples.fastapi_app.store import Store  # noqa: E402

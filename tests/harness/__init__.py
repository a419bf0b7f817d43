"""What the tests share: real servers, hosts, the leak guard, and small tools.

::

    from harness import HOSTS, SERVERS, need, raw_http, run, secret, serve, token

    with serve(app, "hypercorn") as served:
        httpx.get(served.url + "/hello")
"""

from __future__ import annotations

from .hosts import HOSTS, Hosted
from .leaks import guard, secret, token
from .servers import SERVERS, SOCKET_SERVERS, Served, free_port, serve
from .tools import RawConnection, need, raw_http, run, tasks_left, uncollected

__all__ = [
    "HOSTS",
    "SERVERS",
    "SOCKET_SERVERS",
    "Hosted",
    "RawConnection",
    "Served",
    "free_port",
    "guard",
    "need",
    "raw_http",
    "run",
    "secret",
    "serve",
    "tasks_left",
    "token",
    "uncollected",
]

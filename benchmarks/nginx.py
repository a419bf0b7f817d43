"""nginx as the upstream of small answers and as the proxy to compare with, where it is installed. One process each."""

from __future__ import annotations

import shutil

from .answers import SMALL_ANSWER

__all__ = ["installed", "proxy", "stub"]

_FRAME = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log crit;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 100000000; keepalive_timeout 120s; client_max_body_size 0; tcp_nodelay on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  %s
}
"""

_STUB = "server { listen 127.0.0.1:{port} backlog=1024; default_type application/json; return 200 '%s'; }"

_PROXY = """
  upstream up { server 127.0.0.1:%d; keepalive 1024; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:{port} backlog=1024;
    location /v1/assemblyai/ {
      proxy_pass http://up/; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host api;
      proxy_request_buffering off; proxy_buffering off; proxy_read_timeout 300s; proxy_send_timeout 300s;
    }
  }
"""


def installed() -> bool:
    """Whether there is an nginx here."""
    return bool(shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin"))


def stub() -> str:
    """Answer everything with the small answer."""
    return _FRAME % (_STUB % SMALL_ANSWER.decode("ascii"))


def proxy(upstream_port: int) -> str:
    """Pass everything on, unbuffered, without the prefix."""
    return _FRAME % (_PROXY % upstream_port)

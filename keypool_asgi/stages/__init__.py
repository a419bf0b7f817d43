"""The stages, in the order that a request passes them.

Intercept, gate, auth, quota, ownership, lists, key selector, forwarder.

Each is a plain ASGI middleware: ``app`` first, everything else keyword-only. Other middleware may stand between them.
"""

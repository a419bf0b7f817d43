"""Runnable examples: ``fastapi_app``, ``litestar_app``, and the demo, ``python -m examples.demo``."""

"""The whole suite runs under the leak guard (see ``harness.leaks``)."""

from harness.plugin import (  # noqa: F401 - pytest finds hooks and fixtures by their names in this module
    _no_leaks,
    pytest_sessionfinish,
    pytest_sessionstart,
    pytest_terminal_summary,
)

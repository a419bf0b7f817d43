"""What ``keypool check`` does: ask upstream about every key, and compare that with what is declared.

::

    UpstreamKey, ... ─> questions (what is asked, and how) ─> survey (all of it) ─> Findings ─> findings (problems)
"""

from __future__ import annotations

from .findings import Findings, Funds, KeySight, Problem, Standing, problems
from .survey import survey

__all__ = ["Findings", "Funds", "KeySight", "Problem", "Standing", "problems", "survey"]

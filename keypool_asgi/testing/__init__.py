"""For users' own tests: AssemblyAI simulated over real sockets, and small recordings.

The pytest plugin (``keypool_asgi.testing.plugin``) offers it as the fixture ``assemblyai_simulator``.
"""

from __future__ import annotations

from .audio import silence_wav, tone_wav, wav_seconds
from .simulator.facade import Simulator
from .simulator.faults import MALFORMED, Break, Fault, Rule, Stall, Zeros
from .simulator.records import Recorded
from .simulator.server import Settings
from .simulator.sockets.faults import INVALID_FRAMES, SocketFault
from .simulator.sockets.sessions import Session
from .simulator.values import Reply
from .simulator.world import Account, BillLine, ForeignRequest, Key, Project, Throttle, Token, Transcript, Upload

__all__ = [
    "INVALID_FRAMES",
    "MALFORMED",
    "Account",
    "BillLine",
    "Break",
    "Fault",
    "ForeignRequest",
    "Key",
    "Project",
    "Recorded",
    "Reply",
    "Rule",
    "Session",
    "Settings",
    "Simulator",
    "SocketFault",
    "Stall",
    "Throttle",
    "Token",
    "Transcript",
    "Upload",
    "Zeros",
    "silence_wav",
    "tone_wav",
    "wav_seconds",
]

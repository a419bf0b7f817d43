"""Sessions over WebSocket: streaming transcription, speech, voice agents, and an echo for tests of a relay.

``faults`` and ``sessions`` are what users see; ``frames`` and the services (``streaming``, ``voices``, ``speaking``,
``echo``: each a ``Dialogue``) do no I/O; ``upgrade`` and ``socket`` are the shell around them.
"""

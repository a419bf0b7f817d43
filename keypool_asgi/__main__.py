"""``python -m keypool_asgi`` is ``keypool``."""

import sys

from keypool_asgi.cli import main

sys.exit(main())

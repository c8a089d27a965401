"""Users of FLUX for any Locust run: locust -f loadtest/locustfile.py --headless --users 16 --host http://localhost:8000"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # Locust may be started anywhere

from loadtest.sending.users import FluxUser
from loadtest.sending.wiring import install

__all__ = ["FluxUser"]

install()

"""Importing this makes importable what flux_unary shares with flux, and is written there."""

from __future__ import annotations

import sys
from pathlib import Path

FLUX = Path(__file__).resolve().parents[2] / "flux" / "1"

if not FLUX.is_dir():
    raise ImportError(f"flux_unary needs what it shares with flux, which is not at {FLUX}: keep both in one folder")
sys.path.append(str(FLUX))

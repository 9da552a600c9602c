"""Where the software keeps what it has computed once."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Where trained weights are kept between runs; it need not exist.

    ``build/cache`` of a checkout, which is ignored and which ``make clean`` removes; of an
    installed package ``atreides`` in the user's cache.
    """
    root = Path(__file__).resolve().parent.parent
    if (root / "pyproject.toml").is_file():
        return root / "build" / "cache"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "atreides"

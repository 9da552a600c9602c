"""Where the software keeps what it has computed once, and where files can be put."""

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


def check_place(path: Path) -> None:
    """Refuse, before any work, a path where nothing can be made; folders above it may be missing.

    Raises
    ------
    ValueError
        If the nearest folder above it that is there is a file, or cannot be written to.
    """
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"{path} must be in a folder that can be written to, not in {place}")

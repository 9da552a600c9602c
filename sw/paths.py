"""Where the software keeps what it has computed once, and where files can be put."""

from __future__ import annotations

import os
import tempfile
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


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, by making one: permissions do not tell of them all.

    A disk that is read-only refuses files in folders whose permissions allow them; so does
    ``/proc``.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


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
    if not is_writable(place):
        raise ValueError(f"{path} must be in a folder that can be written to, not in {place}")


def check_folder(path: Path) -> None:
    """Refuse, before any work, a path where no folder for outputs is or can be made.

    Raises
    ------
    ValueError
        If it is a file, or it, or the nearest folder above it, cannot be written to.
    """
    if not path.exists():
        check_place(path)
    elif not path.is_dir():
        raise ValueError(f"{path} must be a folder, not a file")
    elif not is_writable(path):
        raise ValueError(f"{path} must be a folder that can be written to")


def check_file(path: Path) -> None:
    """Refuse, before any work, a path where no file is or can be made that can be written to.

    Raises
    ------
    ValueError
        If it is a folder or read-only, or lies in no folder that can be written to.
    """
    if path.is_dir():
        raise ValueError(f"{path} must be a file, not a folder")
    check_place(path)
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} must be a file that can be written to, not read-only")

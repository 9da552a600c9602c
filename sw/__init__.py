"""Software side of Atreides: the number format, its models, and what is built on them.

``sw.compile``, ``sw.load`` and ``sw.Session`` are the way of a network to the array; they are
imported when they are first used.
"""

from __future__ import annotations

from typing import Any

_LAZY = {
    "compile": ("sw.compiler.compile", "compile"),
    "load": ("sw.runtime.artefact", "load"),
    "Session": ("sw.runtime.session", "Session"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sw' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)

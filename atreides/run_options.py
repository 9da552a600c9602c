"""How a network is run: back ends and what goes together with each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sw.link import BAUD

BOARD: Final = "board"
RTL: Final = ("amaranth", "icarus", "verilator")
BACK_ENDS: Final = ("tensor", "model", *RTL, BOARD)


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How to run a network: see ``atreides run --help``."""

    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    backend: str = "tensor"
    check: str | None = None
    report: Path | None = None
    stalls: int | None = None
    max_cycles: int = 1 << 40
    trace: Path | None = None
    trace_from: int = 0
    trace_to: int = 1 << 62
    port: str | None = None
    baud: int = BAUD
    build: str | None = None


def check_options(options: NetworkOptions) -> None:
    """Refuse what does not go together, as ValueError."""
    for name in (options.backend, *([options.check] if options.check else [])):
        if name not in BACK_ENDS:
            raise ValueError(f"backend must be one of {', '.join(BACK_ENDS)}, not {name!r}")
    if options.check == options.backend:
        raise ValueError(f"check must be another back end than {options.backend!r}")
    if options.backend not in RTL:
        given = {"stalls": options.stalls is not None, "trace": options.trace is not None}
        for name in (name for name, there in given.items() if there):
            raise ValueError(f"--{name} must have an RTL backend, not {options.backend!r}")
    for name, value in (("port", options.port), ("bitstream", options.build)):
        if value is not None and BOARD not in (options.backend, options.check):
            raise ValueError(f"--{name} must have the backend board, not {options.backend!r}")
    if options.trace is not None and options.backend != "verilator":
        raise ValueError(f"--trace of a network must have verilator, not {options.backend!r}")

"""Synthesis for the fit model: arrays alone, machines without them, machines as they are built."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import random
import re
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from amaranth.back import rtlil
from amaranth.lib import wiring

from atreides.build import Job
from bench.hardware_units import write_whole
from hw.array import SystolicArray
from hw.board_flow import choose_clock, first_goal
from hw.board_tools import SYNTHESIS
from hw.board_top import CheckedMachine
from hw.boards import find_board
from hw.fit_census import self_test_bytes
from hw.fit_placer import LOGIC_CELLS, placed_tables
from hw.memory_attributes import PASSES
from hw.multiplier import DSP, OPERATOR
from hw.synthesis import run_passes
from sw.config import MachineConfig
from sw.link import BUILD_BYTES, DEFAULT_LIMIT, FLAG, Greeting

KINDS: Final = ("array", "rest", "whole")
#: How cells are counted: another number where that changes.
COUNTED: Final = 1
#: The board whose builds a family's whole machines are: a large one, for nothing is placed.
BOARD: Final = {"ecp5": "ulx3s-85f", "ice40": "ice40-hx8k-evn", "gowin": "tang-primer-20k"}
#: Options of Yosys' command, by family.
OPTIONS: Final = {"ecp5": "", "ice40": "", "gowin": "-family gw2a"}
_TOP: Final = "unit"
_ROOT: Final = Path(__file__).parent.parent
_PACKAGES: Final = ("amaranth", "pyosys")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What synthesis found.

    Parameters
    ----------
    kind : {"array", "rest", "whole"}
        An array alone; a board's machine without its array, and with it as it is built.
    config : MachineConfig
    cells : dict
        Primitives by type.
    """

    kind: str
    config: MachineConfig
    cells: dict[str, int]


@dataclass(frozen=True, slots=True)
class Store:
    """Synthesises what it has not synthesised before.

    A result is kept twice: by the design's own text, so that a change of the source that changes no
    design costs no synthesis, and by all of the source, so that no text need be made to find it.

    Parameters
    ----------
    folder : Path
        One JSON file per synthesis and key.
    """

    folder: Path

    def write(self, path: Path, text: str) -> None:
        """Write a file whole or not at all."""
        write_whole(path, text)

    def path(self, *facts: object) -> Path:
        """Where a measurement is kept, by all that decides it."""
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.json"

    def measure(self, family: str, kind: str, config: MachineConfig) -> Measurement:
        """One measurement, made unless it is there; SynthesisError if a tool fails."""
        path = self.path(family, kind, json.dumps(asdict(config), sort_keys=True), source_hash())
        if not path.exists():
            text = rtlil.convert(component(kind, config, family), name=_TOP, emit_src=False)
            facts = (COUNTED, OPTIONS[family], SYNTHESIS[family], PASSES, _version(), family, kind)
            designed = self.path(*facts, text)
            if not designed.exists():
                cells = synthesise(text, family, kind)
                told = {"family": family, "kind": kind, "config": asdict(config), "cells": cells}
                write_whole(designed, json.dumps(told) + "\n")
            write_whole(path, designed.read_text())
        return Measurement(kind, config, json.loads(path.read_text())["cells"])


def _version() -> str:
    return importlib.metadata.version("pyosys")


class _Unnamed(Job):
    """A build whose name follows from its machine: a change of the source changes no bit of it."""

    def identity(self, hertz: int) -> str:
        """As many digits as of a build."""
        return hashlib.sha256(repr(self.config).encode()).hexdigest()[: 2 * BUILD_BYTES]


@cache
def source_hash() -> str:
    """Of what hardware is made from; the fit model itself is no part of it."""
    digest = hashlib.sha256()
    for folder in ("hw", "sw"):
        for path in sorted(_ROOT.joinpath(folder).glob("*.py")):
            if not path.name.startswith("fit"):
                digest.update(path.read_bytes())
    for path in sorted(_ROOT.joinpath("hw").glob("*.json")):
        if not path.name.startswith("fit"):
            digest.update(path.read_bytes())
    for package in _PACKAGES:
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()


def component(kind: str, config: MachineConfig, family: str) -> wiring.Component:
    """What is synthesised."""
    board = find_board(BOARD[family])
    target = board.device.target
    if kind == "array":
        return SystolicArray(
            *(config.format, config.rows, config.columns, config.max_terms),
            *(config.multiplier, target),
        )
    if kind == "whole":
        job = _Unnamed(board, config, Path())
        return job.top(choose_clock(board, first_goal(board), job.baud))
    if config.multiplier != DSP:
        config = replace(config, multiplier=OPERATOR)  # the array is left out
    # The line's speed, the build's name and the test's bytes change next to nothing.
    greeting = Greeting(config, 25_000_000, DEFAULT_LIMIT, "00" * BUILD_BYTES)
    plain = [byte for byte in range(256) if byte != FLAG]
    noise = random.Random(1).choices(plain, k=self_test_bytes(config) - 2)
    test = bytes([FLAG, *noise, FLAG])
    return CheckedMachine(greeting, 217, [test], [test], target=target)


def synthesise(text: str, family: str, kind: str) -> dict[str, int]:
    """Primitives by type."""
    left = re.findall(r"^module \\(\S+\.array)$", text, re.MULTILINE) if kind == "rest" else []
    if kind == "rest" and len(left) != 1:
        raise ValueError(f"a machine must have one array, not {left!r}")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "source.il").write_text(text)
        run_passes(
            [
                f"read_rtlil {folder}/source.il",
                f"hierarchy -top {_TOP}",
                *(f"blackbox {module}" for module in left),
                *PASSES,
                f"{SYNTHESIS[family]} {OPTIONS[family]} -top {_TOP} -json {folder}/netlist.json",
            ]
        )
        module = json.loads((folder / "netlist.json").read_text())["modules"][_TOP]
    types = [cell["type"] for cell in module["cells"].values()]
    found = Counter(name for name in types if re.fullmatch(r"[A-Z0-9_]+", name))
    found[LOGIC_CELLS] = placed_tables(family, module)
    return dict(sorted(found.items()))

"""What random programs have exercised: opcodes, shapes, flags, modes, destinations and faults."""

from __future__ import annotations

import itertools
from collections import Counter as Tally
from collections.abc import Iterator

from sim.machine_job import Job
from sw.checks import Gemm, initial_state
from sw.config import MachineConfig
from sw.isa import Destination, Fault, Flag, Function, Instruction, Opcode, decode_at
from sw.machine_report import Report
from sw.registers import AMode, BMode, Register

#: A bin: the kind of cross, and one value of each of its parts.
Bin = tuple[str, ...]
_TILE = (Opcode.LDR, Opcode.LDC, Opcode.STR)
_SIDES = ("one", "part", "full")
_MANY = (*_SIDES, "ragged", "multiple")


class Coverage:
    """Counts how often each bin was hit.

    Bins are the crosses opcode x fault, tile instruction x rows x columns, product x destination x
    activation x flags, and product x modes x M x N x K. Counted are instructions that took effect,
    and the one that stopped the program.

    Parameters
    ----------
    config : MachineConfig
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.hits: Tally[Bin] = Tally()
        self.instructions = 0

    def observe(self, job: Job, report: Report) -> None:
        """Add what a program has executed, as the model reports it."""
        state, counter = initial_state(self.config), 0
        while counter < report.counter:
            instruction, length = decode_at(job.words, counter, self.config)
            assert instruction is not None
            self.hits.update(self._bins(instruction, state.registers))
            after = state.after(instruction, self.config)
            assert not isinstance(after, Fault)
            state, counter = after, counter + length
            self.instructions += 1
        if report.fault:
            opcode = job.words[counter] >> 12
            self.hits["fault", str(opcode), report.fault.name] += 1

    def _bins(self, instruction: Instruction, registers: object) -> Iterator[Bin]:
        opcode = instruction.opcode
        yield ("opcode", opcode.name)
        if opcode in _TILE:
            rows, columns = instruction.operands[1:]
            yield (
                *("tile", opcode.name),
                _size(rows, self._side(self.config.rows)),
                _size(columns, self._side(self.config.columns)),
            )
        elif opcode in (Opcode.GEMM, Opcode.ADD):
            gemm = Gemm(instruction, registers, self.config)  # type: ignore[arg-type]
            destination, function, flags = instruction.operands
            names = Destination(destination).name, Function(function).name, str(flags)
            yield ("flags", opcode.name, *names)
            inner = "nested" if gemm[Register.K1] * gemm[Register.K2] > 1 else "run"
            yield (
                *("shape", AMode(gemm[Register.A_MODE]).name, BMode(gemm.b_mode).name),
                *(_size(gemm.rows, self.config.rows), _size(gemm.columns, self.config.columns)),
                inner,
            )
            yield ("inner", _size(gemm[Register.K0], self.config.vector), inner)

    def _side(self, side: int) -> int:
        return min(16, side)

    def bins(self) -> set[Bin]:
        """All bins but those of faults: what a long enough run hits."""
        config = self.config
        sides = [_sizes(self._side(s), _SIDES) for s in (config.rows, config.columns)]
        found: set[Bin] = {("opcode", opcode.name) for opcode in Opcode}
        found |= {
            ("tile", o.name, *s) for o, s in itertools.product(_TILE, itertools.product(*sides))
        }
        found |= set(self._flag_bins())
        many = [_sizes(s, _MANY) for s in (config.rows, config.columns)]
        inner = ("run", "nested")
        modes = itertools.product((m.name for m in AMode), (m.name for m in BMode))
        for mode in modes:
            found |= {("shape", *mode, *shape) for shape in itertools.product(*many, inner)}
        found |= {("inner", s, i) for s in _sizes(config.vector, _MANY) for i in inner}
        return found

    def _flag_bins(self) -> Iterator[Bin]:
        scale = Flag.COLUMN | Flag.ROW
        for destination, function in itertools.product(Destination, Function):
            if function == Function.TABLE and not self.config.table:
                continue
            if destination == Destination.EXACT and function != Function.LINEAR:
                continue
            for flags in range(16):
                block = flags & Flag.BLOCK
                if block and (not self.config.blocks or flags & scale != scale):
                    continue
                names = (destination.name, function.name, str(flags))
                yield ("flags", "GEMM", *names)
                if not flags & (Flag.BLOCK | Flag.SKIP):
                    yield ("flags", "ADD", *names)

    def missing(self) -> list[Bin]:
        """Bins that were not hit."""
        return sorted(self.bins() - set(self.hits))

    def faults(self) -> set[str]:
        """Names of the faults that programs stopped at."""
        return {found[2] for found in self.hits if found[0] == "fault"}

    def report(self) -> str:
        """How many bins of each kind were hit, and the faults seen."""
        bins, missing = self.bins(), set(self.missing())
        lines = []
        for kind in sorted({b[0] for b in bins}):
            wanted = [b for b in bins if b[0] == kind]
            hit = sum(b not in missing for b in wanted)
            lines.append(f"{kind}: {hit} of {len(wanted)} bins")
        lines.append(f"faults: {', '.join(sorted(self.faults())) or 'none'}")
        return "\n".join(lines)


def _size(count: int, side: int) -> str:
    """How a size lies to a side of the array."""
    if count >= side:
        if count == side:
            return "full"
        return "ragged" if count % side else "multiple"
    return "one" if count == 1 else "part"


def _sizes(side: int, names: tuple[str, ...]) -> list[str]:
    """What :func:`_size` can say for a side."""
    impossible = {1: ("one", "part", "ragged"), 2: ("part",)}.get(side, ())
    return [name for name in names if name not in impossible]

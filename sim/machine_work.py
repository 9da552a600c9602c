"""How long a program of the machine is, from its words alone."""

from __future__ import annotations

from collections.abc import Sequence

from sw.checks import Gemm, initial_state
from sw.config import MachineConfig
from sw.isa import Fault, Opcode, decode_at
from sw.registers import Register


def slices(words: Sequence[int], config: MachineConfig) -> int:
    """Slices that the array takes for a program's products, before any is skipped.

    A tile of a GEMM counts as many as there are in K, or as the array has rows if these are more.

    Parameters
    ----------
    words : sequence of int
    config : MachineConfig
    """
    state, counter, found = initial_state(config), 0, 0
    while counter < len(words):
        instruction, length = decode_at(words, counter, config)
        after = state.after(instruction, config)
        if isinstance(after, Fault) or instruction is None or instruction.opcode == Opcode.HALT:
            break
        if instruction.opcode in (Opcode.GEMM, Opcode.ADD):
            found += _slices(Gemm(instruction, state.registers, config))
        if instruction.opcode == Opcode.MATMUL and state.row_buffer is not None:
            found += state.row_buffer[1]
        state, counter = after, counter + length
    return found


def _slices(gemm: Gemm) -> int:
    tiles = gemm[Register.G] * gemm[Register.NT] * -(-gemm.rows // gemm.config.rows)
    return tiles * max(gemm.inner, gemm.config.rows)

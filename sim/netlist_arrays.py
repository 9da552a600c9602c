"""A netlist on numpy arrays, 64 vectors to a word: a million vectors in a second or two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.netlist import GATES, Netlist

Words = NDArray[np.uint64]
_FUNCTIONS: Final[dict[str, Callable[..., Words]]] = {
    "$_BUF_": lambda a: a,
    "$_NOT_": lambda a: ~a,
    "$_AND_": lambda a, b: a & b,
    "$_NAND_": lambda a, b: ~(a & b),
    "$_OR_": lambda a, b: a | b,
    "$_NOR_": lambda a, b: ~(a | b),
    "$_XOR_": lambda a, b: a ^ b,
    "$_XNOR_": lambda a, b: ~(a ^ b),
    "$_ANDNOT_": lambda a, b: a & ~b,
    "$_ORNOT_": lambda a, b: a | ~b,
    "$_MUX_": lambda a, b, s: (a & ~s) | (b & s),
}
assert set(_FUNCTIONS) == set(GATES)


def evaluate_arrays(netlist: Netlist, vectors: Mapping[str, Words]) -> dict[str, Words]:
    """The outputs of a netlist without registers for any number of vectors.

    Parameters
    ----------
    netlist : Netlist
    vectors : mapping of str to array of uint64
        Equally many values for every input, of at most 64 bits each.

    Returns
    -------
    dict of str to array of uint64

    Raises
    ------
    ValueError
        If the netlist has registers, or the inputs are not the netlist's or not equally long.
    """
    if netlist.registers:
        raise ValueError(f"netlist must have no registers, not {len(netlist.registers)}")
    if set(vectors) != set(netlist.inputs):
        raise ValueError(f"inputs must be {sorted(netlist.inputs)}, not {sorted(vectors)}")
    lengths = {len(values) for values in vectors.values()}
    if len(lengths) != 1:
        raise ValueError(f"inputs must be equally long, not {sorted(lengths)}")
    (count,) = lengths
    blocks = -(-count // 64)
    nets = {0: np.zeros(blocks, np.uint64), 1: ~np.zeros(blocks, np.uint64)}
    for name, bits in netlist.inputs.items():
        for position, net in enumerate(bits):
            column = (vectors[name] >> np.uint64(position)) & np.uint64(1)
            nets[net] = _pack(column.astype(bool), blocks)
    for gate in netlist.gates:
        nets[gate.output] = _FUNCTIONS[gate.kind](*(nets[net] for net in gate.inputs))
    found = {}
    for name, bits in netlist.outputs.items():
        values = np.zeros(count, np.uint64)
        for position, net in enumerate(bits):
            column = np.unpackbits(nets[net].view(np.uint8), count=count, bitorder="little")
            values |= column.astype(np.uint64) << np.uint64(position)
        found[name] = values
    return found


def _pack(column: NDArray[np.bool_], blocks: int) -> Words:
    packed = np.zeros(8 * blocks, np.uint8)
    found = np.packbits(column, bitorder="little")
    packed[: len(found)] = found
    return packed.view(np.uint64)

"""The result of a GEMM by tensors: gathered operands, an exact product, one drain."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sw.activation import (
    SEGMENT_BITS,
    SEGMENTS,
    TABLE_BITS,
    TABLE_LIMIT,
    VALUE_FRACTION_BITS,
)
from sw.config import MachineConfig
from sw.drain import LIMB_BITS, BlockAccumulator, drain
from sw.format import Activation, SFx
from sw.isa import Destination, Flag, Function
from sw.machine_counts import Counts, count_operands, issued_slices
from sw.machine_gemm import Walk
from sw.machine_operands import ResultRows, a_words, b_words, order_rows
from sw.machine_state import Parameters, Scaling, TileMemory
from sw.matmul import multiply, multiply_blocks
from sw.scale import BLOCK
from sw.words import operands

#: A BlockAccumulator holds this many bits: two limbs, the high one in int64.
_HELD_BITS = 64 + LIMB_BITS


def gemm_rows(walk: Walk, memory: TileMemory, parameters: Parameters) -> tuple[ResultRows, Counts]:
    """All rows of a GEMM's result, and what its operands count for."""
    parts = []
    counts = Counts()
    for batch in range(walk["G"]):
        issued = issued_slices(walk, memory.zero_segments, batch)
        scaling = parameters.scaling(walk, batch)
        # Column tiles with one and the same A are one product.
        step = walk.tiles if walk["A_N"] == 0 else 1
        result: NDArray[Any] = np.empty((walk.rows, walk.columns), dtype=_dtype(walk))
        for first in range(0, walk.tiles, step):
            a = a_words(memory.words, walk, batch, first)
            b = b_words(memory.words, walk, memory.config.format, batch, first, step)
            start = first * walk.lanes
            columns = slice(start, start + b.shape[1])
            result[:, columns] = _product(a, b, walk, scaling, columns)
            counts += count_operands(a, b, walk, issued[first : first + step], memory.config.format)
        parts.append(order_rows(result, walk, batch))
    rows = ResultRows(
        np.concatenate([part.words for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.addresses for part in parts]),
    )
    return rows, counts


def drain_sums(sums: NDArray[np.int64], relu: bool, config: MachineConfig) -> NDArray[Any]:
    """The words of a base RELU or LIN."""
    activation: Activation = "relu" if relu else "linear"
    words: NDArray[Any] = drain(
        torch.from_numpy(sums), config.format, activation=activation, rounding=config.rounding
    ).numpy()
    return words


def exact_product(a: NDArray[Any], b: NDArray[Any], format: SFx) -> NDArray[np.int64]:
    """The sums of a base MATMUL."""
    return multiply(_tensor(a), _tensor(b), format, format).numpy()


def _dtype(walk: Walk) -> type:
    if walk.destination == Destination.EXACT:
        return object if walk.has(Flag.BLOCK) else np.int64
    return np.int64


def _product(
    a: NDArray[Any], b: NDArray[Any], walk: Walk, scaling: Scaling, columns: slice
) -> NDArray[Any]:
    """Words or exact sums ``[M, lanes]`` of some columns of one batch."""
    config = walk.gemm.config
    sums: torch.Tensor | BlockAccumulator
    if walk.has(Flag.BLOCK):
        sums = _block_sums(a, b, config, scaling, columns)
        if walk.destination == Destination.EXACT:
            high, low = sums.high.numpy().astype(object), sums.low.numpy().astype(object)
            exact: NDArray[Any] = high * (1 << LIMB_BITS) + low
            return exact
    else:
        sums = multiply(_tensor(a), _tensor(b), config.format, config.format)
        if walk.destination == Destination.EXACT:
            return sums.numpy()
    return _drain(sums, walk, scaling, columns)


def _block_sums(
    a: NDArray[Any], b: NDArray[Any], config: MachineConfig, scaling: Scaling, columns: slice
) -> BlockAccumulator:
    """Sums of lifted block sums, modulo ``2**aligned_bits`` as the aligner holds them."""
    row = torch.from_numpy(-scaling.row_lifts)
    column = torch.from_numpy(-scaling.column_lifts[:, columns])
    f = config.format
    sums = multiply_blocks(_tensor(a), _tensor(b), f, f, BLOCK, row, column)
    least = -(sums.row_shift[:, None] + sums.column_shift[None, :])
    # multiply_blocks aligns to the least lift, the machine to lift 0.
    low = sums.low << least  # at most 62 bits
    high = (sums.high << least) + (low >> LIMB_BITS)
    # Sums beyond the aligner's width, which only a host that breaks the rule makes, wrap.
    over = _HELD_BITS - config.aligned_bits
    high = (high << over) >> over
    shift = torch.from_numpy(scaling.row_shifts), torch.from_numpy(scaling.column_shifts[columns])
    return BlockAccumulator(high, low & ((1 << LIMB_BITS) - 1), *shift)


def _drain(
    sums: torch.Tensor | BlockAccumulator, walk: Walk, scaling: Scaling, columns: slice
) -> NDArray[Any]:
    config = walk.gemm.config
    output = config.format if walk.destination == Destination.MEMORY else config.output
    shifts: dict[str, Any] = {}
    if not isinstance(sums, BlockAccumulator):
        shifts = {
            "row_shift": torch.from_numpy(scaling.row_shifts),
            "column_shift": torch.from_numpy(scaling.column_shifts[columns]),
        }
    table = walk.function == Function.TABLE
    words: NDArray[Any] = drain(
        sums,
        config.format,
        **shifts,
        bias=torch.from_numpy(scaling.biases[columns]),
        bias_format=config.bias_format,
        activation="relu" if walk.function in (Function.RELU, Function.CLAMP) else "linear",
        rounding=config.rounding,
        output=SFx(TABLE_BITS, config.unity) if table else output,
    ).numpy()
    if walk.function == Function.CLAMP:
        limit = max(config.format.decode(scaling.limit), config.format.decode(0))
        # Encoding is monotonic, and words that are not negative are ordered as their values.
        most = words.dtype.type(output.encode(limit, config.rounding))
        return np.asarray(np.minimum(words, most))
    return _apply_table(words, scaling, config, output) if table else words


def _apply_table(
    words: NDArray[Any], scaling: Scaling, config: MachineConfig, output: SFx
) -> NDArray[Any]:
    """:meth:`sw.activation.Table.value` of SF16 words, encoded."""
    argument = SFx(TABLE_BITS, config.unity)
    z = operands(torch.from_numpy(words), argument).to(torch.int64)
    distance = z + TABLE_LIMIT
    segment = (distance >> SEGMENT_BITS).clamp(max=SEGMENTS - 1)
    starts = torch.tensor(scaling.table.starts, dtype=torch.int64)
    slopes = torch.tensor(scaling.table.slopes, dtype=torch.int64)
    start = starts[segment] << SEGMENT_BITS
    value = start + slopes[segment] * (distance - (segment << SEGMENT_BITS))
    half = SFx(VALUE_FRACTION_BITS // 2 + 1, config.unity)  # value has the units of its products
    encoded: NDArray[Any] = drain(value, half, rounding=config.rounding, output=output).numpy()
    return encoded


def _tensor(words: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(words))

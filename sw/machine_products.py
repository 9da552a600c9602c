"""The result of a GEMM by tensors: gathered operands, an exact product, one drain."""

from __future__ import annotations

from typing import Any, Final

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
from sw.matmul import matmul, multiply, multiply_blocks
from sw.scale import BLOCK
from sw.words import operands

_INT64_BITS: Final = 64
#: Words of A that are gathered at a time, but for a batch that is larger.
_GATHERED: Final = 1 << 22


def gemm_rows(walk: Walk, memory: TileMemory, parameters: Parameters) -> tuple[ResultRows, Counts]:
    """All rows of a GEMM's result, and what its operands count for."""
    step = max(1, _GATHERED // (walk.rows * walk.terms))
    parts, counts = [], Counts()
    for first in range(0, walk["G"], step):
        batches = range(first, min(first + step, walk["G"]))
        result, count = _results(walk, memory, parameters, batches)
        parts.append(order_rows(result, walk, batches))
        counts += count
    if len(parts) == 1:
        return parts[0], counts
    rows = ResultRows(
        np.concatenate([part.words for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.addresses for part in parts]),
    )
    return rows, counts


def _results(
    walk: Walk, memory: TileMemory, parameters: Parameters, batches: range
) -> tuple[NDArray[Any], Counts]:
    """Words or exact sums ``[batches, M, N]``: one product where all batches have the same B."""
    scaled = walk.has(Flag.COLUMN) and walk["P_COLUMN_G"] != 0
    merged = len(walk.batches_of_b) == 1 and not scaled
    alone = batches[:1] if merged else batches
    issued = issued_slices(walk, memory.zero_segments, alone)
    scaling = parameters.scaling(walk, batches, merged=merged)
    counts, made = Counts(), []
    # Column tiles with one and the same A are one product.
    step = walk.tiles if walk["A_N"] == 0 else 1
    for first in range(0, walk.tiles, step):
        a = a_words(memory.words, walk, batches, first)
        a = a.reshape(len(alone), -1, walk.terms)
        tiles = range(first, first + step)
        b = b_words(memory.words, walk, memory.config.format, alone, tiles)
        start = first * walk.lanes
        made.append(_product(a, b, walk, scaling, slice(start, start + b.shape[2])))
        counts += count_operands(a, b, walk, issued[:, first : first + step], memory.config)
    result = made[0] if len(made) == 1 else np.concatenate(made, axis=-1)
    return result.reshape(len(batches), walk.rows, walk.columns), counts


def drain_sums(sums: NDArray[np.int64], relu: bool, config: MachineConfig) -> NDArray[Any]:
    """The words of a base RELU or LIN."""
    activation: Activation = "relu" if relu else "linear"
    words: NDArray[Any] = drain(
        torch.from_numpy(sums), config.format, activation=activation
    ).numpy()
    return words


def exact_product(a: NDArray[Any], b: NDArray[Any], format: SFx) -> NDArray[np.int64]:
    """The sums of a base MATMUL."""
    return np.asarray(multiply(_tensor(a), _tensor(b), format, format).numpy())


def _product(
    a: NDArray[Any], b: NDArray[Any], walk: Walk, scaling: Scaling, columns: slice
) -> NDArray[Any]:
    """Words or exact sums ``[batches, rows, lanes]`` of some columns."""
    config = walk.gemm.config
    f = config.format
    exact = walk.destination == Destination.EXACT
    if walk.has(Flag.BLOCK):
        sums = _block_sums(a, b, config, scaling, columns)
        if exact:
            high, low = sums.high.numpy().astype(object), sums.low.numpy().astype(object)
            return np.asarray(high * (1 << LIMB_BITS) + low)
        words: Any = drain(sums, f, **_drain_options(walk, scaling, columns))
    elif exact:
        return exact_product(a, b, f)
    else:
        words = matmul(
            _tensor(a),
            _tensor(b),
            f,
            row_shift=torch.from_numpy(scaling.row_shifts),
            column_shift=torch.from_numpy(scaling.column_shifts[:, columns]),
            **_drain_options(walk, scaling, columns),
        )
    return _activate(words.numpy(), walk, scaling)


def _block_sums(
    a: NDArray[Any], b: NDArray[Any], config: MachineConfig, scaling: Scaling, columns: slice
) -> BlockAccumulator:
    """Sums of lifted block sums, modulo ``2**aligned_bits`` as the aligner holds them."""
    row = torch.from_numpy(-scaling.row_lifts)
    column = torch.from_numpy(-scaling.column_lifts[..., columns])
    f = config.format
    sums = multiply_blocks(_tensor(a), _tensor(b), f, f, BLOCK, row, column)
    # multiply_blocks aligns to the least lift, the machine to lift 0.
    least = -(sums.row_shift[..., :, None] + sums.column_shift[..., None, :])
    low = sums.low << least  # at most 62 bits
    high = (sums.high << least) + (low >> LIMB_BITS)
    low = low & ((1 << LIMB_BITS) - 1)
    # Sums beyond the aligner's width, which only a host that breaks the rule makes, wrap.
    if config.aligned_bits < _INT64_BITS:
        over = _INT64_BITS - config.aligned_bits
        whole = (((high << LIMB_BITS) + low) << over) >> over
        high, low = whole >> LIMB_BITS, whole & ((1 << LIMB_BITS) - 1)
    else:
        over = _INT64_BITS + LIMB_BITS - config.aligned_bits
        high = (high << over) >> over
    rows, lanes = scaling.row_shifts, scaling.column_shifts[:, columns]
    return BlockAccumulator(high, low, torch.from_numpy(rows), torch.from_numpy(lanes))


def _output(walk: Walk) -> SFx:
    """The format of the result's words."""
    config = walk.gemm.config
    return config.format if walk.destination == Destination.MEMORY else config.output


def _drain_options(walk: Walk, scaling: Scaling, columns: slice) -> dict[str, Any]:
    """How sums become words, up to what :func:`_activate` does."""
    config = walk.gemm.config
    relu = walk.function in (Function.RELU, Function.CLAMP)
    table = walk.function == Function.TABLE
    return {
        "bias": torch.from_numpy(scaling.biases[:, columns]),
        "bias_format": config.bias_format,
        "activation": "relu" if relu else "linear",
        "output": SFx(TABLE_BITS, config.unity) if table else _output(walk),
    }


def _activate(words: NDArray[Any], walk: Walk, scaling: Scaling) -> NDArray[Any]:
    """What clamp and table do to the words of ReLU, or of SF16."""
    config = walk.gemm.config
    if walk.function == Function.TABLE:
        return _apply_table(words, scaling, config, _output(walk))
    if walk.function == Function.CLAMP:
        limit = max(config.format.decode(scaling.limit), config.format.decode(0))
        # Encoding is monotonic, and words that are not negative are ordered as their values.
        most = words.dtype.type(_output(walk).encode(limit))
        return np.asarray(np.minimum(words, most))
    return words


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
    encoded: NDArray[Any] = drain(value, half, output=output).numpy()
    return encoded


def _tensor(words: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(words))

# mypy: ignore-errors
"""The Triton kernel of :mod:`sw.wasq.gemm_triton`: imported only where Triton is."""

import triton
import triton.language as tl


@triton.jit
def odd64(a, b):
    """``a + b`` in binary64, rounded to odd (Knuth's TwoSum tells what the sum lost)."""
    total = a + b
    other = total - a
    error = (a - (total - other)) + (b - other)
    bits = total.to(tl.int64, bitcast=True)
    step = tl.where((error > 0) == (total > 0), 1, -1)
    even = ((bits & 1) == 0) & (error != 0) & (total != 0)
    return tl.where(even, bits + step, bits).to(tl.float64, bitcast=True)


@triton.jit
def odd32(exact):
    """binary64 in binary32, rounded to odd."""
    near = exact.to(tl.float32)
    error = exact - near.to(tl.float64)
    bits = near.to(tl.int32, bitcast=True)
    step = tl.where((error > 0) == (exact > 0), 1, -1)
    even = ((bits & 1) == 0) & (error != 0) & (near != 0)
    return tl.where(even, bits + step, bits).to(tl.float32, bitcast=True)


@triton.jit
def grouped(
    left,
    right,
    bias,
    result,
    rows,
    columns,
    terms,
    GROUP: tl.constexpr,
    BIAS: tl.constexpr,
    NARROW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    """A tile of ``left @ right.T``: groups of terms summed in binary32, these in binary64."""
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    place = tl.arange(0, STEP)
    lefts = left + row[:, None] * terms + place[None, :]
    rights = right + column[None, :] * terms + place[:, None]
    here, there = (row < rows)[:, None], (column < columns)[None, :]
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float64)
    if GROUP == STEP:
        for k in range(0, terms, STEP):
            inside = place < terms - k
            a = tl.load(lefts + k, mask=here & inside[None, :], other=0.0)
            b = tl.load(rights + k, mask=there & inside[:, None], other=0.0)
            total += tl.dot(a, b).to(tl.float64)
    else:
        for first in range(0, terms, GROUP):
            part = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
            for k in range(first, tl.minimum(first + GROUP, terms), STEP):
                inside = place < terms - k
                a = tl.load(lefts + k, mask=here & inside[None, :], other=0.0)
                b = tl.load(rights + k, mask=there & inside[:, None], other=0.0)
                part = tl.dot(a, b, part)
            total += part.to(tl.float64)
    if BIAS:
        added = tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float64)
        total = odd64(total, tl.broadcast_to(added[None, :], [ROWS, COLUMNS]))
    rounded = odd32(total).to(tl.bfloat16) if NARROW else total.to(tl.float32)
    at = row[:, None] * columns + column[None, :]
    tl.store(result + at, rounded, mask=here & there)

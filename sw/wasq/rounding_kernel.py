# mypy: ignore-errors
"""The Triton kernel of :mod:`sw.wasq.rounding_triton`: imported only where Triton is."""

import triton.language as tl


def round_row(
    x,
    values,
    given,
    faults,
    terms,
    length,
    blocks,
    LIMIT: tl.constexpr,
    SPREAD: tl.constexpr,
    FRACTION: tl.constexpr,
    UNITY: tl.constexpr,
    GIVEN: tl.constexpr,
    BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Exponents of one row by maximum (or given), limited in spread, and its rounded values."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    place = tl.arange(0, WIDTH)
    at = block[:, None] * length + place[None, :]
    here = (place[None, :] < length) & (at < terms)
    value = tl.load(x + row * terms + at, mask=here, other=0.0).to(tl.float32)
    bits = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    present = block < blocks
    if GIVEN:
        e = tl.load(given + block, mask=present, other=-1000)
    else:
        largest = tl.max(bits, axis=1)
        e = (largest >> 23) - 126
        if UNITY:
            e -= tl.where((largest & 0x7FFFFF) == 0, 1, 0)
        e = tl.where(largest == 0, 0, e)
        e = tl.where(present, e, -1000)
    top = tl.max(e, axis=0)
    e = tl.maximum(e, top - SPREAD)
    nan = tl.max(tl.max((bits > 0x7F800000).to(tl.int32), axis=1), axis=0)
    bad = (top > LIMIT) | (top < -LIMIT) | (nan != 0)
    tl.atomic_add(faults, 1, mask=bad)
    e = tl.minimum(tl.maximum(e, -100), 100)
    up = ((FRACTION + 1 + 127 - e) << 23).to(tl.float32, bitcast=True)
    down = ((127 - FRACTION + e) << 23).to(tl.float32, bitcast=True)
    MOST: tl.constexpr = (1 << FRACTION) - 1
    scaled = bits.to(tl.float32, bitcast=True) * up[:, None]
    scaled = tl.where(scaled < 2.0 * MOST, scaled, 2.0 * MOST)
    halves = scaled.to(tl.int32)
    magnitude = (halves + 1) >> 1
    if UNITY:
        magnitude -= tl.where(halves == 2 * MOST - 1, 1, 0)
        magnitude += tl.where(magnitude == MOST, 1, 0)
    signed = tl.where(value < 0, -magnitude, magnitude).to(tl.float32)
    result = tl.where(bad, float("nan"), signed * down[:, None])
    tl.store(values + row * terms + at, result.to(values.dtype.element_ty), mask=here)

# mypy: ignore-errors
"""The Triton kernel of :mod:`sw.wasq.sweep_triton`: imported only where Triton is."""

import triton.language as tl


def sweep_rows(
    work,
    factor,
    values,
    errors,
    rows,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    FRACTION: tl.constexpr,
    UNITY: tl.constexpr,
):
    """Round the columns of some rows in turn, each error spread over the columns after it."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, WIDTH)
    at = row[:, None] * COLUMNS + place[None, :]
    here = (row[:, None] < rows) & (place[None, :] < COLUMNS)
    left = tl.load(work + at, mask=here, other=0.0)
    value = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    error = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    TOP: tl.constexpr = 1 << FRACTION
    MOST: tl.constexpr = TOP - 2 if UNITY else TOP - 1
    for i in range(COLUMNS):
        turn = place[None, :] == i
        column = tl.sum(tl.where(turn, left, 0.0), axis=1)
        bounded = tl.minimum(tl.maximum(column, -1.0 * MOST), 1.0 * MOST)
        # Adding 1.5 * 2**23 rounds to an integer, ties to even; taking it away again is exact.
        rounded = (bounded + 12582912.0) - 12582912.0
        if UNITY:
            whole = tl.where(column < 0, -1.0 * TOP, 1.0 * TOP)
            rounded = tl.where(tl.abs(column) >= TOP - 1, whole, rounded)
        lost = column - rounded
        value = tl.where(turn, rounded[:, None], value)
        error = tl.where(turn, lost[:, None], error)
        after = (place > i) & (place < COLUMNS)
        share = tl.load(factor + i * COLUMNS + place, mask=after, other=0.0)
        left -= lost[:, None] * share[None, :]
    tl.store(values + at, value, mask=here)
    tl.store(errors + at, error, mask=here)

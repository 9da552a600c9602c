# mypy: ignore-errors
"""The Triton kernels of :mod:`sw.wasq.sweep_triton`: imported only where Triton is.

Rows know nothing of each other, so a program keeps some of them from the first column to the last.
Within a block of columns it holds them in registers; what earlier blocks' errors take from a block
is summed when its turn comes.
"""

import triton
import triton.language as tl


@triton.jit
def snap(x, FRACTION: tl.constexpr, UNITY: tl.constexpr):
    """The nearest operand of values in units."""
    TOP: tl.constexpr = 1 << FRACTION
    MOST: tl.constexpr = TOP - 2 if UNITY else TOP - 1
    bounded = tl.minimum(tl.maximum(x, -1.0 * MOST), 1.0 * MOST)
    # Adding 1.5 * 2**23 rounds to an integer, ties to even; taking it away again is exact.
    rounded = (bounded + 12582912.0) - 12582912.0
    if UNITY:
        whole = tl.where(x < 0, -1.0 * TOP, 1.0 * TOP)
        rounded = tl.where(tl.abs(x) >= TOP - 1, whole, rounded)
    return rounded


@triton.jit
def power(exponent):
    """``2**exponent``, float32, for -126 to 127."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def sweep(left, factor, count, WIDTH: tl.constexpr, FRACTION: tl.constexpr, UNITY: tl.constexpr):
    """Operands and errors of columns ``left``, in units, rounded from the first to the last.

    ``factor`` points to ``[count, WIDTH]``: what each column's error takes from those after it.
    """
    place = tl.arange(0, WIDTH)[None, :]
    value = tl.zeros_like(left)
    error = tl.zeros_like(left)
    for i in range(WIDTH):
        turn = place == i
        column = tl.sum(tl.where(turn, left, 0.0), axis=1)
        rounded = snap(column, FRACTION, UNITY)
        lost = tl.where(i < count, column - rounded, 0.0)
        value = tl.where(turn, rounded[:, None], value)
        error = tl.where(turn, lost[:, None], error)
        share = tl.load(factor + i * WIDTH + place, mask=(place > i) & (i < count), other=0.0)
        left -= lost[:, None] * share
    return value, error


@triton.jit
def first_pass(
    target,
    factor,
    inner,
    diagonal,
    starts,
    top,
    values,
    errors,
    chosen,
    rows,
    columns,
    parts,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TRIES: tl.constexpr,
    SPREAD: tl.constexpr,
    FRACTION: tl.constexpr,
    UNITY: tl.constexpr,
):
    """Every block of columns in turn: its exponent by the error that it leaves, and its words."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, WIDTH)
    limit = tl.load(top + row, mask=row < rows, other=0)
    for part in range(parts):
        first = tl.load(starts + part)
        count = tl.load(starts + part + 1) - first
        inside = place < count
        at = row[:, None] * columns + first + place[None, :]
        here = (row[:, None] < rows) & inside[None, :]
        left = tl.load(target + at, mask=here, other=0.0)
        for other in range(part):
            start = tl.load(starts + other)
            size = tl.load(starts + other + 1) - start
            known = place < size
            lost = tl.load(
                errors + row[:, None] * columns + start + place[None, :],
                mask=(row[:, None] < rows) & known[None, :],
                other=0.0,
            )
            share = tl.load(
                factor + (start + place)[:, None].to(tl.int64) * columns + first + place[None, :],
                mask=known[:, None] & inside[None, :],
                other=0.0,
            )
            left -= tl.dot(lost, share, input_precision="ieee")
        largest = tl.max(tl.abs(left), axis=1).to(tl.int32, bitcast=True)
        e = (largest >> 23) - 126
        if UNITY:
            e -= tl.where((largest & 0x7FFFFF) == 0, 1, 0)
        e = tl.minimum(tl.where(largest == 0, 0, e), limit)
        unit_diagonal = tl.load(diagonal + first + place, mask=inside, other=1.0)
        best_value = tl.zeros_like(left)
        best_error = tl.zeros_like(left)
        best_loss = tl.full([ROWS], float("inf"), dtype=tl.float32)
        best = e
        for step in range(TRIES):
            tried = tl.maximum(e - step, limit - SPREAD)
            unit = power(tl.minimum(tl.maximum(tried - FRACTION, -126), 127))[:, None]
            value, error = sweep(
                left / unit, inner + part * WIDTH * WIDTH, count, WIDTH, FRACTION, UNITY
            )
            error = error * unit / unit_diagonal[None, :]
            loss = tl.sum(error * error, axis=1)
            better = loss < best_loss
            best_loss = tl.where(better, loss, best_loss)
            best = tl.where(better, tried, best)
            best_value = tl.where(better[:, None], value * unit, best_value)
            best_error = tl.where(better[:, None], error, best_error)
        tl.store(values + at, best_value, mask=here)
        tl.store(errors + at, best_error, mask=here)
        tl.store(chosen + row * parts + part, best, mask=row < rows)
        tl.debug_barrier()


@triton.jit
def refine_pass(
    values,
    wanted,
    hessian,
    inner,
    inverse,
    lower,
    starts,
    top,
    chosen,
    rows,
    columns,
    parts,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
    SPREAD: tl.constexpr,
    FRACTION: tl.constexpr,
    UNITY: tl.constexpr,
):
    """Every block's words anew, all others as they are, where that lessens the error.

    Exponents tried are one more to ``STEPS - 2`` less, or with one step those that there are.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, WIDTH)
    square = place[:, None] * WIDTH + place[None, :]
    limit = tl.load(top + row, mask=row < rows, other=0)
    for part in range(parts):
        first = tl.load(starts + part)
        count = tl.load(starts + part + 1) - first
        inside = place < count
        at = row[:, None] * columns + first + place[None, :]
        here = (row[:, None] < rows) & inside[None, :]
        gradient = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
        for other in range(parts):
            start = tl.load(starts + other)
            size = tl.load(starts + other + 1) - start
            known = place < size
            beside = row[:, None] * columns + start + place[None, :]
            seen = (row[:, None] < rows) & known[None, :]
            difference = tl.load(values + beside, mask=seen, other=0.0)
            difference -= tl.load(wanted + beside, mask=seen, other=0.0)
            share = tl.load(
                hessian + (start + place)[:, None].to(tl.int64) * columns + first + place[None, :],
                mask=known[:, None] & inside[None, :],
                other=0.0,
            )
            gradient += tl.dot(difference, share, input_precision="ieee")
        own = part * WIDTH * WIDTH
        before = tl.load(values + at, mask=here, other=0.0)
        step_back = tl.load(inverse + own + square)
        centre = before - tl.dot(gradient, step_back, input_precision="ieee")
        weigh = tl.load(lower + own + square)
        best_value = before
        off = tl.dot(before - centre, weigh, input_precision="ieee")
        best_loss = tl.sum(off * off, axis=1)
        old = tl.load(chosen + row * parts + part, mask=row < rows, other=0)
        best = old
        for step in range(STEPS):
            tried = old + 1 - step if STEPS > 1 else old
            tried = tl.maximum(tl.minimum(tried, limit), limit - SPREAD)
            unit = power(tl.minimum(tl.maximum(tried - FRACTION, -126), 127))[:, None]
            value, _ = sweep(centre / unit, inner + own, count, WIDTH, FRACTION, UNITY)
            value = value * unit
            off = tl.dot(value - centre, weigh, input_precision="ieee")
            loss = tl.sum(off * off, axis=1)
            better = loss < best_loss
            best_loss = tl.where(better, loss, best_loss)
            best = tl.where(better, tried, best)
            best_value = tl.where(better[:, None], value, best_value)
        tl.debug_barrier()
        tl.store(values + at, best_value, mask=here)
        tl.store(chosen + row * parts + part, best, mask=row < rows)
        tl.debug_barrier()

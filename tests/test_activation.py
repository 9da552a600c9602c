"""Activations: the definition against the contract, hardware against the definition."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from hw.activation import ClampUnit
from hw.table_activation import TableActivation
from sw.activation import (
    ALL_ACTIVATIONS,
    FUNCTIONS,
    SEGMENTS,
    TABLE_LIMIT,
    Table,
    drain,
    fit,
    largest_error,
)
from sw.format import ACTIVATIONS, ROUNDINGS, Rounding, SFx
from sw.isa import Function
from tests.result_stimulus import random_table
from tests.simulation import assert_equal, evaluate

SEED = 20261122


def test_activations_are_named_in_the_order_of_their_codes() -> None:
    assert [name.upper() for name in ALL_ACTIVATIONS] == [f.name for f in sorted(Function)]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", [3, 8, 16])
def test_linear_and_relu_are_the_drain_of_the_format(bits: int, rounding: Rounding) -> None:
    format, output, bias = SFx(bits), SFx(9), SFx(12)
    rng = random.Random(SEED + bits)
    width = format.accumulator_bits()
    for _ in range(400):
        accumulator = rng.getrandbits(rng.randint(1, width)) - (1 << width - 1) * rng.getrandbits(1)
        how = {
            "row_shift": rng.randint(-20, 20),
            "column_shift": rng.randint(-20, 20),
            "bias": rng.getrandbits(12),
            "bias_format": bias,
            "rounding": rounding,
            "output": output,
        }
        for activation in ACTIVATIONS:
            got = drain(format, accumulator, activation=activation, **how)
            want = format.drain(accumulator, activation=activation, **how)
            assert got == want, (accumulator, how, got, want, SEED)


@pytest.mark.parametrize("unity", [True, False])
def test_clamp_cuts_at_zero_and_at_the_limit_before_rounding(unity: bool) -> None:
    format = SFx(8, unity)
    one = 1 << 14
    assert drain(format, -one, activation="clamp", limit=0x40) == 0
    assert drain(format, one // 4, activation="clamp", limit=0x40) == 0x20
    assert drain(format, one, activation="clamp", limit=0x40) == 0x40
    assert drain(format, one, activation="clamp", limit=0xC0) == 0
    assert drain(format, one, activation="clamp", limit=0x80) == 0
    assert drain(format, one, activation="clamp", limit=0x7F) == 0x7F
    # The limit 0x2F / 128 lies between words of SF4: it is rounded as any other number.
    narrow = {"activation": "clamp", "limit": 0x2F, "output": SFx(4, unity)}
    assert drain(format, one, **narrow) == 3
    assert drain(format, one, **narrow, rounding="truncate") == 2


def test_table_is_linear_in_each_segment_and_takes_both_ends() -> None:
    table = Table(tuple(range(SEGMENTS)), tuple(range(100, 100 + SEGMENTS)))
    assert table.value(-TABLE_LIMIT) == 0
    assert table.value(-TABLE_LIMIT + 2047) == 100 * 2047
    assert table.value(-TABLE_LIMIT + 2048) == 1 << 11
    assert table.value(0) == 16 << 11
    assert table.value(TABLE_LIMIT) == (31 << 11) + 131 * 2048
    identity = Table(tuple(-TABLE_LIMIT + 2048 * i for i in range(SEGMENTS)), (2048,) * SEGMENTS)
    for z in range(-TABLE_LIMIT, TABLE_LIMIT + 1, 7):
        assert Fraction(identity.value(z), 1 << 26) == Fraction(z, TABLE_LIMIT)


@pytest.mark.parametrize(
    ("starts", "slopes", "message"),
    [
        ((0,) * 31, (0,) * 32, "starts must be 32 integers, not 31"),
        ((0,) * 32, (0,) * 33, "slopes must be 32 integers, not 33"),
        ((65536,) * 32, (0,) * 32, "starts must be -65536 to 65535, not 65536"),
        ((0,) * 32, (-32769,) * 32, "slopes must be -32768 to 32767, not -32769"),
    ],
)
def test_tables_that_do_not_fit_are_refused(starts, slopes, message) -> None:
    with pytest.raises(ValueError, match=message):
        Table(starts, slopes)


def test_wrong_names_and_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="activation must be one of linear, relu, clamp, table"):
        drain(SFx(8), 0, activation="gelu")
    with pytest.raises(ValueError, match="table must be a Table for activation table, not None"):
        drain(SFx(8), 0, activation="table")
    table = fit(FUNCTIONS["tanh"], 2, 0)
    with pytest.raises(ValueError, match="z must be -32768 to 32768, not 32769"):
        table.value(TABLE_LIMIT + 1)
    with pytest.raises(ValueError, match="starts must be -65536 to 65535"):
        fit(FUNCTIONS["tanh"], 7, -3)


#: Largest error of the fitted table in the function's own units, rounded up. With segments of
#: length h the least error of lines is about ``h * h / 16`` times the largest second derivative.
ERRORS = {
    ("gelu", 2, 2): 0.0031,
    ("gelu", 3, 3): 0.0118,
    ("silu", 2, 2): 0.0020,
    ("silu", 3, 3): 0.0076,
    ("sigmoid", 2, 0): 0.00039,
    ("sigmoid", 3, 0): 0.00150,
    ("sigmoid", 4, 0): 0.00584,
    ("tanh", 1, 0): 0.00076,
    ("tanh", 2, 0): 0.0030,
    ("tanh", 3, 0): 0.0117,
}


@pytest.mark.parametrize(("name", "input_exponent", "output_exponent"), ERRORS)
def test_fitted_tables_err_no_more_than_stated(
    name: str, input_exponent: int, output_exponent: int
) -> None:
    function = FUNCTIONS[name]
    table = fit(function, input_exponent, output_exponent)
    error = largest_error(table, function, input_exponent, output_exponent)
    stated = ERRORS[name, input_exponent, output_exponent]
    assert 0.9 * stated < error <= stated, f"{name}: {error}"


def test_no_other_slope_or_start_of_a_segment_errs_less() -> None:
    """The fit is the least maximum error on the grid of starts and slopes, up to one step."""
    function = FUNCTIONS["gelu"]
    table = fit(function, 2, 2)
    step = 2.0**-15 * 4  # one unit of a start, in the function's units
    best = largest_error(table, function, 2, 2)
    worst = max(range(SEGMENTS), key=lambda s: abs(segment_error(table, function, s, 0, 0)))
    for slope in (-40, -1, 0, 1, 40):
        for start in (-40, -1, 0, 1, 40):
            assert segment_error(table, function, worst, start, slope) > best - step


def segment_error(table: Table, function, segment: int, start: int, slope: int) -> float:
    """The largest error in one segment with its start and slope moved by so much."""
    starts, slopes = list(table.starts), list(table.slopes)
    starts[segment] += start
    slopes[segment] += slope
    moved = Table(tuple(starts), tuple(slopes))
    first = (segment << 11) - TABLE_LIMIT
    return max(
        abs(moved.value(z) / (1 << 24) - function(z * 4 / TABLE_LIMIT))
        for z in range(first, first + 2048, 4)
    )


# Hardware


@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_clamp_unit_equals_the_definition_for_every_word_and_limit(bits: int, unity: bool) -> None:
    format = SFx(bits, unity)
    words = [w for w in range(1 << bits) if w != format.sign_bit]  # minus zero is never produced
    vectors = [
        (word, function, limit)
        for word in words
        for function in range(3)
        for limit in range(format.max_code + 1)
    ]
    scale = 1 << 2 * format.fraction_bits
    want = [
        drain(
            format,
            int(format.decode(word) * scale),
            activation=ALL_ACTIVATIONS[function],
            limit=limit,
        )
        for word, function, limit in vectors
    ]
    got = [o for (o,) in evaluate(ClampUnit(format), vectors)]
    assert_equal(f"clamp of {format}", vectors, got, want, SEED, ("i", "function", "limit"))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
def test_table_unit_equals_the_definition_at_every_boundary_and_between(
    unity: bool, rounding: Rounding
) -> None:
    wide, outputs = SFx(16, unity), (SFx(16, unity), SFx(3, unity), SFx(8, unity))
    rng = random.Random(SEED)
    unit = TableActivation(unity, outputs, rounding)
    table = random_table(rng)
    writes = [
        (1, 2 * segment + odd, value)
        for segment, pair in enumerate(zip(table.starts, table.slopes, strict=True))
        for odd, value in enumerate(pair)
    ]
    near = {(1 << 11) * s + d for s in range(17) for d in (-1, 0, 1)}
    words = [m | sign for m in near if 0 <= m <= wide.max_code for sign in (0, wide.sign_bit)]
    words += [wide.max_code - 1, *(rng.getrandbits(16) for _ in range(1500))]
    words = [w for w in words if w != wide.sign_bit]
    layout = unit.write.shape()
    vectors = [
        (layout.const({"enable": e, "index": i, "data": d}).as_value().value, 0)
        for e, i, d in writes
    ]
    vectors += [(0, w) for w in words] + [(0, 0)] * unit.latency
    found = evaluate_table(unit, vectors)[len(writes) + unit.latency :]
    for index, output in enumerate(outputs):
        want = [
            output.encode(Fraction(table.value(wide.operand(w)), 1 << 26), rounding) for w in words
        ]
        got = [row[index] for row in found]
        assert_equal(
            f"table to {output}, {rounding}", [(w,) for w in words], got, want, SEED, ("i",)
        )


def evaluate_table(unit: TableActivation, vectors) -> list[tuple[int, ...]]:
    """The words in each cycle, of writes and words per cycle."""
    from amaranth.sim import Simulator

    results = []

    async def testbench(context) -> None:
        for write, word in vectors:
            context.set(unit.write.as_value(), write)
            context.set(unit.i, word)
            results.append(tuple(context.get(o) for o in unit.o))
            await context.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return results

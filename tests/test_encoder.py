"""The encoders against the integer model, exhaustively and at any position of the point."""

from __future__ import annotations

import gc
from fractions import Fraction

import pytest

from hw.encoder import Encoder, SignedEncoder, guard_bits
from sw.format import MAX_BITS, MIN_BITS, ROUNDINGS, Rounding, SFx
from tests.simulation import assert_equal, evaluate

WIDTHS = range(MIN_BITS, MAX_BITS + 1)


def check(format: SFx, point: int, width: int, rounding: Rounding, magnitudes: list[int]) -> None:
    unit = Encoder(format, point, width, rounding)
    vectors = [(sign, magnitude) for magnitude in magnitudes for sign in (0, 1)]
    got = [o for (o,) in evaluate(unit, vectors)]
    want = [format.encode((-1) ** s * Fraction(m, 1 << point), rounding) for s, m in vectors]
    label = f"encoder {format} {rounding} from {width} bits with {point} fraction bits"
    assert_equal(label, vectors, got, want, names=("sign", "magnitude"))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize(
    ("bits", "points", "width"),
    [(3, (0, 1, 2, 3, 6), 6), (4, (2, 3, 4, 6), 8), (3, (9,), 3), (4, (6,), 1), (5, (8,), 9)],
)
def test_encoder_equals_the_model_for_every_magnitude(
    bits: int, points: tuple[int, ...], width: int, unity: bool, rounding: Rounding
) -> None:
    for point in points:
        check(SFx(bits, unity), point, width, rounding, list(range(1 << width)))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_encoder_takes_magnitudes_coarser_and_narrower_than_the_word(rounding: Rounding) -> None:
    check(SFx(16), 3, 5, rounding, list(range(1 << 5)))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_encoder_rounds_and_saturates_around_the_ends(
    bits: int, unity: bool, rounding: Rounding
) -> None:
    format = SFx(bits, unity)
    point = 2 * format.fraction_bits
    ulp = 1 << format.fraction_bits
    ends = (0, ulp, (format.max_code - 1) * ulp, format.max_code * ulp, 1 << point)
    near = {e + q * ulp // 4 + d for e in ends for q in range(-5, 6) for d in (-1, 0, 1)}
    magnitudes = sorted(m for m in near if 0 <= m < 2 << point)
    check(format, point, point + 1, rounding, magnitudes)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_signed_encoder_equals_the_model_for_every_number(
    bits: int, unity: bool, rounding: Rounding
) -> None:
    format = SFx(bits, unity)
    point = format.fraction_bits + guard_bits(rounding)
    width = point + 2
    vectors = [
        (sign, value, sticky)
        for value in range(-(1 << width - 1), 1 << width - 1)
        for sign in (0, 1)
        for sticky in (0, 1)
    ]
    got = [o for (o,) in evaluate(SignedEncoder(format, width, rounding), vectors)]
    want = [
        format.encode((-1) ** sign * Fraction(3 * value + sticky, 3 << point), rounding)
        for sign, value, sticky in vectors
    ]
    label = f"signed encoder {format} {rounding}"
    assert_equal(label, vectors, got, want, names=("sign", "value", "sticky"))


@pytest.mark.filterwarnings("ignore:.*created but never used")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SFx(8), -1, 4), "fraction_bits must be at least 0, not -1"),
        ((SFx(8), 4, 0), "width must be at least 1, not 0"),
        ((SFx(8), 4, 4, "even"), "rounding must be one of nearest, truncate, not 'even'"),
    ],
)
def test_encoder_refuses_parameters_out_of_range(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(*arguments)
    gc.collect()  # here, where Amaranth's complaint about the unused unit is expected

"""Every unit of the hardware with every variant that is compared, against ``sw.format``."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from random import Random
from typing import Final

from amaranth.lib.wiring import Component

from hw.activation import ActivationUnit
from hw.convert import Binary16ToSFx, Binary32ToSFx, SFxToBinary32
from hw.cycle_count import CycleCount
from hw.detect import UnityDetector, ZeroDetector
from hw.drain import Drain
from hw.encoder import Encoder, SignedEncoder, guard_bits
from hw.fma import FusedMultiplyAdd, FusedMultiplyAddStream
from hw.multiplier import MULTIPLIERS, make_multiplier
from hw.product import WordProduct
from sim.case import Case
from sim.clocked_units import mac, operand_hold, shift_register
from sim.stimulus import (
    Operand,
    float_draw,
    float_operand,
    float_value,
    formats,
    number_operand,
    signed,
    word_operand,
)
from sw.format import ACTIVATIONS, MAX_BITS, MAX_TERMS, MIN_BITS, ROUNDINGS, Rounding, SFx
from sw.scale import SHIFT_BITS

ALL_BITS: Final = tuple(range(MIN_BITS, MAX_BITS + 1))


def multiplier(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Magnitudes of F bits."""
    for width in (x - 1 for x in bits):
        for name in MULTIPLIERS:
            yield Case(
                "multiplier",
                {"width": width, "multiplier": name},
                lambda n=name, w=width: make_multiplier(n, w),
                (number_operand("a", width), number_operand("b", width)),
                lambda a, b: {"product": a * b},
            )


def product(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Two words."""
    for format in formats(bits):
        for name in MULTIPLIERS:
            yield Case(
                "product",
                {"bits": format.bits, "unity": format.unity, "multiplier": name},
                lambda f=format, n=name: WordProduct(f, n),
                (word_operand("a", format), word_operand("b", format)),
                lambda a, b, f=format: {
                    "sign": (a ^ b) >> f.fraction_bits,
                    "magnitude": abs(f.multiply(a, b)),
                },
            )


def encoder(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Fixed point with more and with fewer fraction bits than the word."""
    for format in formats(bits):
        for rounding in ROUNDINGS:
            wide = format.fraction_bits + 4
            for places, width in ((wide, wide + 3), (max(0, format.fraction_bits - 2), 5)):
                yield Case(
                    "encoder",
                    _parameters(format, rounding) | {"places": places},
                    lambda f=format, r=rounding, p=places, w=width: Encoder(f, p, w, r),
                    (Operand("sign", 1, (0, 1)), number_operand("magnitude", width)),
                    _encode(format, rounding, places),
                    draw=_near_words(format, places, width),
                )


def _encode(format: SFx, rounding: Rounding, places: int) -> Callable[[int, int], dict[str, int]]:
    def function(sign: int, magnitude: int) -> dict[str, int]:
        value = Fraction(magnitude, 1 << places)
        return {"word": format.encode(-value if sign else value, rounding)}

    return function


def _near_words(format: SFx, places: int, width: int) -> Callable[[Random], tuple[int, int]]:
    """Magnitudes on words, on the middles between and one off."""

    def draw(random: Random) -> tuple[int, int]:
        step = max(0, places - format.fraction_bits - 1)
        magnitude = (random.randrange(2 * format.sign_bit + 2) << step) + random.randint(-1, 1)
        return random.getrandbits(1), min(max(magnitude, 0), (1 << width) - 1)

    return draw


def signed_encoder(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Two's complement with a sticky bit."""
    for format in formats(bits):
        for rounding in ROUNDINGS:
            places = format.fraction_bits + guard_bits(rounding)
            width = places + 3
            yield Case(
                "signed-encoder",
                _parameters(format, rounding),
                lambda f=format, r=rounding, w=width: SignedEncoder(f, w, r),
                (
                    Operand("sign", 1, (0, 1)),
                    number_operand("value", width),
                    Operand("sticky", 1, (0, 1)),
                ),
                _encode_signed(format, rounding, places, width),
            )


def _encode_signed(
    format: SFx, rounding: Rounding, places: int, width: int
) -> Callable[[int, int, int], dict[str, int]]:
    def function(sign: int, value: int, sticky: int) -> dict[str, int]:
        exact = (signed(value, width) + Fraction(sticky, 3)) / (1 << places)
        return {"word": format.encode(-exact if sign else exact, rounding)}

    return function


def fma(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Three words, combinational."""
    for format in formats(bits):
        for rounding in ROUNDINGS:
            for name in MULTIPLIERS:
                yield Case(
                    "fma",
                    _parameters(format, rounding) | {"multiplier": name},
                    lambda f=format, r=rounding, n=name: FusedMultiplyAdd(f, r, n),
                    tuple(word_operand(port, format) for port in "abc"),
                    lambda a, b, c, f=format, r=rounding: {"o": f.fma(a, b, c, r)},
                    draw=_near_ties(format),
                )


def fma_stream(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Three words per token."""
    for case in fma(bits):
        format = SFx(case.parameters["bits"], case.parameters["unity"])
        rounding, name = case.parameters["rounding"], case.parameters["multiplier"]
        yield Case(
            "fma-stream",
            case.parameters,
            lambda f=format, r=rounding, n=name: FusedMultiplyAddStream(f, r, n),
            case.operands,
            case.function,
            draw=case.draw,
            streams=("i", "o"),
        )


def _near_ties(format: SFx) -> Callable[[Random], tuple[int, int, int]]:
    """Products by a power of two, so that sums lie on ties, and sums about one."""

    def draw(random: Random) -> tuple[int, int, int]:
        a = 1 << random.randrange(format.fraction_bits)
        b, c = random.getrandbits(format.bits), random.getrandbits(format.bits)
        if random.random() < 0.4:
            product = Fraction(abs(format.multiply(a, b)), format.sign_bit)
            c = max(0, min(format.max_code, format.sign_bit - int(product) - random.randint(-1, 2)))
            c |= b & format.sign_bit
        return a | random.getrandbits(1) << format.fraction_bits, b, c

    return draw


def drain(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Accumulators with both parts of the shift, a bias and the activation."""
    for format in formats(bits):
        for rounding in ROUNDINGS:
            narrowing, widest = SFx(19 - format.bits, format.unity), SFx(16, format.unity)
            for output, bias_format in ((format, format), (narrowing, widest)):
                yield drain_case(format, rounding, output, bias_format)


def drain_case(
    format: SFx,
    rounding: Rounding,
    output: SFx,
    bias_format: SFx,
    max_terms: int = MAX_TERMS,
) -> Case:
    """A drain behind sums of up to ``max_terms`` products."""
    width = format.accumulator_bits(max_terms)

    def function(accumulator: int, row: int, column: int, bias: int, select: int) -> dict[str, int]:
        word = format.drain(
            signed(accumulator, width),
            row_shift=signed(row, SHIFT_BITS),
            column_shift=signed(column, SHIFT_BITS),
            bias=bias,
            bias_format=bias_format,
            activation=ACTIVATIONS[select],
            rounding=rounding,
            output=output,
        )
        return {"o": word}

    def draw(random: Random) -> tuple[int, ...]:
        """Sums that the shift brings into the output's range, some of them exact ties."""
        size = random.randrange(1, width)
        accumulator = random.getrandbits(size)
        if random.random() < 0.4:
            zeros = random.randrange(size)
            accumulator = (accumulator >> zeros | 1) << zeros
        if random.random() < 0.5:
            accumulator = -accumulator
        shift = size - 2 * format.fraction_bits + random.randint(-3, output.bits + 2)
        part = random.randint(-128, 127) if random.random() < 0.1 else shift // 2
        row = max(-128, min(127, part))
        column = max(-128, min(127, shift - row))
        bias = random.choice((0, random.getrandbits(bias_format.bits)))
        return accumulator % (1 << width), row % 256, column % 256, bias, random.getrandbits(1)

    return Case(
        "drain",
        _parameters(format, rounding) | {"output": output.bits, "bias": bias_format.bits},
        lambda: Drain(format, max_terms, output, bias_format, rounding),
        (
            number_operand("accumulator", width),
            number_operand("row_shift", SHIFT_BITS),
            number_operand("column_shift", SHIFT_BITS),
            word_operand("bias", bias_format),
            Operand("select", 1, (0, 1)),
        ),
        function,
        draw=draw,
    )


def activation(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """A word and the selection."""
    for format in formats(bits):
        yield Case(
            "activation",
            {"bits": format.bits, "unity": format.unity},
            lambda f=format: ActivationUnit(f),
            (word_operand("i", format), Operand("select", 1, (0, 1))),
            lambda i, select, f=format: {
                "o": f.encode(max(f.decode(i), 0) if select else f.decode(i))
            },
        )


def convert_binary32(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Patterns of binary32."""
    return _convert("convert-binary32", Binary32ToSFx, 32, bits)


def convert_binary16(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Patterns of binary16."""
    return _convert("convert-binary16", Binary16ToSFx, 16, bits)


def _convert(
    unit: str, component: Callable[..., Component], width: int, bits: Sequence[int]
) -> Iterator[Case]:
    for format in formats(bits):
        for rounding in ROUNDINGS:
            yield Case(
                unit,
                _parameters(format, rounding),
                lambda f=format, r=rounding: component(f, r),
                (float_operand("i", width),),
                lambda i, f=format, r=rounding: {"o": _encode_float(f, r, float_value(i, width))},
                draw=float_draw(format, width),
            )


def _encode_float(format: SFx, rounding: Rounding, value: float) -> int:
    """Hardware has no errors: NaN gives zero."""
    return 0 if math.isnan(value) else format.encode(value, rounding)


def to_binary32(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Words; the pattern is the one that the machine's own binary32 has for the value."""
    for format in formats(bits):
        yield Case(
            "to-binary32",
            {"bits": format.bits, "unity": format.unity},
            lambda f=format: SFxToBinary32(f),
            (word_operand("i", format),),
            lambda i, f=format: {
                "o": int.from_bytes(struct.pack("<f", float(f.decode(i))), "little")
            },
        )


def zero_detector(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Words."""
    return _detector("zero-detector", ZeroDetector, "zero", 0, bits)


def unity_detector(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Words."""
    return _detector("unity-detector", UnityDetector, "unity", 1, bits)


def _detector(
    unit: str, component: Callable[..., Component], flag: str, value: int, bits: Sequence[int]
) -> Iterator[Case]:
    for format in formats(bits):
        yield Case(
            unit,
            {"bits": format.bits, "unity": format.unity},
            lambda f=format: component(f),
            (word_operand("word", format),),
            lambda word, f=format: {flag: int(abs(f.decode(word)) == value)},
        )


def cycle_count(bits: Sequence[int] = ALL_BITS) -> Iterator[Case]:
    """Sizes of 1 to 8 bits."""
    for width in range(1, min(max(bits), 8) + 1):
        yield cycle_count_case(width)


def cycle_count_case(width: int) -> Case:
    """Sizes of so many bits; 0 is the largest."""
    return Case(
        "cycle-count",
        {"size_bits": width},
        lambda: CycleCount(width),
        tuple(number_operand(name, width) for name in ("rows", "inner", "columns")),
        lambda *sizes: {"cycles": sum(size or 1 << width for size in sizes) - 2},
    )


def _parameters(format: SFx, rounding: Rounding) -> dict[str, object]:
    return {"bits": format.bits, "unity": format.unity, "rounding": rounding}


def rotate(cases: Iterable[Case], turn: int = 0) -> list[Case]:
    """One multiplier per variant instead of all, a different one each time."""
    found = list(cases)
    names = {case.parameters.get("multiplier") for case in found}
    if len(names) == 1 or found[0].unit == "multiplier":
        return found
    count = len(names)
    return [c for n, c in enumerate(found) if n % count == (n // count + turn) % count]


#: Every unit by its name.
UNITS: Final[Mapping[str, Callable[[Sequence[int]], Iterator[Case]]]] = {
    "multiplier": multiplier,
    "product": product,
    "encoder": encoder,
    "signed-encoder": signed_encoder,
    "fma": fma,
    "fma-stream": fma_stream,
    "mac": mac,
    "drain": drain,
    "activation": activation,
    "convert-binary32": convert_binary32,
    "convert-binary16": convert_binary16,
    "to-binary32": to_binary32,
    "zero-detector": zero_detector,
    "unity-detector": unity_detector,
    "operand-hold": operand_hold,
    "shift-register": shift_register,
    "cycle-count": cycle_count,
}

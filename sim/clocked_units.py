"""Every clocked unit without streams, each with a model that goes cycle by cycle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random

from hw.mac import MultiplyAccumulate
from hw.multiplier import MULTIPLIERS
from hw.operand_hold import OperandHold
from hw.shift_register import ShiftRegister
from sim.case import Case
from sim.stimulus import Operand, formats, number_operand, word_operand
from sw.format import SFx

Cycle = Mapping[str, int]


def mac(bits: Sequence[int]) -> Iterator[Case]:
    """Words with ``first`` and ``valid``, with and without additional registers."""
    for number, format in enumerate(formats(bits)):
        for place, name in enumerate(MULTIPLIERS):
            stages = divmod((number + place) % 4, 2)
            yield Case(
                "mac",
                {"bits": format.bits, "unity": format.unity, "multiplier": name, "stages": stages},
                lambda f=format, n=name, s=stages: MultiplyAccumulate(
                    f, multiplier=n, input_stages=s[0], product_stages=s[1]
                ),
                (
                    word_operand("a", format),
                    word_operand("b", format),
                    Operand("first", 1),
                    Operand("valid", 1),
                ),
                model=lambda cycles, f=format, s=stages: accumulate(f, sum(s), cycles),
                draw=lambda random, f=format: draw_terms(random, f),
            )


def draw_terms(random: Random, format: SFx) -> tuple[int, int, int, int]:
    """Sums of some ten products, often of the largest, with gaps."""
    a, b = (word_operand("", format).draw(random) for _ in "ab")
    return a, b, int(random.random() < 0.1), int(random.random() < 0.8)


def accumulate(format: SFx, delay: int, cycles: Iterable[Cycle]) -> Iterator[Cycle]:
    """The accumulator shows a product ``delay + 1`` cycles after its operands.

    Reset leaves its value alone, so it counts from the first ``first`` on only.
    """
    total: int | None = None
    waiting: list[tuple[bool, int]] = [(False, 0)] * (delay + 1)
    for cycle in cycles:
        first, value = waiting.pop(0)
        if first:
            total = value
        elif total is not None:
            total += value
        yield {"accumulator": total}
        taken = bool(cycle["valid"])
        product = format.multiply(cycle["a"], cycle["b"]) if taken else 0
        waiting.append((taken and bool(cycle["first"]), product))


def operand_hold(bits: Sequence[int]) -> Iterator[Case]:
    """Pairs of words, often zero."""
    for format in formats(bits):
        yield Case(
            "operand-hold",
            {"bits": format.bits, "unity": format.unity},
            lambda f=format: OperandHold(f),
            (word_operand("a", format), word_operand("b", format), Operand("valid", 1)),
            model=lambda cycles, f=format: _hold(f, cycles),
        )


def _hold(format: SFx, cycles: Iterable[Cycle]) -> Iterator[Cycle]:
    a = b = valid = zero = 0
    for cycle in cycles:
        yield {
            "held_a": a,
            "held_b": b,
            "a_unity": int(abs(format.decode(a)) == 1),
            "b_unity": int(abs(format.decode(b)) == 1),
            "held_valid": valid,
            "zero": zero,
        }
        valid = cycle["valid"]
        zero = int(valid and format.multiply(cycle["a"], cycle["b"]) == 0)
        if valid and not zero:
            a, b = cycle["a"], cycle["b"]


def shift_register(bits: Sequence[int]) -> Iterator[Case]:
    """The published size, and lanes and depths around it for every width of a word."""
    sizes = [(1, 8, 16), *((1 + x % 3, 1 + x % 5, x) for x in bits)]
    for lanes, depth, width in dict.fromkeys(sizes):
        yield Case(
            "shift-register",
            {"lanes": lanes, "depth": depth, "bits": width},
            lambda n=lanes, d=depth, w=width: ShiftRegister(n, d, w),
            (number_operand("i", lanes * width), Operand("enable", 1)),
            model=lambda cycles, n=lanes, d=depth, w=width: shift(n, d, w, cycles),
        )


def shift(lanes: int, depth: int, width: int, cycles: Iterable[Cycle]) -> Iterator[Cycle]:
    taps = [[0] * depth for _ in range(lanes)]
    for cycle in cycles:
        words = [word for lane in taps for word in lane]
        yield {"taps": sum(word << (width * place) for place, word in enumerate(words))}
        if cycle["enable"]:
            for number, lane in enumerate(taps):
                word = (cycle["i"] >> (width * number)) & ((1 << width) - 1)
                lane[:] = [word, *lane[:-1]]

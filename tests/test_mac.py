"""The cell's accumulator equals the integer model's dot product, cycle by cycle."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from hw.carry_chain import BEHAVIOURAL
from hw.mac import MultiplyAccumulate
from hw.multiplier import TARGETS
from hw.product import WordProduct
from sw.format import MAX_BITS, MIN_BITS, SFx

SEED = 20261122
FORMATS = [SFx(bits, unity) for bits in range(MIN_BITS, MAX_BITS + 1) for unity in (True, False)]


def special_words(format: SFx) -> list[int]:
    """Zero, minus zero, one ulp, the largest below all ones, and all ones, of both signs."""
    sign, ones = format.sign_bit, format.max_code
    return [magnitude | s for magnitude in (0, 1, ones - 1, ones) for s in (0, sign)]


def signed(value: int, width: int) -> int:
    return value - (value >> (width - 1) << width)


def random_cycles(format: SFx, count: int) -> list[tuple[int, int, int, int]]:
    """Words, ``first`` and ``valid``; the first valid cycle starts a sum."""
    generator = random.Random(SEED + format.bits)
    special = special_words(format)
    cycles, started = [], False
    for _ in range(count):
        a, b = (
            generator.choice(special)
            if generator.random() < 0.4
            else generator.getrandbits(format.bits)
            for _ in range(2)
        )
        valid = generator.random() < 0.7
        first = generator.random() < 0.1 or (valid and not started)
        started |= valid
        cycles.append((a, b, int(first), int(valid)))
    return cycles


def run_cell(cell: MultiplyAccumulate, cycles: list[tuple[int, int, int, int]]) -> None:
    """Drive the cycles back to back and compare each with the model after the cell's latency."""
    format, width = cell.format, len(cell.accumulator)
    idle = [(0, 0, 1, 0)] * cell.latency
    want: list[int | None] = []
    terms: tuple[list[int], list[int]] = ([], [])
    for a, b, first, valid in cycles:
        if valid:
            terms = ([a], [b]) if first else (terms[0] + [a], terms[1] + [b])
        want.append(format.dot(*terms) if terms[0] else None)

    async def testbench(context) -> None:
        for cycle, (a, b, first, valid) in enumerate(cycles + idle):
            context.set(cell.a, a)
            context.set(cell.b, b)
            context.set(cell.first, first)
            context.set(cell.valid, valid)
            await context.tick()
            done = cycle + 1 - cell.latency
            if 0 <= done < len(want) and want[done] is not None:
                got = signed(context.get(cell.accumulator), width)
                assert got == want[done], (
                    f"{format} cycle {done} {cycles[done]} got={got} want={want[done]} seed={SEED}"
                )

    simulator = Simulator(Fragment.get(cell, BEHAVIOURAL))
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("target", ["generic", "ecp5"])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_accumulator_equals_the_dot_product_in_every_cycle(format, target):
    stages = {"generic": (0, 2), "ecp5": (1, 1)}[target]
    cell = MultiplyAccumulate(format, 256, "auto", target, *stages)
    run_cell(cell, random_cycles(format, 60))


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_does_not_change_the_sum_without_stages(target):
    run_cell(MultiplyAccumulate(SFx(7), target=target), random_cycles(SFx(7), 60))


@pytest.mark.parametrize("multiplier", ["array", "dadda", "chain"])
def test_the_multiplier_does_not_change_the_sum(multiplier):
    run_cell(MultiplyAccumulate(SFx(8), multiplier=multiplier), random_cycles(SFx(8), 60))


@pytest.mark.parametrize("target", ["generic", "ecp5"])
@pytest.mark.parametrize("format", [SFx(3), SFx(8), SFx(16), SFx(8, unity=False)], ids=str)
@pytest.mark.parametrize("sign", [0, 1])
def test_the_accumulator_holds_k_max_terms_of_the_largest_product(format, target, sign):
    """Both extremes of K_max = 64 terms, from a sum that was the other extreme before."""
    terms = 64
    ones = format.max_code
    other = [
        (ones, ones | (format.sign_bit if not sign else 0), int(k == 0), 1) for k in range(terms)
    ]
    extreme = [
        (ones, ones | (format.sign_bit if sign else 0), int(k == 0), 1) for k in range(terms)
    ]
    run_cell(MultiplyAccumulate(format, terms, target=target), other + extreme)


@pytest.mark.parametrize("format", [f for f in FORMATS if f.bits <= 4], ids=str)
@pytest.mark.parametrize("target", ["generic", "ecp5", "osu018"])
def test_the_word_product_is_exact_for_every_pair_of_words(format, target):
    check_products(
        format, target, [(a, b) for a in range(1 << format.bits) for b in range(1 << format.bits)]
    )


@pytest.mark.parametrize("format", [f for f in FORMATS if f.bits > 4], ids=str)
def test_the_word_product_is_exact_for_special_and_random_words(format):
    generator = random.Random(SEED)
    words = [*special_words(format), *(generator.getrandbits(format.bits) for _ in range(6))]
    check_products(format, "generic", [(a, b) for a in words for b in words])


def check_products(format: SFx, target: str, pairs: list[tuple[int, int]]) -> None:
    product = WordProduct(format, target=target)

    async def testbench(context) -> None:
        for a, b in pairs:
            context.set(product.a, a)
            context.set(product.b, b)
            sign, magnitude = context.get(product.sign), context.get(product.magnitude)
            want = format.multiply(a, b)
            assert (-magnitude if sign else magnitude) == want, (
                f"{format} a={a:#x} b={b:#x} got={sign},{magnitude} want={want} seed={SEED}"
            )

    simulator = Simulator(Fragment.get(product, BEHAVIOURAL))
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("stages", [-1, 1.5, True])
def test_stages_that_are_no_count_are_refused(stages):
    with pytest.raises((TypeError, ValueError), match="input_stages must be"):
        MultiplyAccumulate(SFx(8), input_stages=stages)

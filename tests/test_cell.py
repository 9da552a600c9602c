"""One cell: every product, the sum, the bus and what is passed on, cycle by cycle."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from hw.carry_chain import BEHAVIOURAL
from hw.cell import Cell
from hw.multiplier import TARGETS
from sw.format import MAX_BITS, MIN_BITS, SFx
from tests.operands import SEED, operand, random_word, special_words

FORMATS = [SFx(bits, unity) for bits in range(MIN_BITS, MAX_BITS + 1) for unity in (True, False)]


@dataclass(frozen=True)
class Step:
    """What enters in one cycle: two words and the control of their slice.

    A word marked stale enters as the operand of another word with ``zero`` set.
    """

    a: int
    b: int
    valid: int = 1
    first: int = 0
    last: int = 0
    stale: int | None = None


def run(cell: Cell, steps: list[Step]) -> None:
    """Drive the steps back to back and compare bus, sum and what is passed on in every cycle."""
    format = cell.format
    sums: list[int | None] = []
    total: int | None = None
    for step in steps:
        if step.valid and (step.first or total is not None):
            total = (0 if step.first else total) + format.multiply(step.a, step.b)
        sums.append(total)

    def operands(step: Step) -> tuple[dict[str, int], dict[str, int]]:
        a, b = operand(format, step.a), operand(format, step.b)
        if step.stale is not None:
            held = operand(format, step.stale)
            a, b = ({**held, "zero": 1} if side["zero"] else side for side in (a, b))
        return a, b

    async def testbench(context) -> None:
        for cycle in range(len(steps) + cell.latency - 1):
            step = steps[cycle] if cycle < len(steps) else Step(0, 0, valid=0)
            a, b = operands(step)
            control = {"valid": step.valid, "first": step.first, "last": step.last}
            context.set(cell.a, a)
            context.set(cell.b, b)
            context.set(cell.control, control)
            await context.tick()
            place = f"{format} {cell.target} cycle {cycle} {step} seed={SEED}"
            for member, want in (("a_next", a), ("b_next", b), ("control_next", control)):
                got = {name: context.get(getattr(getattr(cell, member), name)) for name in want}
                assert got == want, f"{place}: {member} {got=} {want=}"
            done = cycle + 1 - cell.latency
            if done < 0 or sums[done] is None:
                assert context.get(cell.bus) == 0, f"{place}: the bus must be still"
                continue
            got, want = context.get(cell.bus), sums[done] if steps[done].last else 0
            assert got == want, f"{place}: bus after {steps[done]} {got=} {want=}"
            got = context.get(cell.accumulator.as_signed())
            assert got == sums[done], f"{place}: sum after {steps[done]} {got=} want={sums[done]}"

    simulator = Simulator(Fragment.get(cell, BEHAVIOURAL))
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def random_steps(format: SFx, count: int) -> list[Step]:
    """Random words and controls; the first valid slice starts a sum."""
    generator = random.Random(SEED + format.bits)
    steps: list[Step] = []
    started = False
    for _ in range(count):
        valid = generator.random() < 0.8
        first = generator.random() < 0.2 or not started
        started |= valid
        steps.append(
            Step(
                random_word(format, generator),
                random_word(format, generator),
                int(valid),
                int(first),
                int(started and generator.random() < 0.3),
                None if first else random_word(format, generator),
            )
        )
    return steps


@pytest.mark.parametrize("target", ["generic", "ecp5"])
@pytest.mark.parametrize("format", [f for f in FORMATS if f.bits <= 5], ids=str)
def test_every_product_of_words_is_exact(format, target):
    words = range(1 << format.bits)
    steps = [Step(a, b, first=1, last=1) for a in words for b in words]
    run(Cell(format, 2, target=target), steps)


@pytest.mark.parametrize("target", ["generic", "ecp5"])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_bus_shows_the_sum_where_it_drains_and_nothing_else(format, target):
    run(Cell(format, 256, target=target), random_steps(format, 80))


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_does_not_change_the_sum(target):
    run(Cell(SFx(7), target=target), random_steps(SFx(7), 80))


@pytest.mark.parametrize("multiplier", ["array", "dadda", "chain"])
@pytest.mark.parametrize("target", ["generic", "ecp5"])
def test_the_multiplier_does_not_change_the_sum(multiplier, target):
    run(Cell(SFx(8), 256, multiplier, target), random_steps(SFx(8), 80))


@pytest.mark.parametrize("target", ["generic", "ecp5"])
@pytest.mark.parametrize("format", [SFx(3), SFx(8), SFx(16), SFx(8, unity=False)], ids=str)
def test_every_pair_of_special_words_is_exact(format, target):
    words = special_words(format)
    run(Cell(format, 256, target=target), [Step(a, b, 1, 1, 1) for a in words for b in words])


@pytest.mark.parametrize("target", ["generic", "ecp5"])
@pytest.mark.parametrize("format", [SFx(4), SFx(16), SFx(16, unity=False)], ids=str)
@pytest.mark.parametrize("sign", [0, 1])
def test_the_sum_holds_k_max_terms_of_the_largest_product(format, target, sign):
    """Both extremes, one right after the other."""
    ones, terms = format.max_code, 64
    signs = (format.sign_bit * (1 - sign), format.sign_bit * sign)
    steps = [
        Step(ones, ones | s, 1, int(k == 0), int(k == terms - 1)) for s in signs for k in range(64)
    ]
    run(Cell(format, terms, target=target), steps)


@pytest.mark.parametrize("target", ["generic", "ecp5"])
def test_a_sum_drains_again_unchanged(target):
    format = SFx(8)
    steps = [Step(0x55, 0xFF, 1, 1, 1)]
    steps += [Step(0x7F, 0x7F, 0, first, 1) for first in (0, 1, 0)]
    steps += [Step(0x12, 0x34, 1, 0, 1), Step(0, 0, 0, 0, 1)]
    run(Cell(format, target=target), steps)

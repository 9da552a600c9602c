"""The edge alone: what each lane sends, cycle by cycle, and how many zeros are counted."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator

from hw.edge import ArrayEdge
from hw.operand import OperandEncoder
from sw.format import MAX_BITS, MIN_BITS, SFx
from tests.operands import SEED, operand, random_word, special_words, stored

FORMATS = [SFx(bits, unity) for bits in range(MIN_BITS, MAX_BITS + 1) for unity in (True, False)]
ZERO = {"magnitude": 0, "sign": 0, "unity": 0, "zero": 1}


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_encoder_gives_the_operand_of_a_word(format):
    encoder = OperandEncoder(format)
    generator = random.Random(SEED)
    words = [*special_words(format), *(generator.getrandbits(format.bits) for _ in range(30))]
    if format.bits <= 8:
        words = list(range(1 << format.bits))

    async def testbench(context) -> None:
        for word in words:
            context.set(encoder.stored, stored(format, word))
            want = operand(format, word)
            got = {name: context.get(getattr(encoder.operand, name)) for name in want}
            assert got == want, f"{format} {word=:#x} {got=} {want=} seed={SEED}"

    simulator = Simulator(encoder)
    simulator.add_testbench(testbench)
    simulator.run()


def lane(format: SFx, inputs: list[tuple[int, int, int, int]], hold: bool) -> list[dict]:
    """What a lane holds after each (word, used, valid, first), by the rule of the contract."""
    found, outputs = {**ZERO, "zero": 0}, []
    for word, used, valid, first in inputs:
        new = operand(format, word) if used else ZERO
        if not hold or (valid and (first or not new["zero"])):
            found = new
        elif valid:
            found = {**found, "zero": 1}
        outputs.append(found)
    return outputs


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize(
    ("format", "rows", "columns"),
    [(SFx(8), 3, 2), (SFx(3), 1, 4), (SFx(16, unity=False), 4, 1), (SFx(5), 12, 10)],
    ids=str,
)
def test_lanes_send_what_they_hold_and_the_zeros_are_counted(format, rows, columns, hold):
    generator = random.Random(SEED)
    edge = ArrayEdge(format, rows, columns, hold)
    steps = [
        (
            [random_word(format, generator) for _ in range(rows + columns)],
            [generator.getrandbits(1) for _ in range(rows + columns)],
            {name: generator.getrandbits(1) for name in ("valid", "first", "last")},
        )
        for _ in range(60)
    ]
    want = []
    for number in range(rows + columns):
        row = number < rows
        inputs = [
            # A row that is not used is not valid; a column that is not used has a zero operand.
            (w[number], row or u[number], c["valid"] and (u[number] or not row), c["first"])
            for w, u, c in steps
        ]
        want.append(lane(format, inputs, hold))
    counts = [
        hold
        * (c["valid"] and not c["first"])
        * sum(u and format.operand(word) == 0 for word, u in zip(words, used, strict=True))
        for words, used, c in steps
    ]

    async def testbench(context) -> None:
        for cycle, (words, used, control) in enumerate(steps):
            for port, word in zip([*edge.a, *edge.b], words, strict=True):
                context.set(port, stored(format, word))
            context.set(edge.control, control)
            context.set(edge.row_mask, sum(bit << i for i, bit in enumerate(used[:rows])))
            context.set(edge.column_mask, sum(bit << j for j, bit in enumerate(used[rows:])))
            await context.tick()
            for number, port in enumerate([*edge.a_skewed, *edge.b_skewed]):
                index = number if number < rows else number - rows
                then = cycle - index - edge.latency + 1
                if then < 0:
                    continue
                place = f"{format} cycle {cycle} lane {number} {hold=} seed={SEED}"
                expected = want[number][then]
                got = {name: context.get(getattr(port, name)) for name in expected}
                assert got == expected, f"{place}: {got=} want={expected}"
                if number < rows:
                    _, used_then, c = steps[then]
                    mask = used_then[index]
                    masked = (c["valid"] and mask, c["first"], c["last"] and mask)
                    got = edge.control_skewed[index]
                    got = tuple(context.get(getattr(got, n)) for n in ("valid", "first", "last"))
                    assert got == masked, f"{place}: control {got=} want={masked}"
            counted = cycle + 1 - edge.held_latency
            if counted >= 0:
                got = context.get(edge.held)
                assert got == counts[counted], f"cycle {cycle} {got=} want={counts[counted]}"

    simulator = Simulator(edge)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()

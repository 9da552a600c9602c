"""What the split cell holds, read at the drain, equals the integer model's dot product."""

from __future__ import annotations

from random import Random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hw.adder import ADDERS
from hw.split_mac import SplitAccumulatorValue, SplitMultiplyAccumulate
from sw.format import MAX_BITS, MAX_TERMS, MIN_BITS, SFx

SEED = 20261122
FORMATS = [
    pytest.param(SFx(bits, unity), marks=() if bits in (3, 4, 8, 16) else pytest.mark.slow)
    for bits in range(MIN_BITS, MAX_BITS + 1)
    for unity in (True, False)
]


class Whole(wiring.Component):
    """The unit with the drain's addition behind it."""

    def __init__(self, format: SFx, max_terms: int, adder: str) -> None:
        self.unit = SplitMultiplyAccumulate(format, max_terms, "operator", adder=adder)
        self.drain = SplitAccumulatorValue(format, max_terms)
        super().__init__(
            {
                "a": In(format.bits),
                "b": In(format.bits),
                "first": In(1),
                "valid": In(1),
                "terms": In(range(max_terms + 1)),
                "accumulator": Out(format.accumulator_bits(max_terms)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        m.submodules.drain = drain = self.drain
        m.d.comb += [getattr(unit, n).eq(getattr(self, n)) for n in ("a", "b", "first", "valid")]
        m.d.comb += [getattr(drain, n).eq(getattr(unit, n)) for n in ("low", "high", "carry")]
        m.d.comb += [drain.terms.eq(self.terms), self.accumulator.eq(drain.accumulator)]
        return m


def random_cycles(format: SFx, count: int) -> list[tuple[int, int, bool, bool]]:
    random = Random(f"{SEED} {format}")
    ones = format.max_code
    special = [m | s for m in (0, 1, ones - 1, ones) for s in (0, format.sign_bit)]
    cycles = []
    for number in range(count):
        a, b = (
            random.choice(special) if random.random() < 0.4 else random.getrandbits(format.bits)
            for _ in range(2)
        )
        begin = number == 0
        cycles.append((a, b, begin or random.random() < 0.1, begin or random.random() < 0.8))
    return cycles


def check(format: SFx, max_terms: int, adder: str, cycles: list) -> None:
    whole = Whole(format, max_terms, adder)
    width = len(whole.accumulator)

    async def testbench(context) -> None:
        total = terms = 0
        for a, b, first, valid in cycles:
            for port, given in (
                (whole.a, a),
                (whole.b, b),
                (whole.first, first),
                (whole.valid, valid),
            ):
                context.set(port, given)
            await context.tick()
            if valid:
                total = format.multiply(a, b) + (0 if first else total)
                terms = 1 if first else terms + 1
            context.set(whole.terms, terms)
            got = context.get(whole.accumulator)
            assert got == total % (1 << width), f"{a=:#x} {b=:#x} {total=} {format} {SEED=}"

    simulator = Simulator(whole)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_split_cell_holds_the_dot_product(format: SFx) -> None:
    check(format, MAX_TERMS, "plain", random_cycles(format, 60))


@pytest.mark.parametrize("adder", ADDERS)
def test_every_adder_gives_the_same(adder: str) -> None:
    check(SFx(5, True), 256, adder, random_cycles(SFx(5, True), 60))


@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("sign", [0, 1])
def test_the_longest_sum_of_the_largest_products_fits(unity: bool, sign: int) -> None:
    format = SFx(3, unity)
    word = format.max_code
    check(format, 20, "plain", [(word | sign << 2, word, k == 0, True) for k in range(20)])


def test_every_pair_of_words_after_every_small_sum() -> None:
    format = SFx(3, True)
    pairs = [(a, b, a == b == 0, True) for a in range(8) for b in range(8)]
    check(format, 64, "plain", pairs)


def test_an_unknown_adder_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="adder must be one of plain"):
        SplitMultiplyAccumulate(SFx(8), adder="fast")

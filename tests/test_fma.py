"""The fused multiply-add against the integer model, combinational and as a stream."""

from __future__ import annotations

import itertools
import random

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.fma import FusedMultiplyAdd, FusedMultiplyAddStream
from sw.format import MAX_BITS, MIN_BITS, ROUNDINGS, Rounding, SFx
from tests.simulation import assert_equal, evaluate, simulate

SEED = 20261122
WIDTHS = range(MIN_BITS, MAX_BITS + 1)
NAMES = ("a", "b", "c")


def corner_words(format: SFx) -> list[int]:
    """Zeros, the smallest, around the half, the largest two and all ones, of both signs."""
    top = format.max_code
    magnitudes = {0, 1, 2, top // 2, top // 2 + 1, top - 2, top - 1, top}
    return [m | sign for m in sorted(magnitudes) for sign in (0, format.sign_bit)]


def tie_vectors(format: SFx, rng: random.Random, count: int) -> list[tuple[int, int, int]]:
    """Operands whose product lies half way between two words: ``m * (odd * 2**(F-1)) * 2**-2F``."""
    half = 1 << format.fraction_bits - 1
    words = range(1, format.max_code, 2)
    return [
        (
            rng.choice(words) | rng.getrandbits(1) * format.sign_bit,
            half,
            rng.getrandbits(format.bits),
        )
        for _ in range(count)
    ]


def vectors_for(format: SFx, rng: random.Random) -> list[tuple[int, ...]]:
    if 3 * format.bits <= 9:
        return list(itertools.product(range(1 << format.bits), repeat=3))
    vectors: list[tuple[int, ...]] = list(itertools.product(corner_words(format)[::3], repeat=3))
    vectors += tie_vectors(format, rng, 40)
    vectors += [tuple(rng.getrandbits(format.bits) for _ in NAMES) for _ in range(150)]
    return vectors


def check(
    format: SFx, rounding: Rounding, vectors: list[tuple[int, ...]], multiplier: str = "array"
) -> None:
    unit = FusedMultiplyAdd(format, rounding, multiplier)
    got = [o for (o,) in evaluate(unit, vectors)]
    want = [format.fma(*vector, rounding=rounding) for vector in vectors]
    assert_equal(f"FMA {format} {rounding} {multiplier}", vectors, got, want, SEED, NAMES)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_core_equals_the_model(bits: int, unity: bool, rounding: Rounding) -> None:
    format = SFx(bits, unity)
    check(format, rounding, vectors_for(format, random.Random(SEED)))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
def test_core_equals_the_model_for_every_operand_of_four_bits(
    unity: bool, rounding: Rounding
) -> None:
    check(SFx(4, unity), rounding, list(itertools.product(range(16), repeat=3)))


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
def test_core_equals_the_model_for_every_operand_of_five_bits(
    unity: bool, rounding: Rounding
) -> None:
    check(SFx(5, unity), rounding, list(itertools.product(range(32), repeat=3)))


@pytest.mark.parametrize("multiplier", ["array", "dadda", "chain"])
def test_every_multiplier_fits(multiplier: str) -> None:
    format = SFx(7)
    vectors = vectors_for(format, random.Random(SEED))
    check(format, "nearest", vectors, multiplier=multiplier)


def run_stream(
    unit: FusedMultiplyAddStream, vectors: list[tuple[int, ...]], offer: int, take: int
) -> tuple[list[int], list[int]]:
    """Words that leave the unit, and the cycles in which they do; chances in percent per cycle."""
    rng = random.Random(SEED + offer * 101 + take)
    words: list[int] = []
    cycles: list[int] = []

    async def testbench(context: SimulatorContext) -> None:
        waiting, offered = list(vectors), False
        grace = 20  # cycles in which a repeated word would show
        for cycle in range(40 * len(vectors)):
            grace -= len(words) >= len(vectors)
            if not grace:
                break
            offered = bool(waiting) and (offered or rng.randrange(100) < offer)
            if offered:
                context.set(unit.i.payload, dict(zip(NAMES, waiting[0], strict=True)))
            else:  # a payload without valid must not matter
                context.set(
                    unit.i.payload.as_value(), rng.getrandbits(len(unit.i.payload.as_value()))
                )
            taken = rng.randrange(100) < take
            context.set(unit.i.valid, offered)
            context.set(unit.o.ready, taken)
            if offered and context.get(unit.i.ready):
                waiting.pop(0)
                offered = False
            if taken and context.get(unit.o.valid):
                words.append(context.get(unit.o.payload))
                cycles.append(cycle)
            await context.tick()

    simulate(unit, testbench)
    return words, cycles


@pytest.mark.parametrize(("offer", "take"), [(60, 60), (100, 25), (25, 100), (90, 85)])
@pytest.mark.parametrize(
    ("bits", "unity", "rounding"),
    [(3, True, "nearest"), (8, True, "truncate"), (8, False, "nearest"), (16, True, "nearest")],
)
def test_stream_loses_and_repeats_nothing_under_stalls(
    bits: int, unity: bool, rounding: Rounding, offer: int, take: int
) -> None:
    format = SFx(bits, unity)
    rng = random.Random(SEED)
    vectors = [tuple(rng.getrandbits(bits) for _ in NAMES) for _ in range(60)]
    words, _ = run_stream(FusedMultiplyAddStream(format, rounding, "array"), vectors, offer, take)
    want = [format.fma(*vector, rounding=rounding) for vector in vectors]
    assert words == want, f"{format} {rounding}: sent {vectors}, seed {SEED}"


def test_stream_gives_a_result_every_cycle_after_its_latency() -> None:
    format = SFx(8)
    unit = FusedMultiplyAddStream(format)
    vectors = [(word, 255 - word, word ^ 0x35) for word in range(50)]
    words, cycles = run_stream(unit, vectors, 100, 100)
    assert words == [format.fma(*vector) for vector in vectors]
    assert cycles == list(range(unit.latency, unit.latency + 50))


def test_stalled_stream_takes_no_more_than_it_can_hold() -> None:
    unit = FusedMultiplyAddStream(SFx(8))
    accepted = []

    async def testbench(context: SimulatorContext) -> None:
        context.set(unit.i.valid, 1)
        for _ in range(10):
            accepted.append(context.get(unit.i.ready))
            await context.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert accepted == [1] * unit.latency + [0] * (10 - unit.latency)

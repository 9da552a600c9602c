"""Products of every kind on the machine's RTL, against integers."""

from __future__ import annotations

import random
from collections import Counter as Counts
from collections.abc import Iterator, Sequence

import pytest

from sim.machine_session import Stalls
from sw import activation
from sw.checks import Gemm, initial_state
from sw.config import MachineConfig
from sw.isa import Fault, Flag, Instruction, Opcode, decode_at, encode
from sw.registers import REGISTERS, Counter, Kind, Register
from tests.core_session import Run, verilator
from tests.product_reference import BLOCK, Parameters, Scale
from tests.program_reference import (
    CONFIGS,
    SEED,
    SQUARE,
    assert_as_reference,
    product,
    random_memory,
)


def parameters(config: MachineConfig, generator: random.Random) -> Parameters:
    """Something in every entry."""
    shifts = range(-3, 8)
    columns = {
        (entry, j): Scale(
            generator.randrange(1 << config.bias_format.bits), generator.choice(shifts)
        )
        for entry in range(8)
        for j in range(config.columns)
    }
    rows = {entry: Scale(0, generator.choice(shifts)) for entry in range(32)}
    table = activation.fit(activation.gelu, 2, 2, 64) if config.table else None
    return Parameters(columns, rows, table)


def named_products(config: MachineConfig) -> Iterator[list[int]]:
    """The shapes that layers of networks have."""
    c = config.columns
    out = config.memory_words // 2
    yield product(config, MX=c, K0=c, A_X=c, B_BASE=64, B_K0=c, O_BASE=out, O_X=c)
    # Ragged on every side, bias, shifts and ReLU.
    ragged = {"MX": 7, "K0": 19, "NT": 2, "NL": c - 1, "A_X": 19, "B_BASE": 140, "B_K0": 2 * c}
    ragged |= {"B_N": c, "P_COLUMN": 3, "P_ROW": 5}
    yield product(config, flags=6, act=1, O_BASE=out, O_X=2 * c, O_N=c, **ragged)
    yield product(config, flags=2, dest=1, act=2, CLAMP=config.format.max_code // 2, **ragged)
    yield product(config, dest=2, **ragged)
    # A matrix-vector product, and an outer product.
    yield product(config, MX=1, K0=33, NT=2, NL=1, A_X=33, B_BASE=40, B_K0=c, B_N=33 * c, dest=2)
    yield product(
        config, MX=9, K0=1, NT=3, NL=c, A_X=1, B_BASE=40, B_N=c, O_BASE=out, O_X=3 * c, O_N=c
    )
    # A 3 x 3 convolution of 6 x 5 pixels of 3 channels, without a copy of its patches.
    image = {"MX": 3, "MY": 4, "K0": 9, "K2": 3, "A_X": 3, "A_Y": 15, "A_K2": 15}
    yield product(
        config, act=1, B_BASE=100, B_K0=c, B_K2=9 * c, O_BASE=out, O_X=c, O_Y=3 * c, **image
    )
    # Q K^T: two heads, both operands lie by rows.
    heads = {"MX": 5, "K0": 7, "NL": 3, "G": 2, "A_X": 14, "A_G": 7, "B_MODE": 1, "B_X": 14}
    yield product(config, B_BASE=80, B_G=7, O_BASE=out, O_X=3, O_G=15, **heads)
    # A transposed A.
    yield product(config, A_MODE=1, MX=5, K0=9, A_K0=5, B_BASE=60, B_K0=c, dest=1)
    # A residual: X / 4 + Y / 2.
    residual = {"MX": 6, "K0": c, "K1": 2, "NT": 2, "A_X": 2 * c, "A_N": c, "A_K1": 100}
    yield product(config, add=True, B_K0=2, B_K1=1, O_BASE=out, O_X=2 * c, O_N=c, **residual)
    # Depthwise: every tile has an A of its own.
    yield product(config, MX=4, K0=c, NT=3, A_X=3 * c, A_N=c, B_BASE=100, B_K0=c, B_N=c * c, dest=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_products_of_networks_equal_integers(name: str) -> None:
    config = CONFIGS[name]
    generator = random.Random(SEED)
    runs = [
        Run(words, random_memory(config, generator), parameters(config, generator))
        for words in named_products(config)
    ]
    assert_as_reference(config, runs, verilator(config, runs))
    assert_as_reference(config, runs, verilator(config, runs, Stalls(SEED, 50, 30)))


def random_product(config: MachineConfig, generator: random.Random) -> list[int]:
    """SETs and a GEMM or ADD without fault."""
    pick = generator.randint
    while True:
        add, block = pick(0, 4) == 0, config.blocks and pick(0, 3) == 0
        dest = pick(0, 2)
        act = 0 if dest == 2 else pick(0, 3 if config.table else 2)
        flags = 14 if block else pick(0, 3) * 2
        sizes = {"MX": pick(1, 6), "MY": pick(1, 3), "K0": pick(1, 90 if block else 25)}
        sizes |= {"NT": pick(1, 3), "NL": pick(1, config.columns), "G": pick(1, 2)}
        if not block:
            sizes |= {"K1": pick(1, 3), "K2": pick(1, 2), "P_COLUMN": pick(0, 5)}
            sizes |= {"P_ROW": pick(0, 9), "P_ROW_G": pick(0, 4), "P_COLUMN_G": pick(0, 2)}
        sizes |= {"A_MODE": pick(0, 1), "B_MODE": pick(0, 2), "CLAMP": pick(0, 7)}
        for side in "ABO":
            sizes[f"{side}_BASE"] = pick(0, config.memory_words - 1)
            for step in ("X", "Y", "K0", "K1", "K2", "N", "G"):
                if f"{side}_{step}" in Register.__members__:
                    sizes[f"{side}_{step}"] = pick(0, 30)
        if add:
            flags &= 6
        flags |= 0 if add else pick(0, 1)
        try:
            return product(config, flags, dest, act, add, **sizes)
        except AssertionError:
            continue


def last_product(config: MachineConfig, words: Sequence[int]) -> Gemm:
    """The product behind SETs, with its registers."""
    state, counter = initial_state(config), 0
    while (decoded := decode_at(words, counter, config))[0].opcode == Opcode.SET:
        state, counter = state.after(decoded[0], config), counter + decoded[1]
    return Gemm(decoded[0], state.registers, config)


def block_parameters(config: MachineConfig, words: Sequence[int], given: Parameters) -> Parameters:
    """Lifts for the blocks of a product, at least one 0 in each row and column."""
    gemm = last_product(config, words)
    if not gemm.flags & Flag.BLOCK:
        return given
    generator = random.Random(len(words))
    blocks = -(-gemm.inner // BLOCK)
    rows, columns = {}, {}
    for m in range(gemm.rows):
        for b, lift in enumerate(lifts(generator, blocks)):
            rows[m * blocks + b] = Scale(0, generator.randint(-2, 6), lift)
    for t in range(gemm[Register.NT]):
        for j in range(config.columns):
            for b, lift in enumerate(lifts(generator, blocks)):
                bias = generator.randrange(1 << config.bias_format.bits)
                columns[t * blocks + b, j] = Scale(bias, generator.randint(-2, 6), lift)
    return Parameters(columns, rows, given.table)


def lifts(generator: random.Random, blocks: int) -> list[int]:
    found = [generator.randint(0, 15) for _ in range(blocks)]
    return [lift - min(found) for lift in found]


@pytest.mark.parametrize("name", CONFIGS)
def test_random_products_equal_integers(name: str) -> None:
    config = CONFIGS[name]
    generator = random.Random(SEED)
    given = parameters(config, generator)
    runs = []
    for _ in range(40):
        words = random_product(config, generator)
        memory = random_memory(config, generator, generator.random() / 2)
        runs.append(Run(words, memory, block_parameters(config, words, given)))
    assert_as_reference(config, runs, verilator(config, runs))


def test_zero_slices_are_skipped_without_a_difference() -> None:
    config, generator = SQUARE, random.Random(SEED)
    c, terms, tiles = config.columns, 37, 3
    memory = random_memory(config, generator)
    start = 8 * terms
    kept = 0
    for segment in range(terms * tiles):
        if generator.random() < 0.8:
            at = start + segment * c
            minus = 1 << config.bits - 1
            memory[at : at + c] = [generator.choice((0, minus)) for _ in range(c)]
        kept += any(word & config.format.max_code for word in memory[start + segment * c :][:c])
    sizes = {"MX": 8, "K0": terms, "NT": tiles, "A_X": terms, "B_BASE": start, "B_K0": c}
    sizes |= {"B_N": terms * c}
    runs = [Run(product(config, flags, dest=2, **sizes), memory) for flags in (0, 1)]
    outcomes = verilator(config, runs)
    assert_as_reference(config, runs, outcomes)
    every, some = (outcome.counters for outcome in outcomes)
    row_tiles = 8 // config.rows
    assert every[Counter.SLICES] == row_tiles * terms * tiles
    assert every[Counter.SKIPPED_SLICES] == 0
    assert some[Counter.SLICES] == row_tiles * kept
    assert some[Counter.SKIPPED_SLICES] == row_tiles * (terms * tiles - kept)
    assert some[Counter.COMPUTE_CYCLES] < every[Counter.COMPUTE_CYCLES]


def random_sizes(config: MachineConfig, generator: random.Random) -> list[int]:
    """SETs of sizes that mostly do not fit, and a GEMM, small if it runs."""
    largest = (1 << config.address_bits) - 1
    while True:
        words: list[int] = []
        for register in Register:
            if register == Register.TILE_BASE or generator.random() < 0.5:
                continue
            kind = REGISTERS[register].kind
            if kind == Kind.ADDRESS:
                value = generator.choice((0, 1, 3, config.columns, 100, largest // 2, largest))
            elif kind in (Kind.COUNT, Kind.LAST_COLUMNS):
                value = generator.choice((1, 1, 1, 2, 2, 3, config.columns + 1, 256, 65535))
                value *= generator.random() > 0.02
            else:
                value = generator.randrange(2)
            words += encode(Instruction(Opcode.SET, (register, value)))
        operands = (generator.randrange(2), 0, generator.randrange(2))
        words += encode(Instruction(Opcode.GEMM, operands))
        gemm = last_product(config, words)
        work = gemm.rows * gemm.inner * gemm.columns * gemm[Register.G]
        if gemm.fault() != Fault.NONE or work < 3000:
            return words


def test_sizes_and_extents_fault_as_the_checks_say() -> None:
    config, generator = SQUARE, random.Random(SEED)
    memory = random_memory(config, generator)
    runs = [Run(random_sizes(config, generator), memory, reset=not i) for i in range(400)]
    seen = Counts(last_product(config, run.words).fault() for run in runs)
    assert min(seen[f] for f in (Fault.NONE, Fault.SIZE, Fault.RANGE, Fault.OVERLAP)) > 5, seen
    assert_as_reference(config, runs, verilator(config, runs))

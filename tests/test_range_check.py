"""Sizes and extents of a product against plain integer arithmetic, at and around every limit."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator

from hw.range_check import RangeCheck
from sw.config import MachineConfig
from sw.isa import Fault
from sw.registers import REGISTERS

SEED = 20261122
CONFIGS = [
    MachineConfig(),
    MachineConfig(bits=4, rows=3, columns=5, slots=7, max_terms=1000),
    MachineConfig(bits=3, rows=1, columns=1, slots=1, max_terms=2),
    MachineConfig(bits=8, rows=2, columns=32, slots=65536),
]
LIMIT = 1 << 16


def registers(config: MachineConfig, **values: int) -> dict[str, int]:
    """All registers by name: those of a program's start, but for ``values``; and flag ``skip``."""
    start = {r.name.lower(): d.kind.default(config) for r, d in REGISTERS.items()} | {"skip": 0}
    assert values.keys() <= start.keys()
    return start | values


def products(r: dict[str, int], columns: int) -> tuple[int, int, int]:
    """M, K and N."""
    return r["mx"] * r["my"], r["k0"] * r["k1"] * r["k2"], (r["nt"] - 1) * columns + r["nl"]


def widest_tile(r: dict[str, int], columns: int) -> int:
    """Lanes that an extent counts: zeros are skipped by whole segments."""
    return columns if r["nt"] > 1 or r["skip"] else r["nl"]


def extents(r: dict[str, int], columns: int) -> dict[str, range]:
    """The words from the first to the last one of A, B and the output."""
    lanes = widest_tile(r, columns)
    a = b = o = 0
    for name in ("k1", "k2"):
        a += (r[name] - 1) * r[f"a_{name}"]
        b += (r[name] - 1) * r[f"b_{name}"]
    for count, stride in (("nt", "n"), ("g", "g")):
        a += (r[count] - 1) * r[f"a_{stride}"]
        b += (r[count] - 1) * r[f"b_{stride}"]
        o += (r[count] - 1) * r[f"o_{stride}"]
    if r["a_mode"] == 1:
        a += r["mx"] * r["my"] - 1 + (r["k0"] - 1) * r["a_k0"]
    else:
        a += (r["mx"] - 1) * r["a_x"] + (r["my"] - 1) * r["a_y"] + r["k0"] - 1
    if r["b_mode"] == 1:
        b += (lanes - 1) * r["b_x"] + r["k0"] - 1
    else:
        b += lanes - 1 + (r["k0"] - 1) * r["b_k0"]
    o += (r["mx"] - 1) * r["o_x"] + (r["my"] - 1) * r["o_y"] + lanes - 1
    firsts = {"a": r["a_base"], "b": r["b_base"], "o": r["o_base"]}
    return {n: range(firsts[n], firsts[n] + x + 1) for n, x in (("a", a), ("b", b), ("o", o))}


def expected(config: MachineConfig, r: dict[str, int], memory: int) -> Fault:
    counts = [r[name] for name in ("mx", "my", "k0", "k1", "k2", "nt", "nl", "g")]
    rows, terms, all_columns = products(r, config.columns)
    if not all(counts) or r["nl"] > config.columns:
        return Fault.SIZE
    if max(rows, terms, all_columns) >= LIMIT or terms > config.max_terms:
        return Fault.SIZE
    found = extents(r, config.columns)
    sources = [found["a"]] + ([found["b"]] if r["b_mode"] != 2 else [])
    if any(x.stop > config.memory_words for x in sources + [found["o"]] * memory):
        return Fault.RANGE
    meets = any(max(x.start, found["o"].start) < min(x.stop, found["o"].stop) for x in sources)
    return Fault.OVERLAP if memory and meets else Fault.NONE


def duration(config: MachineConfig, r: dict[str, int]) -> int:
    """Cycles from start to done."""
    counts = [r[name] for name in ("mx", "my", "k0", "k1", "k2", "nt", "g")]
    if not all(counts) or not 1 <= r["nl"] <= config.columns:
        return 1
    counts.append(widest_tile(r, config.columns))
    return 1 + sum(1 + (count - 1).bit_length() for count in counts)


def check(config: MachineConfig, cases: list[tuple[dict[str, int], int]]) -> list[Fault]:
    """Run the cases back to back and compare each with plain arithmetic; their faults."""
    unit = RangeCheck(config)
    faults = []

    async def testbench(context) -> None:
        for values, memory in cases:
            for name, value in values.items():
                context.set(unit.skip if name == "skip" else unit.registers[name], value)
            context.set(unit.memory, memory)
            context.set(unit.start, 1)
            assert not context.get(unit.done)
            await context.tick()
            context.set(unit.start, 0)
            cycles = 1
            while not context.get(unit.done):
                assert context.get(unit.busy)
                assert cycles < 200, f"{config} {values} is never done"
                await context.tick()
                cycles += 1
            got = Fault(context.get(unit.fault)), cycles
            want = expected(config, values, memory), duration(config, values)
            message = f"{config} {values} memory={memory} got={got} want={want} seed={SEED}"
            assert got == want, message
            if want[0] != Fault.SIZE:
                found = context.get(unit.rows), context.get(unit.terms)
                assert found == products(values, config.columns)[:2], message
            await context.tick()
            assert not context.get(unit.busy)
            assert Fault(context.get(unit.fault)) == want[0], message
            faults.append(want[0])

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return faults


def random_case(config: MachineConfig, rng: random.Random) -> tuple[dict[str, int], int]:
    """A product of which some fit and some do not."""
    counts = ("mx", "my", "k0", "k1", "k2", "nt", "g")
    wide = rng.random() < 0.15
    values = {
        name: rng.choice((0, 1, 255, 256, 257, LIMIT - 1, rng.randrange(LIMIT)))
        if wide and rng.random() < 0.4
        else rng.choice((1, 1, 1, 2, 3, rng.randint(1, 12)))
        for name in counts
    }
    values["nl"] = rng.randint(1, config.columns) if rng.random() < 0.95 else rng.randrange(40)
    words = config.memory_words
    reach = rng.choice((2, 4, config.columns + 1, words // 8 + 1, words))
    for register, definition in REGISTERS.items():
        name = register.name.lower()
        if name[1:] == "_base":
            values[name] = rng.randrange(words)
        elif name[:2] in ("a_", "b_", "o_") and name[2:] != "mode":
            values[name] = min(rng.randrange(reach), (1 << config.address_bits) - 1)
        elif definition.register.name in ("A_MODE", "B_MODE"):
            values[name] = rng.randrange(2 if name == "a_mode" else 3)
    values["skip"] = rng.randrange(2)
    return registers(config, **values), rng.randrange(2)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.rows}x{c.columns}x{c.slots}")
def test_random_products_have_the_fault_of_plain_arithmetic(config):
    rng = random.Random(SEED)
    faults = check(config, [random_case(config, rng) for _ in range(250)])
    wanted = {Fault.SIZE, Fault.RANGE}
    wanted |= {Fault.NONE, Fault.OVERLAP} if config.slots > 1 else set()
    assert wanted <= set(faults), f"the stimulus reaches only {set(faults)}"


def test_an_extent_may_end_with_the_last_word_and_not_one_later():
    """Each stride of each side in each mode, and each base, moved one word across the end."""
    config = MachineConfig(bits=4, rows=3, columns=5, slots=7)  # 112 words: no power of two
    words = config.memory_words
    assert words.bit_count() > 1
    strides = {
        "a": "mx a_x 0, my a_y 0, k1 a_k1 0, k2 a_k2 0, nt a_n 0, g a_g 0, k0 a_k0 1, k1 a_k1 1",
        "b": "k0 b_k0 0, k1 b_k1 0, k2 b_k2 1, nt b_n 1, g b_g 0, nl b_x 1",
        "o": "mx o_x 0, my o_y 0, nt o_n 0, g o_g 0",
    }
    cases = []
    for side, entries in strides.items():
        for count, stride, mode in (entry.split() for entry in entries.split(", ")):
            modes = {f"{side}_mode": int(mode)} if side != "o" else {}
            for n in (2, 5):
                values = registers(config, **{"nl": 1, count: n, stride: 3} | modes)
                start = values[f"{side}_base"]
                room = words - extents(values, config.columns)[side].stop
                others = dict.fromkeys({"a_base", "b_base", "o_base"} - {f"{side}_base"}, 0)
                for base in (start + room, start + room + 1):
                    cases.append((values | others | {f"{side}_base": base}, int(side == "o")))
    faults = check(config, cases)
    assert all(fault != Fault.RANGE for fault in faults[::2])
    assert all(fault == Fault.RANGE for fault in faults[1::2])


@pytest.mark.parametrize("b_mode", [0, 1, 2])
def test_an_output_may_touch_an_operand_and_not_share_a_word(b_mode):
    config = MachineConfig()
    shape = {"mx": 9, "k0": 8, "a_x": 8, "b_k0": 8, "b_x": 8, "o_x": 8, "b_mode": b_mode}
    for other, base in (("b_base", 600), ("a_base", 600)):
        side = "ab"[other == "a_base"]
        away = registers(config, **shape | {other: base, f"{side}_base": 200})
        found = extents(away | {"o_base": 0}, config.columns)
        length = len(found["o"])
        ends = (found[side].start - length, found[side].stop)
        touching = [(away | {"o_base": o}, 1) for o in ends]
        assert check(config, touching) == [Fault.NONE] * 2
        shared = [(away | {"o_base": o}, 1) for o in (ends[0] + 1, ends[1] - 1)]
        free = b_mode == 2 and side == "b"
        assert check(config, shared) == [Fault.NONE if free else Fault.OVERLAP] * 2
        assert check(config, [(v, 0) for v, _ in shared]) == [Fault.NONE] * 2


def test_sizes_may_reach_their_limit_and_not_pass_it():
    config = MachineConfig(rows=4, columns=5, max_terms=1000)
    within = [
        {"mx": 65535},
        {"mx": 257, "my": 255},
        {"k0": 1000},
        {"k0": 10, "k1": 10, "k2": 10},
        {"nt": 13107, "nl": 5},
    ]
    beyond = [
        {"mx": 32768, "my": 2},
        {"mx": 257, "my": 256},
        {"mx": 65535, "my": 65535},
        {"k0": 1001},
        {"k0": 7, "k1": 11, "k2": 13},
        {"k0": 256, "k1": 256, "k2": 65535},
        {"nt": 13108, "nl": 1},
        {"nt": 65535},
        {"nl": 6},
        *({name: 0} for name in ("mx", "my", "k0", "k1", "k2", "nt", "nl", "g")),
    ]
    still = {"a_mode": 1, "b_mode": 2}
    in_lanes = {"a_mode": 0, "b_mode": 2}
    fits = [Fault.NONE, Fault.RANGE]
    cases = [(registers(config, **still | case), 0) for case in within]
    assert all(fault in fits for fault in check(config, cases))
    cases = [(registers(config, **in_lanes | case), 0) for case in within[:2] + within[4:]]
    assert check(config, cases) == [Fault.NONE] * 3
    cases = [(registers(config, **still | case), 0) for case in beyond]
    assert check(config, cases) == [Fault.SIZE] * len(beyond)

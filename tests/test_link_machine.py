"""The machine behind its serial line, in Verilator, against the model: programs over the link."""

from __future__ import annotations

import random

import numpy as np
import pytest

from atreides.machine_files import load_memory, load_program
from sim.link_port import Faults, FaultyPort, SimulatedPort
from sw.config import MachineConfig
from sw.registers import Counter
from sw.runtime.board_device import BoardDevice
from sw.runtime.device import Outcome
from sw.runtime.model_device import ModelDevice
from tests.machine_programs import CONFIGS, ProgramMaker
from tests.test_programs import CONFIG, FOLDER

#: Counters that say how long something waited, which a line changes.
TIMES = {c for c in Counter if c.name.startswith("STALL")} | {
    Counter.CYCLES,
    Counter.COMPUTE_CYCLES,
}
SILENCE = 0.04

pytestmark = pytest.mark.slow


def differences(found: Outcome, wanted: Outcome) -> list[str]:
    """What differs but for times."""
    wrong = [n for n in ("fault", "counter") if getattr(found, n) != getattr(wanted, n)]
    wrong += [n for n in ("rows", "counts") if not same(getattr(found, n), getattr(wanted, n))]
    others = set(Counter) - TIMES
    return wrong + [c.name for c in others if found.counters[c] != wanted.counters[c]]


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.shape == wanted.shape and bool((found == wanted).all())


def compare_random_programs(config: MachineConfig, faults: Faults, programs: int) -> FaultyPort:
    """Run random programs on board and model; everything must be the same."""
    port = FaultyPort(SimulatedPort(config), faults)
    chance = random.Random(faults.seed)
    maker = ProgramMaker(config, chance)
    words = np.array([chance.randrange(1 << config.bits) for _ in range(config.memory_words)])
    options = {"silence": SILENCE, "retries": 60, "seed": faults.seed}
    with BoardDevice(config, port, **options) as board, ModelDevice(config) as model:
        for device in (board, model):
            device.write(0, words)
        for number in range(programs):
            program = tuple(maker.program(5))
            wrong = differences(board.run(program), model.run(program))
            assert not wrong, (faults.seed, number, wrong)
            size = config.memory_words
            assert same(board.read(0, size), model.read(0, size)), (faults.seed, number)
    return port


def test_random_programs_are_the_models_on_a_clean_line() -> None:
    port = compare_random_programs(CONFIGS["small"], Faults(3), 12)
    assert not any(port.done.values())


def test_random_programs_are_the_models_on_a_bad_line() -> None:
    faults = Faults(7, drop=3e-4, repeat=3e-4, spoil=3e-4, insert=3e-4, again=0.05)
    port = compare_random_programs(CONFIGS["small"], faults, 12)
    assert sum(port.done.values()) > 10


def test_random_programs_are_the_models_with_serial_control() -> None:
    config = MachineConfig(
        **{"bits": 4, "rows": 3, "columns": 2, "slots": 32, "parameters": 8, "row_parameters": 16},
        **{"skipping": False, "wide": False, "counters": "none", "control": "serial"},
    )
    faults = Faults(5, drop=3e-4, repeat=3e-4, spoil=3e-4, insert=3e-4, again=0.05)
    port = compare_random_programs(config, faults, 4)
    assert sum(port.done.values())


@pytest.mark.parametrize("name", ["hello", "gemm"])
def test_programs_leave_the_models_words_over_the_link(name: str) -> None:
    words = load_program(FOLDER / f"{name}.s", CONFIG)
    memory, parameters = load_memory(FOLDER / f"{name}.npz", CONFIG)
    with BoardDevice(CONFIG, SimulatedPort(CONFIG), silence=SILENCE) as board:
        board.write(0, memory)
        board.write_parameters(parameters)
        outcome = board.run(words)
        found = board.read(0, CONFIG.memory_words)
    expected = np.load(FOLDER / f"{name}.expected.npz")
    assert outcome.fault == 0
    tiles = expected["tiles"]
    assert (found[: tiles.size].reshape(tiles.shape) == tiles).all()

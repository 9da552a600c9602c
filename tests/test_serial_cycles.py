"""Cycles with serial control: the model's against the microcode's own, and what is made of them."""

from __future__ import annotations

import random

import pytest

from bench.network_runs import account, compare, whole_programs
from sim.machine_backends import execute
from sim.machine_device import make_device
from sim.machine_job import Job
from sw.checks import Gemm
from sw.compiler.compile import compile as compile_network
from sw.compiler.cost import cost
from sw.config import MachineConfig
from sw.estimate import Product, compute_cycles
from sw.isa import Destination, Instruction, Opcode
from sw.machine import Machine
from sw.registers import Counter
from sw.serial_checks import SerialChecks
from sw.serial_timing import multiply, sum_delay
from tests.machine_programs import ProgramMaker
from tests.networks import cnn
from tests.test_machine_gemm import gemm

SERIAL = {"skipping": False, "wide": False, "counters": "cycles", "control": "serial"}
SMALL = MachineConfig(
    bits=8, rows=4, columns=4, slots=512, bias_bits=16, parameters=16, row_parameters=4, **SERIAL
)
SEED = 20261123


def test_a_product_is_exact_and_takes_a_turn_per_bit():
    generator = random.Random(SEED)
    for _ in range(2000):
        factor, times = (generator.getrandbits(generator.randint(0, 16)) for _ in range(2))
        found = multiply(factor, times)
        assert found.value == factor * times & 0xFFFF
        assert found.overflow == (factor * times > 0xFFFF)
        least = 7 + 9 * times.bit_length() + 7 * times.bit_count()
        assert least <= found.steps <= least + 5 * times.bit_length()


@pytest.mark.parametrize("unity", [True, False])
def test_checks_that_are_timed_find_the_faults_of_the_checks(unity):
    config = MachineConfig(**SERIAL, bits=4, unity=unity, rows=3, columns=2, slots=40, max_terms=30)
    found = set()
    for seed in range(800):
        maker = ProgramMaker(config, random.Random(seed))
        product = Gemm(*maker.random_gemm(), config)
        if product.flags & 8:
            continue  # no instruction of such a machine
        checks = SerialChecks(product)
        assert checks.fault == product.fault(), product
        found.add(checks.fault.name)
    assert found >= {"NONE", "SIZE", "RANGE", "OVERLAP"}


def test_a_program_of_one_instruction_takes_what_its_steps_take():
    machine = Machine(SMALL)
    # Two cycles a step: after the word is taken 6, 15 to the opcode, 4 of its own, 2 and 9 to end.
    assert machine.run([0]).counters[Counter.CYCLES] == 1 + 2 * (6 + 15 + 4 + 2 + 9)
    assert machine.run([0xB000]).counters[Counter.CYCLES] == 1 + 2 * (6 + 15 + 0 + 2 + 7)


def test_a_result_more_takes_its_drain_and_nothing_else():
    """One row and column more of a tile: lanes to load, and cells to drain."""
    config = SMALL
    narrow = compute_cycles(config, Product(1, 1, 8))
    wide = compute_cycles(config, Product(1, 2, 8))
    element = 2 * (20 + 1 + 2) + sum_delay(config)  # steps, and what the second cell waits
    lane = 2 * 16
    stride = multiply(2, 256).steps - multiply(1, 256).steps
    assert wide - narrow == element + lane + 2 * stride
    assert compute_cycles(config, Product(1, 1, 8, destination=Destination.EXACT)) > narrow


def test_an_estimate_is_what_a_gemm_takes_after_its_checks():
    registers = {"MX": 7, "K0": 20, "K1": 3, "NT": 2, "NL": 2, "A_X": 60, "A_K1": 20}
    registers |= {"B_BASE": 500, "B_K0": 6, "B_K1": 120, "B_N": 4}
    machine = Machine(SMALL)
    report = machine.run(gemm(Destination.STREAM, **registers))
    product = Gemm(Instruction(Opcode.GEMM, (1, 0, 0)), machine.state.registers, SMALL)
    sets = len(registers) * 2 * (6 + 15 + 56 + 2 + 12)
    around = sets + 2 * (6 + 15 + SerialChecks(product).steps + 2 + 9) + 1
    want = Product(7, 6, 20, 3, destination=Destination.STREAM)
    assert report.counters[Counter.CYCLES] == around + compute_cycles(SMALL, want)


@pytest.fixture(scope="module")
def network():
    """A small network of convolutions for the machine, and an image."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(SEED)
    module, inputs = cnn()
    return compile_network(module.eval(), inputs, SMALL), inputs[0]


def test_a_network_takes_the_cycles_that_the_compiler_says(network):
    artefact, images = network
    found = compare(artefact, "model", "machine model", images)
    assert found.results == len(artefact.plan.layers) > 2
    cycles, _ = whole_programs(artefact, "model", images)
    assert account(artefact, cycles)["utilisation"] < 0.1
    for layer in cost(artefact.plan, artefact.schedule):
        assert sum(layer.losses().values()) + layer.needed / layer.cells == pytest.approx(
            layer.cycles
        )


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_a_network_runs_on_rtl_as_on_tensors_in_the_cycles_that_the_compiler_says(bits):
    torch = pytest.importorskip("torch")
    torch.manual_seed(SEED)
    module, inputs = cnn()
    config = MachineConfig(
        bits=bits, rows=4, columns=4, slots=512, parameters=16, row_parameters=4, **SERIAL
    )
    artefact = compile_network(module.eval(), inputs, config)
    with make_device(config, "verilator") as device:
        found = compare(artefact, device, "RTL", inputs[0])
    assert found.results == len(artefact.plan.layers) > 2
    with make_device(config, "verilator") as device:
        account(artefact, whole_programs(artefact, device, inputs[0])[0])


@pytest.mark.slow
def test_a_program_of_more_words_than_the_low_half_counts_takes_the_models_cycles():
    config = MachineConfig(bits=3, rows=2, columns=2, slots=8, parameters=2, **SERIAL)
    job = Job.of(config, (0,) * 65600)
    (want,), (got,) = execute([job], "model"), execute([job], "verilator", limit=10_000_000)
    assert not got.differences(want)

"""Schedules against integers: every kind of layer, where memory holds it and where it does not."""

from __future__ import annotations

import numpy as np
import pytest

from sw.compiler.layers import Function
from sw.compiler.schedule import Run, Schedule
from sw.compiler.scheduler import schedule
from sw.config import MachineConfig
from sw.registers import Counter
from tests.array_plans import Network, assert_exact

ARRAYS = {
    "2x2 SF4": MachineConfig(bits=4, rows=2, columns=2, slots=4096),
    "4x8 SF8": MachineConfig(bits=8, rows=4, columns=8, slots=512, bias_bits=12),
    "8x8 SF16": MachineConfig(bits=16, slots=256),
    "8x8 SF8 without unity": MachineConfig(bits=8, unity=False, slots=256),
    "16x16 SF8": MachineConfig(bits=8, rows=16, columns=16, slots=64, bias_bits=16),
    "3x5 SF8": MachineConfig(bits=8, rows=3, columns=5, slots=1000),
}


@pytest.fixture(params=ARRAYS)
def config(request: pytest.FixtureRequest) -> MachineConfig:
    return ARRAYS[request.param]


def test_a_small_network_is_one_program(config: MachineConfig) -> None:
    net = Network(config)
    net.upload("x", 2, 9, 9, 3, border=(1, 1, 1, 1))
    net.tensor("y", 2, 9, 9, 12, border=(1, 1, 1, 1))
    net.convolution("first", "x", 12, (3, 3), "y", padding=(1, 1, 1, 1), function=Function.RELU)
    net.tensor("z", 2, 5, 5, 7, exponent=1)
    net.convolution("second", "y", 7, (3, 3), "z", padding=(1, 1, 1, 1), stride=(2, 2))
    net.convolution("last", "z", 10, (5, 5))
    host = assert_exact(net, schedule(net.plan()))
    assert host.programs == 2  # one for each of two inferences
    assert_exact(net, schedule(net.plan()), apart=True)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (7, 7), (1, 3)])
@pytest.mark.parametrize("host", [True, False])
def test_kernels_with_strides_padding_and_dilation(kernel: tuple[int, int], host: bool) -> None:
    net = Network(ARRAYS["4x8 SF8"], seed=sum(kernel))
    net.upload("x", 3, 13, 11, 2, border=(3, 2, 1, 4), exponent=-1)
    for index, (stride, dilation, padding) in enumerate(
        [
            ((1, 1), (1, 1), (0, 0, 0, 0)),
            ((2, 3), (1, 1), (3, 2, 1, 4)),
            ((1, 2), (2, 2), (3, 1, 0, 4)),
        ]
    ):
        name = f"conv{index}"
        height, width = (
            (size + p - d * (k - 1) - 1) // s + 1
            for size, p, d, k, s in zip(
                (13, 11),
                (padding[0] + padding[1], padding[2] + padding[3]),
                dilation,
                kernel,
                stride,
                strict=True,
            )
        )
        if height < 1 or width < 1:
            continue
        to = None if host else net.tensor(f"y{index}", 3, height, width, 9)
        net.convolution(name, "x", 9, kernel, to, stride=stride, dilation=dilation, padding=padding)
        if to:
            net.download(to)
    assert_exact(net, schedule(net.plan()), times=1)


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs"),
    [(16, 1, 1), (19, 1, 1), (6, 1, 2), (3, 4, 3), (2, 5, 16), (5, 2, 3)],
)
@pytest.mark.parametrize("host", [True, False])
def test_groups(config: MachineConfig, groups: int, inputs: int, outputs: int, host: bool) -> None:
    net = Network(config, seed=groups)
    net.upload("x", 2, 6, 5, groups * inputs, border=(1, 1, 1, 1))
    to = None if host else net.tensor("y", 2, 6, 5, groups * outputs, exponent=1)
    net.convolution(
        "conv",
        "x",
        groups * outputs,
        (3, 3),
        to,
        groups=groups,
        padding=(1, 1, 1, 1),
        function=Function.LINEAR if host else Function.CLAMP,
        clamp=0.75,
    )
    if to:
        net.download(to)
    assert_exact(net, schedule(net.plan()), times=1)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("host", [True, False])
def test_products_of_tensors(
    config: MachineConfig, transposed: bool, repeat: int, host: bool
) -> None:
    for rows, terms, columns in ((1, 6, 5), (7, 12, 19), (9, 5, 16)):
        net = Network(config, seed=rows)
        net.upload("a", 2 * repeat, 1, rows, terms)
        net.upload("b", 2, 1, *((columns, terms) if transposed else (terms, columns)), exponent=1)
        to = None if host else net.tensor("y", 2 * repeat, 1, rows, columns, exponent=2)
        net.matmul("product", "a", "b", to, transposed=transposed, repeat=repeat)
        if to:
            net.download(to)
        assert_exact(net, schedule(net.plan()), times=1)


@pytest.mark.parametrize("channels", [1, 19])
def test_sums_of_tensors(config: MachineConfig, channels: int) -> None:
    net = Network(config, seed=channels)
    net.upload("a", 2, 4, 5, channels, exponent=0, border=(1, 1, 1, 1))
    net.upload("b", 2, 4, 5, channels, exponent=-2 + (not config.unity))
    net.tensor("c", 2, 4, 5, channels, exponent=1, border=(0, 1, 2, 0))
    net.add("both", "a", "b", "c", Function.RELU)
    net.download("c")
    net.add("twice", "c", "c", net.tensor("d", 2, 4, 5, channels, exponent=1))
    net.download("d")
    assert_exact(net, schedule(net.plan()))


@pytest.mark.parametrize("batch", [1, 20])
def test_a_global_average_needs_no_diagonal(config: MachineConfig, batch: int) -> None:
    net = Network(config)
    net.upload("x", batch, 4, 3, 19)
    word = np.full((19, 4, 3, 1, 1), 5, np.uint8 if config.bits <= 8 else np.uint16)
    net.convolution(
        "mean", "x", 19, (4, 3), net.tensor("y", batch, 1, 1, 19, exponent=1), groups=19, words=word
    )
    net.download("y")
    host = assert_exact(net, schedule(net.plan()))
    if batch == 1:
        assert host.counters[Counter.MACS] == 2 * 12 * 19


def programs(found: Schedule) -> list[Run]:
    return [c for commands in found.steps for c in commands if isinstance(c, Run)]


def test_schedules_are_the_same_each_time() -> None:
    def make() -> Schedule:
        net = Network(ARRAYS["4x8 SF8"])
        net.upload("x", 1, 6, 6, 8, border=(1, 1, 1, 1))
        net.convolution("conv", "x", 9, (3, 3), padding=(1, 1, 1, 1))
        return schedule(net.plan())

    one, other = make(), make()
    assert (one.setup, one.steps, one.places) == (other.setup, other.steps, other.places)
    assert all((one.constants[k] == other.constants[k]).all() for k in one.constants)


def test_slices_of_zeros_are_skipped() -> None:
    config = MachineConfig(bits=8, slots=256)
    net = Network(config)
    net.upload("x", 1, 8, 8, 8)
    words = net.words(1, 3, 3, 8, 16)
    words[0, 1, :, :, :8] = 0
    net.convolution("conv", "x", 16, (3, 3), net.tensor("y", 1, 6, 6, 16), words=words)
    net.download("y")
    found = schedule(net.plan())
    host = assert_exact(net, found, times=1)
    assert host.counters[Counter.SKIPPED_SLICES] == 24 * 5


@pytest.mark.parametrize(
    ("size", "inputs", "outputs", "kernel", "stride", "least"),
    [(32, 3, 16, 3, 1, 0.98), (16, 32, 32, 3, 1, 0.98), (16, 32, 64, 1, 2, 0.95)],
)
def test_layers_of_resnet8_keep_the_array_busy(
    size: int, inputs: int, outputs: int, kernel: int, stride: int, least: float
) -> None:
    net = Network(MachineConfig(bits=8, slots=1024))
    pad = kernel // 2
    net.upload("x", 1, size, size, inputs, border=(pad,) * 4)
    net.tensor("y", 1, size // stride, size // stride, outputs, exponent=1)
    net.convolution(
        "conv", "x", outputs, (kernel, kernel), "y", padding=(pad,) * 4, stride=(stride, stride)
    )
    host = assert_exact(net, schedule(net.plan()), times=1)
    assert host.counters[Counter.MACS] >= least * 64 * host.counters[Counter.COMPUTE_CYCLES]

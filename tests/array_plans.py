"""Plans made by hand, what they mean by integers, and schedules run on the machine model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sw.compiler.graph import Graph
from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Download,
    Function,
    HostOutput,
    Layer,
    LayerStep,
    Matmul,
    Plan,
    Step,
    Upload,
    View,
    Weights,
    WordsOutput,
)
from sw.compiler.program import split
from sw.compiler.schedule import Drain, ReadWords, Run, Schedule, WriteColumns, WriteWords
from sw.config import MachineConfig
from sw.format import SFx
from sw.isa import Fault
from sw.registers import Counter
from sw.runtime.model_device import ModelDevice

Array = np.ndarray[Any, np.dtype[Any]]
NO_VIEW = View((1,), (0,))


@dataclass
class Network:
    """Collects the parts of a plan, with random words."""

    config: MachineConfig
    seed: int = 0
    zeros: float = 0.1
    tensors: dict[str, ArrayTensor] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def words(self, *shape: int) -> Array:
        """Random words, zeros, minus zeros and unities among them."""
        f = self.config.format
        dtype = np.uint8 if f.bits <= 8 else np.uint16
        words = self.random.integers(0, 1 << f.bits, shape).astype(dtype)
        words[self.random.random(shape) < self.zeros] = 0
        special = np.array([f.sign_bit, f.max_code, f.max_code | f.sign_bit], dtype)
        chosen = self.random.random(shape) < 0.05
        words[chosen] = self.random.choice(special, int(chosen.sum()))
        return words

    def tensor(
        self,
        name: str,
        *shape: int,
        border: tuple[int, int, int, int] = (0, 0, 0, 0),
        exponent: int | None = 0,
    ) -> str:
        """A tensor that a layer will make."""
        n, h, w, c = shape
        self.tensors[name] = ArrayTensor(name, (n, h, w, c), exponent, border=border)
        return name

    def upload(self, name: str, *shape: int, **options: Any) -> str:
        """A tensor that the host gives."""
        self.steps.append(Upload(name, self.tensor(name, *shape, **options), NO_VIEW))
        return name

    def download(self, name: str) -> None:
        self.steps.append(Download(name, name, NO_VIEW))

    def _output(self, name: str, to: str | None, function: Function, clamp: float) -> Any:
        if to is None:
            return HostOutput(name, NO_VIEW)
        return WordsOutput(to, function, clamp)

    def convolution(
        self,
        name: str,
        a: str,
        channels: int,
        kernel: tuple[int, int] = (1, 1),
        to: str | None = None,
        *,
        groups: int = 1,
        bias: bool = True,
        function: Function = Function.LINEAR,
        clamp: float = 0.0,
        words: Array | None = None,
        **geometry: Any,
    ) -> str:
        inputs = self.tensors[a].shape[3] // groups
        if words is None:
            words = self.words(groups, *kernel, inputs, channels // groups)
        terms = kernel[0] * kernel[1] * inputs
        exponents = self.random.integers(-2, 2, channels) - terms.bit_length() // 2
        biases = torch.from_numpy(self.random.normal(0, 0.3, channels).astype(np.float32))
        weights = Weights(
            torch.from_numpy(words), torch.from_numpy(exponents), biases if bias else None
        )
        output = self._output(name, to, function, clamp)
        return self._layer(Convolution(name, a, weights, output, **geometry))

    def matmul(
        self,
        name: str,
        a: str,
        b: str,
        to: str | None = None,
        *,
        function: Function = Function.LINEAR,
        **options: Any,
    ) -> str:
        return self._layer(Matmul(name, a, b, self._output(name, to, function, 0.0), **options))

    def add(self, name: str, a: str, b: str, to: str, function: Any = Function.LINEAR) -> str:
        return self._layer(Add(name, a, b, WordsOutput(to, function)))

    def _layer(self, layer: Layer) -> str:
        self.layers[layer.name] = layer
        self.steps.append(LayerStep(layer.name))
        return layer.name

    def plan(self) -> Plan:
        graph = Graph((), (), (), {})
        return Plan(graph, self.config, self.tensors, self.layers, tuple(self.steps))

    def inputs(self) -> dict[str, Array]:
        """Random words for all uploads."""
        names = [step.tensor for step in self.steps if isinstance(step, Upload)]
        return {name: self.words(*self.tensors[name].shape) for name in names}


# What a plan means


def operand(words: Array, f: SFx) -> Array:
    """Integers in units of ``2**-F``."""
    magnitude = words.astype(np.int64) & f.max_code
    if f.unity:
        magnitude = magnitude + (magnitude == f.max_code)
    return np.where(words & f.sign_bit, -magnitude, magnitude)


def encode(values: Array, places: int, f: SFx) -> Array:
    """Words for Python integers in units of ``2**-places``, places above F."""
    cut = places - f.fraction_bits
    found = np.zeros(values.shape, np.int64)
    for index, value in np.ndenumerate(values):
        size = abs(int(value))
        if size >= f.max_code << cut:
            word = f.max_code
        else:
            word = size + (1 << cut - 1) >> cut
            word = min(word, f.max_code - 1) if f.unity else word
        found[index] = word | (f.sign_bit if value < 0 and word else 0)
    return found


def reference(plan: Plan, inputs: dict[str, Array]) -> dict[str, Array]:
    """The words of all tensors, and the exact sums of layers whose output goes to the host."""
    found = dict(inputs)
    for step in plan.steps:
        if isinstance(step, LayerStep):
            layer = plan.layers[step.layer]
            sums, exponents, bias = _sums(plan, layer, found)
            if isinstance(layer.output, HostOutput):
                found[layer.name] = sums
            else:
                found[layer.output.tensor] = _drain(plan, layer, sums, exponents, bias)
    return found


def _sums(plan: Plan, layer: Layer, values: dict[str, Array]) -> tuple[Array, Array, Any]:
    """Sums ``[n, h, w, c]`` in units of ``2**-2F``, their exponents, real biases."""
    f = plan.config.format
    a = operand(values[layer.a], f)
    e_a = plan.tensors[layer.a].exponent or 0
    if isinstance(layer, Convolution):
        bias = layer.weights.bias
        exponents = e_a + layer.weights.exponents.numpy()
        return _convolve(layer, a, f), exponents, None if bias is None else bias.numpy()
    b = operand(values[layer.b], f)
    e_b = plan.tensors[layer.b].exponent or 0
    if isinstance(layer, Matmul):
        b = np.repeat(b, layer.repeat, axis=0)
        sums = a @ (b.swapaxes(-1, -2) if layer.transposed else b)
        return sums, np.array(e_a + e_b), None
    least = min(e_a, e_b)
    both = (a << e_a - least) + (b << e_b - least)
    return both << f.fraction_bits, np.array(least), None


def _convolve(layer: Convolution, a: Array, f: SFx) -> Array:
    weights = operand(layer.weights.words.numpy(), f)
    groups, kh, kw, inputs, outputs = weights.shape
    top, bottom, left, right = layer.padding
    padded = np.pad(a, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (sh, sw), (dh, dw) = layer.stride, layer.dilation
    height = (padded.shape[1] - dh * (kh - 1) - 1) // sh + 1
    width = (padded.shape[2] - dw * (kw - 1) - 1) // sw + 1
    sums = np.zeros((a.shape[0], height, width, groups * outputs), np.int64)
    for i, j, g in np.ndindex(kh, kw, groups):
        rows = slice(i * dh, i * dh + sh * (height - 1) + 1, sh)
        columns = slice(j * dw, j * dw + sw * (width - 1) + 1, sw)
        part = padded[:, rows, columns, g * inputs : (g + 1) * inputs]
        sums[..., g * outputs : (g + 1) * outputs] += part @ weights[g, i, j]
    return sums


def _drain(plan: Plan, layer: Layer, sums: Array, exponents: Array, bias: Any) -> Array:
    config = plan.config
    f, e_out = config.format, plan.tensors[layer.output.tensor].exponent
    biases = np.zeros(sums.shape[-1], object)
    if bias is not None:
        words = [config.bias_format.encode(float(b) * 2.0**-e_out) for b in bias]
        biases[:] = [config.bias_format.operand(w) for w in words]
    places = 80
    shifts = np.broadcast_to(places - 2 * f.fraction_bits - e_out + exponents, sums.shape[-1:])
    scale = np.array([1 << int(s) for s in shifts], object)
    total = sums.astype(object) * scale + (biases << places - config.bias_format.fraction_bits)
    if layer.output.function != Function.LINEAR:
        total = np.maximum(total, 0)
    if layer.output.function == Function.CLAMP:
        most = int(layer.output.clamp * 2.0 ** (places - e_out))
        total = np.minimum(total, most)
    return encode(total, places, f)


# Carrying a schedule out


@dataclass
class Host:
    """Does what a schedule says on a device, and keeps what a runtime keeps."""

    plan: Plan
    schedule: Schedule
    apart: bool = False  # run every section as a program of its own

    def __post_init__(self) -> None:
        self.device = ModelDevice(self.schedule.config)
        self.counters = dict.fromkeys(Counter, 0)
        self.by_layer: dict[str, dict[Counter, int]] = {}
        self.programs = self.written = 0
        self.words: dict[str, Array] = {}
        self.sums: dict[str, Array] = {}
        for command in self.schedule.setup:
            self._do(command)
        self.programs = self.written = 0

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Words of the tensors that the host knows at the end, and sums."""
        shapes = {name: t.shape for name, t in self.plan.tensors.items()}
        self.words = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
        self.sums = {}
        known: set[str] = set()
        for step, commands in zip(self.plan.steps, self.schedule.steps, strict=True):
            if isinstance(step, Upload):
                self.words[step.tensor][...] = inputs[step.tensor]
            for command in commands:
                self._do(command)
            if isinstance(step, Download):
                known.add(step.tensor)
        return {name: self.words[name] for name in sorted(known)} | self.sums

    def _do(self, command: Any) -> None:
        config = self.schedule.config
        match command:
            case WriteWords():
                self.written += command.rows * command.count
                for row in range(command.rows):
                    self.device.write(
                        command.address + row * command.stride, self._source(command, row)
                    )
            case WriteColumns():
                part = self.schedule.constants[command.source]
                part = part[command.start : command.start + command.entries]
                assert len(part) == command.entries
                self.device.write_columns(command.entry, part[..., 0], part[..., 1])
            case ReadWords():
                flat = self.words[command.tensor].reshape(-1)
                for row in range(command.rows):
                    start = command.start + row * command.pitch
                    found = self.device.read(command.address + row * command.stride, command.count)
                    flat[start : start + command.count] = found
            case Drain():
                layer = self.plan.layers[command.layer]
                sums = self.sums.pop(layer.name)
                _, exponents, bias = _sums(self.plan, layer, self.words)
                drained = _drain(self.plan, layer, sums, exponents, bias)
                self.words[layer.output.tensor][...] = drained
            case Run():
                for index in range(len(command.sections)) if self.apart else [None]:
                    self._run(command if index is None else split(command, index, config))

    def _source(self, command: WriteWords, row: int) -> Array:
        start = command.start + row * command.pitch
        dtype = np.uint8 if self.schedule.config.bits <= 8 else np.uint16
        if command.source == "zeros":
            return np.zeros(command.count, dtype)
        source = self.schedule.constants.get(command.source)
        if source is None:
            source = self.words[command.source].reshape(-1).astype(dtype)
        assert start + command.count <= len(source)
        return source[start : start + command.count]

    def _run(self, run: Run) -> None:
        outcome = self.device.run(run.words)
        self.programs += 1
        assert outcome.fault == Fault.NONE
        assert outcome.counter == len(run.words) == run.sections[-1].end
        for counter, value in outcome.counters.items():
            self.counters[counter] += value
            if len({section.layer for section in run.sections}) == 1:
                layer = self.by_layer.setdefault(run.sections[0].layer, dict.fromkeys(Counter, 0))
                layer[counter] += value
        first = 0
        for section in run.sections:
            for collect in section.collects:
                first = self._collect(collect, outcome, first)
        assert first == len(outcome.rows)

    def _collect(self, collect: Any, outcome: Any, first: int) -> int:
        shape = sums_shape(self.plan, collect.layer)
        output = self.sums.setdefault(collect.layer, np.zeros(shape, np.int64))
        flat = output.reshape(-1, shape[-1])
        rows, columns, counts = collect.positions(self.schedule.config, shape[1] * shape[2])
        for i, (row, column, count) in enumerate(zip(rows, columns, counts, strict=True)):
            assert outcome.counts[first + i] == count
            part = outcome.rows[first + i, :count]
            flat[row, column : column + count] = part + (
                flat[row, column : column + count] if collect.accumulate else 0
            )
        return first + len(rows)


def sums_shape(plan: Plan, name: str) -> tuple[int, ...]:
    """The shape of a layer's output."""
    zeros = {n: np.zeros(t.shape, np.int64) for n, t in plan.tensors.items()}
    return _sums(plan, plan.layers[name], zeros)[0].shape


def assert_exact(network: Network, schedule: Schedule, times: int = 2, apart: bool = False) -> Host:
    """Carry a schedule out, more than once: what one inference leaves must not disturb the next."""
    plan = network.plan()
    host = Host(plan, schedule, apart)
    for _ in range(times):
        inputs = network.inputs()
        want = reference(plan, inputs)
        got = host.infer(inputs)
        for name, words in got.items():
            wrong = np.argwhere(words != want[name])
            assert not len(wrong), (
                f"{name}: {len(wrong)} of {words.size} differ, first at {wrong[0]}: "
                f"got {words[tuple(wrong[0])]}, want {want[name][tuple(wrong[0])]}"
            )
        assert set(got) >= {
            layer.name for layer in plan.layers.values() if isinstance(layer.output, HostOutput)
        }
    return host

"""Plays a schedule's commands on a device: writes, programs, reads, and the way of results."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sw.compiler.layers import LayerStep, Plan, WordsOutput
from sw.compiler.program import split
from sw.compiler.schedule import (
    Collect,
    Command,
    Drain,
    Place,
    ReadWords,
    Run,
    Schedule,
    WriteColumns,
    WriteWords,
)
from sw.isa import FAULT_MEANINGS, Fault
from sw.runtime.checksums import Boundary
from sw.runtime.device import Device, Outcome
from sw.runtime.engine import Observer, Tallies, Tally
from sw.runtime.layer import drain_sums
from sw.runtime.shapes import output_shape
from sw.words import narrow, word_dtype


class DeviceFailed(RuntimeError):
    """The device did what no program of the artefact lets it do; the message says what."""


class DeviceEngine:
    """The array's part of a session on a machine.

    Parameters
    ----------
    plan : Plan
    schedule : Schedule
    device : Device
        Of the schedule's configuration; reset and set up here, closed with the engine.
    observer : callable, optional
        Told of every layer's result: programs are then run section by section, and tensors read
        back before anything overwrites them.
    stepwise : bool
        Run section by section without an observer, so that every layer has its own counters.
    """

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        device: Device,
        observer: Observer | None = None,
        stepwise: bool = False,
    ) -> None:
        if device.config != schedule.config:
            raise ValueError("device must have the artefact's machine configuration")
        self.plan, self.schedule, self.device = plan, schedule, device
        self.tallies: Tallies = {}
        self._observer = observer
        self._stepwise = stepwise or observer is not None
        self._words: dict[str, NDArray[Any]] = {}
        self._sums: dict[str, NDArray[np.int64]] = {}
        self._constants = schedule.constants
        self._split: dict[int, list[tuple[int, Run]]] = {}
        self._ends = _layer_ends(plan, schedule)
        device.reset()
        for number, command in enumerate(schedule.setup):
            self._do(command, (-1, number))

    def put(self, tensor: str, words: torch.Tensor) -> None:
        self._words[tensor] = words.contiguous().numpy().reshape(-1)

    def step(self, index: int) -> None:
        for number, command in enumerate(self.schedule.steps[index]):
            self._do(command, (index, number))
        self._observe((index, -1, -1))

    def words(self, tensor: str) -> torch.Tensor:
        if tensor not in self._words:
            return self.read_back(tensor)
        return torch.from_numpy(self._words[tensor]).reshape(self.plan.tensors[tensor].shape)

    def sums(self, layer: str) -> torch.Tensor:
        shape = output_shape(self.plan.layers[layer], self.plan.tensors)
        return torch.from_numpy(self._sums.pop(layer)).reshape(shape)

    def read_back(self, tensor: str) -> torch.Tensor:
        """The words of a tensor that lies in tile memory now."""
        place, shape = self.schedule.places[tensor], self.plan.tensors[tensor].shape
        words = read_place(self.device, place, shape).astype(np.int32)
        return narrow(torch.from_numpy(words), self.device.config.format)

    def clear(self) -> None:
        self._words.clear()
        self._sums.clear()

    def close(self) -> None:
        self.clear()
        self.device.close()

    # Commands

    def _do(self, command: Command, where: tuple[int, int]) -> None:
        match command:
            case WriteWords():
                self._write(command)
            case WriteColumns():
                entries = slice(command.start, command.start + command.entries)
                values = self._constants[command.source][entries]
                self.device.write_columns(command.entry, values[..., 0], values[..., 1])
            case ReadWords():
                self._read(command)
            case Drain():
                self._drain(command.layer)
            case Run():
                self._run(command, where)

    def _write(self, command: WriteWords) -> None:
        rows, count = command.rows, command.count
        if command.source == "zeros":
            source: NDArray[Any] = np.zeros(command.start + rows * command.pitch + count, np.uint16)
        elif command.source in self._words:
            source = self._words[command.source]
        else:
            source = self._constants[command.source]
        if command.stride == command.pitch == count:
            rows, count = 1, rows * count
        for row in range(rows):
            start = command.start + row * command.pitch
            words = source[start : start + count].astype(np.uint16, copy=False)
            self.device.write(command.address + row * command.stride, words)

    def _read(self, command: ReadWords) -> None:
        tensor = self.plan.tensors[command.tensor]
        kind = np.uint8 if word_dtype(self.device.config.format) == torch.uint8 else np.uint16
        target = self._words.setdefault(command.tensor, np.zeros(int(np.prod(tensor.shape)), kind))
        rows, count = command.rows, command.count
        if command.stride == command.pitch == count:
            rows, count = 1, rows * count
        for row in range(rows):
            start = command.start + row * command.pitch
            words = self.device.read(command.address + row * command.stride, count)
            target[start : start + count] = words

    def _run(self, run: Run, where: tuple[int, int]) -> None:
        for number, part in self._parts(run):
            outcome = self.device.run(part.words)
            layers = tuple(dict.fromkeys(section.layer for section in part.sections))
            if outcome.fault != Fault.NONE:
                meaning = FAULT_MEANINGS[outcome.fault]
                raise DeviceFailed(
                    f"program of {' + '.join(layers)} stopped at word {outcome.counter}: {meaning}"
                )
            self.tallies.setdefault(layers, Tally()).add(outcome.counters)
            self._take(part, outcome)
            self._observe((*where, number))

    def _parts(self, run: Run) -> list[tuple[int, Run]]:
        """Programs to run, each with the index of its last section: layer by layer if asked to."""
        if not self._stepwise:
            return [(len(run.sections) - 1, run)]
        if id(run) not in self._split:
            parts, first = [], 0
            for end, section in enumerate(run.sections, 1):
                if end == len(run.sections) or run.sections[end].layer != section.layer:
                    part = split(run, first, self.schedule.config, end - first)
                    parts.append((end - 1, part))
                    first = end
            self._split[id(run)] = parts
        return self._split[id(run)]

    def _take(self, run: Run, outcome: Outcome) -> None:
        """Put the rows of the result stream where they belong."""
        start = 0
        for collect in (c for section in run.sections for c in section.collects):
            start += self._add(collect, outcome.rows[start:])
        if start != len(outcome.rows):
            layers = " + ".join(dict.fromkeys(section.layer for section in run.sections))
            raise DeviceFailed(f"{layers} must send {start} rows, not {len(outcome.rows)}")

    def _add(self, collect: Collect, beats: NDArray[np.int64]) -> int:
        """Put the beats of one GEMM where they belong; how many they are."""
        n, h, w, c = output_shape(self.plan.layers[collect.layer], self.plan.tensors)
        target = self._sums.setdefault(collect.layer, np.zeros(n * h * w * c, np.int64))
        rows, columns, counts = collect.positions(self.schedule.config, h * w)
        lanes = np.arange(beats.shape[1])
        used = lanes < counts[:, None]
        places = ((rows * c + columns)[:, None] + lanes)[used]
        if len(beats) >= len(rows):
            values = beats[: len(rows)][used]
            target[places] = target[places] + values if collect.accumulate else values
        return len(rows)

    def _drain(self, name: str) -> None:
        """The words of a layer whose sums the host collected."""
        layer = self.plan.layers[name]
        assert isinstance(layer.output, WordsOutput)
        self.put(layer.output.tensor, drain_sums(layer, self.plan, self.sums(name)))

    def _observe(self, where: tuple[int, int, int]) -> None:
        """Report the layers that are whole after a section, or, those without a place, a step."""
        if self._observer is None:
            return
        for name in self._ends.get(where, ()):
            output = self.plan.layers[name].output
            if isinstance(output, WordsOutput):
                kept = output.tensor in self._words
                values = self.words(output.tensor) if kept else self.read_back(output.tensor)
            else:
                shape = output_shape(self.plan.layers[name], self.plan.tensors)
                values = torch.from_numpy(self._sums[name]).reshape(shape).clone()
            self._observer(Boundary(name, values))


def read_place(device: Device, place: Place, shape: tuple[int, int, int, int]) -> NDArray[Any]:
    """The words of a tensor in tile memory, ``[n, h, w, c]``."""
    n, height, width, channels = shape
    extent = (height - 1) * place.line + (width - 1) * place.pixel + channels
    found = np.empty(shape, np.uint16)
    for image in range(n):
        words = np.ascontiguousarray(device.read(place.address + image * place.image, extent))
        strides = (place.line, place.pixel, 1)
        found[image] = np.lib.stride_tricks.as_strided(
            words, (height, width, channels), tuple(s * words.itemsize for s in strides)
        )
    return found


def _layer_ends(plan: Plan, schedule: Schedule) -> dict[tuple[int, int, int], list[str]]:
    """After which section (step, command, section) each layer's result is whole.

    Section -1 is the end of a step: for a layer whose tensor the host keeps, which is read only
    after the program, and for one whose sums the host drains.
    """
    last: dict[str, tuple[int, int, int]] = {}
    for index, commands in enumerate(schedule.steps):
        for number, command in enumerate(commands):
            if isinstance(command, Run):
                for part, section in enumerate(command.sections):
                    last[section.layer] = (index, number, part)
            elif isinstance(command, Drain):
                last[command.layer] = (index, -1, -1)
    found: dict[tuple[int, int, int], list[str]] = {}
    for step in plan.steps:
        if isinstance(step, LayerStep) and step.layer in last:
            output = plan.layers[step.layer].output
            where = last[step.layer]
            if isinstance(output, WordsOutput) and output.tensor not in schedule.places:
                where = (where[0], -1, -1)
            found.setdefault(where, []).append(step.layer)
    return found

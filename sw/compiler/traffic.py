"""What passes between host and machine, layer by layer: words, parameters, programs, results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sw.compiler.layers import Convolution, Layer, LayerStep, Matmul, Plan, Upload, WordsOutput
from sw.compiler.schedule import Command, Drain, ReadWords, Run, Schedule, WriteColumns, WriteWords
from sw.config import MachineConfig
from sw.isa import WORD_BITS
from sw.scale import SHIFT_BITS


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bits and accesses over the link between host and machine; traffic adds.

    Parameters
    ----------
    words_in : int
        Words of operands that the host writes to tile memory.
    words_out : int
        Words that it reads back, and words and sums that come on the result stream.
    bits_in, bits_out : int
        Of these, packed without gaps; in: parameters and programs too.
    accesses : int
        Beats of the host port and of the result stream.
    """

    words_in: int = 0
    words_out: int = 0
    bits_in: int = 0
    bits_out: int = 0
    accesses: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.words_in + other.words_in,
            self.words_out + other.words_out,
            self.bits_in + other.bits_in,
            self.bits_out + other.bits_out,
            self.accesses + other.accesses,
        )

    @property
    def bytes_in(self) -> int:
        """Whole bytes that go in."""
        return -(-self.bits_in // 8)

    @property
    def bytes_out(self) -> int:
        """Whole bytes that come out."""
        return -(-self.bits_out // 8)

    @property
    def bytes(self) -> int:
        """Whole bytes both ways."""
        return self.bytes_in + self.bytes_out


def command_traffic(command: Command, config: MachineConfig) -> Traffic:
    """What a write or read moves; of a program its words, not what it sends."""
    match command:
        case WriteWords():
            words = command.rows * command.count
            accesses = _accesses(command, config)
            return Traffic(words_in=words, bits_in=words * config.bits, accesses=accesses)
        case ReadWords():
            words = command.rows * command.count
            accesses = _accesses(command, config)
            return Traffic(words_out=words, bits_out=words * config.bits, accesses=accesses)
        case WriteColumns():
            entries = command.entries * config.columns
            bits = entries * (config.bias_format.bits + SHIFT_BITS)
            return Traffic(bits_in=bits, accesses=entries)
        case Run():
            return program_traffic(len(command.words))
        case Drain():  # the host's own work on what it has
            return Traffic()
        case Drain():  # the host's alone
            return Traffic()


def program_traffic(words: int) -> Traffic:
    """Of so many words of a program."""
    return Traffic(bits_in=words * WORD_BITS)


def stream_traffic(rows: int, lanes: int, exact: int, config: MachineConfig) -> Traffic:
    """Of rows on the result stream with so many lanes in all, ``exact`` of them exact sums."""
    bits = (lanes - exact) * config.output.bits + exact * config.aligned_bits
    return Traffic(words_out=lanes, bits_out=bits, accesses=rows)


def owner(command: Command, plan: Plan, doing: str) -> str:
    """The layer that a command is for.

    Parameters
    ----------
    command : command
    plan : Plan
    doing : str
        The layer of the step that the command is in: of zeros, and of what is no transfer.

    Returns
    -------
    str
        Of constants their layer; of a tensor that is written the first layer from ``doing`` on
        that reads it, of one that is read back the layer that made it.
    """
    if isinstance(command, ReadWords):
        return producer(command.tensor, plan) or doing
    if not isinstance(command, (WriteWords, WriteColumns)):
        return doing
    kind, _, rest = command.source.partition(".")
    if kind in ("weights", "parameters") and rest in plan.layers:
        return rest
    return consumer(command.source, plan, doing) or doing


def consumer(tensor: str, plan: Plan, after: str) -> str:
    """The first layer from ``after`` on that reads a tensor, else the first; empty if none does."""
    names = list(plan.layers)
    start = names.index(after) if after in plan.layers else 0
    for name in names[start:] + names[:start]:
        if tensor in operands(plan.layers[name]):
            return name
    return ""


def producer(tensor: str, plan: Plan) -> str:
    """The layer that makes a tensor, empty if the host does."""
    for name, layer in plan.layers.items():
        if isinstance(layer.output, WordsOutput) and layer.output.tensor == tensor:
            return name
    return ""


def operands(layer: Layer) -> tuple[str, ...]:
    """Names of the tensors that a layer reads."""
    return (layer.a,) if isinstance(layer, Convolution) else (layer.a, layer.b)


def traced(plan: Plan, schedule: Schedule) -> Iterator[tuple[str, Command]]:
    """All commands of an inference, in order, each with the layer of its step.

    An upload's and a download's are of the layer that reads or makes the tensor.
    """
    doing = next(iter(plan.layers), "")
    for step, commands in zip(plan.steps, schedule.steps, strict=True):
        if isinstance(step, LayerStep):
            doing = step.layer
        elif isinstance(step, Upload):
            doing = consumer(step.tensor, plan, doing) or doing
        for command in commands:
            yield doing, command


def setup_traffic(schedule: Schedule) -> Traffic:
    """What the host sends once, before the first inference."""
    commands = (command_traffic(c, schedule.config) for c in schedule.setup)
    return sum(commands, Traffic())


def operand_words(layer: Layer, plan: Plan) -> Mapping[str, int]:
    """Distinct words of a layer's operands, ``a`` and ``b``; what no memory holds has none."""
    a = _size(plan.tensors[layer.a].shape)
    if isinstance(layer, Convolution):
        return {"a": a, "b": layer.weights.words.numel()}
    b = _size(plan.tensors[layer.b].shape)
    return {"a": a, "b": b} if isinstance(layer, Matmul) else {"a": a + b, "b": 0}


def _size(shape: Iterable[int]) -> int:
    words = 1
    for size in shape:
        words *= size
    return words


def _accesses(command: WriteWords | ReadWords, config: MachineConfig) -> int:
    """Beats of the host port: at most ``columns`` words, none across a multiple of them."""
    lanes, found = config.columns, 0
    for row in range(min(command.rows, lanes)):  # the phase repeats after at most ``lanes`` rows
        times = -(-(command.rows - row) // lanes)
        first = (command.address + row * command.stride) % lanes
        found += times * -(-(first + command.count) // lanes)
    return found

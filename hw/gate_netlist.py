"""A unit as a netlist of standard cells with plain names, which every tool reads alike."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hw.synthesis import (
    DELAY_GOAL,
    LIBERTY,
    MEMORIES,
    Source,
    SynthesisError,
    gate_level,
    run_passes,
)

#: Module name of every netlist.
TOP: Final = "unit"
#: Name of the clock's port.
CLOCK: Final = "clk"


@dataclass(frozen=True, slots=True)
class Gate:
    """A cell of a netlist.

    Parameters
    ----------
    name : str
        ``u0``, ``u1`` and so on.
    kind : str
        The library's name of the cell.
    inputs, outputs : mapping of str to str
        Net by pin, of those that are connected; a constant is ``1'b0`` or ``1'b1``.
    """

    name: str
    kind: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GateNetlist:
    """A unit in standard cells.

    Parameters
    ----------
    gates : tuple of Gate
    inputs, outputs : mapping of str to tuple of str
        The nets of each port's bits, the lowest first.
    liberty : Path
        The library.
    memories : str
        Verilog of a module ``memories``, if the unit has any: they are no gates.
    memory_pins : mapping of str to str
        Its ports, by the ports of the netlist that they belong to.
    """

    gates: tuple[Gate, ...]
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    liberty: Path = LIBERTY
    memories: str = ""
    memory_pins: Mapping[str, str] = field(default_factory=dict)

    @property
    def clocked(self) -> bool:
        """Whether the unit has a port ``clk``."""
        return CLOCK in self.inputs

    @property
    def nets(self) -> list[str]:
        """All that cells drive."""
        return [net for gate in self.gates for net in gate.outputs.values()]

    def verilog(self, parameters: Mapping[str, str] | None = None) -> str:
        """One module ``unit``: instances and single-bit wires, ports as they were.

        Parameters
        ----------
        parameters : mapping of str to str, optional
            What stands between a cell's kind and its name, by name.
        """
        given = parameters or {}
        lines = [f"module {TOP}({', '.join([*self.inputs, *self.outputs])});"]
        for direction, ports in (("input", self.inputs), ("output", self.outputs)):
            lines += [
                f"  {direction} {_range(len(nets))}{name};" for name, nets in ports.items() if nets
            ]
        lines += [f"  wire {net};" for net in self.nets]
        lines += [f"  wire {net};" for nets in self._named_inputs().values() for net in nets]
        for name, nets in self._named_inputs().items():
            lines += [f"  assign {net} = {name}{_index(nets, k)};" for k, net in enumerate(nets)]
        for gate in self.gates:
            pins = ", ".join(f".{p}({n})" for p, n in (gate.inputs | gate.outputs).items())
            lines.append(f"  {gate.kind} {given.get(gate.name, '')}{gate.name}({pins});")
        for name, nets in self.outputs.items():
            lines += [f"  assign {name}{_index(nets, k)} = {net};" for k, net in enumerate(nets)]
        return "\n".join([*lines, "endmodule", ""])

    def _named_inputs(self) -> dict[str, tuple[str, ...]]:
        """Input ports but for the clock, whose net is its port."""
        return {name: nets for name, nets in self.inputs.items() if name != CLOCK}


def gate_netlist(source: Source, options: str = "", liberty: Path | None = None) -> GateNetlist:
    """Map to standard cells as ``hw.synthesis.standard_cells`` does, and keep the netlist.

    Parameters
    ----------
    source : Source
    options : str
        More options of yosys' ``synth``.
    liberty : Path, optional
        The library; osu018 if omitted.

    Raises
    ------
    SynthesisError
        If the library or a tool is missing or fails, or logic is left that is no cell.
    """
    library = liberty or LIBERTY
    if not library.is_file():
        raise SynthesisError(f"the cell library {library} must be installed")
    with tempfile.TemporaryDirectory(prefix="atreides-gates-") as directory:
        path, result = Path(directory, "source"), Path(directory, "netlist.json")
        memories = Path(directory, "memories.v")
        path.write_text(source.text, encoding="utf-8")
        run_passes(
            [
                f"read_liberty -lib -ignore_miss_func {library}",
                f"read_{source.language} {path}",
                f"hierarchy -top {TOP}",
                *gate_level(source, options, memories),
                f"dfflibmap -liberty {library}",
                f"abc -D {DELAY_GOAL} -liberty {library}",
                "opt_clean",
                "delete t:$scopeinfo",
                "check -mapped -assert",
                f"write_json {result}",
            ]
        )
        module = json.loads(result.read_text(encoding="utf-8"))["modules"][TOP]
        text = memories.read_text(encoding="utf-8") if memories.exists() else ""
    return _from_json(module, library, text)


def _from_json(module: Mapping[str, Any], library: Path, memories: str) -> GateNetlist:
    """The netlist of a module in yosys' JSON, where a bit is a number or a constant's digit."""
    clock = module["ports"].get(CLOCK, {"bits": []})["bits"]

    def net(bit: int | str) -> str:
        if isinstance(bit, str):
            return f"1'b{int(bit == '1')}"  # what nobody cares about is 0
        return CLOCK if [bit] == clock else f"n{bit}"

    ports: dict[str, dict[str, tuple[str, ...]]] = {"input": {}, "output": {}}
    pins: dict[str, str] = {}
    for name, port in module["ports"].items():
        if port["direction"] not in ports:
            raise SynthesisError(f"{name} must be an input or an output, not {port['direction']}")
        if name.startswith(f"{MEMORIES}|"):  # a plain name, for others are not read alike
            pins[f"{MEMORIES}_{len(pins)}"] = name.removeprefix(f"{MEMORIES}|")
            name = f"{MEMORIES}_{len(pins) - 1}"
        ports[port["direction"]][name] = tuple(map(net, port["bits"]))
    gates = tuple(_gates(module["cells"], net))
    return GateNetlist(gates, ports["input"], ports["output"], library, memories, pins)


def _gates(cells: Mapping[str, Any], net: Any) -> Iterator[Gate]:
    for number, name in enumerate(sorted(cells)):
        cell = cells[name]
        sides: dict[str, dict[str, str]] = {"input": {}, "output": {}}
        for pin, bits in cell["connections"].items():
            if bits:
                sides[cell["port_directions"][pin]][pin] = net(bits[0])
        yield Gate(f"u{number}", cell["type"], sides["input"], sides["output"])


def _range(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""


def _index(nets: tuple[str, ...], bit: int) -> str:
    return f"[{bit}]" if len(nets) > 1 else ""

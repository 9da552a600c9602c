"""A netlist of cells as plain Verilog: one expression per output, registers by what moves them.

A simulator spends minutes on thousands of instances with parameters, and seconds on what they
compute. Cells of ECP5 and iCE40 are stated here once more, and a test holds every one of them
against yosys' own model; gates of osu018 come from the Liberty file. Block RAM stays an instance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hw.synthesis import SynthesisError
from sim.netlist_tables import expression

#: Outputs of a gate by name, each with its inputs and its truth table.
Tables = Mapping[str, Mapping[str, tuple[tuple[str, ...], int]]]
#: Cells that stay instances of a model, memories, and their outputs.
INSTANCES: Final[Mapping[str, Sequence[str]]] = {
    "DP16KD": [f"DO{port}{bit}" for port in "AB" for bit in range(18)],
    "SB_RAM40_4K": ["RDATA"],
}
_MUX: Final = 0b11001010  # of inputs 0 and 1, selected by input 2
_MAJORITY: Final = 0b11101000
#: Pins of multiplexers of ECP5: selected by 0, by 1, and the selecting one.
_MUXES: Final = {"PFUMX": ("BLUT", "ALUT", "C0"), "L6MUX21": ("D0", "D1", "SD")}
_REGISTER: Final = {
    "GSR": ("AUTO", "ENABLED", "DISABLED"),
    "CLKMUX": ("CLK",),
    "LSRMUX": ("LSR",),
    "SRMODE": ("LSR_OVER_CE",),
    "LSRMODE": ("LSR",),
    "CEMUX": ("1", "CE", "INV"),
    "REGSET": ("SET", "RESET"),
}
_MEMORY: Final = {"WCKMUX": ("WCK",), "WREMUX": ("WRE",)}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of yosys' JSON.

    Parameters
    ----------
    name, kind : str
    parameters : mapping of str to str
        Digits of a number in base 2, the highest first, or a text.
    pins : mapping of str to sequence of str
        Nets, bit 0 first.
    """

    name: str
    kind: str
    parameters: Mapping[str, str]
    pins: Mapping[str, Sequence[str]]

    def net(self, pin: str) -> str:
        """The net of a pin of one bit; what is not connected is 0."""
        return (*self.pins.get(pin, ()), "1'b0")[0]

    def nets(self, pin: str) -> str:
        """The nets of a pin of several bits, side by side."""
        return f"{{{', '.join(reversed(self.pins[pin]))}}}"

    def number(self, name: str) -> int:
        """A parameter that is a number."""
        return int(self.parameters.get(name, "0").replace("x", "0"), 2)

    def text(self, name: str, choices: Mapping[str, Sequence[str]], usual: str = "") -> str:
        """A parameter that is a text, which must be one of those that have a meaning here."""
        found = self.parameters.get(name, usual).strip() or choices[name][0]
        if found not in choices[name]:
            raise SynthesisError(
                f"{name} of {self.kind} must be {' or '.join(choices[name])}, not {found!r}"
            )
        return found


@dataclass(slots=True)
class Plain:
    """Verilog of one module, as it grows.

    Parameters
    ----------
    gates : mapping
        Gates of a cell library by their names.
    unset : bool
        Whether registers hold anything at power-up.
    """

    gates: Tables
    unset: bool = False
    declarations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    #: Registers and what they take, by clock, guard of a reset, guard of a load, and order.
    clocked: dict[tuple[str, str, str, bool], list[tuple[str, str, int]]] = field(
        default_factory=dict
    )

    def add(self, cell: Cell) -> None:
        """Take a cell in.

        Raises
        ------
        SynthesisError
            For a cell or a setting that has no meaning here.
        """
        if cell.kind in self.gates:
            for pin, (inputs, table) in self.gates[cell.kind].items():
                self._assign(cell, pin, expression(table, [cell.net(p) for p in inputs]))
        elif cell.kind in INSTANCES:
            self._instance(cell)
        elif cell.kind in _MUXES:
            self._assign(cell, "Z", expression(_MUX, [cell.net(p) for p in _MUXES[cell.kind]]))
        elif cell.kind.startswith("SB_DFF"):
            self._ice40_register(cell)
        elif cell.kind in _CELLS:
            _CELLS[cell.kind](self, cell)
        else:
            raise SynthesisError(f"cell {cell.name} must be of a known kind, not {cell.kind}")

    def _assign(self, cell: Cell, pin: str, value: str) -> None:
        """Drive a pin, if anything hangs on it."""
        if cell.pins.get(pin):
            self.wire(cell.net(pin), value)

    def wire(self, name: str, value: str) -> None:
        """Declare a net of one bit and drive it."""
        self.declarations.append(f"wire {name};")
        self.lines.append(f"assign {name} = {value};")

    def _table(self, cell: Cell) -> None:
        pins, output, name = (
            ("ABCD", "Z", "INIT")
            if cell.kind == "LUT4"
            else (("I0", "I1", "I2", "I3"), "O", "LUT_INIT")
        )
        self._assign(cell, output, expression(cell.number(name), [cell.net(p) for p in pins]))

    def _carry(self, cell: Cell) -> None:
        nets = [cell.net(pin) for pin in ("I0", "I1", "CI")]
        self._assign(cell, "CO", expression(_MAJORITY, nets))

    def _carry_pair(self, cell: Cell) -> None:
        """ECP5's two full adders: each a table, whose lower half decides where it is 0."""
        carry = cell.net("CIN")
        for half in "01":
            pins = [cell.net(f"{letter}{half}") for letter in "ABCD"]
            table = cell.number(f"INIT{half}")
            propagate = expression(table, pins)
            generate = expression(table & 15, pins[:2])
            if cell.text(f"INJECT1_{half}", {f"INJECT1_{half}": ("YES", "NO")}) == "YES":
                total, generate = propagate, "1'b0"
            else:
                total = f"{propagate} ^ {carry}"
            self._assign(cell, f"S{half}", total)
            following = f"({propagate}) ? {carry} : {generate}"
            if half == "1":
                self._assign(cell, "COUT", following)
            else:
                carry = f"carry_{_digest(cell.name)}"
                self.wire(carry, following)

    def _register(self, net: str, data: str, reset_to: int, start: int, guard: _Guard) -> None:
        clock, reset, load, load_first = guard
        self.declarations.append(f"reg {net} = 1'b{start};")
        key = (clock, reset, load, load_first)
        self.clocked.setdefault(key, []).append((net, data, reset_to))

    def _ecp5_register(self, cell: Cell) -> None:
        for name in ("GSR", "CLKMUX", "SRMODE", "LSRMODE"):
            cell.text(name, _REGISTER)
        enable = cell.text("CEMUX", _REGISTER)
        load = {"1": "1'b1", "CE": cell.net("CE"), "INV": f"~{cell.net('CE')}"}[enable]
        reset = cell.net("LSR") if cell.text("LSRMUX", _REGISTER) else ""
        value = int(cell.text("REGSET", _REGISTER, "RESET") == "SET")
        guard = (cell.net("CLK"), reset, load, False)
        self._register(cell.net("Q"), cell.net("DI"), value, value, guard)

    def _ice40_register(self, cell: Cell) -> None:
        suffix = cell.kind.removeprefix("SB_DFF")
        enabled = suffix.startswith("E")
        if suffix.removeprefix("E") not in ("", "SR", "SS"):
            raise SynthesisError(
                f"register {cell.name} must be synchronous, on the rising edge, not {cell.kind}"
            )
        load = cell.net("E") if enabled else "1'b1"
        pin = {"SR": "R", "SS": "S"}.get(suffix[-2:], "")
        reset = cell.net(pin) if pin else "1'b0"
        guard = (cell.net("C"), reset, load, True)
        self._register(cell.net("Q"), cell.net("D"), int(pin == "S"), 0, guard)

    def _gate_register(self, cell: Cell) -> None:
        start = int(_digest(cell.name), 16) & 1 if self.unset else 0
        guard = (cell.net("CLK"), "1'b0", "1'b1", False)
        self._register(cell.net("Q"), cell.net("D"), 0, start, guard)

    def _ecp5_memory(self, cell: Cell) -> None:
        for name in _MEMORY:
            cell.text(name, _MEMORY)
        name, value = f"memory_{_digest(cell.name)}", cell.number("INITVAL")
        words = [value >> 4 * n & 15 for n in range(16)]
        self.declarations += [f"reg [3:0] {name} [0:15];", f"wire [3:0] {name}_read;"]
        self.lines += [
            f"initial begin {' '.join(f'{name}[{n}] = {w};' for n, w in enumerate(words))} end",
            f"assign {name}_read = {name}[{cell.nets('RAD')}];",
            f"always @(posedge {cell.net('WCK')}) if ({cell.net('WRE')}) "
            f"{name}[{cell.nets('WAD')}] <= {cell.nets('DI')};",
        ]
        for number, net in enumerate(cell.pins["DO"]):
            self.wire(net, f"{name}_read[{number}]")

    def _instance(self, cell: Cell) -> None:
        """A memory, as its model has it."""
        given = ", ".join(f".{name}({_value(v)})" for name, v in sorted(cell.parameters.items()))
        pins = ", ".join(f".{pin}({cell.nets(pin)})" for pin in sorted(cell.pins) if cell.pins[pin])
        for pin in INSTANCES[cell.kind]:
            self.declarations += [f"wire {net};" for net in cell.pins.get(pin, ())]
        self.lines.append(f"{cell.kind} #({given}) block_{_digest(cell.name)} ({pins});")

    def text(self) -> list[str]:
        """The module's lines; registers with the same guards share a process."""
        found = self.declarations + self.lines
        for (clock, reset, load, load_first), registers in self.clocked.items():
            take = "\n".join(f"{net} <= {data};" for net, data, _ in registers)
            clear = "\n".join(f"{net} <= 1'b{value};" for net, _, value in registers)
            body = f"begin {take} end"
            if load_first:
                body = body if reset == "1'b0" else f"if ({reset}) begin {clear} end else {body}"
                body = body if load == "1'b1" else f"if ({load}) {body}"
            else:
                body = body if load == "1'b1" else f"if ({load}) {body}"
                body = body if reset == "1'b0" else f"if ({reset}) begin {clear} end else {body}"
            found.append(f"always @(posedge {clock}) {body}")
        return found


#: Clock, guard of a reset, guard of a load, and whether the load's comes first.
_Guard = tuple[str, str, str, bool]
_CELLS: Final = {
    "LUT4": Plain._table,
    "SB_LUT4": Plain._table,
    "SB_CARRY": Plain._carry,
    "CCU2C": Plain._carry_pair,
    "TRELLIS_FF": Plain._ecp5_register,
    "TRELLIS_DPR16X4": Plain._ecp5_memory,
    "DFFPOSX1": Plain._gate_register,
}


def plain_verilog(
    module: Mapping[str, Any], top: str, gates: Tables, *, unset: bool = False
) -> str:
    """A module of yosys' JSON as Verilog that a simulator is quick with.

    Parameters
    ----------
    module : mapping
        With ``ports`` and ``cells``.
    top : str
        Its name.
    gates : mapping
        Outputs of every gate of the cell library, with inputs and truth table.
    unset : bool
        Whether registers hold anything at power-up, each its own bit.

    Raises
    ------
    SynthesisError
        For a cell or a setting that has no meaning here.
    """
    single = {
        port["bits"][0]: name
        for name, port in module["ports"].items()
        if port["direction"] == "input" and len(port["bits"]) == 1
    }

    def net(bit: int | str) -> str:
        if isinstance(bit, str):
            return f"1'b{int(bit == '1')}"  # what nobody cares about is 0, as in a bitstream
        return single.get(bit, f"n{bit}")

    body, outputs = Plain(gates, unset), []
    declarations = []
    for name, port in module["ports"].items():
        bits = port["bits"]
        width = f" [{len(bits) - 1}:0]" if len(bits) > 1 else ""
        declarations.append(f"{port['direction']}{width} {name};")
        if port["direction"] == "output":
            outputs.append(f"assign {name} = {{{', '.join(map(net, reversed(bits)))}}};")
        elif len(bits) > 1:
            for number, bit in enumerate(bits):
                body.wire(net(bit), f"{name}[{number}]")
    for name, cell in module["cells"].items():
        pins = {pin: tuple(map(net, bits)) for pin, bits in cell["connections"].items()}
        body.add(Cell(name, cell["type"], cell["parameters"], pins))
    ports = ", ".join(module["ports"])
    return "\n".join(
        [f"module {top}({ports});", *declarations, *body.text(), *outputs, "endmodule\n"]
    )


def _digest(name: str) -> str:
    """A cell's name that Verilog takes."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _value(parameter: str) -> str:
    """A parameter as Verilog; yosys ends a text that looks like a number with a blank."""
    if parameter and not set(parameter) - set("01xz"):
        return f"{len(parameter)}'b{parameter}"
    return f'"{parameter.removesuffix(" ")}"'

"""Verilog of a component: one flat module, stable names, nothing for a linter to complain about."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from amaranth.back import rtlil
from amaranth.hdl import Const, Fragment, Shape, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

#: Ports that a clocked module has besides those of its signature; reset is synchronous.
CLOCK: Final = "clk"
RESET: Final = "rst"

# Yosys runs in a process of its own: its counters, which end in names, then start from zero.
_RUN_SCRIPT: Final = """
from pyosys import libyosys
libyosys.run_pass("script emit.ys", libyosys.Design())
"""
_SCRIPT: Final = """
read_verilog -icells extension.v
design -stash extension
read_rtlil design.il
hierarchy -top {module_name}
proc
flatten
opt_expr
opt_clean
opt_merge
opt_dff
wreduce
opt_expr
opt_clean -purge
pmuxtree
techmap -map %extension
opt_clean -purge
splitnets -driver
opt_clean -purge
rename -enumerate -pattern n_%
setattr -unset src -unset full_case *
write_verilog -norename design.v
"""

#: Lines of attributes, and those that stay: what a synthesiser should know of a memory.
_ATTRIBUTE: Final = re.compile(r"^ *\(\* (\w+) = .* \*\)\n", re.MULTILINE)
_KEPT_ATTRIBUTES: Final = ("no_rw_check", "ram_style")

_WIDER: Final = "({0} > {1} ? {0} : {1})"
_WIDEST_OPERAND: Final = _WIDER.format("A_WIDTH", "B_WIDTH")
_WIDEST_SHIFTED: Final = _WIDER.format("A_WIDTH", "Y_WIDTH")
#: Yosys cells and the widths that A, B and Y get: no operand is left to implicit extension.
_CELL_WIDTHS: Final = {
    ("not", "neg", "pos"): ("Y_WIDTH", None, "Y_WIDTH"),
    ("add", "sub", "mul", "and", "or", "xor", "xnor"): ("Y_WIDTH", "Y_WIDTH", "Y_WIDTH"),
    ("lt", "le", "gt", "ge", "eq", "ne"): (_WIDEST_OPERAND, _WIDEST_OPERAND, "1"),
    ("shl", "sshl", "shr", "sshr"): (_WIDEST_SHIFTED, "B_WIDTH", _WIDEST_SHIFTED),
}

#: A techmap rule for the logical not of a vector, which linters take for a mistake.
_NOT_ANY_RULE: Final = r"""
(* techmap_celltype = "$logic_not" *)
module not_any(A, Y);
parameter A_SIGNED = 0; parameter A_WIDTH = 1; parameter Y_WIDTH = 1;
input [A_WIDTH-1:0] A; output [Y_WIDTH-1:0] Y;
wire _TECHMAP_FAIL_ = A_WIDTH == 1 || Y_WIDTH != 1;
wire any;
\$reduce_or #(.A_SIGNED(0), .A_WIDTH(A_WIDTH), .Y_WIDTH(1)) joined (.A(A), .Y(any));
\$not #(.A_SIGNED(0), .A_WIDTH(1), .Y_WIDTH(1)) inverted (.A(any), .Y(Y));
endmodule
"""

_IDENTIFIER: Final = re.compile(r"\\\S+ |\b[A-Za-z_]\w*")
_SLICE: Final = re.compile(rf"({_IDENTIFIER.pattern})(?:\[(\d+)(?::(\d+))?\])?")
#: Header, direction and type.
_USES_OF_UNREAD_PORT: Final = 3


class EmissionError(RuntimeError):
    """Yosys refused a design; the message is its own."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port of an emitted module.

    Attributes
    ----------
    name : str
        Path of the member in the component's signature joined by ``_``: ``i_valid`` is ``i.valid``.
    direction : {"input", "output"}
    width : int
        Bits.
    signed : bool
        Whether the bits are two's complement.
    """

    name: str
    direction: str
    width: int
    signed: bool


def ports(component: wiring.Component) -> list[Port]:
    """The ports of a component's Verilog module in order, without clock and reset.

    Members that are constants (``always_ready``, ``always_valid``) are no ports.
    """
    return [
        Port(name, "input" if flow == wiring.In else "output", len(value), signed)
        for name, flow, value, signed in _members(component)
    ]


def emit(component: wiring.Component, module_name: str) -> str:
    """The Verilog of a component, the same bytes on every run.

    Parameters
    ----------
    component : wiring.Component
        Not elaborated before. An attribute ``ignored_inputs``, a tuple of port names, lists inputs
        of which some bits have no influence by design. An attribute ``unread_fields`` that is True
        says the same of structures inside, which go whole from unit to unit.
    module_name : str
        Name of the only module, a Verilog identifier.

    Returns
    -------
    str
        Verilog-2005.

    Raises
    ------
    EmissionError
        If the design cannot be emitted.
    """
    directions = {wiring.In: PortDirection.Input, wiring.Out: PortDirection.Output}
    members = {name: (value, directions[flow]) for name, flow, value, _ in _members(component)}
    fragment = Fragment.get(component, None)
    design = rtlil.convert(fragment, name=module_name, ports=members, emit_src=False)
    verilog = _run_yosys(design, module_name)
    verilog = _order_ports(verilog, list(members))
    verilog = _mark_ignored(verilog, getattr(component, "ignored_inputs", ()))
    if _IDENTIFIER.findall(verilog).count(RESET) == _USES_OF_UNREAD_PORT:
        verilog = _mark_ignored(verilog, (RESET,))  # nothing needs it, but clocked modules have it
    verilog = _drop_unread_copies(_loop_over_zeros(_split_initial_values(verilog)))
    verilog = _split_unread_bits(_name_unread(verilog))
    if getattr(component, "unread_fields", False):
        verilog = f"/* verilator lint_off UNUSEDSIGNAL */\n{verilog}"
    return verilog


def _members(component: wiring.Component) -> Iterator[tuple[str, wiring.Flow, Value, bool]]:
    for path, member, port in component.signature.flatten(component):
        value = Value.cast(port)
        if not isinstance(value, Const):
            name = "_".join(map(str, path))
            yield name, member.flow, value, Shape.cast(member.shape).signed


def _run_yosys(design: str, module_name: str) -> str:
    """One flat module with nothing unread, operands as wide as their operators, as Verilog."""
    with tempfile.TemporaryDirectory(prefix="emit-") as directory:
        folder = Path(directory)
        folder.joinpath("design.il").write_text(design, encoding="utf-8")
        folder.joinpath("extension.v").write_text(_extension_rules(), encoding="utf-8")
        script = _SCRIPT.format(module_name=module_name)
        folder.joinpath("emit.ys").write_text(script, encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "-c", _RUN_SCRIPT],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode:
            reason = "\n".join(result.stdout.splitlines()[-3:])
            raise EmissionError(f"{module_name} must be accepted by yosys, which said: {reason}")
        text = folder.joinpath("design.v").read_text(encoding="utf-8")
    text = _ATTRIBUTE.sub(lambda line: line[0] if line[1] in _KEPT_ATTRIBUTES else "", text)
    _version_line, separator, body = text.partition("\n\n")
    return body if separator else text


def _extension_rules() -> str:
    """Yosys techmap rules that give every operator operands of its own width."""
    rules = [
        _extension_rule(cell, *widths) for cells, widths in _CELL_WIDTHS.items() for cell in cells
    ]
    return "\n".join([*rules, _NOT_ANY_RULE])


def _extension_rule(cell: str, a_width: str, b_width: str | None, y_width: str) -> str:
    operands = {"A": a_width} if b_width is None else {"A": a_width, "B": b_width}
    declarations, fits, parameters, connections = [], [], [], []
    for name, width in operands.items():
        declarations += [
            f"parameter {name}_SIGNED = 0; parameter {name}_WIDTH = 1;",
            f"input [{name}_WIDTH-1:0] {name};",
            f"wire [{width}-1:0] wide_{name};",
            # an operand without bits is 0, but its port [-1:0] has two, which nothing drives
            f"generate if ({name}_WIDTH == 0) assign wide_{name} = 0;",
            f"else if ({name}_SIGNED) assign wide_{name} = $signed({name});",
            f"else assign wide_{name} = {name}; endgenerate",
        ]
        fits.append(f"{name}_WIDTH == {width}")
        parameters.append(f".{name}_SIGNED({name}_SIGNED), .{name}_WIDTH({width})")
        connections.append(f".{name}(wide_{name})")
    fits.append(f"Y_WIDTH == {y_width}")
    return "\n".join(
        [
            f'(* techmap_celltype = "${cell}" *)',
            f"module extend_{cell}({', '.join(operands)}, Y);",
            *declarations,
            "parameter Y_WIDTH = 1; output [Y_WIDTH-1:0] Y;",
            f"wire _TECHMAP_FAIL_ = {' && '.join(fits)};",
            f"wire [{y_width}-1:0] y;",
            f"\\${cell} #({', '.join(parameters)}, .Y_WIDTH({y_width}))",
            f"extended ({', '.join(connections)}, .Y(y));",
            "assign Y = y;",
            "endmodule",
        ]
    )


def _order_ports(verilog: str, names: Sequence[str]) -> str:
    """The module with its ports in the order of the signature, after clock and reset."""
    # Yosys breaks the line after 20 ports.
    header = re.search(r"^module (\S+) ?\(([^)]*)\);$", verilog, re.MULTILINE)
    if header is None:
        raise EmissionError(f"Verilog must start with a module, not {verilog[:80]!r}")
    found = re.split(r"\s*,\s*", header[2].strip())
    order = [name for name in (CLOCK, RESET, *names) if name in found]
    if sorted(order) != sorted(found):
        raise EmissionError(f"ports must be {', '.join(names)}, not {', '.join(found)}")
    return verilog.replace(header[0], f"module {header[1]}({', '.join(order)});", 1)


def _mark_ignored(verilog: str, names: Sequence[str]) -> str:
    """The module with a note to the linter at each input that the function reads only in part."""
    for name in names:
        verilog = re.sub(
            rf"^(  input (?:\[\d+:0\] )?{name};\n  wire (?:\[\d+:0\] )?{name};\n)",
            r"  /* verilator lint_off UNUSEDSIGNAL */\n\1  /* verilator lint_on UNUSEDSIGNAL */\n",
            verilog,
            flags=re.MULTILINE,
        )
    return verilog


def _name_unread(verilog: str) -> str:
    """The module with wires that nothing reads named ``unused_N``, as linters want them to be.

    A sum of which only the carry is wanted has such a lowest bit.
    """
    uses = Counter(_IDENTIFIER.findall(verilog))
    driven = _IDENTIFIER.findall("".join(re.findall(r"^  assign (.*?) = ", verilog, re.MULTILINE)))
    declared = set(re.findall(r"^  wire (?:\[\d+:\d+\] )?(\S+ ?);$", verilog, re.MULTILINE))
    unread = [name for name in driven if name in declared and uses[name] == 2]
    names = {name: f"unused_{number}" for number, name in enumerate(unread)}
    return _IDENTIFIER.sub(lambda found: names.get(found[0], found[0]), verilog)


def _loop_over_zeros(verilog: str) -> str:
    """The module with the contents of memories that start as zeros in loops, not row by row."""
    count = itertools.count()

    def loop(found: re.Match[str]) -> str:
        rows = found[0].count(";")
        index = f"row_{next(count)}"
        return (
            f"  integer {index};\n"
            f"  initial for ({index} = 0; {index} < {rows}; {index} = {index} + 1)\n"
            f"    {found[1]}[{index}] = {found[2]};\n"
        )

    contents = r"^  initial begin\n    (\S+ ?)\[0\] = (\d+'h0+);\n(?:    \1\[\d+\] = \2;\n)*  end\n"
    return re.sub(contents, loop, verilog, flags=re.MULTILINE)


def _drop_unread_copies(verilog: str) -> str:
    """The module without copies of a sign to the highest bits of a wire that nothing reads."""
    left = re.compile(r"^  (?:wire .*;|assign .*? = )", re.MULTILINE)
    highest: dict[str, int] = {}
    for name, high, _ in _SLICE.findall(left.sub("", verilog)):
        index = int(high) if high else sys.maxsize  # without a slice, all bits are read
        highest[name] = max(index, highest.get(name, -1))
    copies = re.findall(r"^(  assign (\S+ ?)\[(\d+)(?::(\d+))?\] = .*;\n)", verilog, re.MULTILINE)
    for line, name, high, low in copies:
        lowest = int(low or high)
        declaration = re.search(
            rf"^  wire \[{high}:(\d+)\] {re.escape(name)};$", verilog, re.MULTILINE
        )
        if declaration and highest.get(name, -1) < lowest > int(declaration[1]):
            verilog = verilog.replace(line, "", 1)
            shorter = f"  wire [{lowest - 1}:{declaration[1]}] {name};"
            verilog = verilog.replace(declaration[0], shorter, 1)
    return verilog


def _split_unread_bits(verilog: str) -> str:
    """The module with the lowest bits of a sum in a wire of their own if nothing reads them."""
    reads = re.sub(r"^  (?:wire .*;|assign .*? = )", "", verilog, flags=re.MULTILINE)
    lowest: dict[str, int] = {}
    for name, high, low in _SLICE.findall(reads):
        index = int(low or high or 0)  # without a slice, all bits are read
        lowest[name] = min(index, lowest.get(name, index))
    driven = re.findall(r"^  assign (\S+ ?) = ", verilog, re.MULTILINE)
    for number, name in enumerate(name for name in driven if lowest.get(name, 0)):
        declaration = re.compile(rf"^  wire \[(\d+):0\] {re.escape(name)};$", re.MULTILINE)
        found = declaration.search(verilog)
        if found:
            low, unread = lowest[name], f"unused_low_{number}"
            wires = f"  wire [{found[1]}:{low}] {name};\n  wire [{low - 1}:0] {unread};"
            verilog = verilog.replace(found[0], wires, 1)
            verilog = verilog.replace(
                f"\n  assign {name} = ", f"\n  assign {{ {name}, {unread} }} = ", 1
            )
    return verilog


def _split_initial_values(verilog: str) -> str:
    """The module with ``initial`` statements, which linters tell from the clocked assignments."""
    return re.sub(
        r"^  reg ((?:signed )?(?:\[\d+:\d+\] )?)(\S+ ?) = (\S+);$",
        lambda found: f"  reg {found[1]}{found[2]};\n  initial {found[2]} = {found[3]};",
        verilog,
        flags=re.MULTILINE,
    )

"""A unit as gates: what yosys makes of emitted Verilog, read back for proofs.

Nothing here knows what the unit should compute.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: Input ports and functions of yosys' gates.
GATES: Final[Mapping[str, tuple[str, str]]] = {
    # cell: (input ports, expression in C)
    "$_BUF_": ("A", "{0}"),
    "$_NOT_": ("A", "~{0}"),
    "$_AND_": ("AB", "{0} & {1}"),
    "$_NAND_": ("AB", "~({0} & {1})"),
    "$_OR_": ("AB", "{0} | {1}"),
    "$_NOR_": ("AB", "~({0} | {1})"),
    "$_XOR_": ("AB", "{0} ^ {1}"),
    "$_XNOR_": ("AB", "~({0} ^ {1})"),
    "$_ANDNOT_": ("AB", "{0} & ~{1}"),
    "$_ORNOT_": ("AB", "{0} | ~{1}"),
    "$_MUX_": ("ABS", "({0} & ~{2}) | ({1} & {2})"),
}

#: Yosys' passes from Verilog to gates and plain flip-flops. ``hierarchy`` comes before ``flatten``.
PASSES: Final = (
    "proc",
    "flatten",
    "opt_expr",
    "opt_clean",
    "techmap",
    "opt -full",
    "simplemap",
    "opt -full",
    "dffunmap",
    "simplemap",
    "opt_expr",
    "opt_clean -purge",
)
#: Additional passes that shrink logic without registers, for evaluation at speed.
SHRINK: Final = ("abc -g AND,XOR,OR", "opt_clean -purge")


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate.

    Parameters
    ----------
    kind : str
        A key of :data:`GATES`.
    inputs : tuple of int
        Nets; 0 and 1 are the constants.
    output : int
        Net.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True, slots=True)
class Register:
    """One flip-flop, rising edge.

    Parameters
    ----------
    name : str
        Register and bit in the source.
    data, output : int
        Nets.
    initial : int or None
        Value at power-up.
    """

    name: str
    data: int
    output: int
    initial: int | None


@dataclass(frozen=True, slots=True)
class Netlist:
    """Gates in an order in which every input is known.

    Parameters
    ----------
    inputs, outputs : mapping of str to tuple of int
        Nets per port, bit 0 first.
    gates : tuple of Gate
    registers : tuple of Register
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    gates: tuple[Gate, ...]
    registers: tuple[Register, ...] = ()

    def check_ports(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Raise ValueError unless the ports are exactly these, by name and width.

        Without this check a proof about an output that is not there would hold.
        """
        for kind, wanted, found in (
            ("inputs", inputs, self.inputs),
            ("outputs", outputs, self.outputs),
        ):
            widths = {name: len(bits) for name, bits in found.items()}
            if widths != dict(wanted):
                raise ValueError(f"{kind} of the netlist must be {dict(wanted)}, not {widths}")

    def evaluate(self, vectors: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        """The outputs of a netlist without registers for any number of vectors, all at once.

        Parameters
        ----------
        vectors : mapping of str to sequence of int
            Equally many values for every input.
        """
        if self.registers:
            raise ValueError(f"netlist must have no registers, not {len(self.registers)}")
        (count,) = {len(values) for values in vectors.values()}
        ones = (1 << count) - 1
        nets = {0: 0, 1: ones}
        for name, bits in self.inputs.items():
            for position, net in enumerate(bits):
                column = ("1" if value >> position & 1 else "0" for value in vectors[name])
                nets[net] = int("".join(column)[::-1], 2)
        for gate in self.gates:
            nets[gate.output] = _compute(gate.kind, [nets[net] for net in gate.inputs], ones)
        return {
            name: [sum((nets[n] >> v & 1) << p for p, n in enumerate(bits)) for v in range(count)]
            for name, bits in self.outputs.items()
        }


def _compute(kind: str, operands: Sequence[int], ones: int) -> int:
    a, b, s = (*operands, 0, 0)[:3]
    value = {
        "$_BUF_": a,
        "$_NOT_": ~a,
        "$_AND_": a & b,
        "$_NAND_": ~(a & b),
        "$_OR_": a | b,
        "$_NOR_": ~(a | b),
        "$_XOR_": a ^ b,
        "$_XNOR_": ~(a ^ b),
        "$_ANDNOT_": a & ~b,
        "$_ORNOT_": a | ~b,
        "$_MUX_": (a & ~s) | (b & s),
    }[kind]
    return value & ones


def read_verilog(
    text: str, top: str, libraries: Sequence[str] = (), passes: Sequence[str] = PASSES
) -> Netlist:
    """The netlist of a Verilog module.

    Parameters
    ----------
    text : str
        Verilog.
    top : str
        Name of the module.
    libraries : sequence of str
        Simulation models of vendor cells in yosys' share directory, for example
        ``+/lattice/cells_sim_ecp5.v``.
    passes : sequence of str
        After ``hierarchy``.

    Raises
    ------
    ValueError
        If a cell has no known function, a net no driver, or the logic a loop.
    """
    with tempfile.TemporaryDirectory(prefix="atreides-netlist-") as directory:
        source, result = Path(directory, "design.v"), Path(directory, "netlist.json")
        source.write_text(text, encoding="utf-8")
        commands = [f"read_verilog {source}"]
        commands += [f"read_verilog -nooverwrite {name}" for name in libraries]
        commands += [f"hierarchy -check -top {top}", *passes, f"write_json {result}"]
        run_yosys(commands)
        data = json.loads(result.read_text(encoding="utf-8"))
    return from_json(data["modules"][top])


def run_yosys(commands: Sequence[str]) -> None:
    """Run yosys commands in a process of their own: an error inside yosys ends its process.

    Raises
    ------
    ValueError
        With yosys' own words, if a command fails.
    """
    program = (
        "import sys\n"
        "from pyosys import libyosys\n"
        "design = libyosys.Design()\n"
        "for command in sys.argv[1:]:\n"
        "    libyosys.Pass.call(design, 'tee -q ' + command)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *commands], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        words = (ran.stderr + ran.stdout).strip().splitlines()[-3:]
        raise ValueError(f"yosys must accept the design, not say {' '.join(words)!r}")


def from_json(module: Mapping[str, Any]) -> Netlist:
    """The netlist of one module of yosys' JSON.

    Parameters
    ----------
    module : mapping
        With ``ports``, ``cells`` and ``netnames``; gates and ``$_DFF_P_`` only.
    """
    inputs, outputs = {}, {}
    clocks = {c["connections"]["C"][0] for c in module["cells"].values() if _is_register(c)}
    for name, port in module["ports"].items():
        if port["direction"] not in ("input", "output"):
            raise ValueError(f"port {name} must be an input or an output")
        if port["direction"] == "input" and clocks and set(port["bits"]) <= clocks:
            continue
        chosen = inputs if port["direction"] == "input" else outputs
        chosen[name] = tuple(map(_net, port["bits"]))
    names, initials = _register_names(module)
    gates, registers = {}, []
    for name, cell in module["cells"].items():
        nets = {port: _net(bits[0]) for port, bits in cell["connections"].items()}
        if _is_register(cell):
            q = nets["Q"]
            registers.append(Register(names.get(q, name), nets["D"], q, initials.get(q)))
        elif cell["type"] in GATES:
            ports = GATES[cell["type"]][0]
            gates[nets["Y"]] = Gate(cell["type"], tuple(nets[p] for p in ports), nets["Y"])
        else:
            raise ValueError(f"cell {name} must be one of {', '.join(GATES)}, not {cell['type']}")
    known = {0, 1, *(net for bits in inputs.values() for net in bits)}
    known |= {register.output for register in registers}
    wanted = [net for bits in outputs.values() for net in bits]
    wanted += [register.data for register in registers]
    return Netlist(inputs, outputs, _sort(gates, known, wanted), tuple(registers))


def _is_register(cell: Mapping[str, Any]) -> bool:
    return cell["type"] == "$_DFF_P_"


def _net(bit: int | str) -> int:
    """Yosys numbers nets from 2 and writes constants as text."""
    if bit in ("0", "1"):
        return int(bit)
    if not isinstance(bit, int):
        raise ValueError(f"net must be 0, 1 or a number, not {bit!r}")
    return bit


def _register_names(module: Mapping[str, Any]) -> tuple[dict[int, str], dict[int, int]]:
    """A source name and an initial value per net; hidden names come last."""
    names: dict[int, str] = {}
    initials: dict[int, int] = {}
    for name, net in sorted(module["netnames"].items(), key=lambda item: item[1]["hide_name"]):
        initial = net["attributes"].get("init")
        for position, bit in enumerate(net["bits"]):
            if isinstance(bit, int):
                names.setdefault(bit, f"{name}[{position}]")
                if isinstance(initial, str) and initial[::-1][position] in "01":
                    initials[bit] = int(initial[::-1][position])
    return names, initials


def _sort(gates: Mapping[int, Gate], known: set[int], wanted: Sequence[int]) -> tuple[Gate, ...]:
    """The gates behind the wanted nets, depth first: every input known, short lives."""
    order: dict[int, Gate] = {}
    opened: set[int] = set()
    pending = [(net, False) for net in reversed(wanted)]
    while pending:
        net, closing = pending.pop()
        if closing:
            order[net] = gates[net]
        elif net not in known and net not in order:
            if net in opened:
                raise ValueError(f"logic must have no loop, not one through net {net}")
            if net not in gates:
                raise ValueError(f"net {net} must have a driver")
            opened.add(net)
            pending.append((net, True))
            pending += [(source, False) for source in reversed(gates[net].inputs)]
    return tuple(order.values())

"""Records how often each net of a netlist of standard cells toggles while it computes.

Icarus runs the netlist gate by gate, each with the delay that OpenSTA finds for it, so that hazards
count: a net that settles after three changes has toggled three times.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from hw.gate_costs import gate_delays
from hw.gate_netlist import CLOCK, TOP, GateNetlist
from hw.power import Activity
from hw.synthesis import MEMORIES, run_passes
from sim.runner import SimulationFailed, simulator_version

#: Name of the reset's port, which is 1 in the cycles before the recording.
RESET: Final = "rst"
#: Those cycles: with the first operands, so that registers without a reset are known after them.
WARM_UP: Final = 4
#: Seconds that a simulation may take.
TIMEOUT: Final = 1800
#: A wire of one bit in a VCD file: its key and its name.
_DECLARED: Final = re.compile(r"\$var \w+ +1 (\S+) (\S+) (?:\[\d+\] )?\$end")
_PROGRAMS: Final = ("iverilog", "vvp")


def record(
    netlist: GateNetlist,
    operands: Mapping[str, Sequence[int]],
    *,
    clock: float = 100.0,
    delays: bool = True,
    skip: int = 0,
) -> Activity:
    """Run a netlist on operands and count toggles.

    Parameters
    ----------
    netlist : GateNetlist
        From ``hw.gate_netlist.gate_netlist``. A clocked one has a port ``clk``; another one is
        given new operands every cycle all the same.
    operands : mapping of str to sequence of int
        What each input port holds in each cycle, two's complement or unsigned; all of one length.
        Ports that are not named stay 0. What is named for cycle k is stable before the clock's
        rising edge that ends it.
    clock : float
        Nanoseconds of a cycle, longer than the longest path.
    delays : bool
        Whether gates take time; without, a net toggles at most once per cycle.
    skip : int
        Cycles at the start whose toggles do not count.

    Returns
    -------
    Activity
        Of all nets over all cycles but the first ``skip``; its outputs are those just before the
        edge that ends a cycle, of all cycles. Memories are simulated; their pins are no outputs.

    Raises
    ------
    ValueError
        For ports that the unit has not, operands of several lengths or none.
    SynthesisError
        If a tool is missing or fails.
    MissingSimulator, SimulationFailed
        From Icarus; also if a net is not known after the first cycles.
    """
    cycles = _check(netlist, operands)
    if not 0 <= skip < cycles:
        raise ValueError(f"skip must be 0 to {cycles - 1}, not {skip!r}")
    simulator_version("icarus")
    given = {name: operands.get(name, [0] * cycles) for name in _driven(netlist)}
    with tempfile.TemporaryDirectory(prefix="atreides-activity-") as directory:
        folder = Path(directory)
        found = gate_delays(netlist) if delays else {}
        parameters = {name: f"#({rise}, {fall}) " for name, (rise, fall) in found.items()}
        bench = _bench(netlist, cycles, max(8, round(clock * 1000)), skip)
        memories = _cleared(netlist.memories)
        parts = [_models(netlist, delays), netlist.verilog(parameters), memories, bench]
        text = "\n".join(parts)
        folder.joinpath("bench.v").write_text(text, encoding="utf-8")
        _write_stimulus(folder / "stimulus.txt", netlist, given, cycles)
        _run(folder)
        toggles = _toggles(folder / "waves.vcd", netlist)
        outputs = _outputs(folder / "outputs.txt", netlist, cycles)
    return Activity(cycles - skip, toggles, outputs)


def _check(netlist: GateNetlist, operands: Mapping[str, Sequence[int]]) -> int:
    known = _driven(netlist)
    for name in operands:
        if name not in known:
            raise ValueError(f"operands must be of {', '.join(known)}, not {name!r}")
    lengths = {len(values) for values in operands.values()}
    if len(lengths) != 1 or not min(lengths):
        raise ValueError(f"operands must be of one length, not {sorted(lengths)}")
    for name, values in operands.items():
        width = len(netlist.inputs[name])
        wrong = [v for v in values if not -(1 << width) // 2 <= int(v) < 1 << width]
        if wrong:
            raise ValueError(f"{name} must have values of {width} bits, not {wrong[0]!r}")
    return lengths.pop()


def _write_stimulus(
    path: Path, netlist: GateNetlist, given: Mapping[str, Sequence[int]], cycles: int
) -> None:
    """A line of binary digits per cycle: the ports side by side, the first at the left."""
    widths = {name: len(netlist.inputs[name]) for name in given}
    lines = []
    for cycle in range(-WARM_UP, cycles):
        values = {name: int(values[max(cycle, 0)]) for name, values in given.items()}
        if RESET in values and cycle < 0:
            values[RESET] = 1
        lines.append(
            "".join(f"{values[n] & (1 << w) - 1:0{w}b}" for n, w in widths.items() if w) or "0"
        )
    path.write_text("\n".join(lines) + "\n")


def _driven(netlist: GateNetlist) -> list[str]:
    """Input ports that hold operands."""
    return [name for name in netlist.inputs if name not in (CLOCK, *netlist.memory_pins)]


def _seen(netlist: GateNetlist) -> dict[str, int]:
    """Bits of the output ports that are not a memory's."""
    outputs = netlist.outputs.items()
    return {n: len(nets) for n, nets in outputs if nets and n not in netlist.memory_pins}


def _bench(netlist: GateNetlist, cycles: int, period: int, skip: int) -> str:
    """The testbench: inputs change as a register's would, 1 ps after the edge."""
    inputs = {n: len(netlist.inputs[n]) for n in _driven(netlist) if netlist.inputs[n]}
    outputs = _seen(netlist)
    width = sum(inputs.values()) or 1
    ports = netlist.inputs | netlist.outputs
    wires = [
        f"  wire [{len(nets) - 1}:0] {name};"
        for name, nets in ports.items()
        if name != CLOCK and nets
    ]
    pins = ", ".join(f".{name}({name})" for name, nets in ports.items() if nets)
    taken = f"  assign {{{', '.join(inputs)}}} = line;" if inputs else ""
    memories = ""
    if netlist.memories:
        joined = [f".\\{pin} ({name})" for name, pin in netlist.memory_pins.items() if pin != CLOCK]
        memories = f"  {MEMORIES} memories(.clk({CLOCK}), {', '.join(joined)});"
    shown = " ".join(["%h"] * len(outputs))
    values = "".join(f", {name}" for name in outputs)
    return f"""
`timescale 1ps/1ps
module bench;
  reg clk = 0;
  reg [{width - 1}:0] stimulus [0:{cycles + WARM_UP - 1}];
  reg [{width - 1}:0] line;
  integer cycle, file;
{chr(10).join(wires)}
{taken}
  {TOP} unit({pins});
{memories}
  initial begin
    $readmemb("stimulus.txt", stimulus);
    file = $fopen("outputs.txt");
    line = stimulus[0];
    for (cycle = 0; cycle < {cycles + WARM_UP}; cycle = cycle + 1) begin
      #1 if (cycle == {WARM_UP + skip}) begin
        $dumpfile("waves.vcd");
        $dumpvars(1, unit);
      end
      line = stimulus[cycle];
      #({period // 2 - 1}) clk = 0;
      #({period - period // 2 - 1}) if (cycle >= {WARM_UP}) $fdisplay(file, "{shown}"{values});
      #1 clk = 1;
    end
    $finish(0);
  end
endmodule
"""


def _models(netlist: GateNetlist, delays: bool) -> str:
    """What each cell computes, with the two delays as parameters; registers start with 0."""
    late = "#(RISE, FALL) " if delays else ""
    text = _behaviour(netlist.liberty)
    found = ["`timescale 1ps/1ps"]
    kinds = {gate.kind: gate for gate in netlist.gates}
    for kind, gate in sorted(kinds.items()):
        module = re.search(rf"^module {re.escape(kind)}\(.*?^endmodule\n", text, re.M | re.S)
        if module is None:
            raise SimulationFailed(f"cell library must say what {kind} computes")
        body = _cleared(module[0])
        found.append(body.replace(f"module {kind}(", f"module {kind}_behaviour(", 1))
        pins = ", ".join([*gate.inputs, *gate.outputs])
        ways = [f"  input {pin};" for pin in gate.inputs]
        ways += [f"  output {pin};\n  wire {pin}_now;" for pin in gate.outputs]
        ways += [f"  assign {late}{pin} = {pin}_now;" for pin in gate.outputs]
        inner = [f".{pin}({pin})" for pin in gate.inputs]
        inner += [f".{pin}({pin}_now)" for pin in gate.outputs]
        found.append(
            f"module {kind}({pins});\n  parameter RISE = 0, FALL = 0;\n" + "\n".join(ways) + "\n"
            f"  {kind}_behaviour behaviour({', '.join(inner)});\nendmodule\n"
        )
    return "\n".join(found)


def _cleared(text: str) -> str:
    """Verilog whose registers start with 0."""
    register = r"^  reg (\[\d+:0\] )?(\S+ ?);$"
    return re.sub(register, r"  reg \1\2;\n  initial \2 = 0;", text, flags=re.MULTILINE)


@cache
def _behaviour(liberty: Path) -> str:
    """Yosys' reading of a cell library, in Verilog."""
    with tempfile.TemporaryDirectory(prefix="atreides-cells-") as directory:
        result = Path(directory, "cells.v")
        run_passes([f"read_liberty -ignore_miss_func {liberty}", f"write_verilog -noattr {result}"])
        return result.read_text(encoding="utf-8")


def _run(folder: Path) -> None:
    compiled = folder / "bench.vvp"
    for command in (
        [_PROGRAMS[0], "-g2012", "-s", "bench", "-o", str(compiled), str(folder / "bench.v")],
        [_PROGRAMS[1], "-n", str(compiled)],
    ):
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            raise SimulationFailed(f"{command[0]} did not end within {TIMEOUT} s") from None
        if done.returncode:
            lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
            raise SimulationFailed(f"{command[0]} failed with status {done.returncode}:\n{lines}")


def _toggles(path: Path, netlist: GateNetlist) -> dict[str, int]:
    """Changes of each net of the netlist in a VCD file, after the values that it starts with.

    A value that is written again is no change: Icarus does so where a net came back to it at once.
    """
    wanted = {*netlist.nets, *(n for nets in netlist.inputs.values() for n in nets)}
    names: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    with path.open(encoding="ascii") as file:
        for line in file:
            declared = _DECLARED.match(line)
            if declared and declared[2] in wanted:
                names.setdefault(declared[1], []).append(declared[2])
            if line.startswith("$dumpvars"):
                break
        changes = dict.fromkeys(names, 0)
        for line in file:
            key = line[1:-1]
            if key in changes and values.get(key) != line[0]:
                changes[key] += key in values
                values[key] = line[0]
                if line[0] not in "01":
                    raise SimulationFailed(
                        f"net {names[key][0]} must be 0 or 1 after {WARM_UP} cycles"
                    )
    return {name: changes[key] for key, found in names.items() for name in found}


def _outputs(path: Path, netlist: GateNetlist, cycles: int) -> dict[str, tuple[int, ...]]:
    names = list(_seen(netlist))
    rows = [line.split() for line in path.read_text().splitlines()]
    if len(rows) != cycles:
        raise SimulationFailed(f"simulation must last {cycles} cycles, not {len(rows)}")
    try:
        return {n: tuple(int(row[k], 16) for row in rows) for k, n in enumerate(names)}
    except ValueError:
        raise SimulationFailed("outputs must be known in every cycle") from None

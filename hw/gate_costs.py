"""What gates take per toggle and how long they take, by OpenSTA.

OpenSTA has the slews, the loads and the library's tables; its releases before 2.1 accept an
activity for all nets alike, not one per net (``set_power_activity -pins`` is without effect). As a
cell's power is proportional to its activity, each cell is asked for what one toggle costs.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from hw.gate_netlist import CLOCK, TOP, Gate, GateNetlist
from hw.synthesis import SynthesisError, run_tool

_MILLIWATTS: Final = 1000.0
#: Nanoseconds of the clock that cells are asked at; any would do.
_PERIOD: Final = 10.0
#: From watts at that clock.
_PICOJOULES: Final = _PERIOD * 1000


@dataclass(frozen=True, slots=True)
class Cost:
    """What one gate takes.

    Parameters
    ----------
    leakage : float
        Milliwatts.
    clock : float
        Picojoules per cycle, inside of the gate.
    switching, output : float
        Picojoules per toggle of an output: outside and inside of the gate.
    input : float
        Picojoules per toggle of an input that is no clock.
    """

    leakage: float
    clock: float
    switching: float
    output: float
    input: float


def gate_delays(netlist: GateNetlist) -> dict[str, tuple[int, int]]:
    """Picoseconds that each gate takes to rise and to fall, the mean over its inputs.

    With the slews and loads of the netlist, without wires; never below 1.
    """
    with tempfile.TemporaryDirectory(prefix="atreides-delays-") as directory:
        result = Path(directory, "delays.sdf")
        _sta(netlist, netlist.liberty, Path(directory), f"write_sdf -digits 4 {result}")
        text = result.read_text(encoding="utf-8")
    found = {}
    for cell in re.split(r"\(CELL\b", text)[2:]:
        name = re.search(r"\(INSTANCE (\S+)\)", cell)
        paths = re.findall(r"\(IOPATH .*? \(([^()]*)\)(?: \(([^()]*)\))?\)", cell)
        if name and paths:
            rises = [_nanoseconds(rise) for rise, _ in paths]
            falls = [_nanoseconds(fall or rise) for rise, fall in paths]
            found[name[1]] = (_picoseconds(rises), _picoseconds(falls))
    return {gate.name: found.get(gate.name, (1, 1)) for gate in netlist.gates}


def gate_costs(netlist: GateNetlist) -> dict[str, Cost]:
    """What each gate of a netlist takes, by its name, with the slews and loads of the netlist.

    Raises
    ------
    SynthesisError
        If OpenSTA is missing or fails.
    """
    with tempfile.TemporaryDirectory(prefix="atreides-power-") as directory:
        folder = Path(directory)
        still, full = _instances(netlist, netlist.liberty, folder, (0, 1))
        bare = folder / "outputs.lib"
        library = netlist.liberty.read_text(encoding="utf-8", errors="replace")
        bare.write_text(_without_input_energies(library), encoding="utf-8")
        silent, outputs = _instances(netlist, bare, folder, (0, 1))
    for_output, for_clock, for_input = _counted()
    found = {}
    for gate in netlist.gates:
        name = gate.name
        clocked, driven = still[name][0], outputs[name][0] - silent[name][0]
        found[name] = Cost(
            leakage=still[name][2] * _MILLIWATTS,
            clock=clocked * _PICOJOULES / for_clock,
            switching=full[name][1] * _PICOJOULES,
            output=driven * _PICOJOULES / for_output,
            input=(full[name][0] - clocked - driven) * _PICOJOULES / for_input,
        )
    return found


def _instances(
    netlist: GateNetlist, liberty: Path, folder: Path, activities: tuple[int, ...]
) -> list[dict[str, tuple[float, float, float]]]:
    """Watts of each gate, internal, switching and leakage, if every net toggled that often."""
    asked = [
        f"set_power_activity -global -activity {activity} -duty 0.5\n"
        f'puts "activity"\nforeach instance [get_cells *] {{\n'
        '  puts "gate [get_name $instance] [sta::instance_power $instance [sta::cmd_corner]]"\n}'
        for activity in activities
    ]
    log = _sta(netlist, liberty, folder, "\n".join(asked))
    found = []
    for part in log.split("activity\n")[1:]:
        lines = re.findall(r"^gate (\S+) (\S+) (\S+) (\S+)", part, re.MULTILINE)
        found.append({name: (float(i), float(s), float(k)) for name, i, s, k in lines})
        if len(lines) != len(netlist.gates):
            raise SynthesisError(
                f"OpenSTA must report {len(netlist.gates)} gates, not {len(lines)}: {log[-400:]}"
            )
    return found


def _sta(netlist: GateNetlist, liberty: Path, folder: Path, commands: str) -> str:
    """What OpenSTA prints."""
    folder.joinpath("netlist.v").write_text(netlist.verilog(), encoding="utf-8")
    place = f" [get_ports {CLOCK}]" if netlist.clocked else ""
    script = folder / "script.tcl"
    script.write_text(
        f"read_liberty {liberty}\nset_cmd_units -time ns\n"
        f"read_verilog {folder}/netlist.v\nlink_design {TOP}\n"
        f"create_clock -name clock -period {_PERIOD}{place}\n"
        f"set_input_delay 0 -clock clock [all_inputs]\n{commands}\nexit\n",
        encoding="utf-8",
    )
    log = run_tool(["sta", "-no_splash", "-exit", str(script)])
    error = re.search(r"^Error: .*", log, re.MULTILINE)
    if error:
        raise SynthesisError(f"OpenSTA failed: {error[0]}")
    return log


def _without_input_energies(library: str) -> str:
    """A Liberty text whose inputs, clocks apart, take no energy of their own."""
    found, position = [], 0
    for start, end in _groups(library, r"\bpin\s*\([^)]*\)\s*\{"):
        pin = library[start:end]
        found.append(library[position:start])
        position = end
        clock = re.search(r"\bclock\s*:\s*\"?true\b", pin)
        if re.search(r"\bdirection\s*:\s*\"?input\b", pin) and not clock:
            for inner, after in reversed(_groups(pin, r"\binternal_power\s*\([^)]*\)\s*\{")):
                pin = pin[:inner] + pin[after:]
        found.append(pin)
    return "".join([*found, library[position:]])


def _groups(text: str, opening: str) -> list[tuple[int, int]]:
    """Where the groups that open like this start and end."""
    found = []
    for start in re.finditer(opening, text):
        depth, position = 1, start.end()
        while depth:
            brace = re.compile(r"[{}]").search(text, position)
            if brace is None:
                raise SynthesisError("cell library must close every brace that it opens")
            depth += 1 if brace[0] == "{" else -1
            position = brace.end()
        found.append((start.start(), position))
    return found


def _nanoseconds(triple: str) -> float:
    """The largest of SDF's three values."""
    return max(float(value) for value in triple.split(":") if value)


def _picoseconds(values: list[float]) -> int:
    return max(1, round(1000 * sum(values) / len(values)))


@cache
def _counted() -> tuple[float, float, float]:
    """How often OpenSTA counts an energy per toggle: of an output, a clock's pin and other inputs.

    Once would be right, but some releases count the sum of rise and fall. Asked with gates of
    3 pJ per toggle each.
    """
    gates = (
        Gate("u0", "OUTPUT", {"A": "n1"}, {"Y": "n2"}),
        Gate("u1", "CLOCK", {"CLK": CLOCK, "D": "n1"}, {"Q": "n3"}),
        Gate("u2", "INPUT", {"CLK": CLOCK, "D": "n1"}, {"Q": "n4"}),
    )
    outputs = {f"y{k}": (f"n{k}",) for k in (2, 3, 4)}
    with tempfile.TemporaryDirectory(prefix="atreides-probe-") as directory:
        library = Path(directory, "probe.lib")
        library.write_text(_probe(), encoding="utf-8")
        netlist = GateNetlist(gates, {CLOCK: (CLOCK,), "a": ("n1",)}, outputs, library)
        (found,) = _instances(netlist, library, Path(directory), (1,))
    once = 3e-12 / (_PERIOD * 1e-9)
    return found["u0"][0] / once, found["u1"][0] / (2 * once), found["u2"][0] / once


def _probe() -> str:
    """A library of three cells, each with the energy of one kind of pin."""
    energy = 'rise_power(scalar) { values("2"); } fall_power(scalar) { values("4"); } }'
    delay = " ".join(
        f'{name}(scalar) {{ values("0.1"); }}'
        for name in ("cell_rise", "cell_fall", "rise_transition", "fall_transition")
    )
    register = """
  cell(%s) { area : 1; cell_leakage_power : 0; ff(S, N) { next_state : "D"; clocked_on : "CLK"; }
    pin(CLK) { direction : input; capacitance : 0; clock : true; %s }
    pin(D) { direction : input; capacitance : 0; %s }
    pin(Q) { direction : output; function : "S";
      timing() { related_pin : "CLK"; timing_sense : non_unate; timing_type : rising_edge;
        %s } } }"""
    own = "internal_power() { " + energy
    return f"""library(probe) {{
  delay_model : table_lookup;
  time_unit : "1ns"; voltage_unit : "1V"; current_unit : "1uA";
  pulling_resistance_unit : "1kohm"; leakage_power_unit : "1nW"; capacitive_load_unit (1,pf);
  input_threshold_pct_rise : 50; input_threshold_pct_fall : 50;
  output_threshold_pct_rise : 50; output_threshold_pct_fall : 50;
  slew_lower_threshold_pct_rise : 20; slew_upper_threshold_pct_rise : 80;
  slew_lower_threshold_pct_fall : 20; slew_upper_threshold_pct_fall : 80;
  nom_process : 1; nom_voltage : 1; nom_temperature : 25;
  operating_conditions(typical) {{ process : 1; voltage : 1; temperature : 25; }}
  default_operating_conditions : typical;
  cell(OUTPUT) {{ area : 1; cell_leakage_power : 0;
    pin(A) {{ direction : input; capacitance : 0; }}
    pin(Y) {{ direction : output; function : "(!A)";
      timing() {{ related_pin : "A"; timing_sense : negative_unate; {delay} }}
      internal_power() {{ related_pin : "A"; {energy} }} }}
{register % ("CLOCK", own, "", delay)}{register % ("INPUT", "", own, delay)}
}}
"""

"""A cell library with round numbers, for sums by hand: 2 V, pF, pJ and nW."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from hw.gate_netlist import Gate, GateNetlist

#: Watts are joules per cycle times this at 10 ns.
HERTZ: Final = 1e8
INVERTER_LOAD, AND_LOAD, REGISTER_LOAD = 0.01, 0.02, 0.03
INVERTER_ENERGY, AND_ENERGY = 0.03, 0.05  # per toggle of the output
OUTPUT_ENERGY, INPUT_ENERGY, CLOCK_ENERGY = 0.06, 0.08, 0.2  # of a register, per toggle
INVERTER_LEAKAGE, AND_LEAKAGE, REGISTER_LEAKAGE = 5.0, 6.0, 7.0

_DELAYS = """cell_rise(scalar) { values("0.1"); } cell_fall(scalar) { values("0.2"); }
        rise_transition(scalar) { values("0.1"); } fall_transition(scalar) { values("0.1"); }"""


def _energy(per_toggle: float, pin: str = "") -> str:
    """Twice as much to fall as to rise."""
    related = f'related_pin : "{pin}"; ' if pin else ""
    rise, fall = per_toggle * 2 / 3, per_toggle * 4 / 3
    return (
        f'internal_power() {{ {related}rise_power(scalar) {{ values("{rise}"); }} '
        f'fall_power(scalar) {{ values("{fall}"); }} }}'
    )


def _timing(pin: str, sense: str, kind: str = "") -> str:
    return f'timing() {{ related_pin : "{pin}"; timing_sense : {sense}; {kind}{_DELAYS} }}'


LIBRARY: Final = f"""library(round) {{
  delay_model : table_lookup;
  time_unit : "1ns"; voltage_unit : "1V"; current_unit : "1uA";
  pulling_resistance_unit : "1kohm"; leakage_power_unit : "1nW"; capacitive_load_unit (1,pf);
  input_threshold_pct_rise : 50; input_threshold_pct_fall : 50;
  output_threshold_pct_rise : 50; output_threshold_pct_fall : 50;
  slew_lower_threshold_pct_rise : 20; slew_upper_threshold_pct_rise : 80;
  slew_lower_threshold_pct_fall : 20; slew_upper_threshold_pct_fall : 80;
  nom_process : 1; nom_voltage : 2; nom_temperature : 25;
  operating_conditions(typical) {{ process : 1; voltage : 2; temperature : 25; }}
  default_operating_conditions : typical;
  cell(INV) {{ area : 1; cell_leakage_power : {INVERTER_LEAKAGE};
    pin(A) {{ direction : input; capacitance : {INVERTER_LOAD}; }}
    pin(Y) {{ direction : output; function : "(!A)"; {_timing("A", "negative_unate")}
      {_energy(INVERTER_ENERGY, "A")} }} }}
  cell(AND) {{ area : 2; cell_leakage_power : {AND_LEAKAGE};
    pin(A) {{ direction : input; capacitance : {AND_LOAD}; }}
    pin(B) {{ direction : input; capacitance : {AND_LOAD}; }}
    pin(Y) {{ direction : output; function : "(A B)";
      {_timing("A", "positive_unate")} {_timing("B", "positive_unate")}
      {_energy(AND_ENERGY, "A")} {_energy(AND_ENERGY, "B")} }} }}
  cell(REG) {{ area : 3; cell_leakage_power : {REGISTER_LEAKAGE};
    ff(state, inverse) {{ next_state : "D"; clocked_on : "CLK"; }}
    pin(CLK) {{ direction : input; capacitance : 0.05; clock : true; {_energy(CLOCK_ENERGY)} }}
    pin(D) {{ direction : input; capacitance : {REGISTER_LOAD}; {_energy(INPUT_ENERGY)} }}
    pin(Q) {{ direction : output; function : "state";
      {_timing("CLK", "non_unate", "timing_type : rising_edge; ")}
      {_energy(OUTPUT_ENERGY, "CLK")} }} }}
}}
"""


def library(folder: Path) -> Path:
    """The library as a file."""
    path = folder / "round.lib"
    path.write_text(LIBRARY, encoding="utf-8")
    return path


def chain(folder: Path) -> GateNetlist:
    """Input, inverter, register, inverter, inverter, output."""
    gates = (
        Gate("u0", "INV", {"A": "n1"}, {"Y": "n2"}),
        Gate("u1", "REG", {"CLK": "clk", "D": "n2"}, {"Q": "n3"}),
        Gate("u2", "INV", {"A": "n3"}, {"Y": "n4"}),
        Gate("u3", "INV", {"A": "n4"}, {"Y": "n5"}),
    )
    return GateNetlist(gates, {"clk": ("clk",), "a": ("n1",)}, {"y": ("n5",)}, library(folder))


def hazard(folder: Path, inverters: int) -> GateNetlist:
    """An input and its own opposite, that many inverters late, into one AND: always 0 at rest."""
    gates = [Gate(f"u{k}", "INV", {"A": f"n{k}"}, {"Y": f"n{k + 1}"}) for k in range(inverters)]
    gates.append(Gate(f"u{inverters}", "AND", {"A": "n0", "B": f"n{inverters}"}, {"Y": "out"}))
    return GateNetlist(tuple(gates), {"a": ("n0",)}, {"y": ("out",)}, library(folder))


#: Names that no other library has, and tables instead of scalars, which mapping asks for.
_RENAMED: Final = {"INV": "quince", "AND": "medlar", "REG": "rowan"}
_SETUP: Final = """timing() { related_pin : "CLK"; timing_type : setup_rising;
      rise_constraint(scalar) { values("0.05"); } fall_constraint(scalar) { values("0.05"); } }"""
_GRID: Final = """lu_table_template(grid) { variable_1 : input_net_transition;
    variable_2 : total_output_net_capacitance; index_1("0.01, 1"); index_2("0.001, 1"); }
  cell("""


def mappable(folder: Path) -> Path:
    """A library that units can be mapped to, with cells of names of its own, as a file."""
    text = LIBRARY
    for old, new in _RENAMED.items():
        text = text.replace(f"cell({old})", f"cell({new})")
    first, second, third = (text.index(f"  cell({n})") for n in ("quince", "medlar", "rowan"))
    buffer = text[first:second].replace("quince", "pear").replace("(!A)", "A")
    either = text[second:third].replace("medlar", "sorb").replace("A B", "A+B")
    buffer = buffer.replace("negative", "positive")
    text = text[:first] + buffer + either + text[first:]  # mapping asks for these two as well
    text = text.replace("cell(", _GRID, 1).replace("pin(D) {", f"pin(D) {{ {_SETUP}")
    for name in ("cell_rise", "cell_fall", "rise_transition", "fall_transition"):
        text = re.sub(
            rf'{name}\(scalar\) {{ values\("([\d.]+)"\); }}',
            rf'{name}(grid) {{ values("\1, \1", "\1, \1"); }}',
            text,
        )
    path = folder / "orchard.lib"
    path.write_text(text, encoding="utf-8")
    return path

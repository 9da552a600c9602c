"""What a clocked netlist can reach: invariants found by ABC, and checked by another solver.

ABC's ``pdr`` (property directed reachability: A. R. Bradley, SAT-based model checking without
unrolling, 2011; N. Een, A. Mishchenko, R. Brayton, Efficient implementation of property directed
reachability, 2011) looks for an inductive invariant that implies a claim. It is not believed: the
invariant is read back and bitwuzla checks that it holds at the start, that every step keeps it and
that it implies the claim, which is induction over any number of cycles. A counterexample is not
believed either: it is replayed, cycle by cycle, on the netlist.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyosys
from bitwuzla import Term

from sim.netlist import Gate, Netlist
from sim.satisfiability import Terms, netlist_terms

#: ABC, as it comes with yosys.
_ABC: Final = Path(pyosys.__file__).parent / "yosys-abc"
_BAD: Final = "bad"
#: Rows of the truth table of each gate in which its output is 1, as BLIF wants them.
_TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "$_BUF_": ("1",),
    "$_NOT_": ("0",),
    "$_AND_": ("11",),
    "$_NAND_": ("0-", "-0"),
    "$_OR_": ("1-", "-1"),
    "$_NOR_": ("00",),
    "$_XOR_": ("01", "10"),
    "$_XNOR_": ("00", "11"),
    "$_ANDNOT_": ("10",),
    "$_ORNOT_": ("1-", "-0"),
    "$_MUX_": ("1-0", "-11"),
}

#: Values of all ports in one cycle.
Cycle = dict[str, int]
#: Registers (by place in the netlist) and the values that they never have together.
Cube = dict[int, int]


class Undecided(RuntimeError):
    """ABC gave up, or its answer did not stand the check."""


@dataclass(frozen=True, slots=True)
class Proof:
    """An inductive invariant, checked: no state in any of its cubes is ever reached.

    Parameters
    ----------
    cubes : tuple of Cube
    registers : int
        In the netlist.
    """

    cubes: tuple[Cube, ...]
    registers: int

    def __str__(self) -> str:
        used = {place for cube in self.cubes for place in cube}
        return f"{len(self.cubes)} clauses over {len(used)} of {self.registers} registers"


def decide(netlist: Netlist, bad: int, seconds: int = 120) -> Proof | list[Cycle]:
    """Prove that a net is 0 in every cycle that can be reached, or show a way to where it is 1.

    Parameters
    ----------
    netlist : Netlist
        Starts with the registers' initial values; inputs are free in every cycle.
    bad : int
        Net.
    seconds : int
        At most.

    Returns
    -------
    Proof or list of dict
        The values of all ports in each cycle of a counterexample; the net is 1 in the last.

    Raises
    ------
    Undecided
        If time is up.
    """
    with tempfile.TemporaryDirectory(prefix="atreides-reach-") as directory:
        path = Path(directory)
        (path / "design.blif").write_text("\n".join(_blif(netlist, bad)), encoding="ascii")
        script = f"read_blif design.blif; strash; pdr -d -I invariant.pla -T {seconds}; "
        said = _run_abc(path, script + "write_cex -n -f cex.txt")
        if "Property proved" in said:
            cubes = tuple(_read_cubes(netlist, path / "invariant.pla"))
            check_invariant(netlist, bad, cubes)
            return Proof(cubes, len(netlist.registers))
        if "was asserted" not in said:
            raise Undecided(f"pdr must decide in {seconds} s, not say {said.splitlines()[-1:]!r}")
        inputs = _read_inputs(netlist, path / "cex.txt")
    trace, reached = replay(netlist, inputs, bad)
    if not reached:
        raise Undecided("counterexample must end in the claim's violation when replayed")
    return trace


def find(netlist: Netlist, wanted: int, cycles: int, seconds: int = 120) -> list[Cycle] | None:
    """The shortest way to a cycle in which a net is 1, at most so many cycles long.

    Returns
    -------
    list of dict, or None
        None if there is no way that short.
    """
    with tempfile.TemporaryDirectory(prefix="atreides-reach-") as directory:
        path = Path(directory)
        (path / "design.blif").write_text("\n".join(_blif(netlist, wanted)), encoding="ascii")
        script = f"read_blif design.blif; strash; bmc3 -F {cycles} -T {seconds}; "
        said = _run_abc(path, script + "write_cex -n -f cex.txt")
        if "was asserted" not in said:
            if not any(words in said for words in ("No output asserted", "Explored all")):
                raise Undecided(f"bmc3 must decide in {seconds} s, not say {said!r}")
            return None
        inputs = _read_inputs(netlist, path / "cex.txt")
    trace, reached = replay(netlist, inputs, wanted)
    if not reached:
        raise Undecided("a way must end in the wanted cycle when replayed")
    return trace


def induct(netlist: Netlist, bad: int, cycles: int = 1) -> list[Cycle] | None:
    """Prove a net to be 0 in every cycle by induction, given that no run breaks it at once.

    Returns
    -------
    None, or list of dict
        None: after any ``cycles`` cycles with a 0 it is 0 again; with :func:`find` for as many
        cycles from the start this holds for all. Else a run from some state, reached or not, that
        breaks it in its last cycle.
    """
    terms = Terms()
    one = terms.value(1, 1)
    variables: dict[str, Term] = {}
    state: dict[int, Term] = {}
    for place, register in enumerate(netlist.registers):
        variables[f"{register.name} {place}"] = state[register.output] = terms.variable(
            f"{register.name} {place}", 1
        )
    held = []
    for cycle in range(cycles + 1):
        inputs = {
            name: terms.variable(f"{name}@{cycle}", len(bits))
            for name, bits in netlist.inputs.items()
        }
        variables |= {f"{name}@{cycle}": term for name, term in inputs.items()}
        _, nets = netlist_terms(terms, netlist, inputs, state)
        held.append(terms.no(terms.same(nets[bad], one)))
        state = {register.output: nets[register.data] for register in netlist.registers}
    claim = terms.implies(terms.all(*held[:-1]), held[-1])
    found = terms.counterexample(claim, variables)
    if found is None:
        return None
    start = {
        register.output: found[f"{register.name} {place}"]
        for place, register in enumerate(netlist.registers)
    }
    steps = [
        {name: found[f"{name}@{cycle}"] for name in netlist.inputs} for cycle in range(cycles + 1)
    ]
    return replay(netlist, steps, bad, start)[0]


def replay(
    netlist: Netlist,
    inputs: Sequence[Mapping[str, int]],
    wanted: int,
    state: Mapping[int, int] | None = None,
) -> tuple[list[Cycle], bool]:
    """Run a netlist from its start; the ports in each cycle, and whether the net ends as 1."""
    if state is None:
        state = {register.output: register.initial or 0 for register in netlist.registers}
    trace, nets = [], {}
    for values in inputs:
        nets = {0: 0, 1: 1, **state}
        for name, bits in netlist.inputs.items():
            nets.update({net: values[name] >> place & 1 for place, net in enumerate(bits)})
        for gate in netlist.gates:
            nets[gate.output] = _gate_value(gate, nets)
        trace.append(
            {
                name: sum(nets[net] << place for place, net in enumerate(bits))
                for ports in (netlist.inputs, netlist.outputs)
                for name, bits in ports.items()
            }
        )
        state = {register.output: nets[register.data] for register in netlist.registers}
    return trace, bool(nets.get(wanted))


def check_invariant(netlist: Netlist, bad: int, cubes: Sequence[Cube]) -> None:
    """Raise Undecided unless the cubes' complement is an inductive invariant without ``bad``."""
    terms = Terms()
    one = terms.value(1, 1)
    inputs = {name: terms.variable(name, len(bits)) for name, bits in netlist.inputs.items()}
    registers = netlist.registers
    state = {
        register.output: terms.variable(f"{register.name} {place}", 1)
        for place, register in enumerate(registers)
    }
    _, nets = netlist_terms(terms, netlist, inputs, state)

    def outside(values: Sequence[Term]) -> list[Term]:
        return [
            terms.no(
                terms.all(
                    *(terms.same(values[place], terms.value(bit, 1)) for place, bit in cube.items())
                )
            )
            for cube in cubes
        ]

    for cube in cubes:
        if all((registers[place].initial or 0) == bit for place, bit in cube.items()):
            raise Undecided(f"the start must satisfy the invariant, not lie in {cube!r}")
    true = terms.same(one, one)
    now = terms.all(true, *outside([nets[register.output] for register in registers]))
    after = terms.all(true, *outside([nets[register.data] for register in registers]))
    claim = terms.all(after, terms.no(terms.same(nets[bad], one)))
    if terms.counterexample(terms.implies(now, claim), {}) is not None:
        raise Undecided("invariant must be inductive and imply the claim")


def _blif(netlist: Netlist, bad: int) -> Iterator[str]:
    """A netlist in Berkeley's logic interchange format.

    A register that starts with 1 is kept inverted there (its net is the latch's, inverted), for
    ``pdr`` wants all to start with 0.
    """
    yield ".model design"
    yield ".inputs " + " ".join(f"n{net}" for bits in netlist.inputs.values() for net in bits)
    yield f".outputs {_BAD}"
    yield from (".names n0", ".names n1", "1")
    for place, register in enumerate(netlist.registers):
        table = "0 1" if register.initial else "1 1"
        yield from (f".names n{register.data} d{place}", table)
        yield f".latch d{place} q{place} 0"
        yield from (f".names q{place} n{register.output}", table)
    for gate in netlist.gates:
        yield ".names " + " ".join(f"n{net}" for net in (*gate.inputs, gate.output))
        yield from (f"{row} 1" for row in _TABLES[gate.kind])
    yield from (f".names n{bad} {_BAD}", "1 1", ".end\n")


def _run_abc(directory: Path, script: str) -> str:
    ran = subprocess.run(
        [_ABC, "-c", script], cwd=directory, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise Undecided(f"ABC must not fail: {(ran.stdout + ran.stderr).strip()[-500:]}")
    return ran.stdout


def _read_cubes(netlist: Netlist, path: Path) -> Iterator[Cube]:
    """The cubes of ABC's invariant, a table whose columns are latches by name."""
    names: list[str] = []
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith(".ilb"):
            names = line.split()[1:]
        elif line and line[0] in "01-":
            cube = {}
            for name, bit in zip(names, line.split()[0], strict=True):
                if bit != "-":
                    place = int(name.removeprefix("q"))
                    cube[place] = int(bit) ^ (netlist.registers[place].initial or 0)
            yield cube


def _read_inputs(netlist: Netlist, path: Path) -> list[Cycle]:
    """The inputs of a counterexample: ``name@cycle=value`` per bit."""
    places = {
        f"n{net}": (name, place)
        for name, bits in netlist.inputs.items()
        for place, net in enumerate(bits)
    }
    cycles: dict[int, Cycle] = {}
    for item in path.read_text(encoding="ascii").split():
        name, _, rest = item.partition("@")
        if name in places and "=" in rest:
            cycle, _, value = rest.partition("=")
            port, place = places[name]
            values = cycles.setdefault(int(cycle), dict.fromkeys(netlist.inputs, 0))
            values[port] |= int(value) << place
    if not cycles:
        raise Undecided("counterexample must have a cycle")
    return [cycles[number] for number in sorted(cycles)]


def _gate_value(gate: Gate, nets: Mapping[int, int]) -> int:
    values = "".join(str(nets[net]) for net in gate.inputs)
    return int(
        any(
            all(want in ("-", got) for want, got in zip(row, values, strict=True))
            for row in _TABLES[gate.kind]
        )
    )

"""What a clocked unit must never do, said in the unit's own language and proved of its netlist.

A :class:`Bench` puts a unit among free inputs. Assumptions say what its surroundings do, claims
what then holds in every cycle, covers what must be possible; all are Amaranth values and may look
into the unit by name. Reset is a free input too, so that a claim holds after any number of resets
in any cycles.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from amaranth.back import rtlil
from amaranth.hdl import Cat, Const, Fragment, Module, ShapeLike, Signal, Value, ValueLike
from amaranth.hdl._mem import MemoryInstance
from amaranth.lib import wiring

from sim.netlist import PASSES, Netlist, from_json, run_yosys
from sim.reachability import Cycle, Proof, decide, find, induct

_CLAIM: Final = "claim "
_COVER: Final = "cover "
_BROKEN: Final = "any claim broken"


class Bench:
    """A unit in surroundings of which only the assumptions are known.

    Parameters
    ----------
    unit : wiring.Component

    Attributes
    ----------
    m : Module
        For the bench's own logic.
    """

    def __init__(self, unit: wiring.Component) -> None:
        self.m = Module()
        self.unit = unit
        self._fragment = Fragment.get(unit, None)
        self.m.submodules.unit = self._fragment
        self._inputs: dict[str, Value] = {}
        self._assumptions: list[Value] = []
        self._outputs: dict[str, Value] = {}
        for path, member, value in unit.signature.flatten(unit):
            name = "_".join(map(str, path))
            if member.flow == wiring.In:
                self._inputs[name] = Value.cast(value)
            else:
                self._outputs[name] = Value.cast(value)

    def free(self, name: str, shape: ShapeLike = 1) -> Signal:
        """Anything, in every cycle anew."""
        signal = Signal(shape, name=name)
        self._inputs[name] = Value.cast(signal)
        return signal

    def constant(self, name: str, shape: ShapeLike = 1) -> Signal:
        """Anything, but the same from a reset to the next."""
        signal = self.free(name, shape)
        before, settled = Signal.like(signal, name=f"{name}_before"), Signal(name=f"{name}_settled")
        self.m.d.sync += [before.eq(signal), settled.eq(1)]
        self.assume(~settled | (Value.cast(signal) == Value.cast(before)))
        return signal

    def register(self, name: str, value: ValueLike, init: int = 0) -> Signal:
        """A value a cycle later."""
        value = Value.cast(value)
        signal = Signal(value.shape(), name=name, init=init)
        self.m.d.sync += signal.eq(value)
        return signal

    def count(self, name: str, most: int, up: ValueLike = 0, down: ValueLike = 0) -> Signal:
        """A counter that starts with 0; a claim keeps it from leaving 0 to ``most``."""
        # A bit more than needed, so that leaving is seen.
        signal = Signal(range(2 * most + 2), name=name)
        self.m.d.sync += signal.eq(signal + up - down)
        self.claim(f"{name} stays within {most}", signal <= most)
        return signal

    def inside(self, path: str) -> Signal:
        """A signal of the unit by the names of submodules and its own: ``buffer.level``."""
        fragment, name = self._find(path)
        found = [signal for signal in _driven(fragment) if signal.name == name]
        if len(found) != 1:
            raise ValueError(f"path must name one driven signal, not {len(found)}: {path!r}")
        (signal,) = found
        self._outputs[f"unit.{path}"] = signal
        return signal

    def peek(self, path: str, address: Value) -> Signal:
        """An entry of a memory of the unit, now."""
        fragment, name = self._find(path)
        memory = fragment.find_subfragment(name)
        while not isinstance(memory, MemoryInstance):
            memory = next(sub for sub, _, _ in memory.subfragments)
        data = Signal(memory._data.shape, name=f"peek_{name}")
        memory.read_port(domain="comb", addr=address, data=data, en=Const(1), transparent_for=())
        return data

    def cut(self, path: str) -> None:
        """Take a submodule out: what it drove may be anything. What then holds, holds with it."""
        fragment, name = self._find(path)
        place = [name for _, name, _ in fragment.subfragments].index(name)
        for number, signal in enumerate(_driven_below(fragment.subfragments[place][0])):
            self._inputs[f"{path}.{signal.name}.{number}"] = signal
        fragment.subfragments[place] = (Fragment(), name, None)

    def _find(self, path: str) -> tuple[Fragment, str]:
        *submodules, name = path.split(".")
        fragment = self._fragment
        for submodule in submodules:
            fragment = fragment.find_subfragment(submodule)
        return fragment, name

    def assume(self, *values: ValueLike) -> None:
        """These hold in all cycles, this one included."""
        self._assumptions += [Value.cast(value).any() for value in values]

    def claim(self, name: str, value: ValueLike) -> None:
        """This holds in every cycle if the assumptions held until then."""
        self._outputs[_CLAIM + name] = Value.cast(value).any()

    def cover(self, name: str, value: ValueLike) -> None:
        """There is a way to a cycle in which this holds, the assumptions having held until then."""
        self._outputs[_COVER + name] = Value.cast(value).any()

    def watch(self, name: str, value: ValueLike) -> None:
        """Show a value in traces."""
        self._outputs[name] = Value.cast(value)

    def build(self) -> Claims:
        """The netlist of unit and bench."""
        m = self.m
        broken, legal = Signal(), Signal()
        m.d.comb += legal.eq(~broken & Cat(*self._assumptions).all())
        m.d.sync += broken.eq(~legal)
        ports: dict[str, tuple[Value, None]] = {
            name: (value, None) for name, value in self._inputs.items()
        }
        names: dict[str, str] = {}
        broken_claims = [~v for name, v in self._outputs.items() if name.startswith(_CLAIM)]
        self._outputs[_BROKEN] = legal & Cat(*broken_claims).any()
        for number, (name, value) in enumerate(self._outputs.items()):
            if name.startswith((_CLAIM, _COVER)):
                value = legal & (~value if name.startswith(_CLAIM) else value)
            output = Signal(len(value), name=f"out_{number}")
            m.d.comb += output.eq(value)
            names[output.name] = name
            ports[output.name] = (output, None)
        netlist = _netlist(rtlil.convert(m, ports=ports))
        outputs = {names[name]: bits for name, bits in netlist.outputs.items()}
        return Claims(replace(netlist, outputs=outputs))


def _driven(fragment: Fragment) -> list[Signal]:
    """The signals that a fragment drives, its submodules excepted."""
    found = {
        id(signal): signal
        for statements in fragment.statements.values()
        for statement in statements
        for signal in statement._lhs_signals()
    }
    return list(found.values())


def _driven_below(fragment: Fragment) -> Iterator[Signal]:
    """The signals that a fragment or its submodules drive, the data of memories included."""
    yield from _driven(fragment)
    if isinstance(fragment, MemoryInstance):
        for port in fragment._read_ports:
            yield from port._data._lhs_signals()
    for submodule, _, _ in fragment.subfragments:
        yield from _driven_below(submodule)


def _netlist(text: str) -> Netlist:
    """Gates of RTLIL; memories become registers."""
    flat = PASSES.index("flatten") + 1
    with tempfile.TemporaryDirectory(prefix="atreides-claims-") as directory:
        source, result = Path(directory, "design.il"), Path(directory, "netlist.json")
        source.write_text(text, encoding="utf-8")
        passes = (*PASSES[:flat], "memory", *PASSES[flat:])
        run_yosys([f"read_rtlil {source}", "hierarchy -top top", *passes, f"write_json {result}"])
        return from_json(json.loads(result.read_text(encoding="utf-8"))["modules"]["top"])


@dataclass(frozen=True)
class Claims:
    """A netlist with claims and covers among its outputs."""

    netlist: Netlist

    @cached_property
    def claims(self) -> dict[str, int]:
        """Per claim, the net that is 1 where it does not hold."""
        return self._nets(_CLAIM)

    @cached_property
    def covers(self) -> dict[str, int]:
        """Per cover, the net that is 1 where it is reached."""
        return self._nets(_COVER)

    def _nets(self, prefix: str) -> dict[str, int]:
        return {
            name.removeprefix(prefix): bits[0]
            for name, bits in self.netlist.outputs.items()
            if name.startswith(prefix)
        }

    @property
    def _broken(self) -> int:
        return self.netlist.outputs[_BROKEN][0]

    def prove(self, seconds: int = 1200) -> Proof | Refutation:
        """Prove all claims together, the invariant being searched for."""
        result = decide(self.netlist, self._broken, seconds)
        return result if isinstance(result, Proof) else self._refutation(result)

    def induct(self, cycles: int = 1) -> Proof | Refutation:
        """Prove all claims together by induction over so many cycles: they are the invariant."""
        trace = find(self.netlist, self._broken, cycles) or induct(
            self.netlist, self._broken, cycles
        )
        return Proof((), len(self.netlist.registers)) if trace is None else self._refutation(trace)

    def refute(self, claim: str, cycles: int, seconds: int = 120) -> Refutation | None:
        """The shortest way to where a claim does not hold, within so many cycles."""
        trace = find(self.netlist, self.claims[claim], cycles, seconds)
        return None if trace is None else self._refutation(trace)

    def reach(self, cover: str, cycles: int, seconds: int = 120) -> list[Cycle] | None:
        """The shortest way to a cover within so many cycles."""
        return find(self.netlist, self.covers[cover], cycles, seconds)

    def _refutation(self, trace: list[Cycle]) -> Refutation:
        broken = tuple(name for name in self.claims if trace[-1][_CLAIM + name])
        return Refutation(broken, tuple(trace))


@dataclass(frozen=True)
class Refutation:
    """A run of the unit that breaks claims in its last cycle.

    Parameters
    ----------
    claims : tuple of str
        Those broken.
    trace : tuple of dict
        Values of ports and of what was looked into, per cycle.
    """

    claims: tuple[str, ...]
    trace: tuple[Cycle, ...]

    def __str__(self) -> str:
        lines = [f"broken in cycle {len(self.trace) - 1}: {'; '.join(self.claims)}"]
        hidden = (_CLAIM, _COVER, _BROKEN)
        names = [name for name in self.trace[0] if not name.startswith(hidden)]
        width = max(map(len, names))
        for name in names:
            values = [f"{cycle[name]:x}" for cycle in self.trace]
            if any(value != "0" for value in values):
                lines.append(f"{name:{width}} " + " ".join(f"{value:>4}" for value in values))
        return "\n".join(lines)

"""What a machine is made of before any synthesis: operations, registers, memories, counted.

The design itself is elaborated and its statements are read, so what is built otherwise or left out
is counted as it is. Cells of the array are left to a measured table: there are many, all alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from amaranth.hdl import Instance, Module, Shape
from amaranth.hdl import _ast as ast
from amaranth.lib.memory import Memory

from hw.array import SystolicArray
from hw.board_top import CheckedMachine
from hw.memory_attributes import BLOCK, NO_COLLISIONS, UNINITIALISED
from hw.multiplier import OPERATOR
from sw.config import MachineConfig
from sw.link import BUILD_BYTES, DEFAULT_LIMIT, FLAG, Greeting

#: Bytes of a self-test's frames: those of operands at most, per column, and all others.
_OPERAND_BYTES, _COLUMN_BYTES, _FRAME_BYTES = 192, 4, 155
#: What operations are counted as; the number is that of result bits, of ``compare`` and ``reduce``
#: that of operand bits, of ``select`` that of choices between two bits; ``sums`` are those of any
#: width, for the ends of a carry chain take tables too.
OPERATIONS: Final = ("add", "sums", "compare", "reduce", "logic", "select", "assign", "set")
_KINDS: Final = {
    **dict.fromkeys(("+", "-", "neg"), "add"),
    **dict.fromkeys(("<", "<=", ">", ">="), "add"),
    **dict.fromkeys(("==", "!="), "compare"),
    **dict.fromkeys(("b", "r|", "r&", "r^"), "reduce"),
    **dict.fromkeys(("&", "|", "^"), "logic"),
}
_OF_OPERANDS: Final = ("<", "<=", ">", ">=", "==", "!=", "b", "r|", "r&", "r^")


@dataclass(frozen=True, slots=True)
class Kept:
    """A memory as it is written down.

    Parameters
    ----------
    width, depth : int
        Bits of a word, and words.
    written : bool
        Whether it is; else it is read alone.
    clocked : bool
        Whether reads take a cycle; else it is no block RAM.
    checked : bool
        Whether a read in the cycle of a write to its word gives something definite.
    wanted : bool
        In block RAM, however small.
    large : bool
        Written before it is read, at one address per cycle: for large memories of one port too.
    """

    width: int
    depth: int
    written: bool = True
    clocked: bool = True
    checked: bool = False
    wanted: bool = False
    large: bool = False

    @classmethod
    def of(cls, memory: Memory) -> Kept:
        """A memory of a design."""
        attributes = memory.attrs
        return cls(
            *(Shape.cast(memory.shape).width, memory.depth, bool(memory.write_ports)),
            clocked=all(port.domain != "comb" for port in memory.read_ports),
            checked=not NO_COLLISIONS.items() <= attributes.items(),
            wanted=BLOCK.items() <= attributes.items(),
            large=UNINITIALISED.items() <= attributes.items(),
        )


@dataclass(frozen=True, slots=True)
class Census:
    """What a machine is made of, without its array.

    Parameters
    ----------
    operations : Counter of str
        Bits by kind, of OPERATIONS.
    registers : int
        Bits of registers.
    memories : Counter of Kept
    products : Counter of (int, int)
        Multiplications of two values, by the bits of both.
    instances : Counter of str
        Primitives of a vendor by type.
    """

    operations: Counter[str] = field(default_factory=Counter)
    registers: int = 0
    memories: Counter[Kept] = field(default_factory=Counter)
    products: Counter[tuple[int, int]] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)


def self_test_bytes(config: MachineConfig) -> int:
    """Bytes of the frames that a self-test sends, to within a few.

    ``tests/test_fit.py`` compares them with those of ``sw.runtime.self_test``.
    """
    operand = (config.rows + config.columns) * -(-config.bits // 8)
    terms = max(1, min(16, _OPERAND_BYTES // operand))
    return _FRAME_BYTES + _COLUMN_BYTES * config.columns + terms * operand


@lru_cache(maxsize=256)
def census(config: MachineConfig, target: str) -> Census:
    """Count a board's machine: with its line and self-test, without its array.

    Parameters
    ----------
    config : MachineConfig
    target : {"generic", "ecp5", "ice40"}
        What units are made for.
    """
    config = replace(config, multiplier=OPERATOR)  # the cells are not looked at
    greeting = Greeting(config, 25_000_000, DEFAULT_LIMIT, "00" * BUILD_BYTES)
    test = bytes([FLAG, *((self_test_bytes(config) - 2) * [0]), FLAG])
    counter = _Counter()
    counter.unit(CheckedMachine(greeting, 217, [test], [test], target=target))
    return counter.census


class _Counter:
    """Counts while it walks a design."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self.registers = 0
        self.memories: Counter[Kept] = Counter()
        self.products: Counter[tuple[int, int]] = Counter()
        self.instances: Counter[str] = Counter()
        self._seen: dict[int, object] = {}  # kept alive, so that no identity comes twice

    @property
    def census(self) -> Census:
        """What was found."""
        return Census(
            *(self.operations, self.registers, self.memories, self.products, self.instances)
        )

    def unit(self, unit: Any) -> None:
        """Count a component and all in it, elaborating each without the cost of a netlist."""
        unit._MustUse__used = True  # what is left out is no mistake
        while hasattr(unit, "_elaboratable_"):  # in a reset or in another clock domain
            unit = unit._elaboratable_
            unit._MustUse__used = True
        if isinstance(unit, Memory):
            self.memories[Kept.of(unit)] += 1
        elif isinstance(unit, Instance):
            self.instances[unit.type] += 1
        elif isinstance(unit, SystolicArray):
            for row in unit.cells:
                for cell in row:
                    _hush(cell)
        else:
            made = unit if isinstance(unit, Module) else unit.elaborate(None)
            if isinstance(made, Module):
                self._module(made)
            elif hasattr(made, "_elaboratable_"):
                self.unit(made)

    def _module(self, module: Any) -> None:
        module._MustUse__used = True
        module._flush()
        for domain, statements in module._statements.items():
            driven: dict[int, Any] = {}
            self._statements(statements, False, driven)
            if domain != "comb":
                self.registers += sum(len(signal) for signal in driven.values())
        for part, _ in [*module._anon_submodules, *module._named_submodules.values()]:
            self.unit(part)

    def _statements(self, statements: Iterable[Any], chosen: bool, driven: dict[int, Any]) -> None:
        """Count statements; ``chosen`` are those of a case."""
        for statement in statements:
            if isinstance(statement, ast.Assign):
                self._value(statement.rhs)
                self._target(statement.lhs)
                for signal in statement.lhs._lhs_signals():
                    driven[id(signal)] = signal
                if chosen:
                    constant = isinstance(statement.rhs, ast.Const)
                    self.operations["set" if constant else "assign"] += len(statement.lhs)
            elif isinstance(statement, ast.Switch):
                self._value(statement.test)
                for patterns, inside, _ in statement.cases:
                    self._patterns(patterns)
                    self._statements(inside, True, driven)

    def _patterns(self, patterns: Iterable[str] | None) -> None:
        """A case of more than a bit is a comparison."""
        for pattern in patterns or ():
            bits = len(pattern) - pattern.count("-")
            self.operations["compare"] += bits if bits > 1 else 0

    def _target(self, value: Any) -> None:
        """What is assigned to: a part that is chosen takes a choice per bit of the whole."""
        if isinstance(value, ast.Part):
            self._value(value.offset)
            self.operations["select"] += len(value.value)
        elif isinstance(value, ast.SwitchValue):
            self._value(value.test)
            for patterns, inside in value.cases:
                self._patterns(patterns)
                self._target(inside)
                self.operations["select"] += len(inside)
        elif isinstance(value, ast.Slice):
            self._target(value.value)
        elif isinstance(value, ast.Concat):
            for part in value.parts:
                self._target(part)

    def _value(self, value: Any) -> None:
        """Count a value and what it is made from, each object once."""
        if isinstance(value, ast.Signal | ast.Const) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, ast.Operator):
            self._operator(value)
        elif isinstance(value, ast.SwitchValue):
            self._value(value.test)
            for patterns, inside in value.cases:
                self._patterns(patterns)
                self._value(inside)
            self.operations["select"] += (len(value.cases) - 1) * len(value)
        elif isinstance(value, ast.Part):
            self._value(value.value)
            self._value(value.offset)
            choices = min(1 << len(value.offset), -(-len(value.value) // value.stride))
            self.operations["select"] += (choices - 1) * value.width
        elif isinstance(value, ast.Slice):
            self._value(value.value)
        elif isinstance(value, ast.Concat):
            for part in value.parts:
                self._value(part)

    def _operator(self, value: Any) -> None:
        operands, name = value.operands, value.operator
        for operand in operands:
            self._value(operand)
        widest = max(len(operand) for operand in operands)
        if len(operands) == 1 and name == "-":
            name = "neg"
        if name in ("<<", ">>"):
            constant = isinstance(operands[1], ast.Const)
            self.operations["select"] += 0 if constant else len(value) * len(operands[1])
        elif name == "*":
            self._product(operands)
        elif kind := _KINDS.get(name):
            self.operations[kind] += widest if name in _OF_OPERANDS else len(value)
            self.operations["sums"] += kind == "add"

    def _product(self, operands: Any) -> None:
        """A product with a constant is a sum per further bit that is 1."""
        constants = [value for value in operands if isinstance(value, ast.Const)]
        if not constants:
            self.products[len(operands[0]), len(operands[1])] += 1
            return
        width = max(len(value) for value in operands if value is not constants[0])
        self.operations["add"] += width * max(0, abs(constants[0].value).bit_count() - 1)


def _hush(unit: Any) -> None:
    """A component that is not elaborated on purpose needs no warning, nor do its parts."""
    unit._MustUse__used = True
    for part in vars(unit).values():
        if hasattr(part, "elaborate") and not getattr(part, "_MustUse__used", True):
            _hush(part)

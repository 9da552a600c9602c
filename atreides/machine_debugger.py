"""A debugger for programs on the machine model: steps, breakpoints, registers and tiles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.table import Table

from sw.assembler import disassemble
from sw.isa import decode_at
from sw.machine import Machine
from sw.registers import REGISTERS, Counter

_HELP: Final = """\
s, Enter  run one instruction          c  go on to the next breakpoint or the end
b N       stop before word N           d N  do not stop there
r         registers and buffers        t SLOT  a tile
w ADDRESS [COUNT]  words of memory     l  the instructions around
n         counters                     q  go on to the end without stopping
"""


class Debugger:
    """Asks for a command before an instruction, where told to.

    Parameters
    ----------
    machine : Machine
        With its program taken.
    breakpoints : iterable of int
        Program counters.
    console : Console, optional
    """

    def __init__(
        self, machine: Machine, breakpoints: Iterable[int], console: Console | None = None
    ) -> None:
        self.machine = machine
        self.breakpoints = set(breakpoints)
        self.console = console or Console(highlight=False)

    def run(self, *, stop_first: bool) -> None:
        """Run the program to its end.

        Parameters
        ----------
        stop_first : bool
            Ask before the first instruction, not only at breakpoints.
        """
        stop = stop_first
        going = True
        while going:
            if stop or self.machine.program_counter in self.breakpoints:
                stop = self._ask()
            going = self.machine.step()

    def _ask(self) -> bool:
        """Obey commands up to one that goes on; whether to ask again before the next one."""
        self.console.print(self._line(self.machine.program_counter, "->"))
        while True:
            try:
                command, *operands = self.console.input("(atreides) ").split() or ["s"]
            except EOFError:
                command, operands = "q", []
            if command in ("s", "c"):
                return command == "s"
            if command == "q":
                self.breakpoints.clear()
                return False
            try:
                self._obey(command, [int(operand, 0) for operand in operands])
            except (ValueError, IndexError):
                self.console.print(f"{command!r} is not known or lacks a number\n{_HELP}")

    def _obey(self, command: str, operands: list[int]) -> None:
        machine = self.machine
        match command:
            case "b":
                self.breakpoints.add(operands[0])
            case "d":
                self.breakpoints.discard(operands[0])
            case "r":
                show_registers(machine, self.console)
            case "t":
                if not 0 <= operands[0] < machine.config.slots:
                    raise ValueError
                self._rows(machine.tiles[operands[0]].tolist())
            case "w":
                start, count = operands[0], (operands[1:] or [machine.config.columns])[0]
                self._rows([machine.memory.words[start : start + count].tolist()])
            case "l":
                self._list()
            case "n":
                for counter, value in machine.report().counters.items():
                    self.console.print(f"{counter.name.lower():16} {value}")
            case _:
                raise ValueError(command)

    def _rows(self, rows: list[list[int]]) -> None:
        digits = -(-self.machine.config.bits // 4)
        for row in rows:
            self.console.print(" ".join(f"{word:0{digits}x}" for word in row))

    def _list(self, around: int = 5) -> None:
        machine = self.machine
        starts, counter = [], 0
        while counter < len(machine.program):
            starts.append(counter)
            counter += max(1, decode_at(machine.program, counter)[1])
        here = starts.index(machine.program_counter)
        for start in starts[max(0, here - around) : here + around + 1]:
            self.console.print(self._line(start, "->" if start == starts[here] else "  "))

    def _line(self, counter: int, mark: str) -> str:
        program = self.machine.program
        length = max(1, decode_at(program, counter)[1])
        text = disassemble(program[counter : counter + length]).splitlines()[0]
        cycles = self.machine.report()[Counter.CYCLES]
        note = f"  ; after {cycles} cycles" if mark == "->" else ""
        return f"{mark} {counter:5}  {program[counter]:04x}  {text}{note}"


def show_registers(machine: Machine, console: Console) -> None:
    """Show the registers and the shapes in the buffers."""
    table = Table(title=f"registers at word {machine.program_counter}")
    for name in ("register", "value", "meaning"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for register, definition in REGISTERS.items():
        value = str(machine.state.registers[register])
        table.add_row(register.name, value, definition.meaning)
    console.print(table)
    for name in ("row_buffer", "column_buffer", "output", "activation"):
        shape = getattr(machine.state, name)
        size = "empty" if shape is None else f"{shape[0]} x {shape[1]}"
        console.print(f"{name.replace('_', ' ')}: {size}")

"""The two buses of a harness, the same for cocotb and for Amaranth's simulator."""

from __future__ import annotations

from typing import Any, Protocol

from cocotb.triggers import Timer


class Bus(Protocol):
    """What a testbench may do with a harness. A step is: write, settle, read, tick."""

    def write(self, value: int) -> None:
        """Drive all inputs."""

    def reset(self, active: bool) -> None:
        """Drive reset."""

    async def settle(self) -> None:
        """Let what was written reach the outputs."""

    def read(self) -> tuple[int, int]:
        """All outputs, and a mask of those bits that are neither 0 nor 1."""

    async def tick(self) -> None:
        """One rising clock edge."""


class CocotbBus:
    """A harness under Icarus or Verilator.

    Parameters
    ----------
    dut : cocotb handle
        A module with ports ``i`` and ``o``, and ``clk`` and ``rst`` if clocked.
    clocked : bool
    """

    def __init__(self, dut: Any, clocked: bool) -> None:
        self._dut = dut
        self._input, self._output = dut.i, dut.o
        self._step = Timer(1, "step")
        if clocked:
            dut.clk.value = 0
            dut.rst.value = 0

    def write(self, value: int) -> None:
        self._input.value = value

    def reset(self, active: bool) -> None:
        self._dut.rst.value = int(active)

    async def settle(self) -> None:
        await self._step

    def read(self) -> tuple[int, int]:
        value = self._output.value
        if value.is_resolvable:
            return value.to_unsigned(), 0
        text = str(value)
        known = "".join(c if c in "01" else "0" for c in text)
        unknown = "".join("0" if c in "01" else "1" for c in text)
        return int(known, 2), int(unknown, 2)

    async def tick(self) -> None:
        self._dut.clk.value = 1
        await self._step
        self._dut.clk.value = 0
        await self._step


class AmaranthBus:
    """A harness in Amaranth's simulator.

    Parameters
    ----------
    context : SimulatorContext
        Of a testbench.
    lanes : sim.lanes.Lanes
    reset : Signal or None
        Reset of the clock domain.
    """

    def __init__(self, context: Any, lanes: Any, reset: Any) -> None:
        self._context, self._lanes, self._reset = context, lanes, reset

    def write(self, value: int) -> None:
        self._context.set(self._lanes.i, value)

    def reset(self, active: bool) -> None:
        self._context.set(self._reset, int(active))

    async def settle(self) -> None:
        return  # setting a signal in a testbench settles the logic

    def read(self) -> tuple[int, int]:
        return self._context.get(self._lanes.o), 0

    async def tick(self) -> None:
        await self._context.tick()

"""Units in Amaranth's own simulator, one input vector or one clock cycle after the other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext

from hw.emit import ports


def evaluate(
    unit: wiring.Component, vectors: Iterable[Sequence[int]], clocked: bool = False
) -> list[tuple[int, ...]]:
    """The outputs of a unit for each vector of its inputs, both in the order of its ports.

    Parameters
    ----------
    unit : Component
        Without nested interfaces.
    vectors : iterable of sequence of int
    clocked : bool
        Whether a clock edge follows every vector; outputs are sampled before it.

    Returns
    -------
    list of tuple of int
    """
    inputs = [getattr(unit, port.name) for port in ports(unit) if port.direction == "input"]
    outputs = [getattr(unit, port.name) for port in ports(unit) if port.direction == "output"]
    results: list[tuple[int, ...]] = []

    async def testbench(context: SimulatorContext) -> None:
        for vector in vectors:
            for signal, value in zip(inputs, vector, strict=True):
                context.set(signal, value)
            results.append(tuple(context.get(signal) for signal in outputs))
            if clocked:
                await context.tick()

    top = Module()
    top.submodules.unit = unit
    simulator = Simulator(top)
    if clocked:
        simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return results


def simulate(
    unit: wiring.Component, testbench: Callable[[SimulatorContext], Coroutine[Any, Any, None]]
) -> None:
    """Run a testbench on a clocked unit, to its end."""
    top = Module()
    top.submodules.unit = unit
    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def assert_equal(
    unit: str,
    vectors: Sequence[Sequence[int]],
    got: Sequence[object],
    want: Sequence[object],
    seed: int | None = None,
    names: Mapping[int, str] | Sequence[str] = (),
) -> None:
    """Fail with the first vector whose outputs differ, its inputs by name, and the seed."""
    assert len(got) == len(want) == len(vectors)
    assert vectors, "there must be vectors to compare"
    for vector, found, expected in zip(vectors, got, want, strict=True):
        if found != expected:
            inputs = ", ".join(f"{n}={v:#x}" for n, v in zip(names, vector, strict=True))
            raise AssertionError(
                f"{unit}: {inputs}: got {found!r}, want {expected!r} (seed {seed})"
            )

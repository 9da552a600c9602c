"""Claims about the whole machine: who may write its memories, and when."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Mux, Signal, Value

from hw.controller import State
from hw.core import Atreides
from sim.claims import Bench
from sw.config import MachineConfig
from sw.isa import Fault, Opcode

#: Units that may do what they like, so the claims hold whatever they do; the netlist is smaller.
_CUT: Final = (
    *("planner", "feeder_a", "feeder_b", "issuer", "edge", "array", "counters"),
    *("rows.queue", "rows.column_0", "rows.column_1", "buffer"),
)


def core_bench(config: MachineConfig) -> Bench:
    """The machine of two columns; host, programs and whoever takes the results do as they like.

    Tile memory, parameters and table have one write port each, and no other way in: what is claimed
    of the ports' enables is claimed of the memories.
    """
    unit = Atreides(config)
    bench = Bench(unit)
    for name in _CUT:
        bench.cut(name)
    controller = unit._controller
    rows, memory = unit._rows, unit._memory
    tiles, executing = memory.write.enable, controller.executing
    others = Cat(
        rows.column_write.enable,
        rows.row_parameter_write.enable,
        *([rows.table_write.enable] if config.table else []),
    ).any()
    runs = executing.as_value().any()
    refused, stopped, sound = _follow_checks(bench, unit)
    stores = executing.store | executing.gemm
    bench.claim(
        "tile memory is written by the host between programs or by an instruction that may",
        ~tiles | controller.idle | stores,
    )
    bench.claim("an instruction at work has passed its checks", ~runs | sound)
    bench.claim("an instruction is at work only between its checks and the next", ~runs | ~refused)
    bench.claim("parameters and table are written between programs", ~others | controller.idle)
    bench.claim(
        "after a fault nothing is written up to the program's end",
        ~(refused | (stopped & ~controller.idle)) | ~(tiles | others | runs),
    )
    bench.claim("a program starts only when the memory is clear", ~memory.busy | controller.idle)
    bench.claim(
        "a fault is reported",
        ~bench.register("was_refused", refused)
        | (controller.status.valid & (controller.status.payload.fault != Fault.NONE)),
    )
    status = controller.status
    for fault in (Fault.ENCODING, Fault.EMPTY_BUFFER, Fault.STORE_SHAPE, Fault.OVERLAP):
        bench.cover(
            f"a program ends with {fault.name}", status.valid & (status.payload.fault == fault)
        )
    bench.cover("the host writes a tile", tiles & controller.idle)
    bench.cover("the host writes a parameter", others)
    bench.cover("a load is at work", executing.load_a)
    return bench


def _follow_checks(bench: Bench, unit: Atreides) -> tuple[Value, Signal, Signal]:
    """Whether a fault is found in this cycle; was, in this program; and whether none was found in
    the instruction that was taken last."""
    controller, check = unit._controller, unit._check
    state, lines = bench.inside("controller._state"), unit._decoder.decoded.lines
    decodes, measures = (state == s.value for s in (State.DECODE, State.CHECK))
    product = lines[Opcode.GEMM] | lines[Opcode.ADD]
    checked, found = bench.inside("controller._checked"), bench.inside("controller._range_fault")
    refused = (decodes & (check.fault != Fault.NONE)) | (
        measures & checked & (found != Fault.NONE.value)
    )
    stopped, sound = Signal(name="stopped"), Signal(name="sound")
    with bench.m.If(controller.idle):
        bench.m.d.sync += stopped.eq(0)
    with bench.m.Elif(refused | (controller.status.valid & (controller.status.payload.fault != 0))):
        bench.m.d.sync += stopped.eq(1)
    fits = Mux(product, measures & checked & (found == Fault.NONE.value), decodes)
    with bench.m.If(controller.take):
        bench.m.d.sync += sound.eq((check.fault == Fault.NONE) & fits)
    with bench.m.Elif(controller.finish | controller.clear):
        bench.m.d.sync += sound.eq(0)
    return refused, stopped, sound

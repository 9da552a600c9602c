"""Gives the array one slice of both operands per cycle."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.operand import CONTROL, stored_layout
from hw.operand_count import OperandCount
from hw.shift_buffer import slice_layout
from hw.tile_record import tile_layout
from sw.config import MachineConfig


class IssueMode(enum.Enum, shape=2):
    """What the issuer does once started."""

    #: Slices and tiles of a product, until the last slice of its last tile.
    GEMM = 0
    #: ``terms`` slices: the sums start with the first, and stay.
    MATMUL = 1
    #: No slice: the sums as they are leave.
    DRAIN = 2


def event_layout(config: MachineConfig) -> data.StructLayout:
    """In a cycle in which the sums of a tile (or block) start to leave: ``valid``, the ``tile``."""
    return data.StructLayout({"valid": 1, "tile": tile_layout(config)})


class Issuer(wiring.Component):
    """Takes a slice from both shift buffers in one cycle and shows it to the array's edge in it.

    One slice per cycle, from the cycle after ``start`` on. A slice waits, for the first cause that
    applies, where A has none; where B has none; where it is a tile's last and the tile before, of R
    rows, had its last less than R cycles ago; where it is the last of a tile that goes to the
    result stream and ``room`` is for fewer than its rows. The drain of DRAIN waits for the tile
    before as well, and is not counted.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    start : In(1)
        For one cycle, while not ``busy``.
    mode : In(IssueMode)
        Constant, like the next four, from ``start`` to ``done``.
    rows, columns : In
        Lanes of MATMUL and DRAIN; as wide as in ``tile_layout``.
    terms : In
        Slices of MATMUL, 1 to ``max(rows, columns)``.
    to_stream : In(1)
        Whether the results go to the result stream.
    room : In(rows)
        Bit r - 1: the result queue has room for r rows, promised ones taken off: from the cycle
        after an event with ``last_block`` on.
    tiles : In(stream of tile_layout(config))
        A tile's record comes before its first slice is in both shift buffers.
    row_slices, column_slices : In(stream of slice_layout(config, lanes))
        From the shift buffers; ``first`` and ``last`` of B's count, except in MATMUL. ``ready``
        depends on both ``valid``.
    a, b : Out(stored_layout(format)) per row, per column
    control : Out(CONTROL)
    row_mask : Out(rows)
    column_mask : Out(columns)
        To the edge.
    event : Out(event_layout(config))
        In the cycle of a slice with ``last``.
    busy : Out(1)
        From the cycle after ``start`` to ``done``.
    done : Out(1)
        In the cycle of the last slice.
    issued : Out(1)
        Whether a valid slice goes to the array.
    stall_a, stall_b, stall_drain, stall_results : Out(1)
        Why a slice of GEMM or MATMUL waits in this cycle; at most one.
    macs, zero_operands, unity_operands : Out
        Products, and words of used lanes that are zero or unity, of the slice of
        :attr:`count_latency` cycles ago; 0 if there was none.

    Attributes
    ----------
    count_latency : int
        3 cycles.
    """

    count_latency: Final = OperandCount.latency

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        rows, columns = config.rows, config.columns
        stored = stored_layout(config.format)
        tile = tile_layout(config)
        operands = Out(range(rows + columns + 1))
        super().__init__(
            {
                "start": In(1),
                "mode": In(IssueMode),
                "rows": In(tile["rows"].shape),
                "columns": In(tile["columns"].shape),
                "terms": In(max(rows, columns).bit_length()),
                "to_stream": In(1),
                "room": In(rows),
                "tiles": In(stream.Signature(tile)),
                "row_slices": In(stream.Signature(slice_layout(config, rows))),
                "column_slices": In(stream.Signature(slice_layout(config, columns))),
                "a": Out(stored).array(rows),
                "b": Out(stored).array(columns),
                "control": Out(CONTROL),
                "row_mask": Out(rows),
                "column_mask": Out(columns),
                "event": Out(event_layout(config)),
                "busy": Out(1),
                "done": Out(1),
                "issued": Out(1),
                "stall_a": Out(1),
                "stall_b": Out(1),
                "stall_drain": Out(1),
                "stall_results": Out(1),
                "macs": Out(range(rows * columns + 1)),
                "zero_operands": operands,
                "unity_operands": operands,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = self.row_slices, self.column_slices
        # Constant from ``start`` on, and first looked at in the cycle after it.
        gemm, drain, to_stream = Signal(), Signal(), Signal()
        m.d.sync += [
            gemm.eq(self.mode == IssueMode.GEMM),
            drain.eq(self.mode == IssueMode.DRAIN),
            to_stream.eq(self.to_stream),
        ]
        tile = self.event.tile
        last = Signal()  # of a tile
        go = Signal()
        draining = self._space(m, last & go)
        wanted = self._run(m)
        m.d.comb += [
            last.eq(drain | (gemm & b.payload.last)),
            tile.rows.eq(self.rows),
            tile.columns.eq(self.columns),
            tile.first_block.eq(1),
            tile.last_block.eq(1),
            tile.last.eq(1),
            self.event.valid.eq(last & go),
        ]
        with m.If(gemm):
            m.d.comb += tile.eq(self.tiles.payload)
        queued = self.tiles.payload  # what goes to the stream is a product's
        # The number of rows without its highest bit if all rows are the only ones that have it.
        number = queued.rows[: (self.config.rows - 1).bit_length()]
        rows = (number == count % (1 << len(number)) for count in range(1, len(self.room) + 1))
        room = (Cat(rows) & self.room).any()
        short = to_stream & queued.last_block & ~room
        with m.If(wanted & ~a.valid):
            m.d.comb += self.stall_a.eq(1)
        with m.Elif(wanted & ~b.valid):
            m.d.comb += self.stall_b.eq(1)
        with m.Elif(wanted & last & draining):
            m.d.comb += self.stall_drain.eq(1)
        with m.Elif(wanted & last & short):
            m.d.comb += self.stall_results.eq(1)
        with m.Elif(wanted):
            m.d.comb += [go.eq(1), self.issued.eq(1)]
        with m.Else():
            m.d.comb += go.eq(self.busy & ~draining)
        first = self._count_terms(m, gemm, drain)
        m.d.comb += [
            a.ready.eq(self.issued),
            b.ready.eq(self.issued),
            self.tiles.ready.eq(gemm & self.event.valid),
            self.control.valid.eq(self.issued),
            self.control.first.eq(self.issued & Mux(gemm, b.payload.first, first)),
            self.control.last.eq(self.event.valid),
            self.row_mask.eq(Cat(tile.rows > i for i in range(self.config.rows))),
            self.column_mask.eq(Cat(tile.columns > j for j in range(self.config.columns))),
        ]
        m.d.comb += [self.a[i].eq(a.payload.words[i]) for i in range(self.config.rows)]
        m.d.comb += [self.b[j].eq(b.payload.words[j]) for j in range(self.config.columns)]
        self._count_operands(m)
        return m

    def _space(self, m: Module, leaves: Value) -> Value:
        """Whether the tile before still drains: its last row's sum has not left yet."""
        rows, rows_left = self.event.tile.rows, Signal(range(self.config.rows))
        draining = Signal()  # rows_left != 0
        with m.If(leaves):
            m.d.sync += [rows_left.eq(rows - 1), draining.eq(rows != 1)]
        with m.Elif(draining):
            m.d.sync += [rows_left.eq(rows_left - 1), draining.eq(rows_left != 1)]
        return draining

    def _run(self, m: Module) -> Value:
        """Whether slices are wanted; ``busy``."""
        wanted = Signal()  # busy, and not with DRAIN
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), wanted.eq(self.mode != IssueMode.DRAIN)]
        with m.Elif(self.done):
            m.d.sync += [self.busy.eq(0), wanted.eq(0)]
        return wanted

    def _count_terms(self, m: Module, gemm: Value, drain: Value) -> Value:
        """When the work is done; whether a slice of MATMUL is its first."""
        left = Signal(len(self.terms))
        first, final = Signal(), Signal()
        with m.If(self.start):
            m.d.sync += [first.eq(1), left.eq(self.terms), final.eq(self.terms == 1)]
        with m.Elif(self.issued):
            m.d.sync += [first.eq(0), left.eq(left - 1), final.eq(left == 2)]
        matmul_end = ~gemm & ~drain & self.issued & final
        m.d.comb += self.done.eq(matmul_end | (self.event.valid & self.event.tile.last))
        return first

    def _count_operands(self, m: Module) -> None:
        """What the counters add up, all of one slice in one cycle."""
        used = Cat(self.row_mask, self.column_mask)
        used = Mux(self.issued, used, 0)
        for flag, total in (("zero", self.zero_operands), ("unity", self.unity_operands)):
            m.submodules[flag] = count = OperandCount(len(used))
            seen = Cat(lane[flag] for lane in (*self.a, *self.b))
            m.d.comb += [count.flags.eq(seen & used), total.eq(count.count)]
        rows = Mux(self.issued, self.event.tile.rows, 0)
        columns = self.event.tile.columns
        # The counts of the operands take as many cycles; one bit of the rows' number at a time.
        for stage in range(OperandCount.latency - 1):
            delayed = [
                Signal.like(tile, name=f"{name}_{stage}")
                for name, tile in (("rows", self.event.tile.rows), ("columns", columns))
            ]
            m.d.sync += [delayed[0].eq(rows), delayed[1].eq(columns)]
            rows, columns = delayed
        m.d.sync += self.macs.eq(sum(Mux(bit, columns << i, 0) for i, bit in enumerate(rows)))

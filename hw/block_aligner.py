"""Sums of blocks that each have their own scale, one partial sum per row of a tile."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.tile_record import index_bits


class BlockAligner(wiring.Component):
    """Raises each block's sum by its lift and adds it to what the row has of earlier blocks.

    The units of the result are those of the smallest scale: the lift of a block is how far its
    shift lies below the largest of its row, plus the same of its column. The host knows the
    largest, so lifts never change the sum that is kept, and the result is exact: the
    ``accumulator`` of :func:`sw.scale.align_blocks`.

    Latency 2 cycles, one sum per cycle, the same row in consecutive cycles too.

    Parameters
    ----------
    accumulator_bits : int
        Of a block's sum.
    aligned_bits : int
        Of the result, at least as many.
    rows : int
        Rows of a tile.
    lift_bits : int
        Of the whole lift.

    Members
    -------
    valid : In(1)
        Where 0, the other inputs are ignored and nothing is kept.
    accumulator : In(signed(accumulator_bits))
    lift : In(lift_bits)
    row : In(range(rows))
    first : In(1)
        This is the row's first block: what was kept is forgotten.
    aligned : Out(signed(aligned_bits))
        The sum so far, modulo ``2**aligned_bits``.
    """

    latency = 2

    def __init__(self, accumulator_bits: int, aligned_bits: int, rows: int, lift_bits: int) -> None:
        if aligned_bits < accumulator_bits:
            raise ValueError(
                f"aligned_bits must be at least {accumulator_bits}, not {aligned_bits!r}"
            )
        self.rows = rows
        super().__init__(
            {
                "valid": In(1),
                "accumulator": In(signed(accumulator_bits)),
                "lift": In(lift_bits),
                "row": In(index_bits(rows)),
                "first": In(1),
                "aligned": Out(signed(aligned_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shape = self.aligned.shape()
        # Read without a clock: the next cycle may add to the same row.
        m.submodules.sums = sums = Memory(shape=shape, depth=self.rows, init=[])
        read, write = sums.read_port(domain="comb"), sums.write_port()
        part, total = Signal(shape), Signal(shape)
        valid, first, row = Signal(), Signal(), Signal.like(self.row)
        m.d.sync += [
            part.eq(self.accumulator << self.lift),
            valid.eq(self.valid),
            first.eq(self.first),
            row.eq(self.row),
            self.aligned.eq(total),
        ]
        with m.If(first):
            m.d.comb += total.eq(part)
        with m.Else():
            m.d.comb += total.eq(read.data + part)
        m.d.comb += [
            read.addr.eq(row),
            write.addr.eq(row),
            write.en.eq(valid),
            write.data.eq(total),
        ]
        return m

"""Where the lanes of a tile lie: pixels in rows of pixels."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sw.config import COUNT_BITS, MachineConfig


class LaneWalker(wiring.Component):
    """Walks over positions (x, y), x fastest: ``offset = x * x_stride + y * y_stride``.

    It also keeps a start, the position of a tile's first lane, for the tile may be walked again.
    All three are registers; the offset of the cycle after is, by the pulses of this cycle:

    - ``reset``: current and start are (0, 0); wins over the others, and comes before them;
    - ``advance``: current and start are where ``step`` (0 or 1) leads;
    - ``rewind``: current is the start, which stays;
    - ``step``: the position after the current.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    x_count : In(16)
        Positions in a row, at least 1.
    x_stride, y_stride : In(address_bits)
        Words from one position, and from one row, to the next. All three stay as they are while
        walking.
    step, rewind, advance, reset : In(1)
    offset : Out(address_bits)
        In words, modulo ``2**address_bits``.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.address_bits = config.address_bits
        super().__init__(
            {
                "x_count": In(COUNT_BITS),
                "x_stride": In(config.address_bits),
                "y_stride": In(config.address_bits),
                "step": In(1),
                "rewind": In(1),
                "advance": In(1),
                "reset": In(1),
                "offset": Out(config.address_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # A position is how many follow in its row, the offset of the row's first, and its own.
        widths = {"x": COUNT_BITS, "row": self.address_bits, "offset": self.address_bits}
        current, start, following, stepped = (
            {name: Signal(width, name=f"{kind}_{name}") for name, width in widths.items()}
            for kind in ("current", "start", "following", "stepped")
        )
        wraps, row_end = Signal(), Signal(COUNT_BITS)
        next_row = Signal(self.address_bits)
        m.d.comb += [
            wraps.eq(current["x"] == 0),
            row_end.eq(self.x_count - 1),
            next_row.eq(current["row"] + self.y_stride),
            stepped["x"].eq(Mux(wraps, row_end, current["x"] - 1)),
            stepped["row"].eq(Mux(wraps, next_row, current["row"])),
            stepped["offset"].eq(Mux(wraps, next_row, current["offset"] + self.x_stride)),
            self.offset.eq(current["offset"]),
        ]
        for name in widths:
            m.d.comb += following[name].eq(Mux(self.step, stepped[name], current[name]))
            with m.If(self.reset):
                origin = row_end if name == "x" else 0
                m.d.sync += [current[name].eq(origin), start[name].eq(origin)]
            with m.Elif(self.advance):
                m.d.sync += [current[name].eq(following[name]), start[name].eq(following[name])]
            with m.Elif(self.rewind):
                m.d.sync += current[name].eq(start[name])
            with m.Else():
                m.d.sync += current[name].eq(following[name])
        return m

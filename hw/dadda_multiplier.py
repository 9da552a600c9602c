"""The Dadda multiplier: columns of partial products reduced by full and half adders."""

from __future__ import annotations

from amaranth.hdl import Module, Signal

from hw.adder import ADDERS, add_columns
from hw.compressor_tree import CELLS, REDUCTIONS, build_reduction
from hw.multiplier import Multiplier


class DaddaMultiplier(Multiplier):
    """Reduces the columns of partial products to two rows and adds these. Combinational, latency 0.

    About ``1.7 * log2(width)`` full adders deep, then one carry-propagate addition.

    Parameters
    ----------
    width : int
        F, 2 to 15 bits.
    reduction : {"stages", "arrival"}
        Dadda's stages, or column by column the earliest bits first.
    ripple : int
        Low columns that the reduction finishes itself; only with ``arrival``.
    cell : {"majority", "shared", "select"}
        How a full adder is written.
    adder : {"plain", "ripple", "brent_kung", "sklansky", "kogge_stone"}
        The carry-propagate adder.

    Members
    -------
    a, b : In(width)
    product : Out(2 * width)
    """

    def __init__(
        self,
        width: int,
        reduction: str = "stages",
        ripple: int = 0,
        cell: str = "shared",
        adder: str = "plain",
    ) -> None:
        for name, value, choices in (
            ("reduction", reduction, tuple(REDUCTIONS)),
            ("cell", cell, CELLS),
            ("adder", adder, ADDERS),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        super().__init__(width)
        self.reduction = reduction
        self.ripple = ripple
        self.cell = cell
        self.adder = adder

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.width
        columns = [[] for _ in range(2 * width)]
        for i in range(width):
            row = Signal(width, name=f"row_{i}")
            m.d.comb += row.eq(self.a & self.b[i].replicate(width))
            for j in range(width):
                columns[i + j].append(row[j])
        heights = [len(column) for column in columns]
        options = {"ripple": self.ripple} if self.reduction == "arrival" else {}
        reduction = REDUCTIONS[self.reduction](heights, **options)
        left = build_reduction(m, columns, reduction, self.cell, platform)
        m.d.comb += self.product.eq(add_columns(m, left, self.adder))
        return m

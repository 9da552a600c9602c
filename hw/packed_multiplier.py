"""Multiplier blocks of FPGAs, each with as many products of magnitudes as it holds exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.carry_chain import BEHAVIOURAL
from hw.multiplier import DSP_TARGETS, Multiplier, check_width

#: Bits of an unsigned operand of a block: MULT18X18D of ECP5, SB_MAC16 of iCE40 UltraPlus.
BLOCK_BITS: Final[Mapping[str, int]] = {"generic": 18, "ecp5": 18, "ice40": 16}
#: Bits of an operand of each half of an SB_MAC16.
HALF_BITS: Final = 8
#: Longest side of a group of cells that share a block.
_SIDES: Final = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Packing:
    """How the products of some rows' magnitudes with some columns' lie in one block.

    Parameters
    ----------
    rows, columns : int
    row_stride, column_stride : int
        Bits from one row's (column's) magnitude to the next in a factor. The product of row i and
        column j is at bit ``i * row_stride + j * column_stride``.
    halves : bool
        Two columns, each in a multiplier of its own of 8 by 8 bits.
    """

    rows: int
    columns: int
    row_stride: int
    column_stride: int
    halves: bool = False

    @property
    def skew(self) -> int:
        """Cycles that operands wait for each other in a systolic array."""
        return self.rows + self.columns - 2


def packing(width: int, target: str) -> Packing:
    """The most products of magnitudes that one block of a target holds.

    Sides are 1, 2 or 4; of equal numbers the one with fewest rows, whose sums must wait.

    Parameters
    ----------
    width : int
        F, 2 to 15.
    target : {"generic", "ecp5", "ice40"}

    Notes
    -----
    A product of two magnitudes is at most ``(2**F - 1)**2 < 2**2F``. With strides of ``2F`` on one
    side and ``2F * n`` on the other, where n is the number of the former, every product has 2F
    bits to itself: their sum has no carry from one to the next, so each can be read as it is. All
    that is asked is that both factors fit: ``2F * (n - 1) + F`` and ``2F * n * (m - 1) + F`` bits.
    ECP5: 8 products at F = 2, 4 at 3, 2 at 4 to 6.

    Rows and columns must share their operands, as they do in an outer product. Pairs without a
    common operand have cross products between them: ``(a0 + a1 * 2**p) * (b0 + b1 * 2**p)`` has
    both at bit p, whose sum, with what is below, is less than ``2**2p`` from p = 2F + 1 on. Two
    such pairs take 3F + 1 bits: F up to 5. (Ours; SB_MAC16's halves need no such argument.)
    """
    _check(width, target)
    bits = BLOCK_BITS[target]
    found = [Packing(1, 1, 0, 0)]
    for rows in _SIDES:
        for columns in _SIDES:
            for strides in ((2 * width, 2 * width * rows), (2 * width * columns, 2 * width)):
                sides = zip((rows, columns), strides, strict=True)
                if all(stride * (side - 1) + width <= bits for side, stride in sides):
                    found.append(Packing(rows, columns, *strides))
    if target == "ice40" and width <= HALF_BITS:
        found.append(Packing(1, 2, 0, 0, halves=True))
    return max(found, key=lambda p: (p.rows * p.columns, -p.rows, not p.halves))


class PackedMultiplier(wiring.Component):
    """All products of some rows' magnitudes with some columns', in one block. Latency 0.

    Parameters
    ----------
    width : int
        F, 2 to 15.
    target : {"generic", "ecp5", "ice40"}
        ``ecp5`` takes a MULT18X18D, ``ice40`` an SB_MAC16; ``generic`` the operator ``*`` on
        factors packed as for ECP5.
    rows, columns : int, optional
        At most those of :func:`packing`; as many if omitted.

    Members
    -------
    a : In(width) per row
    b : In(width) per column
    product : Out(2 * width) per row and column, row by row
    """

    def __init__(
        self, width: int, target: str, rows: int | None = None, columns: int | None = None
    ) -> None:
        self.width = width
        self.target = target
        self.packing = found = packing(width, target)
        self.rows = found.rows if rows is None else rows
        self.columns = found.columns if columns is None else columns
        for name, value, most in (
            ("rows", self.rows, found.rows),
            ("columns", self.columns, found.columns),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"{name} must be 1 to {most}, not {value!r}")
        super().__init__(
            {
                "a": In(width).array(self.rows),
                "b": In(width).array(self.columns),
                "product": Out(2 * width).array(self.rows * self.columns),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = BLOCK_BITS[self.target]
        first, second, product = Signal(bits), Signal(bits), Signal(2 * bits)
        halves = self.packing.halves
        row_stride, column_stride = self.packing.row_stride, self.packing.column_stride
        if halves:  # the same row in both halves of a factor
            m.d.comb += first.eq(Cat(_wide(self.a[0]), _wide(self.a[0])))
            column_stride, product_stride = HALF_BITS, 2 * HALF_BITS
        else:
            m.d.comb += first.eq(_packed(list(self.a), row_stride))
            product_stride = column_stride
        m.d.comb += second.eq(_packed(list(self.b), column_stride))
        if self.target == "generic" or platform is BEHAVIOURAL:
            m.d.comb += product.eq(_multiply(first, second, halves))
        elif self.target == "ecp5":
            m.submodules.block = _mult18x18d(first, second, product)
        else:
            m.submodules.block = _sb_mac16(first, second, product, halves)
        for i in range(self.rows):
            for j in range(self.columns):
                low = i * row_stride + j * product_stride
                field = product[low : low + 2 * self.width]
                m.d.comb += self.product[i * self.columns + j].eq(field)
        return m


class DspMultiplier(Multiplier):
    """One product in a block of an FPGA. Combinational, latency 0.

    Parameters
    ----------
    width : int
        F, 2 to 15 bits.
    target : {"generic", "ecp5", "ice40"}

    Members
    -------
    a, b : In(width)
    product : Out(2 * width)
    """

    def __init__(self, width: int, target: str) -> None:
        super().__init__(width)
        self.block = PackedMultiplier(width, target, 1, 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.block = block = self.block
        m.d.comb += [
            block.a[0].eq(self.a),
            block.b[0].eq(self.b),
            self.product.eq(block.product[0]),
        ]
        return m


class GivenProduct(Multiplier):
    """A product that somebody else found: what is multiplied elsewhere, in a multiplier's place.

    Parameters
    ----------
    width : int
        F, 2 to 15 bits.

    Members
    -------
    a, b : In(width)
    given : In(2 * width)
        a * b.
    product : Out(2 * width)
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, {"given": In(2 * width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.product.eq(self.given)
        return m


def greatest_skew(width: int) -> int:
    """The most cycles that operands wait for each other in an array of any target."""
    return max(packing(width, target).skew for target in BLOCK_BITS)


def _check(width: int, target: str) -> None:
    check_width(width)
    if target not in DSP_TARGETS:
        raise ValueError(f"target must be one of {', '.join(DSP_TARGETS)}, not {target!r}")


def _wide(value: Value) -> Value:
    return Cat(value, Const(0, HALF_BITS - len(value)))


def _packed(values: list[Value], stride: int) -> Value:
    """The values, each that many bits above the one before."""
    parts: list[Value] = []
    for number, value in enumerate(values):
        gap = stride - len(value) if number < len(values) - 1 else 0
        parts += [value, Const(0, gap)]
    return Cat(*parts)


def _multiply(first: Value, second: Value, halves: bool) -> Value:
    if not halves:
        return first * second
    low, high = slice(0, HALF_BITS), slice(HALF_BITS, 2 * HALF_BITS)
    return Cat((first[part] * second[part])[: 2 * HALF_BITS] for part in (low, high))


def _mult18x18d(first: Signal, second: Signal, product: Signal) -> Instance:
    """Source: yosys, ``techlibs/lattice/dsp_map_18x18.v``. SRIA and SRIB stay open."""
    ports: dict[str, Any] = {f"i_A{k}": first[k] for k in range(18)}
    ports |= {f"i_B{k}": second[k] for k in range(18)}
    ports |= {f"i_C{k}": Const(0, 1) for k in range(18)}
    ports |= {f"i_{name}": Const(0, 1) for name in ("SIGNEDA", "SIGNEDB", "SOURCEA", "SOURCEB")}
    ports |= {f"o_P{k}": product[k] for k in range(36)}
    return Instance("MULT18X18D", **ports)


def _sb_mac16(first: Signal, second: Signal, product: Signal, halves: bool) -> Instance:
    """Source: yosys, ``techlibs/ice40/dsp_map.v`` and the model in ``cells_sim.v``."""
    select = Const(2 if halves else 3, 2)
    parameters: dict[str, Any] = {f"p_{side}OUTPUT_SELECT": select for side in ("TOP", "BOT")}
    parameters |= {f"p_{name}_SIGNED": Const(0, 1) for name in "AB"}
    parameters["p_MODE_8x8"] = Const(int(halves), 1)
    return Instance("SB_MAC16", **parameters, i_A=first, i_B=second, o_O=product)

"""The product of two words: a multiplier of magnitudes with the sign and unity around it."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.chain_multiplier import ChainMultiplier
from hw.multiplier import AUTO, Multiplier, make_multiplier, table_entry
from sw.format import SFx


class MagnitudeProduct(wiring.Component):
    """The product of two magnitudes of which either may be unity. Combinational, latency 0.

    An operand of ``2**F`` does not enter the multiplier: it enters as zero, and the other operand
    comes through ``bypass``. Since one of the two is zero, they are joined, not added.

    Parameters
    ----------
    format : SFx
    multiplier : {"array", "dadda", "chain", "operator", "dsp", "auto"} or Multiplier
        The multiplier of magnitudes.
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.

    Members
    -------
    a, b : In(F)
        Magnitudes; one of them zero where ``bypass`` is not.
    bypass : In(F + 1)
        The product in units of ``2**-F`` where an operand is unity, else zero. No bits without
        unity.
    product : Out(2F + unity)
        ``a * b + bypass * 2**F``.

    Notes
    -----
    On ECP5 the last adder of the carry-chain multiplier adds two numbers with tables of four
    inputs, so that the bypass costs no table and lies on no path through another adder. (Ours.)
    """

    def __init__(
        self, format: SFx, multiplier: str | Multiplier = "auto", target: str = "generic"
    ) -> None:
        width = format.fraction_bits
        self.format = format
        given = isinstance(multiplier, Multiplier)
        self.multiplier = multiplier if given else _make_multiplier(format, multiplier, target)
        super().__init__(
            {
                "a": In(width),
                "b": In(width),
                "bypass": In((width + 1) * format.unity),
                "product": Out(2 * width + format.unity),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.format.fraction_bits
        m.submodules.multiplier = multiplier = self.multiplier
        m.d.comb += [multiplier.a.eq(self.a), multiplier.b.eq(self.b)]
        if not self.format.unity:
            m.d.comb += self.product.eq(multiplier.product)
        elif isinstance(multiplier, ChainMultiplier):
            m.d.comb += [
                multiplier.bypass.eq(self.bypass[:width]),
                self.product.eq(Cat(multiplier.product, self.bypass[width])),
            ]
        else:
            m.d.comb += self.product.eq(multiplier.product | self.bypass << width)
        return m


def _make_multiplier(format: SFx, name: str, target: str):
    """The multiplier by name; a carry-chain multiplier takes the bypass in, if there is one."""
    width = format.fraction_bits
    entry = table_entry(target, width)
    if format.unity and (entry[AUTO] if name == AUTO else name) == "chain":
        return ChainMultiplier(width, target=target, bypassed=True, **entry["chain"])
    return make_multiplier(name, width, target)


def product_operands_layout(format: SFx) -> data.StructLayout:
    """What :class:`MagnitudeProduct` takes of two words: ``a``, ``b``, ``bypass``, and ``sign``."""
    width = format.fraction_bits
    bypass = (width + 1) * format.unity
    return data.StructLayout({"a": width, "b": width, "bypass": bypass, "sign": 1})


class ProductOperands(wiring.Component):
    """Two words as a multiplier takes them. Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of both words.

    Members
    -------
    a, b : In(x)
        Words.
    operands : Out(product_operands_layout(format))
        The magnitudes, the bypass of :class:`MagnitudeProduct`, and the exclusive or of the signs,
        also where the product is zero.
    """

    def __init__(self, format: SFx) -> None:
        self.format = format
        layout = product_operands_layout(format)
        super().__init__({"a": In(format.bits), "b": In(format.bits), "operands": Out(layout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.format.fraction_bits
        a, b = self.a[:width], self.b[:width]
        m.d.comb += self.operands.sign.eq(self.a[width] ^ self.b[width])
        if not self.format.unity:
            m.d.comb += [self.operands.a.eq(a), self.operands.b.eq(b)]
            return m
        # Every bit of a unity word is 1: the other operand is a & b whichever of them it is, and
        # one operand made zero is enough.
        unity_a, unity_b = Signal(), Signal()
        m.d.comb += [
            unity_a.eq(a.all()),
            unity_b.eq(b.all()),
            self.operands.a.eq(a),
            self.operands.b.eq(Mux(unity_a | unity_b, 0, b)),
            self.operands.bypass.eq(Cat(Mux(unity_a ^ unity_b, a & b, 0), unity_a & unity_b)),
        ]
        return m


def unity_bypass(a: Value, b: Value, unity_a: Value, unity_b: Value) -> Value:
    """The bypass of two magnitudes that are zero where they are unity: F + 1 bits.

    Each bit is a function of four bits: one table of an FPGA.
    """
    width = len(a)
    other = unity_a.replicate(width) & b | unity_b.replicate(width) & a
    return Cat(other, unity_a & unity_b)


class WordProduct(wiring.Component):
    """The exact product of two SFx words in sign-magnitude form. Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of both words.
    multiplier : {"array", "dadda", "chain", "operator", "auto"}
        The multiplier of magnitudes.
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.

    Members
    -------
    a, b : In(x)
        Words.
    sign : Out(1)
        Exclusive or of the signs, also where the product is zero.
    magnitude : Out(2F + unity)
        ``M(a) * M(b)`` in units of ``2**-2F``: 0 to ``2**2F`` under unity.
    """

    def __init__(self, format: SFx, multiplier: str = "auto", target: str = "generic") -> None:
        self.operands = ProductOperands(format)
        self.product = MagnitudeProduct(format, multiplier, target)
        super().__init__(
            {
                "a": In(format.bits),
                "b": In(format.bits),
                "sign": Out(1),
                "magnitude": Out(2 * format.fraction_bits + format.unity),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.operands = operands = self.operands
        m.submodules.product = product = self.product
        m.d.comb += [
            operands.a.eq(self.a),
            operands.b.eq(self.b),
            product.a.eq(operands.operands.a),
            product.b.eq(operands.operands.b),
            product.bypass.eq(operands.operands.bypass),
            self.sign.eq(operands.operands.sign),
            self.magnitude.eq(product.product),
        ]
        return m

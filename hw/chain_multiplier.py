"""The carry-chain multiplier: a balanced tree of adders with the partial products absorbed."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Signal, Value

from hw.carry_chain import GATED_SUM, CarryChain
from hw.multiplier import Multiplier, check_target


@dataclass(frozen=True)
class _Term:
    """A node of the tree: ``(bits & gate) << weight``, at most ``maximum << weight``."""

    bits: Value
    gate: Value | None
    weight: int
    maximum: int

    @property
    def gated(self) -> Value:
        return self.bits if self.gate is None else self.bits & self.gate.replicate(len(self.bits))


class ChainMultiplier(Multiplier):
    """Adds neighbouring partial products in a tree of carry chains. Combinational, latency 0.

    Its depth is ``ceil(log2(width))`` adders. On ECP5 the first level takes its AND gates into the
    tables of the chain, so that two partial products cost no more than one addition.

    Parameters
    ----------
    width : int
        F, 2 to 15 bits.
    target : {"generic", "ecp5", "ice40", "osu018"}
        ``ecp5`` instantiates CCU2C primitives; the others leave ``+`` to the synthesiser.

    Members
    -------
    a, b : In(width)
    product : Out(2 * width)

    Notes
    -----
    The ECP5 form runs in Amaranth's simulator when elaborated for
    :data:`hw.carry_chain.BEHAVIOURAL`.
    """

    def __init__(self, width: int, target: str = "generic") -> None:
        check_target(target)
        self.target = target
        super().__init__(width)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        largest = (1 << self.width) - 1
        terms = [_Term(self.a, self.b[i], i, largest) for i in range(self.width)]
        while len(terms) > 1:
            pairs = zip(terms[::2], terms[1::2], strict=False)
            unpaired = terms[len(terms) & ~1 :]
            terms = [self._add(m, low, high) for low, high in pairs] + unpaired
        m.d.comb += self.product.eq(terms[0].bits)
        return m

    def _add(self, m: Module, low: _Term, high: _Term) -> _Term:
        """One adder of the tree, over the bits where both terms meet."""
        shift = high.weight - low.weight
        maximum = low.maximum + (high.maximum << shift)
        name = f"sum_{low.weight}_{high.weight}_{maximum.bit_length()}"
        total = Signal(maximum.bit_length(), name=name)
        if self.target == "ecp5":
            self._add_in_chain(m, low, high, shift, total)
        else:
            upper = low.gated[shift:] + high.gated
            m.d.comb += total.eq(Cat(low.gated[:shift], upper))
        return _Term(total, None, low.weight, maximum)

    @staticmethod
    def _add_in_chain(m: Module, low: _Term, high: _Term, shift: int, total: Signal) -> None:
        # Low bits that only pass need no chain, unless they fill a primitive that is half used
        # anyway and have an AND gate to absorb.
        start = shift
        if low.gate is not None and (len(total) - shift) % 2:
            start -= 1
        length = len(total) - start
        chain = CarryChain(length, GATED_SUM)
        m.submodules[f"chain_{total.name}"] = chain
        always = Const(1, 1)
        m.d.comb += [
            chain.a.eq(low.bits[start:]),
            chain.b.eq((always if low.gate is None else low.gate).replicate(length)),
            chain.c.eq(high.bits << (shift - start)),
            chain.d.eq((always if high.gate is None else high.gate).replicate(length)),
            total.eq(Cat(low.gated[:start], chain.sum)),
        ]

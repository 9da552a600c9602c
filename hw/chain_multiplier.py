"""The carry-chain multiplier: a balanced tree of adders with the partial products absorbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib.wiring import In

from hw.carry_chain import GATED_ACCUMULATE, GATED_SUM, CarryChain
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
    compress : sequence of int
        Levels, by how many numbers are left (3 or more), at which three numbers become two in a
        layer of tables before the carry chains go on: a little larger and faster.
    bypassed : bool
        Whether there is a member ``bypass``.

    Members
    -------
    a, b : In(width)
    bypass : In(width)
        Joins the product, at weight ``width``; zero unless a or b is zero. On ECP5 it takes an
        input of the last adder's tables that is free: no table, and no delay beyond its own.
    product : Out(2 * width)

    Notes
    -----
    The ECP5 form runs in Amaranth's simulator when elaborated for
    :data:`hw.carry_chain.BEHAVIOURAL`.
    """

    def __init__(
        self,
        width: int,
        target: str = "generic",
        compress: Sequence[int] = (),
        bypassed: bool = False,
    ) -> None:
        check_target(target)
        if any(count < 3 for count in compress):
            raise ValueError(f"compress must hold counts of at least 3, not {compress!r}")
        self.target = target
        self.compress = tuple(compress)
        super().__init__(width, {"bypass": In(width)} if bypassed else {})
        self.bypassed = bypassed

    def elaborate(self, platform: object) -> Module:
        m = Module()
        largest = (1 << self.width) - 1
        terms = [_Term(self.a, self.b[i], i, largest) for i in range(self.width)]
        # The last adder has an input left at every table, unless it is the first one too.
        joined = self.bypassed and self.target == "ecp5" and len(terms) > 2
        while len(terms) > 1:
            if len(terms) in self.compress:
                terms = terms[:-3] + self._compress(m, *terms[-3:])
                continue
            pairs = zip(terms[::2], terms[1::2], strict=False)
            unpaired = terms[len(terms) & ~1 :]
            bypass = self.bypass if joined and len(terms) == 2 else None
            terms = [self._add(m, low, high, bypass) for low, high in pairs] + unpaired
        product = terms[0].bits
        if self.bypassed and not joined:
            product |= self.bypass << self.width
        m.d.comb += self.product.eq(product)
        return m

    def _compress(self, m: Module, low: _Term, middle: _Term, high: _Term) -> list[_Term]:
        """Three terms as two: sums and carries where all three meet, the rest as it is."""
        start = high.weight - low.weight
        skipped = high.weight - middle.weight
        x, y, z = low.gated[start:], middle.gated[skipped:], high.gated
        maximum = low.maximum + ((middle.maximum + (high.maximum << skipped)) << start - skipped)
        width = min((maximum >> start).bit_length(), 2 * self.width - high.weight)
        sums = Signal(width, name=f"sums_{low.weight}_{high.weight}")
        carries = Signal(width - 1, name=f"carries_{low.weight}_{high.weight}")
        m.d.comb += [sums.eq(x ^ y ^ z), carries.eq(x & y | x & z | y & z)]
        first = Cat(_low_bits(low, start), sums)
        second = Cat(_low_bits(middle, skipped), Const(0, 1), carries)
        return [
            _Term(first, None, low.weight, (1 << len(first)) - 1),
            _Term(second, None, middle.weight, (1 << len(second)) - 1),
        ]

    def _add(self, m: Module, low: _Term, high: _Term, bypass: Value | None) -> _Term:
        """One adder of the tree, over the bits where both terms meet; the bypass joins the last."""
        shift = high.weight - low.weight
        largest = (1 << 2 * self.width - low.weight) - 1  # no sum of the tree exceeds the product
        maximum = min(low.maximum + (high.maximum << shift), largest)
        name = f"sum_{low.weight}_{high.weight}_{maximum.bit_length()}"
        total = Signal(maximum.bit_length(), name=name)
        if self.target == "ecp5":
            self._add_in_chain(m, low, high, shift, total, bypass)
        else:
            upper = low.gated[shift:] + high.gated
            m.d.comb += total.eq(Cat(low.gated[:shift], upper))
        return _Term(total, None, low.weight, maximum)

    def _add_in_chain(
        self, m: Module, low: _Term, high: _Term, shift: int, total: Signal, bypass: Value | None
    ) -> None:
        # Low bits that only pass need no chain, unless they fill a primitive that is half used
        # anyway and have an AND gate to absorb.
        start = shift
        if low.gate is not None and (len(total) - shift) % 2:
            start -= 1
        length = len(total) - start
        x, y = (low.bits[start:], low.gate), (high.bits << (shift - start), high.gate)
        if low.gate is None:
            # c is a faster pin than a: it takes what arrives later, a sum rather than a partial
            # product, and of two sums the lower one, of which higher bits meet here.
            x, y = y, x
        # y has no gate where there is a bypass. While the bypass has bits, x and y have none: no
        # carry is generated, and exclusive or is or.
        chain = CarryChain(length, GATED_SUM if bypass is None else GATED_ACCUMULATE)
        m.submodules[f"chain_{total.name}"] = chain
        m.d.comb += [
            chain.a.eq(x[0]),
            chain.b.eq(_every_bit(x[1], length)),
            chain.c.eq(y[0]),
            chain.d.eq(
                _every_bit(y[1], length) if bypass is None else bypass << self.width - start
            ),
            total.eq(Cat(low.gated[:start], chain.sum)),
        ]


def _every_bit(gate: Value | None, length: int) -> Value:
    """The gate at every bit of a chain; open where there is none."""
    return (Const(1, 1) if gate is None else gate).replicate(length)


def _low_bits(term: _Term, count: int) -> Value:
    """The lowest bits, zero where the term is shorter."""
    bits = term.gated[:count]
    return Cat(bits, Const(0, count - len(bits)))

"""The two shifters of a floating-point unit: alignment of the addend and normalisation."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class AlignmentShifter(wiring.Component):
    """A significand shifted right from the top of a window. Combinational, latency 0.

    Parameters
    ----------
    precision : int
        Bits of the significand, at least 2.
    width : int
        Bits of the window, at least ``precision``.

    Members
    -------
    significand : In(precision)
    shift : In(range(width + 1))
        From the top of the window; ``width`` puts everything below it.
    complement : In(1)
    aligned : Out(width)
        The significand in the window, zeros around it, all bits complemented on demand.
    lost : Out(1)
        A one of the significand is below the window.
    """

    def __init__(self, precision: int, width: int) -> None:
        self.precision = precision
        self.width = width
        super().__init__(
            {
                "significand": In(precision),
                "shift": In(range(width + 1)),
                "complement": In(1),
                "aligned": Out(width),
                "lost": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Small steps first: as long as the significand has not moved far, most bits are constant.
        taken = Signal(self.precision)
        m.d.comb += taken.eq(self.significand ^ self.complement.replicate(self.precision))
        value, top, lost = taken, self.precision, []
        for stage, chosen in enumerate(self.shift):
            step = 1 << stage
            moved = Signal(min(top + step, self.width), name=f"moved_{stage}")
            fill = self.complement.replicate(step)
            far, near = Cat(value, fill), Cat(fill, value)
            excess = top + step - len(moved)
            m.d.comb += moved.eq(Mux(chosen, far[excess:], near[excess:]))
            if excess:
                lost.append(chosen & (far[:excess] ^ self.complement.replicate(excess)).any())
            value, top = moved, len(moved)
        m.d.comb += [
            self.aligned.eq(Cat(self.complement.replicate(self.width - top), value)),
            self.lost.eq(Cat(lost).any()),
        ]
        return m


class Normalizer(wiring.Component):
    """Shifts the leading one to the top, but no further than a limit. Combinational, latency 0.

    Parameters
    ----------
    width : int
        Bits of the value.
    precision : int
        Bits of the significand, less than ``width``.
    limit_bits : int

    Members
    -------
    value : In(width)
    limit : In(limit_bits)
        Largest shift; one beyond ``width - 1`` is none.
    shift : Out(range(width))
        The lesser of ``limit`` and the leading zeros; for a value of zero and no limit, anything.
    significand : Out(precision)
        The top bits after the shift.
    round : Out(1)
        The bit below them.
    sticky : Out(1)
        Whether any lower bit is 1.

    Notes
    -----
    The limit is a one in the counted word, so that it is known before the value is.
    """

    def __init__(self, width: int, precision: int, limit_bits: int) -> None:
        self.width = width
        self.precision = precision
        super().__init__(
            {
                "value": In(width),
                "limit": In(limit_bits),
                "shift": Out(range(width)),
                "significand": Out(precision),
                "round": Out(1),
                "sticky": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = len(self.shift)
        counted = Signal(1 << bits)  # from the top: bit 0 is the value's highest
        marks = Cat(self.limit == position for position in range(self.width))
        m.d.comb += counted.eq(self.value[::-1] | marks)
        m.d.comb += self.shift.eq(_trailing_zeros(m, counted)[1])
        value, sticky = self.value, []
        for stage in reversed(range(bits)):
            # What comes is a shift by less than `step`: of the bits below, only whether any is 1.
            step = 1 << stage
            moved = Signal(len(value), name=f"moved_{stage}")
            m.d.comb += moved.eq(Mux(self.shift[stage], value << step, value))
            excess = max(0, len(moved) - (self.precision + step))
            if excess:
                below = Signal(name=f"below_{stage}")
                m.d.comb += below.eq(moved[:excess].any())
                sticky.append(below)
            value = moved[excess:]
        m.d.comb += [
            self.significand.eq(value[1:]),
            self.round.eq(value[0]),
            self.sticky.eq(Cat(sticky).any()),
        ]
        return m


def _trailing_zeros(m: Module, value: Value) -> tuple[Value, Value]:
    """Whether any of ``2**n`` bits is 1, and n bits with the place of the first (from bit 0)."""
    any_one: list[Value] = list(value)
    places: list[Value] = [Cat() for _ in any_one]
    level = 0
    while len(any_one) > 1:
        found = Signal(len(any_one) // 2, name=f"found_{level}")
        m.d.comb += found.eq(Cat(a | b for a, b in zip(any_one[::2], any_one[1::2], strict=True)))
        joined = []
        for pair in range(len(found)):
            low, high = 2 * pair, 2 * pair + 1
            place = Signal(level + 1, name=f"place_{level}_{pair}")
            lower = Mux(any_one[low], places[low], places[high]) if level else Cat()
            m.d.comb += place.eq(Cat(lower, ~any_one[low]))
            joined.append(place)
        any_one, places = list(found), joined
        level += 1
    return any_one[0], places[0]

"""Rounding once: exact fixed point to a word. Every unit that produces words ends in these."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sw.format import ROUNDINGS, Rounding, SFx


def check_rounding(rounding: str) -> None:
    """Raise ValueError unless ``rounding`` is one of :data:`sw.format.ROUNDINGS`."""
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, not {rounding!r}")


def guard_bits(rounding: Rounding) -> int:
    """Bits below a word's last that an encoder looks at: one for ``nearest``, else none.

    Bits further down never matter, because ties go away from zero: whoever has them may drop them
    from a magnitude, and hand in just their OR along with a two's complement number.
    """
    check_rounding(rounding)
    return 1 if rounding == "nearest" else 0


class Encoder(wiring.Component):
    """Rounds a sign and magnitude in fixed point to a word, once, and saturates.

    Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of the word.
    fraction_bits : int
        P: the magnitude is in units of ``2**-P``; more or fewer than F.
    width : int
        Bits of the magnitude, at least 1.
    rounding : {"nearest", "truncate"}
        Nearest with ties away from zero, or toward zero.

    Members
    -------
    sign : In(1)
        1 for minus; ignored where the word is zero.
    magnitude : In(width)
        Units of ``2**-P``. Bits below half an ULP of the word are ignored.
    word : Out(x)
        The word, never minus zero.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    def __init__(
        self, format: SFx, fraction_bits: int, width: int, rounding: Rounding = "nearest"
    ) -> None:
        check_rounding(rounding)
        for name, value, least in (("fraction_bits", fraction_bits, 0), ("width", width, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value!r}")
        self.format = format
        self.fraction_bits = fraction_bits
        self.rounding = rounding
        super().__init__({"sign": In(1), "magnitude": In(width), "word": Out(format.bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.format.fraction_bits
        dropped = self.fraction_bits - bits
        whole: Value = self.magnitude[dropped:] if dropped >= 0 else self._raised(-dropped)
        guard = Const(0, 1)
        if dropped > 0 and self.rounding == "nearest":
            guard = self.magnitude[dropped - 1 : dropped]
        kept = Signal(bits)
        saturated, rounded = Signal(), Signal(bits)
        m.d.comb += [
            kept.eq(whole[:bits]),
            saturated.eq(whole[bits:].any()),
            rounded.eq(Mux(saturated, self.format.max_code, self._round(kept, guard))),
            self.word.eq(Cat(rounded, self.sign & rounded.any())),
        ]
        return m

    def _raised(self, places: int) -> Value:
        return Cat(Const(0, places), self.magnitude)

    def _round(self, kept: Value, guard: Value) -> Value:
        """``kept + guard`` without reaching all ones under unity or passing it without.

        ``kept`` has all ones above its last bit just if it is all ones, which stays as it is, or
        one less: under unity that stays too, since only the saturation step may give all ones;
        otherwise the guard becomes the last bit.
        """
        if isinstance(guard, Const):
            return kept
        last = kept[0] if self.format.unity else kept[0] | guard
        near_top = kept[1:].all()
        return Mux(near_top, Cat(last, kept[1:]), (kept + guard)[: len(kept)])


class SignedEncoder(wiring.Component):
    """Rounds a two's complement number to a word, once, and saturates.

    Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of the word.
    width : int
        Bits of the number, sign included, at least 2.
    rounding : {"nearest", "truncate"}

    Members
    -------
    sign : In(1)
        1 to encode minus the number.
    value : In(signed(width))
        The number's floor in units of ``2**-(F + guard_bits(rounding))``.
    sticky : In(1)
        Whether the number is above its floor.
    word : Out(x)
        The word, never minus zero.
    """

    def __init__(self, format: SFx, width: int, rounding: Rounding = "nearest") -> None:
        if width < 2:
            raise ValueError(f"width must be at least 2, not {width!r}")
        self.encoder = Encoder(format, format.fraction_bits + guard_bits(rounding), width, rounding)
        super().__init__(
            {
                "sign": In(1),
                "value": In(signed(width)),
                "sticky": In(1),
                "word": Out(format.bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.encoder = encoder = self.encoder
        width = len(self.value)
        negative = self.value[-1]
        # Minus v is the complement of v plus one; with something above the floor v, the magnitude's
        # own floor is one less, the complement itself.
        complement = self.value ^ negative.replicate(width)
        m.d.comb += [
            encoder.sign.eq(self.sign ^ negative),
            encoder.magnitude.eq(complement.as_unsigned() + (negative & ~self.sticky)),
            self.word.eq(encoder.word),
        ]
        return m

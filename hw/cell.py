"""One cell of the systolic array: a multiply-accumulate unit that passes its operands on."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.accumulate import Accumulate
from hw.operand import CONTROL, operand_layout
from hw.packed_multiplier import GivenProduct
from hw.product import MagnitudeProduct, unity_bypass
from sw.format import MAX_TERMS, SFx


class Cell(wiring.Component):
    """Adds the product of the operands that pass to a sum of its own, exactly.

    Registers at the input (they are also what is passed on), after the product, and the
    accumulator: an operand pair is in the accumulator, and a ``last`` has it on the bus, 3 cycles
    (:attr:`latency`) after it was at the inputs. One pair per cycle, sums back to back.

    Parameters
    ----------
    format : SFx
        The format of the words behind the operands.
    max_terms : int
        K_max: products from one ``first`` to the next.
    multiplier : {"array", "dadda", "chain", "operator", "dsp", "auto"}
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.
    shared : bool
        The product of the magnitudes is found outside, by what several cells share.
    delay : int
        Cycles that the product waits for, on top of :attr:`latency`.
    apart : bool
        The control's ``first`` comes in a cycle of its own, before the sum's first product: it
        clears the sum, which on iCE40 takes no logic.

    Members
    -------
    a, b : In(operand_layout(format))
        From the left and from above. An operand with ``zero`` is not looked at further, except
        with ``first``: there its magnitude and ``unity`` must be 0.
    control : In(CONTROL)
        With ``valid``, a * b is added, to zero if ``first``; without it, the sum stays. ``apart``:
        with ``valid`` and ``first`` the sum becomes zero.
    a_next, b_next : Out(operand_layout(format))
        The operands, 1 cycle later: to the right and down.
    control_next : Out(CONTROL)
        The control, 1 cycle later.
    given : In(2F)
        Where it is shared: the product of the magnitudes of ``a_next`` and ``b_next``.
    bus : Out(signed(format.accumulator_bits(max_terms)))
        For one cycle per ``last``, the sum in units of ``2**-2F``, with this cycle's product if
        ``valid``; else 0. It may start anew in the next cycle.
    """

    latency: Final = 3

    def __init__(
        self,
        format: SFx,
        max_terms: int = MAX_TERMS,
        multiplier: str = "auto",
        target: str = "generic",
        shared: bool = False,
        delay: int = 0,
        apart: bool = False,
    ) -> None:
        self.format = format
        self.target = target
        self.shared = shared
        self.delay = delay
        self.apart = apart
        found = GivenProduct(format.fraction_bits) if shared else multiplier
        self.product = MagnitudeProduct(format, found, target)
        width = format.accumulator_bits(max_terms)
        self.step = Accumulate(width, len(self.product.product), target, not apart)
        #: The sum: at the output only while it drains. No reset: ``first`` says where it starts.
        self.accumulator = Signal(width, reset_less=True)
        operand = operand_layout(format)
        super().__init__(
            {
                "a": In(operand),
                "b": In(operand),
                "control": In(CONTROL),
                "a_next": Out(operand),
                "b_next": Out(operand),
                "control_next": Out(CONTROL),
                "bus": Out(signed(width)),
                **({"given": In(2 * format.fraction_bits)} if shared else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.product = product = self.product
        m.submodules.step = step = self.step
        a, b, control = self.a_next, self.b_next, self.control_next
        for register, source in ((a, self.a), (b, self.b)):
            self._pass(m, register, source)
        m.d.sync += control.eq(self.control)
        m.d.comb += [
            product.a.eq(a.magnitude),
            product.b.eq(b.magnitude),
        ]
        if self.format.unity:
            self._bypass(m)
        if self.shared:
            m.d.comb += product.multiplier.given.eq(self.given)
        magnitude, sign, first, enable, last = found = (
            Signal(len(product.product), name="magnitude", reset_less=True),
            Signal(name="sign", reset_less=True),
            Signal(name="first", reset_less=True),
            Signal(name="enable"),
            Signal(name="last"),
        )
        drains, zero = Signal(), Signal()
        m.d.comb += zero.eq(a.zero | b.zero)
        now = (
            product.product,
            # A zero is not subtracted: the adder's inputs would all turn over for nothing. One
            # table of four inputs in an FPGA, as the exclusive or alone would be.
            (a.sign ^ b.sign) & ~zero,
            control.first,
            control.valid & (control.first | ~zero),
            control.last,
        )
        for register, value in zip(found, now, strict=True):
            m.d.sync += register.eq(self._wait(m, register, value))
        m.d.sync += drains.eq(last)
        m.d.comb += [
            step.accumulator.eq(self.accumulator),
            step.magnitude.eq(magnitude),
            step.sign.eq(sign),
            step.first.eq(0 if self.apart else first),
            self.bus.eq(Mux(drains, self.accumulator, 0)),
        ]
        with m.If(enable):
            m.d.sync += self.accumulator.eq(step.following)
            if self.apart:
                with m.If(first):
                    m.d.sync += self.accumulator.eq(0)
        return m

    def _wait(self, m: Module, like: Signal, value: Value) -> Value:
        """The value, :attr:`delay` cycles later."""
        for stage in range(self.delay):
            register = Signal.like(like, name=f"{like.name}_{stage}")
            m.d.sync += register.eq(value)
            value = register
        return value

    def _pass(self, m: Module, register: Value, source: Value) -> None:
        m.d.sync += [
            register.magnitude.eq(source.magnitude),
            register.sign.eq(source.sign),
            register.zero.eq(source.zero),
        ]
        if self.format.unity:
            m.d.sync += register.unity.eq(source.unity)

    def _bypass(self, m: Module) -> None:
        """Take a unity operand around the multiplier."""
        # Where every table has a register behind it, the bypass is found before the input
        # register, one table per bit; elsewhere a register costs more than the path is worth.
        early = self.target in ("ecp5", "ice40")
        a, b = (self.a, self.b) if early else (self.a_next, self.b_next)
        bypass = unity_bypass(a.magnitude, b.magnitude, a.unity, b.unity)
        if early:
            register = Signal(len(bypass), name="bypass", reset_less=True)
            m.d.sync += register.eq(bypass)
            bypass = register
        m.d.comb += self.product.bypass.eq(bypass)

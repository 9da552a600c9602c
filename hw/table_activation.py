"""The piecewise-linear activation: a table of 32 segments, a multiplication and one rounding."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.encoder import SignedEncoder, guard_bits
from hw.fma import operand_magnitude
from hw.parameter_memory import ParameterMemory
from sw.activation import (
    SEGMENT_BITS,
    SEGMENTS,
    SLOPE_BITS,
    START_BITS,
    TABLE_BITS,
    VALUE_FRACTION_BITS,
)
from sw.format import Rounding, SFx

#: A write to the table: index ``2 * segment`` is its start, the next one its slope.
TABLE_WRITE = data.StructLayout(
    {"enable": 1, "index": (2 * SEGMENTS - 1).bit_length(), "data": signed(START_BITS)}
)


class TableActivation(wiring.Component):
    """Looks up words of SF16 and rounds the values found to words of one or more formats.

    As :class:`sw.activation.Table` defines. Latency 3 cycles from ``i`` to the words, one word
    per cycle. The table is all zero after power-up.

    Parameters
    ----------
    unity : bool
        Of all formats.
    outputs : sequence of SFx
    rounding : {"nearest", "truncate"}

    Members
    -------
    write : In(TABLE_WRITE)
        Seen by words that enter later.
    i : In(16)
        A word of SF16, never minus zero.
    o : Out(16).array(len(outputs))
        A word of each of ``outputs``.
    """

    latency = 3

    def __init__(
        self, unity: bool, outputs: tuple[SFx, ...], rounding: Rounding = "nearest"
    ) -> None:
        self.format = SFx(TABLE_BITS, unity)
        self.outputs = outputs
        self.rounding = rounding
        super().__init__(
            {
                "write": In(TABLE_WRITE),
                "i": In(TABLE_BITS),
                "o": Out(TABLE_BITS).array(len(outputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.starts = starts = ParameterMemory(signed(START_BITS), SEGMENTS)
        m.submodules.slopes = slopes = ParameterMemory(signed(SLOPE_BITS), SEGMENTS)
        for memory, odd in ((starts, 0), (slopes, 1)):
            m.d.comb += [
                memory.write.enable.eq(self.write.enable & (self.write.index[0] == odd)),
                memory.write.entry.eq(self.write.index[1:]),
                memory.write.data.eq(self.write.data),
            ]
        segment, distance = self._split(m)
        for memory in (starts, slopes):
            m.d.comb += [memory.read.enable.eq(1), memory.read.entry.eq(segment)]
        # One cycle later: the segment is read.
        distance_read = Signal.like(distance)
        m.d.sync += distance_read.eq(distance)
        # Two cycles later: the rise from the segment's start, as two products of half the depth.
        half = len(distance) // 2
        low, high = Signal(signed(SLOPE_BITS + half)), Signal(signed(SLOPE_BITS + half))
        start = Signal(signed(START_BITS))
        m.d.sync += [
            low.eq(slopes.data * distance_read[:half]),
            high.eq(slopes.data * distance_read[half:]),
            start.eq(starts.data),
        ]
        # Three cycles later: the value, which is encoded.
        value = Signal(signed(START_BITS + SEGMENT_BITS + 1))
        m.d.sync += value.eq((start << SEGMENT_BITS) + (high << half) + low)
        for index, output in enumerate(self.outputs):
            m.submodules[f"encoder_{index}"] = encoder = self._encode(m, value, output)
            m.d.comb += self.o[index].eq(encoder.word)
        return m

    def _split(self, m: Module) -> tuple[Value, Value]:
        """The segment of the word, and how far behind its start the word lies."""
        magnitude = operand_magnitude(self.format, self.i)
        from_left = Signal(TABLE_BITS + 1)
        middle = 1 << (TABLE_BITS - 1)
        m.d.comb += from_left.eq(Mux(self.i[-1], middle - magnitude, middle + magnitude))
        # The end of the range, 2**16, belongs to the last segment, as its argument 2**11.
        end = from_left[-1]
        segment = from_left[SEGMENT_BITS:-1] | end.replicate(TABLE_BITS - SEGMENT_BITS)
        return segment, Cat(from_left[:SEGMENT_BITS], end)

    def _encode(self, m: Module, value: Value, output: SFx) -> SignedEncoder:
        dropped = VALUE_FRACTION_BITS - output.fraction_bits - guard_bits(self.rounding)
        encoder = SignedEncoder(output, len(value) - dropped, self.rounding)
        m.d.comb += [
            encoder.value.eq(value[dropped:].as_signed()),
            encoder.sticky.eq(value[:dropped].any()),
        ]
        return encoder

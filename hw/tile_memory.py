"""The tile memory: words with their flags, read and written as vectors at any address."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Shape, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.banked_memory import BankedMemory, read_layout
from hw.detect import UnityDetector, ZeroDetector
from hw.operand import stored_layout
from sw.config import MachineConfig


def segment_bits(config: MachineConfig) -> int:
    """Bits of the number of a segment, that is, of ``columns`` words at a multiple of that."""
    return max(1, (config.memory_words // config.columns - 1).bit_length())


def write_layout(config: MachineConfig) -> data.StructLayout:
    """A request to write words 0 .. ``count - 1`` to ``address`` and after."""
    return data.StructLayout(
        {
            "enable": 1,
            "address": config.address_bits,
            "count": Shape.cast(range(config.vector + 1)),
            "words": data.ArrayLayout(config.bits, config.vector),
        }
    )


class TileMemory(wiring.Component):
    """Words of x bits; each is kept with its zero and unity flag, found as it is written.

    A read of cycle r gives V words in cycle ``r + latency``, on both sides every cycle. A write of
    cycle w is seen by reads of cycle ``w + write_latency`` and later, and by none before; of flags
    too. After reset the memory writes zeros to all words, V in a cycle: ``busy`` is 1 for
    ``memory_words / V + 1`` cycles, during which writes are ignored; reads after it see zeros.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    read_a, read_b : In(read_layout(address_bits))
    words_a, words_b : Out(array(stored, V))
        Word i is that of ``address + i``; past the end of the memory anything.
    banks_a, banks_b : Out(array(stored, V))
        The same words, that of ``address + i`` at ``(address + i) mod V``.
    mute_a, mute_b : In(1)
        ``words_a``, ``words_b`` are 0 in this cycle, to be joined with others by OR.
    write : In(write_layout(config))
        The words must lie in the memory.
    flags : In(struct)
        ``enable``, and ``segment``: the first of V segments, of ``columns`` words each.
    zero : Out(V)
        Bit i: all words of ``segment + i`` are zero. Always 0 unless ``config.skips``.
    busy : Out(1)
    """

    latency = BankedMemory.latency
    write_latency = BankedMemory.write_latency
    ignored_inputs = ("flags",)

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        words = data.ArrayLayout(stored_layout(config.format), config.vector)
        super().__init__(
            {
                "read_a": In(read_layout(config.address_bits)),
                "read_b": In(read_layout(config.address_bits)),
                "words_a": Out(words),
                "words_b": Out(words),
                "banks_a": Out(words),
                "banks_b": Out(words),
                "mute_a": In(1),
                "mute_b": In(1),
                "write": In(write_layout(config)),
                "flags": In(data.StructLayout({"enable": 1, "segment": segment_bits(config)})),
                "zero": Out(config.vector),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        stored = self._detect(m)
        enable, address, count = self._clear(m, stored)
        width = stored_layout(config.format).size
        m.submodules.words = words = BankedMemory(width, config.vector, config.memory_words, 2)
        m.d.comb += [
            words.write.enable.eq(enable),
            words.write.address.eq(address),
            words.write.wanted.eq(Cat(i < count for i in range(config.vector))),
            words.write.elements.eq(stored),
            words.read[0].eq(self.read_a),
            words.read[1].eq(self.read_b),
            self.words_a.eq(words.elements[0]),
            self.words_b.eq(words.elements[1]),
            words.mute[0].eq(self.mute_a),
            words.mute[1].eq(self.mute_b),
            self.banks_a.eq(words.banks[0]),
            self.banks_b.eq(words.banks[1]),
        ]
        if config.skips:
            zeros = Cat(stored[i].zero for i in range(config.vector))
            self._keep_flags(m, enable, address, count, zeros)
        return m

    def _detect(self, m: Module) -> data.View:
        """The words at the port with their flags; ``_clear`` may replace them."""
        format = self.config.format
        stored = Signal(data.ArrayLayout(stored_layout(format), self.config.vector))
        for i in range(self.config.vector):
            m.submodules[f"zero_{i}"] = zero = ZeroDetector(format)
            m.submodules[f"unity_{i}"] = unity = UnityDetector(format)
            m.d.comb += [
                zero.word.eq(self.write.words[i]),
                unity.word.eq(self.write.words[i]),
                stored[i].word.eq(self.write.words[i]),
                stored[i].zero.eq(zero.zero),
                stored[i].unity.eq(unity.unity),
            ]
        return stored

    def _clear(self, m: Module, stored: data.View) -> tuple[Signal, Signal, Signal]:
        """Whether, where and how much to write; after reset all, and ``stored`` is zeros."""
        config = self.config
        rows = config.memory_words // config.vector
        fields = write_layout(config).members
        enable, address, count = (
            Signal(fields[name], name=f"write_{name}") for name in ("enable", "address", "count")
        )
        left, clearing = Signal(range(rows + 2), init=rows + 1), Signal(init=1)  # left != 0
        m.d.comb += [
            enable.eq(self.write.enable),
            address.eq(self.write.address),
            count.eq(self.write.count),
            self.busy.eq(clearing),
        ]
        # One cycle more than there are rows, so that the last one can be read after it.
        with m.If(self.busy):
            m.d.sync += [left.eq(left - 1), clearing.eq(left != 1)]
            m.d.comb += [
                enable.eq(left != 1),
                address.eq((left - 2) << (config.vector.bit_length() - 1)),
                count.eq(config.vector),
            ]
            for i in range(config.vector):
                m.d.comb += [stored[i].word.eq(0), stored[i].zero.eq(1), stored[i].unity.eq(0)]
        return enable, address, count

    def _keep_flags(
        self, m: Module, enable: Value, address: Value, count: Value, zeros: Value
    ) -> None:
        """One bit per segment: set by a write of zeros to all of it, cleared by any other."""
        columns, vector = self.config.columns, self.config.vector
        column_bits = columns.bit_length() - 1
        # As seen from the start of the first segment that the write touches: word 0's place, where
        # the write ends, and how many segments have ended by then.
        place = address[:column_bits] if column_bits else Const(0)
        end = Signal(range(vector + columns))
        m.d.comb += end.eq(place + count)
        ended = end[column_bits:]
        # The words come last: which of them a segment has is known from the place alone.
        touched, cleared = (
            Signal(min(vector, vector // columns + 1), name=name) for name in ("touched", "cleared")
        )
        for segment in range(len(cleared)):
            others = []
            for word in range(vector):
                first = max(0, segment * columns - word)  # place at which it is the segment's first
                inside = range(first, min(columns, (segment + 1) * columns - word))
                others.append(~place.matches(*inside))
            whole = (ended > segment) & ((segment > 0) | (place == 0))
            m.d.comb += [
                touched[segment].eq((count != 0) & (end > segment * columns)),
                cleared[segment].eq(whole & (zeros | Cat(others)).all()),
            ]
        segments_kept = self.config.memory_words // columns
        m.submodules.flags = flags = BankedMemory(1, vector, segments_kept, 1, early=True)
        m.d.comb += [
            flags.write.enable.eq(enable),
            flags.write.address.eq(address[column_bits:]),
            flags.write.wanted.eq(touched),
            flags.write.elements.eq(cleared),
            flags.read[0].enable.eq(self.flags.enable),
            flags.read[0].address.eq(self.flags.segment),
            self.zero.eq(flags.elements[0]),
        ]

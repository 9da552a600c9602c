"""Walks the loops of a product, a chunk of its inner runs at a time."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.address_nest import AddressNest
from hw.machine_registers import registers_layout
from sw.config import COUNT_BITS, MachineConfig
from sw.registers import AMode, BMode
from sw.scale import BLOCK

#: The loops around a chunk, outermost first: batches, row tiles, column tiles, k2, k1 and the
#: chunks of a run of k0.
LEVELS: Final = ("g", "m", "t", "k2", "k1", "k0")


def place_layout() -> data.StructLayout:
    """Where a tile (or block) stands: the last of its tile, row of tiles, batch, product."""
    return data.StructLayout(
        {"last_block": 1, "last_column_tile": 1, "last_row_tile": 1, "last_batch": 1}
    )


def walked_layout(config: MachineConfig) -> data.StructLayout:
    """One chunk as it is walked.

    ``a_address``, ``b_address``: without the walk over lanes; an identity's address is 0 in the
    first chunk of a run and V / 2 in others, where all of its words are zero (V, where a vector is
    no longer than a slice, unless the first chunk was of V / 2). ``length``: slices,
    1 to V. ``later``: k1 is not 0. ``end``: the tile's (or block's) last chunk. ``place``.
    """
    return data.StructLayout(
        {
            "a_address": config.address_bits,
            "b_address": config.address_bits,
            "length": range(config.vector + 1),
            "later": 1,
            "end": 1,
            "place": place_layout(),
        }
    )


class ChunkWalker(wiring.Component):
    """The chunks of a product in order, one per cycle.

    Loops are batches, tiles of rows, tiles of columns, k2, k1, k0, the last one fastest. A run of
    k0 with ``r`` slices left gives ``V / 2`` of them if ``V < r < V + V / 2``, else
    ``min(r, V)``; with blocks, r counts to the end of the block of 32. The first chunk is there in
    the cycle after ``start``, the next in the cycle after ``step``.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    start : In(1)
        For one cycle, while not ``valid``.
    registers : In(registers_layout(config))
    rows : In(16)
        M, 1 or more.
    blocks : In(1)
        Whether every 32 terms are a block of their own; K1 and K2 are then 1.
    step : In(1)
        Take the chunk; only while ``valid``.
    valid : Out(1)
        Whether there is a chunk.
    chunk : Out(walked_layout(config))
    b_slice : Out(address_bits)
        ``b_address``; where B is an identity, anything.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "rows": In(COUNT_BITS),
                "blocks": In(1),
                "step": In(1),
                "valid": Out(1),
                "chunk": Out(walked_layout(config)),
                "b_slice": Out(config.address_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers, chunk = self.registers, self.chunk
        full = {"g": registers.g, "m": self.rows, "t": registers.nt}
        full |= {name: registers[name] for name in ("k2", "k1", "k0")}
        last = {name: Signal(name=f"last_{name}") for name in LEVELS}
        loop = {name: Signal(name=f"loop_{name}") for name in LEVELS}
        part_last, last_block = self._measure(m, last["k0"])
        moves, ended = self._count_loops(m, full, last)
        for name in LEVELS:
            m.d.comb += loop[name].eq(moves[name] & ~last[name])
        with m.If(self.start):
            m.d.sync += self.valid.eq(1)
        with m.Elif(self.step & ended):
            m.d.sync += self.valid.eq(0)
        tile_end = moves["t"]
        m.d.comb += [
            chunk.end.eq(Mux(self.blocks, part_last, tile_end)),
            chunk.place.last_block.eq(last_block),
            chunk.place.last_column_tile.eq(last["t"]),
            chunk.place.last_row_tile.eq(last["m"]),
            chunk.place.last_batch.eq(last["g"]),
        ]
        self._address(m, loop, moves)
        return m

    def _count_loops(
        self, m: Module, full: dict[str, Value], last: dict[str, Signal]
    ) -> tuple[dict[str, Value], Value]:
        """Count all loops but k0; which ones move in a step, and whether it is the product's last.

        What moves is known from k0 and a register per loop, which says whether all loops between
        are at their end: many registers wait for it.
        """
        inner: Value = last["k0"]  # k0 and the loops inside this one are at their end
        moves = {"k0": Const(1, 1)}
        between: Value = Const(1, 1)  # the loops from k1 to inside this one
        next_between: Value = Const(1, 1)
        for name in reversed(LEVELS[:-1]):
            moves[name] = inner
            moved = self._count(m, name, full[name], last[name], self.step & inner)
            next_between &= Mux(self.start | between, moved, last[name])
            between = Signal(name=f"ended_{name}")
            with m.If(self.start | (self.step & last["k0"])):
                m.d.sync += between.eq(next_between)
            inner = last["k0"] & between
        return moves, inner

    def _count(self, m: Module, name: str, full: Value, last: Signal, moves: Value) -> Value:
        """Count a loop down; ``last`` is a register, found as the count changes.

        Returns what it becomes.
        """
        taken = self.config.rows if name == "m" else 1
        left = Signal(COUNT_BITS, name=f"left_{name}")
        restarts, moved = self.start | last, Signal(name=f"moved_{name}")
        m.d.comb += moved.eq(Mux(restarts, full <= taken, left <= 2 * taken))
        with m.If(self.start | moves):
            m.d.sync += [left.eq(Mux(restarts, full, left - taken)), last.eq(moved)]
        return moved

    def _measure(self, m: Module, last: Signal) -> tuple[Value, Value]:
        """The chunk's length; whether it ends its run or block, and whether that is the last."""
        layout = data.StructLayout(
            {"length": self.chunk.length.shape(), "part_last": 1, "last_block": 1, "last": 1}
        )
        left, following = Signal(COUNT_BITS), Signal(COUNT_BITS)
        position, moved = Signal(range(BLOCK)), Signal(range(BLOCK))
        run, rest, cut = (Signal(layout, name=name) for name in ("run", "rest", "cut"))
        m.d.comb += [following.eq(left - cut.length), moved.eq(position + cut.length)]
        self._cut(m, run, self.registers.k0, Const(0))
        self._cut(m, rest, following, moved)
        restarts = self.start | last
        with m.If(self.start | self.step):
            m.d.sync += [
                left.eq(Mux(restarts, self.registers.k0, following)),
                position.eq(Mux(restarts, 0, moved)),
                cut.eq(Mux(restarts, run, rest)),
            ]
        m.d.comb += [self.chunk.length.eq(cut.length), last.eq(cut.last)]
        return cut.part_last, cut.last_block

    def _cut(self, m: Module, o: data.View, left: Value, position: Value) -> None:
        """The first chunk of what is left of a run, so far into a block."""
        vector, part = self.config.vector, Signal(COUNT_BITS, name=f"{o.as_value().name}_part")
        m.d.comb += [part.eq(left), o.last_block.eq(1)]
        if self.config.blocks:
            m.d.comb += o.last_block.eq(~self.blocks | (left <= BLOCK - position))
            with m.If(~o.last_block):
                m.d.comb += part.eq(BLOCK - position)
        m.d.comb += [o.part_last.eq(part <= vector), o.last.eq(o.part_last & o.last_block)]
        with m.If(o.part_last):
            m.d.comb += o.length.eq(part)
        with m.Elif(part < vector + vector // 2):
            m.d.comb += o.length.eq(vector // 2)
        with m.Else():
            m.d.comb += o.length.eq(vector)

    def _address(self, m: Module, loop: dict[str, Value], moves: dict[str, Value]) -> None:
        """Both sides' addresses. A chunk that is not its run's last has V or V / 2 slices."""
        registers, chunk, vector = self.registers, self.chunk, self.config.vector
        half, shift = chunk.length < vector, vector.bit_length() - 1
        a_slices, b_mode = registers.a_mode == AMode.SLICES, registers.b_mode
        a_stride = Mux(a_slices, registers.a_k0, 1)
        b_stride = Mux(b_mode == BMode.SLICES, registers.b_k0, 1)
        strides = {
            "a": {"m": Mux(a_slices, self.config.rows, 0), "k0": a_stride},
            "b": {"m": Const(0), "k0": b_stride},
        }
        for side, own in strides.items():
            m.submodules[side] = nest = AddressNest(self.config.address_bits, len(LEVELS))
            own["k0"] = Mux(half, own["k0"] << shift - 1, own["k0"] << shift)
            own |= {"g": registers[f"{side}_g"], "t": registers[f"{side}_n"]}
            own |= {name: registers[f"{side}_{name}"] for name in ("k1", "k2")}
            m.d.comb += [
                nest.load.eq(self.start),
                nest.base.eq(registers[f"{side}_base"]),
                nest.step.eq(self.step),
                nest.loop.eq(Cat(loop[name] for name in LEVELS)),
                nest.moves.eq(Cat(moves[name] for name in LEVELS)),
                chunk[f"{side}_address"].eq(nest.address),
            ]
            m.d.comb += [nest.strides[i].eq(own[name]) for i, name in enumerate(LEVELS)]
        m.d.comb += self.b_slice.eq(nest.address)  # the last one's, B's
        run_start = Signal()
        with m.If(self.start | self.step):
            m.d.sync += run_start.eq(self.start | ~loop["k0"])
        with m.If(b_mode == BMode.IDENTITY):
            m.d.comb += chunk.b_address.eq(Mux(run_start, 0, self._beyond(m, run_start & half)))
        with m.If(self.step & loop["k1"]):
            m.d.sync += chunk.later.eq(1)
        with m.Elif(self.start | (self.step & ~loop["k0"])):
            m.d.sync += chunk.later.eq(0)

    def _beyond(self, m: Module, half_begun: Value) -> Value:
        """The identity's address in a chunk that is not the first of its run."""
        vector = self.config.vector
        if self.config.columns <= vector // 2:
            return Const(vector // 2)
        half = Signal()  # the run has a first chunk of V / 2, and its other half is this chunk
        with m.If(self.step):
            m.d.sync += half.eq(half_begun)
        return Mux(half, vector // 2, vector)

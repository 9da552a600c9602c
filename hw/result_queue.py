"""The queue of results that wait for the host, and what it can still promise to hold."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.deskew import Deskew
from sw.config import MachineConfig

#: Cycles from a slice to its row in the queue, without the skew, at most: what a queue needs
#: beyond two tiles of rows so that a host that takes a row per cycle never makes the array wait.
_LATENCY = 16


def result_layout(config: MachineConfig) -> data.StructLayout:
    """A beat of results: ``kind``: 0 words, 1 exact; ``count`` of lanes; ``last`` row of an
    instruction; ``data``: lane j at ``j * config.result_bits``, from ``count`` on anything."""
    return data.StructLayout(
        {
            "kind": 2,
            "count": config.columns.bit_length(),
            "last": 1,
            "data": config.columns * config.result_bits,
        }
    )


def note_layout(config: MachineConfig) -> data.StructLayout:
    """What goes with a row of results: ``kind``, ``count``, ``last`` of :func:`result_layout`."""
    members = result_layout(config).members
    return data.StructLayout({name: members[name] for name in ("kind", "count", "last")})


class ResultQueue(wiring.Component):
    """Puts rows together from their lanes and keeps them until the host takes them.

    A row may be offered 2 cycles after its last lane came, one row per cycle. Rows are promised
    to the issuer before they exist, so nothing ever has to stall on the way here.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    promise : In(struct of enable, rows)
        So many rows will come; at most ``credits``.
    note : In(struct of enable, data)
        Of a row, before its lane 0.
    lanes : In(struct of enable, data).array(columns)
    credits : Out(range(depth + 1))
        Rows that may be promised, a register; grows as the host takes rows.
    room : Out(rows)
        Bit r - 1: r rows may be promised; registers.
    results : Out(stream of result_layout(config))
        ``valid`` does not depend on ``ready``.

    Attributes
    ----------
    depth : int
        Rows: the least power of two of at least ``2 * rows + columns + 16``.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.depth = 1 << (2 * config.rows + config.columns + _LATENCY - 1).bit_length()
        self.deskew = Deskew(config.result_bits, config.columns, note_layout(config), self.depth)
        promise = data.StructLayout({"enable": 1, "rows": config.rows.bit_length()})
        super().__init__(
            {
                "promise": In(promise),
                "note": In(self.deskew.note.shape()),
                "lanes": In(self.deskew.lanes[0].shape()).array(config.columns),
                "credits": Out(range(self.depth + 1), init=self.depth),
                "room": Out(config.rows, init=(1 << config.rows) - 1),
                "results": Out(stream.Signature(result_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.deskew = deskew = self.deskew
        complete = Signal(range(self.depth + 1))
        complete_next = Signal.like(complete)
        results = self.results
        m.d.comb += [
            deskew.note.eq(self.note),
            *(inner.eq(outer) for inner, outer in zip(deskew.lanes, self.lanes, strict=True)),
            deskew.next.eq((complete != 0) & (results.ready | ~results.valid)),
            complete_next.eq(complete + self.lanes[-1].enable - deskew.next),
            results.payload.data.eq(Cat(*deskew.row)),
            results.payload.kind.eq(deskew.row_note.kind),
            results.payload.count.eq(deskew.row_note.count),
            results.payload.last.eq(deskew.row_note.last),
        ]
        m.d.sync += complete.eq(complete_next)
        with m.If(results.ready | ~results.valid):
            m.d.sync += results.valid.eq(deskew.next)
        self._promise(m, deskew.next)
        return m

    def _promise(self, m: Module, freed: Value) -> None:
        """Credits, and what they are enough for: ready before it is known what is promised, freed.

        A row more is enough for ``r + 1`` if it would do for ``r`` without.
        """
        for promises, taken in (
            (~self.promise.enable, 0),
            (self.promise.enable, self.promise.rows),
        ):
            left, more = (Signal.like(self.credits, init=0) for _ in range(2))
            enough = Signal(len(self.room) + 1)
            m.d.comb += [
                left.eq(self.credits - taken),
                more.eq(self.credits - taken + 1),
                enough.eq(Cat(Const(1), *(_reaches(left, r) for r in range(1, len(enough))))),
            ]
            with m.If(promises):
                m.d.sync += [
                    self.credits.eq(Mux(freed, more, left)),
                    self.room.eq(Mux(freed, enough[:-1], enough[1:])),
                ]


def _reaches(value: Value, least: int) -> Value:
    """Whether it is at least that much; not by carry chains, which come late."""
    low = least.bit_length()
    return value[low:].any() | value[:low].matches(*range(least, 1 << low))

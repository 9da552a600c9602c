"""The cycles of a GEMM by definition: its control, register by register, a cycle at a time.

Every class here is a component of ``hw`` without its data. A cycle has two halves: each component
decides by what registers hold, then all registers change. Slow, and the definition that the
recurrences of ``kernels/machine.cpp`` are held to.
"""

from __future__ import annotations

from collections import deque

from sw import timing as t
from sw.machine_load import Chunk, GemmCycles, Load
from sw.timing import Timing


class _Planner:
    """``ChunkWalker``, ``ChunkFilter`` and the three queues of ``Planner``."""

    def __init__(self, load: Load) -> None:
        self.skip = load.walk.skips
        self.walker = load.chunks()
        self.walked: Chunk | None = next(self.walker)
        self.on_the_way = 0
        self.flags: deque[Chunk | None] = deque([None] * (t.LOOK - 1))
        self.looked: deque[Chunk] = deque()
        self.held: Chunk | None = None
        self.held_first = self.held_last = self.known = self.started = False
        self.a: deque[tuple[Chunk, bool, bool]] = deque()
        self.b: deque[tuple[Chunk, bool, bool]] = deque()
        self.tiles: deque[Chunk] = deque()

    def decide(self) -> None:
        """Walk, take and leave in this cycle?"""
        self.walks = self.walked is not None and self.on_the_way < t.LOOKED_UP
        chunk = self.looked[0] if self.looked else None
        found = chunk is not None and chunk.slices > 0
        ends = chunk is not None and chunk.end
        room = max(len(self.a), len(self.b)) < t.CHUNK_QUEUE and (
            len(self.tiles) < t.TILE_QUEUE or not self.held_first
        )
        self.leaves = self.held is not None and (self.known or found or ends) and room
        self.last = self.held_last if self.known else not found
        # A chunk without a slice is dropped at once, unless the one held must learn of its end.
        waits = self.held is not None if found else ends
        self.takes = chunk is not None and (self.leaves or not waits)

    def step(self) -> None:
        """The registers after this cycle; pops of the queues are the readers' own."""
        if self.leaves:
            assert self.held is not None
            entry = (self.held, self.held_first, self.last)
            self.a.append(entry)
            self.b.append(entry)
            if self.held_first:
                self.tiles.append(self.held)
            self.held = None
        arrived = self.flags.popleft()
        taken = self.looked.popleft() if self.takes else None
        if arrived is not None:
            self.looked.append(arrived)
        self.flags.append(self.walked if self.walks else None)
        self.on_the_way += self.walks - self.takes
        if self.walks:
            self.walked = next(self.walker, None)
        if taken is not None:
            keeps = taken.slices > 0
            if keeps:
                self.held = taken
                self.held_first = not self.started
                self.held_last = taken.end
                self.known = not self.skip or taken.end
            self.started = not taken.end and (self.started or keeps)


class _Feeder:
    """``ChunkReader``, ``Transposer`` and ``ShiftBuffer`` of one side."""

    def __init__(self, timing: Timing, chunks: deque[tuple[Chunk, bool, bool]], lanes: str) -> None:
        self.timing = timing
        self.queue = chunks
        self.in_lanes = lanes != ""
        self.lanes = lanes
        self.credits = timing.depth
        self.held: tuple[Chunk, bool, bool] | None = None
        self.steps = 0  # of the chunk held
        #: Slices on their way to the shift buffer: whether each is its tile's last.
        self.coming: deque[bool | None] = deque([None] * t.SLICE_PUSH)
        self.buffer: deque[bool] = deque()
        self.started = 0  # chunks in the transposer
        self.full = 0  # of which not yet offered, but read
        self.filling: deque[bool] = deque([False] * (t.SLICE_PUSH - 1))
        self.records: deque[tuple[int, bool]] = deque()
        self.offered = 0  # slices left of the page that is pushed
        self.offered_last = False
        self.turned: bool | None = None  # a slice between transposer and shift buffer
        self.leaves = False  # the oldest page has few slices left, and they can all leave

    def decide(self) -> None:
        """Accept, step and push in this cycle?"""
        self.steps_now = self.closes = False
        if self.held is not None:
            if self.in_lanes:
                self.steps_now = self.steps > 0 or self._has_room()
                self.closes = self.steps_now and self.steps + 1 == getattr(self.held[0], self.lanes)
            else:
                self.steps_now = self.credits > 0
                self.closes = self.steps_now and self.steps + 1 == self.held[0].slices
        self.accepts = len(self.queue) > 0 and (self.held is None or self.closes)
        self.pushes = self.offered > 0 and self.credits > 0

    def _has_room(self) -> bool:
        pages = self.timing.pages
        return self.started < pages or (self.started == pages and self.leaves)

    def step(self, popped: bool) -> None:
        """The registers after this cycle, in which the issuer took a slice or not."""
        finished = self.pushes and self.offered == 1
        self.leaves = 0 < self.offered <= min(t.LEFT_OVER + 1, self.credits) and not finished
        loads = self.full > 0 and (self.offered == 0 or finished)
        if popped:
            self.buffer.popleft()
        arrived = self.coming.popleft()
        if arrived is not None:
            self.buffer.append(arrived)
        if self.turned is not None:
            self.buffer.append(self.turned)
        self.turned = None
        if self.pushes:
            self.turned = self.offered_last and self.offered == 1
            self.offered -= 1
        self.credits += popped - self.pushes - (self.steps_now and not self.in_lanes)
        self.started += (self.steps_now and self.in_lanes and self.steps == 0) - finished
        self.full += self.filling.popleft() - loads
        self.filling.append(self.closes and self.in_lanes)
        if self.steps_now and self.in_lanes and self.steps == 0:
            assert self.held is not None
            self.records.append((self.held[0].slices, self.held[2]))
        if loads:
            self.offered, self.offered_last = self.records.popleft()
        direct = self.steps_now and not self.in_lanes
        ends = direct and self.closes and self.held is not None and self.held[2]
        self.coming.append(ends if direct else None)
        self.steps += self.steps_now
        if self.closes:
            self.held = None
        if self.accepts:
            self.held = self.queue.popleft()
            self.steps = 0


class _Issuer:
    """``Issuer``, and the credits of ``ResultQueue`` under a host that takes every row at once."""

    def __init__(self, load: Load, planner: _Planner, a: _Feeder, b: _Feeder) -> None:
        self.planner, self.a, self.b = planner, a, b
        self.to_stream = load.to_stream
        self.latency = load.timing.row_latency(load.walk.destination)
        self.credits = load.timing.result_depth
        #: Rows on their way to the host: the cycle from which on each counts as left.
        self.rows: deque[int] = deque()
        self.rows_left = 0
        self.stalls = dict.fromkeys(("a", "b", "drain", "results"), 0)

    def decide(self, now: int) -> None:
        """Take a slice in this cycle?"""
        while self.rows and self.rows[0] <= now:
            self.rows.popleft()
            self.credits += 1
        self.goes = self.ends = False
        if not self.a.buffer:
            self.stalls["a"] += 1
            return
        if not self.b.buffer:
            self.stalls["b"] += 1
            return
        tile = self.planner.tiles[0]
        last = self.b.buffer[0]
        if last and self.rows_left > 0:
            self.stalls["drain"] += 1
        elif last and self.to_stream and tile.last_block and self.credits < tile.rows:
            self.stalls["results"] += 1
        else:
            self.goes, self.ends = True, last

    def step(self, now: int) -> Chunk | None:
        """The registers after this cycle; the tile whose last slice was taken, if one was."""
        self.rows_left = max(self.rows_left - 1, 0)
        if not self.ends:
            return None
        tile = self.planner.tiles.popleft()
        self.rows_left = tile.rows - 1
        if self.to_stream and tile.last_block:
            self.credits -= tile.rows
            self.rows.extend(now + self.latency + row for row in range(tile.rows))
        return tile


def clock_gemm(load: Load) -> GemmCycles:
    """The cycles of a GEMM; cycle 0 is the one in which planner and issuer are started."""
    planner = _Planner(load)
    a = _Feeder(load.timing, planner.a, "rows" if load.a_in_lanes else "")
    b = _Feeder(load.timing, planner.b, "columns" if load.b_in_lanes else "")
    issuer = _Issuer(load, planner, a, b)
    now = 0
    first_read = 0
    last: Chunk | None = None
    while last is None or not last.last:
        now += 1
        planner.decide()
        a.decide()
        b.decide()
        issuer.decide(now)
        if not first_read and (a.steps_now or (b.steps_now and load.b_reads)):
            first_read = now + t.READ
        # Queues take what was decided on before they give: all decisions are made.
        last = issuer.step(now)
        planner.step()
        a.step(issuer.goes)
        b.step(issuer.goes)
    total = now + issuer.latency + last.rows - 1
    return GemmCycles(total, first_read, *issuer.stalls.values())

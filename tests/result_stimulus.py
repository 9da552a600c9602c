"""Random instructions for the result rows, and what the integer model makes of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hw.column_tail import BUFFER
from sw.activation import ALL_ACTIVATIONS, SEGMENTS, Table, drain
from sw.config import MachineConfig
from sw.isa import Destination
from sw.scale import align_blocks


@dataclass
class Event:
    """A tile or block: its record, and the sums [row][column] that leave the array, garbage too."""

    tile: dict[str, int]
    sums: list[list[int]]
    #: Expected rows of the last block: (address, row, count, lanes, last).
    rows: list[tuple[int, int, int, list[int], int]] = field(default_factory=list)


@dataclass
class Instruction:
    """Settings, host writes before it, and events."""

    settings: dict[str, int]
    column_writes: list[tuple[int, int, dict[str, int]]]
    row_writes: list[tuple[int, dict[str, int]]]
    events: list[Event]


def random_sum(config: MachineConfig, rng: random.Random, limit: int | None = None) -> int:
    """Of any length; at times an end of the range."""
    width = limit or config.accumulator_bits
    kind = rng.random()
    if kind < 0.05:
        return rng.choice([-(1 << width - 1), (1 << width - 1) - 1, 0])
    value = rng.getrandbits(rng.randint(1, width - 1))
    return rng.choice([value, -value, value & -value])


def random_table(rng: random.Random) -> Table:
    """Some segments steep and far out, so that values saturate, some small."""
    return Table(
        tuple(rng.choice([-65536, 65535, rng.randint(-33000, 33000)]) for _ in range(SEGMENTS)),
        tuple(rng.choice([-32768, 32767, rng.randint(-3000, 3000)]) for _ in range(SEGMENTS)),
    )


class Stimulus:
    """Draws instructions for one configuration."""

    def __init__(self, config: MachineConfig, rng: random.Random, table: Table | None) -> None:
        self.config = config
        self.rng = rng
        self.table = table

    def settings(self, destination: int | None) -> dict[str, int]:
        config, rng = self.config, self.rng
        if destination is None:
            destination = rng.randrange(4)
        activation = 0
        if destination == BUFFER:
            activation = rng.randrange(2)
        elif destination != Destination.EXACT:
            activation = rng.randrange(4 if config.table else 3)
        flags = destination != BUFFER
        blocks = int(flags and config.blocks and rng.random() < 0.6)
        return {
            "destination": int(destination),
            "activation": activation,
            "clamp": rng.getrandbits(config.bits),
            "column_parameters": int(blocks or (flags and rng.random() < 0.7)),
            "row_parameters": int(blocks or (flags and rng.random() < 0.7)),
            "blocks": blocks,
            "x_count": rng.randint(1, 5),
            "x_stride": rng.getrandbits(config.address_bits),
            "y_stride": rng.getrandbits(config.address_bits),
        }

    def parts(self, count: int) -> list[int]:
        """Shifts of the blocks of a row or column, at most R apart."""
        top, spread = self.rng.randint(-4, 9), self.config.max_spread
        return [top - self.rng.randint(0, spread) for _ in range(count)]

    def instruction(self, destination: int | None = None) -> Instruction:
        config, rng = self.config, self.rng
        settings = self.settings(destination)
        base = settings["destination"] == BUFFER
        blocks = rng.randint(1, 3) if settings["blocks"] else 1
        batches, tiles = (1, 1) if base else (rng.randint(1, 2), rng.randint(1, 2))
        row_count = rng.randint(1, config.rows if base else 2 * config.rows)
        row_base, column_base = (rng.getrandbits(16) for _ in range(2))
        found = Instruction(settings, [], [], [])
        for batch in range(batches):
            row_parts = [self.parts(blocks) for _ in range(row_count)]
            for m, parts in enumerate(row_parts):
                for block, part in enumerate(parts):
                    entry = (row_base + (batch * row_count + m) * blocks + block) % (
                        config.row_parameters
                    )
                    found.row_writes.append((entry, self.shift(settings, parts, part)))
            columns = [self.columns(blocks) for _ in range(tiles)]
            for t, tile in enumerate(columns):
                for block in range(blocks):
                    entry = (column_base + (batch * tiles + t) * blocks + block) % config.parameters
                    for j, (parts, bias) in enumerate(tile):
                        found.column_writes.append(
                            (j, entry, {"bias": bias, **self.shift(settings, parts, parts[block])})
                        )
            for start in range(0, row_count, config.rows):
                rows = min(config.rows, row_count - start)
                for t in range(tiles):
                    offset = rng.getrandbits(config.address_bits)
                    tile = {
                        "rows": rows,
                        "columns": rng.randint(1, config.columns),
                        "offset": offset,
                        "row_stride": blocks % config.row_parameters,
                    }
                    entries = (
                        row_base + (batch * row_count + start) * blocks,
                        column_base + (batch * tiles + t) * blocks,
                    )
                    self.tile(found, tile, entries, row_parts[start:], columns[t], start)
                    found.events[-1].tile["advance"] = int(t == tiles - 1)
                    found.events[-blocks].tile["reset"] = int(start == 0 and t == 0)
        found.events[-1].tile["last"] = 1
        *place, _ = found.events[-1].rows[-1]
        found.events[-1].rows[-1] = (*place, 1)
        return found

    def shift(self, settings: dict[str, int], parts: list[int], part: int) -> dict[str, int]:
        """A parameter: its lift is anything where the instruction has no blocks."""
        if not self.config.blocks:
            return {"shift": part}
        lift = max(parts) - part if settings["blocks"] else self.rng.randint(0, 15)
        return {"shift": max(parts), "lift": lift}

    def columns(self, blocks: int) -> list[tuple[list[int], int]]:
        """For each column the parts of its blocks and its bias."""
        bits = self.config.bias_format.bits
        return [
            (self.parts(blocks), self.rng.getrandbits(bits)) for _ in range(self.config.columns)
        ]

    def tile(
        self,
        found: Instruction,
        tile: dict[str, int],
        entries: tuple[int, int],
        row_parts: list[list[int]],
        columns: list[tuple[list[int], int]],
        start: int,
    ) -> None:
        """Append the events of one tile, one per block, and the rows that the last one gives."""
        config, rng = self.config, self.rng
        blocks = len(row_parts[0])
        # So many sums of blocks fit in the accumulator that K_max terms are allowed.
        limit = config.accumulator_bits - (blocks - 1).bit_length()
        sums = [
            [
                [random_sum(config, rng, limit) for _ in range(config.columns)]
                for _ in range(tile["rows"])
            ]
            for _ in range(blocks)
        ]
        for block in range(blocks):
            record = {
                **tile,
                "row_entry": (entries[0] + block) % config.row_parameters,
                "column_entry": (entries[1] + block) % config.parameters,
                "first_block": int(block == 0),
                "last_block": int(block == blocks - 1),
                "reset": 0,
                "advance": 0,
                "last": 0,
            }
            found.events.append(Event(record, sums[block]))
        settings = found.settings
        for r in range(tile["rows"]):
            y, x = divmod(start + r, settings["x_count"])
            address = tile["offset"] + x * settings["x_stride"] + y * settings["y_stride"]
            lanes = [
                self.lane(settings, [s[r][j] for s in sums], row_parts[r], *columns[j])
                for j in range(tile["columns"])
            ]
            found.events[-1].rows.append(
                (address % (1 << config.address_bits), r, tile["columns"], lanes, 0)
            )

    def lane(
        self,
        settings: dict[str, int],
        sums: list[int],
        row_parts: list[int],
        column_parts: list[int],
        bias: int,
    ) -> int:
        """What the contract makes of one result."""
        config = self.config
        if not settings["row_parameters"]:
            row_parts = [0] * len(sums)
        if not settings["column_parameters"]:
            column_parts, bias = [0] * len(sums), 0
        if not settings["blocks"]:
            row_parts, column_parts = [max(row_parts)], [max(column_parts)]
        accumulator, row, column = align_blocks(sums, row_parts, column_parts, config.max_spread)
        if settings["destination"] == Destination.EXACT:
            return accumulator % (1 << config.result_bits)
        return drain(
            config.format,
            accumulator,
            row_shift=row,
            column_shift=column,
            bias=bias,
            bias_format=config.bias_format,
            activation=ALL_ACTIVATIONS[settings["activation"]],
            limit=settings["clamp"],
            table=self.table,
            output=config.output if settings["destination"] == Destination.STREAM else None,
        )

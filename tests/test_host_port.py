"""The host port on its own: where requests go, and what is replied."""

from __future__ import annotations

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.host_port import HostPort
from sw.config import MachineConfig
from sw.registers import Counter, ResultKind, Space

CONFIG = MachineConfig(bits=6, rows=2, columns=3, slots=7, parameters=8, blocks=True, table=True)
LATENCY = 2


def request(space: Space, address: int, data: int = 0, write: int = 1, count: int = 1) -> dict:
    fields = {"space": space, "write": write, "address": address, "data": data}
    return {**fields, "count": count - 1}


def simulate(bench: object) -> None:
    port = HostPort(CONFIG, LATENCY)
    simulator = Simulator(port)
    simulator.add_clock(1e-6)

    async def started(context: SimulatorContext) -> None:
        context.set(port.enable, 1)
        context.set(port.host.valid, 1)
        await bench(context, port)

    simulator.add_testbench(started)
    simulator.run()


def test_tile_writes_go_to_memory_unless_they_leave_it() -> None:
    last = CONFIG.memory_words - 1

    async def bench(context: SimulatorContext, port: HostPort) -> None:
        words = [0x15, 0x2A, 0x3F]
        data = sum(word << 6 * i for i, word in enumerate(words))
        for address, count, fits in (
            (0, 3, 1),
            (5, 2, 1),
            (last, 1, 1),
            (last, 2, 0),
            (last - 1, 3, 0),
            (1 << 31, 1, 0),
            ((1 << 32) - 1, 3, 0),
        ):
            context.set(port.host.payload, request(Space.TILES, address, data, count=count))
            assert context.get(port.host.ready) == 1
            await context.tick()
            write = context.get(port.write)
            assert write["enable"] == fits, address
            if fits:
                assert (write["address"], write["count"]) == (address, count)
                assert [write["words"][i] for i in range(count)] == words[:count]
        context.set(port.enable, 0)
        assert not context.get(port.host.ready)
        await context.tick()
        assert not context.get(port.write.enable)

    simulate(bench)


def test_parameter_writes_are_taken_apart() -> None:
    async def bench(context: SimulatorContext, port: HostPort) -> None:
        for entry in range(CONFIG.parameters):
            for column in range(CONFIG.columns):
                data = 0x2B | (-7 & 0xFF) << 16 | 9 << 24
                address = entry * CONFIG.columns + column
                found = request(Space.COLUMN_PARAMETERS, address, data)
                context.set(port.host.payload, found)
                await context.tick()
                write = context.get(port.column_write)
                assert (write["enable"], write["entry"], write["column"]) == (1, entry, column)
                fields = write["data"]
                assert (fields["bias"], fields["shift"], fields["lift"]) == (0x2B, -7, 9)
                assert not context.get(port.row_parameter_write.enable)
        context.set(port.host.payload, request(Space.ROW_PARAMETERS, 1025, 0x580))
        await context.tick()
        write = context.get(port.row_parameter_write)
        assert (write["enable"], write["entry"]) == (1, 1)
        assert (write["data"]["shift"], write["data"]["lift"]) == (-128, 5)
        context.set(port.host.payload, request(Space.TABLE, 63, 0x1FFFF))
        await context.tick()
        write = context.get(port.table_write)
        assert (write["enable"], write["index"], write["data"]) == (1, 63, -1)
        assert not context.get(port.column_write.enable)

    simulate(bench)


@pytest.mark.parametrize("stall", [0, 3])
def test_reads_are_replied_in_order_and_held_until_taken(stall: int) -> None:
    lane = CONFIG.result_bits

    async def bench(context: SimulatorContext, port: HostPort) -> None:
        for space, address, want in (
            (Space.TILES, 11, 1 | 2 << lane | 3 << 2 * lane),
            (Space.COUNTERS, Counter.MACS, (1 << 48) - 5),
            (Space.ROW_PARAMETERS, 0, 0),
        ):
            context.set(port.host.payload, request(space, address, write=0, count=2))
            assert context.get(port.host.ready)
            read = context.get(port.read)
            assert read["enable"] == (space == Space.TILES)
            await context.tick()
            for _ in range(LATENCY):
                assert not context.get(port.host.ready)
                assert not context.get(port.reply.valid)
                assert not context.get(port.idle)
                for i in range(3):
                    context.set(port.words[i].word, i + 1)
                if space == Space.COUNTERS:
                    assert context.get(port.counter) == address
                context.set(port.counter_value, want)
                await context.tick()
            for _ in range(stall):
                assert context.get(port.reply.valid)
                assert not context.get(port.host.ready)
                await context.tick()
            reply = context.get(port.reply.payload)
            assert context.get(port.reply.valid)
            assert (reply["kind"], reply["count"], reply["last"]) == (ResultKind.READ, 2, 1)
            assert reply["data"] == want
            context.set(port.reply.ready, 1)
            await context.tick()
            context.set(port.reply.ready, 0)
            assert not context.get(port.reply.valid)

    simulate(bench)

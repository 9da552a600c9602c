"""A machine in a Python simulation that serves a device: phases come, what the machine sent goes.

Under cocotb the environment variable ``SOCKET`` names the socket of the device: a line of JSON with
the ports, then one per exchange.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

import cocotb

from sim.bus import Bus, CocotbBus
from sim.machine_job import MachineFailed
from sim.machine_ports import Ports
from sim.machine_pump import Pump
from sim.machine_session import Phase, Recording, Stalls

SOCKET: Final = "MACHINE_DEVICE_SOCKET"


class Server:
    """Runs phases as they come.

    Parameters
    ----------
    ports : Ports
    stalls : Stalls or None
    limit : int
        Cycles that one phase may last.
    watch : callable
        Called now and then; raises MachineFailed if nobody waits for an answer any more.
    """

    def __init__(
        self, ports: Ports, stalls: Stalls | None, limit: int, watch: Callable[[], None]
    ) -> None:
        self.pump = Pump(ports, stalls, limit, watch)

    async def serve(
        self,
        bus: Bus,
        receive: Callable[[], list[Phase] | None],
        send: Callable[[dict[str, Any]], None],
    ) -> None:
        """Until there is nothing to receive, or the machine has failed."""
        while (phases := receive()) is not None:
            try:
                found = await self.pump.run(bus, phases)
            except MachineFailed as error:
                send({"failed": str(error)})
                return
            send(asdict(found))
            self.pump.recording = Recording([], [], found.cycles)


@cocotb.test(skip=SOCKET not in os.environ)
async def serve_device(dut: object) -> None:
    """Serve the device at the other end of the socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET])
        stream = connection.makefile("rwb")

        def receive() -> list[Phase] | None:
            line = stream.readline()
            return [Phase(**phase) for phase in json.loads(line)] if line else None

        def send(content: dict[str, Any]) -> None:
            stream.write(json.dumps(content).encode() + b"\n")
            stream.flush()

        def watch() -> None:
            if select.select([connection], [], [], 0)[0]:  # nothing comes now but the end
                raise MachineFailed("device must be open")

        content = json.loads(stream.readline())
        stalls = content["stalls"] and Stalls(**content["stalls"])
        server = Server(Ports.from_json(content["ports"]), stalls, content["limit"], watch)
        await server.serve(CocotbBus(dut, True), receive, send)

"""The machine under cocotb: reads a session's phases from a file, leaves what came back.

The environment variables ``MACHINE_SESSION`` and ``MACHINE_RECORDING`` name the two files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cocotb

from sim.bus import CocotbBus
from sim.machine_job import MachineFailed
from sim.machine_ports import Ports
from sim.machine_pump import Pump
from sim.machine_session import Phase, Recording, Stalls


def save(
    path: Path, ports: Ports, phases: Sequence[Phase], stalls: Stalls | None, limit: int
) -> None:
    """Write what the testbench reads."""
    content = {
        "ports": ports.to_json(),
        "phases": [asdict(phase) for phase in phases],
        "stalls": stalls and asdict(stalls),
        "limit": limit,
    }
    path.write_text(json.dumps(content))


def recording(path: Path) -> Recording:
    """What the testbench left; MachineFailed if that is a complaint."""
    content = json.loads(path.read_text())
    if "failed" in content:
        raise MachineFailed(content["failed"])
    return Recording(**content)


@cocotb.test()
async def run_session(dut: object) -> None:
    """Run all phases."""
    content = json.loads(Path(os.environ["MACHINE_SESSION"]).read_text())
    stalls = content["stalls"] and Stalls(**content["stalls"])
    pump = Pump(Ports.from_json(content["ports"]), stalls, content["limit"])
    left = Path(os.environ["MACHINE_RECORDING"])
    try:
        found = await pump.run(CocotbBus(dut, True), [Phase(**p) for p in content["phases"]])
    except MachineFailed as error:
        left.write_text(json.dumps({"failed": str(error)}))
        return
    left.write_text(json.dumps(asdict(found)))

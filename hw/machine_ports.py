"""The ports of a machine, whatever controls it."""

from __future__ import annotations

from typing import Any

from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from hw.controller import INSTRUCTION, STATUS
from hw.host_port import host_layout, results_layout
from sw.config import MachineConfig


def machine_ports(config: MachineConfig) -> dict[str, Any]:
    """The members of a machine's signature, as ``hw.core.Atreides`` tells them.

    Parameters
    ----------
    config : MachineConfig
    """
    return {
        "instructions": In(stream.Signature(INSTRUCTION)),
        "host": In(stream.Signature(host_layout(config))),
        "results": Out(stream.Signature(results_layout(config))),
        "status": Out(stream.Signature(STATUS)),
        "busy": Out(1),
    }

"""10,000 random instructions per configuration, legal and illegal, on the model and on RTL.

Words, result rows, faults, every counter and every cycle must be equal; under stalls all but the
cycles.
"""

from __future__ import annotations

import pytest

from sim.machine_random import run
from sw.config import MachineConfig
from sw.isa import Opcode

INSTRUCTIONS = 10_000
SEED = 20_261_122
_SMALL = {"slots": 64, "parameters": 16, "row_parameters": 64}
CONFIGS = (
    MachineConfig(bits=3, rows=2, columns=2, **_SMALL),
    MachineConfig(
        bits=4, rows=4, columns=8, blocks=True, table=True, output_bits=9, hold=True, **_SMALL
    ),
    MachineConfig(bits=8, rows=8, columns=8, unity=False, **_SMALL),
    MachineConfig(bits=16, rows=16, columns=16, **_SMALL),
)


def name(config: MachineConfig) -> str:
    return f"SF{config.bits} {config.rows}x{config.columns}"


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=name)
@pytest.mark.parametrize("stalls", [False, True], ids=["", "stalled"])
def test_random_programs_leave_on_rtl_what_they_leave_on_the_model(
    config: MachineConfig, stalls: bool
) -> None:
    wanted = INSTRUCTIONS // 4 if stalls else INSTRUCTIONS
    coverage, found = run(config, wanted, SEED + stalls, stalls=stalls)
    assert not found, f"{found[0]} (seed={SEED + stalls})"
    assert coverage.instructions >= wanted
    missed = {opcode.name for opcode in Opcode if not coverage.hits["opcode", opcode.name]}
    assert not missed, f"the stimulus never executes {missed}"

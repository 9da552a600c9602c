"""Runs the machine: the same jobs and reports for the model, Amaranth, Icarus and Verilator."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

from sim import machine_design, machine_testbench, machine_verilator
from sim.bus import AmaranthBus
from sim.gates import UNSET, check_netlist, netlist_design
from sim.lanes import HARNESS, Lanes, wrap
from sim.machine_design import TOP, Design, design
from sim.machine_job import Job, Result
from sim.machine_model import run_model
from sim.machine_ports import Ports
from sim.machine_pump import Pump
from sim.machine_session import Phase, Recording, Session, Stalls
from sim.machine_trace import Trace, Window, cut, write_views
from sim.netlist_machine import plain_design
from sim.runner import simulate

#: Every way to run the machine. ``cocotb-verilator`` is Icarus' testbench under Verilator.
BACK_ENDS: Final = ("model", "amaranth", "icarus", "cocotb-verilator", "verilator")
RTL: Final = BACK_ENDS[1:]
#: Cycles that loading, running or reading back one job may take, unless told otherwise.
LIMIT: Final = 1 << 40
#: Dumps all signals to a file that is named when the simulation starts.
_DUMP: Final = """
  reg [8*4096:1] path;
  initial if ($value$plusargs("trace=%s", path)) begin
    $dumpfile(path);
    $dumpvars;
  end
endmodule
"""
#: Time units of a cycle in the VCD files of cocotb's bus (settle, high, low) and of Amaranth.
_COCOTB_CYCLE: Final = 3
_AMARANTH_CYCLE: Final = 10**9


def execute(
    jobs: Sequence[Job],
    back_end: str,
    *,
    stalls: Stalls | None = None,
    limit: int = LIMIT,
    trace: Trace | None = None,
    netlist: str | None = None,
) -> list[Result]:
    """Run jobs one after the other, each on a machine that was reset before.

    Parameters
    ----------
    jobs : sequence of Job
        All of one configuration.
    back_end : {"model", "amaranth", "icarus", "cocotb-verilator", "verilator"}
    stalls : Stalls, optional
        Random stalls on all streams; not for the model.
    limit : int
        Cycles that one phase of a job may last.
    trace : Trace, optional
        Waveform to write; not for the model.
    netlist : {"ecp5", "ice40", "osu018"}, optional
        Run what synthesis makes of the machine; Icarus and Verilator only.

    Returns
    -------
    list of Result
        One per job.

    Raises
    ------
    ValueError
        For an unknown back end or netlist, jobs of several configurations, or a trace that it
        cannot write.
    SynthesisError
        If the tool that makes a netlist is missing or fails.
    MissingSimulator, SimulationFailed
        From the simulator.
    MachineFailed
        If the machine is stuck or breaks a stream's rules.
    """
    if back_end not in BACK_ENDS:
        raise ValueError(f"back end must be one of {', '.join(BACK_ENDS)}, not {back_end!r}")
    if netlist is not None:
        check_netlist(netlist)
        if back_end in ("model", "amaranth"):
            raise ValueError(f"netlist must be run by a Verilog simulator, not {back_end!r}")
    if not jobs:
        return []
    config = jobs[0].config
    if any(job.config != config for job in jobs):
        raise ValueError("jobs must all have one configuration")
    if back_end == "model":
        if stalls or trace:
            raise ValueError("model must have neither stalls nor a trace")
        return [run_model(job) for job in jobs]
    if trace is not None and back_end != "verilator":
        if trace.path.suffix == ".fst":
            raise ValueError(f"trace must end in .vcd for {back_end}, not {str(trace.path)!r}")
        if back_end == "cocotb-verilator":
            raise ValueError("cocotb-verilator must have no trace: verilator writes one")
    if back_end == "amaranth":
        return _in_amaranth(jobs, stalls, limit, trace)
    # Icarus never ends its first time step on the form with modules, which Verilator takes.
    if netlist is not None:
        choose = plain_design if back_end == "verilator" else netlist_design
        made = choose(config, netlist)
    else:
        made = design(config, hierarchy=trace is not None and back_end == "verilator")
    session = Session(made.ports, jobs, unset=netlist in UNSET)
    run = _in_verilator if back_end == "verilator" else _under_cocotb
    simulator = back_end.removeprefix("cocotb-")
    return session.results(run(made, simulator, session.phases(), stalls, limit, trace))


def _in_verilator(
    made: Design,
    simulator: str,
    phases: Sequence[Phase],
    stalls: Stalls | None,
    limit: int,
    trace: Trace | None,
) -> Recording:
    if trace is None:
        driver = machine_verilator.build(made)
        return machine_verilator.run(driver, made.ports, phases, stalls, limit)
    driver = machine_verilator.build(made, trace.path.suffix)
    with _unfinished(trace.path) as scratch:
        window = (scratch, trace.first, trace.end)
        found = machine_verilator.run(driver, made.ports, phases, stalls, limit, window)
        if not scratch.exists():
            raise ValueError(f"trace-from must be below {found.cycles} cycles, not {trace.first}")
    write_views(trace.path, f"TOP.{TOP}", made.ports.layout)
    return found


def _under_cocotb(
    made: Design,
    simulator: str,
    phases: Sequence[Phase],
    stalls: Stalls | None,
    limit: int,
    trace: Trace | None,
) -> Recording:
    harness = wrap([TOP], made.ports.layout, clocked=True)
    if trace is not None:
        harness = harness.rstrip().removesuffix("endmodule") + _DUMP
    with tempfile.TemporaryDirectory(prefix="atreides-session-") as directory:
        session, recording = Path(directory, "session.json"), Path(directory, "recording.json")
        waves = Path(directory, "trace.vcd")
        machine_testbench.save(session, made.ports, phases, stalls, limit)
        simulate(
            made.verilog + harness,
            "sim.machine_testbench",
            simulator,
            environment={"MACHINE_SESSION": str(session), "MACHINE_RECORDING": str(recording)},
            visible=("i", "o", "clk", "rst"),
            plusargs=(f"+trace={waves}",) if trace else (),
        )
        found = machine_testbench.recording(recording)
        if trace is not None:
            first, end = trace.first * _COCOTB_CYCLE, trace.end * _COCOTB_CYCLE
            cut(waves, trace.path, first, end)
            write_views(trace.path, f"{HARNESS}.lane0", made.ports.layout)
        return found


def _in_amaranth(
    jobs: Sequence[Job], stalls: Stalls | None, limit: int, trace: Trace | None
) -> list[Result]:
    machine = machine_design.machine(jobs[0].config)
    ports = Ports.of(machine)
    session = Session(ports, jobs)
    lanes = Lanes([machine])
    top = Module()
    top.submodules.lanes = lanes
    domain = ClockDomain("sync")
    top.domains += domain
    found: list[Recording] = []

    async def testbench(context: object) -> None:
        bus = AmaranthBus(context, lanes, domain.rst)
        found.append(await Pump(ports, stalls, limit).run(bus, session.phases()))

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    if trace is None:
        simulator.run()
        return session.results(found[0])
    # the clock rises in the middle of a period, and a cycle lasts from one edge to the next
    first, end = (max(0, 2 * c - 1) * _AMARANTH_CYCLE // 2 for c in (trace.first, trace.end))
    with _unfinished(trace.path) as scratch:
        file = scratch.open("w", encoding="utf-8")
        with Window(file, first, end) as window, simulator.write_vcd(window):
            simulator.run()
    write_views(trace.path, "bench.top.lanes.lane0", ports.layout, "__")
    return session.results(found[0])


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A scratch name beside a file, which it becomes if all goes well."""
    scratch = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)

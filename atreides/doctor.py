"""``atreides doctor``: which tools are there, which are missing and the line that gets them."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json as json_format
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.console import Console
from rich.table import Table

State = Literal["ok", "warning", "missing"]
Purpose = Literal["required", "tests", "optional"]
MARKS: Final[Mapping[State, str]] = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]look[/]",
    "missing": "[red]missing[/]",
}
APT: Final = "apt-get install -y --no-install-recommends"
#: Where Debian's package qflow-tech-osu018 puts its cell library.
OSU018: Final = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the report.

    Parameters
    ----------
    name : str
        The tool or package.
    purpose : {"required", "tests", "optional"}
        What fails without it: everything, ``make test``, or one feature.
    wanted, found : str
        Versions or places; empty when any will do, or when there is none.
    state : {"ok", "warning", "missing"}
    remedy : str
        The exact line to run, or one sentence; empty when nothing is to do.
    """

    name: str
    purpose: Purpose
    wanted: str
    found: str
    state: State
    remedy: str = ""


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show which tools are there, which are missing and how to get them."""
    findings = examine(os.environ)
    healthy = all(f.state != "missing" or f.purpose == "optional" for f in findings)
    if json:
        report = {"healthy": healthy, "findings": [asdict(finding) for finding in findings]}
        print(json_format.dumps(report, indent=2))
    else:
        show(findings, healthy)
    if not healthy:
        raise typer.Exit(1)


def examine(environment: Mapping[str, str]) -> list[Finding]:
    """Look for everything that Atreides uses.

    Parameters
    ----------
    environment : mapping of str to str
        ``PATH`` and ``ATREIDES_DATA`` are read from it.

    Returns
    -------
    list of Finding
        Required things first, optional ones last.
    """
    path = environment.get("PATH", "")
    return [
        examine_python(),
        *examine_programs(path),
        examine_libpython(),
        *examine_packages(),
        *examine_verilator_on_path(path),
        *examine_tensors(),
        *examine_optional(environment),
    ]


def examine_python() -> Finding:
    """The interpreter that runs this."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", "required", ">= 3.11", found, "ok")


def examine_programs(path: str) -> Iterator[Finding]:
    """The simulator, the compiler and what they are run with, as found on ``path``."""
    # Verilator's front end needs more of Perl than Debian's perl-base holds.
    perl = ["-MPod::Usage", "-MGetopt::Long", "-MIO::File", "-e", "printf '%vd', $^V"]
    programs = (
        ("g++", "g++", ["-dumpfullversion"]),
        ("make", "make", ["--version"]),
        ("perl", "perl", perl),
        ("iverilog", "iverilog", ["-V"]),
        ("vvp", "iverilog", ["-V"]),
    )
    for name, package, arguments in programs:
        found = version_of(name, arguments, path)
        if found:
            yield Finding(name, "required", "any", found, "ok")
        else:
            yield Finding(name, "required", "any", "", "missing", f"{APT} {package}")


def version_of(program: str, arguments: list[str], path: str) -> str:
    """The version that a program on ``path`` reports; empty if it is not there or fails."""
    location = shutil.which(program, path=path)
    if location is None:
        return ""
    try:
        result = subprocess.run(
            [location, *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    version = re.search(r"\d+\.\d+(\.\d+)?", result.stdout + result.stderr)
    return version[0] if version and result.returncode == 0 else ""


def examine_libpython() -> Finding:
    """Python's shared library, which simulators embed and Debian packs on its own."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    inside = Path(sysconfig.get_config_var("LIBDIR") or "/") / name
    version = f"3.{sys.version_info.minor}"
    try:
        ctypes.CDLL(str(inside) if inside.is_file() else name)
    except OSError:
        remedy = f"{APT} libpython{version}"
        return Finding("libpython", "required", version, "", "missing", remedy)
    return Finding("libpython", "required", version, version, "ok")


def requirements() -> list[tuple[str, str, bool]]:
    """The pinned packages: name, version, and whether only the tests need it.

    Read from the checkout's ``pyproject.toml``, else from what pip recorded at installation.
    """
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        lines = [*table["dependencies"]]
        lines += [f'{line}; extra == "dev"' for line in table["optional-dependencies"]["dev"]]
    else:
        lines = importlib.metadata.requires("atreides") or []
    pins = (re.match(r"([\w.-]+)==([\w.]+)(.*)", line) for line in lines)
    return [(pin[1], pin[2], "extra" in pin[3]) for pin in pins if pin]


def examine_packages() -> Iterator[Finding]:
    """The pinned Python packages, without importing them."""
    for name, wanted, for_tests in requirements():
        purpose: Purpose = "tests" if for_tests else "required"
        install = f'{sys.executable} -m pip install "{name}=={wanted}"'
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, purpose, wanted, "", "missing", install)
            continue
        same = found.split("+")[0] == wanted  # a local part names a build: 2.13.0+cpu
        yield Finding(name, purpose, wanted, found, *(("ok", "") if same else ("warning", install)))


def examine_verilator_on_path(path: str) -> Iterator[Finding]:
    """An older Verilator that a person gets by typing its name, if there is one."""
    found = version_of("verilator", ["--version"], path)
    wanted = dict((name, pin) for name, pin, _ in requirements())["verilator"]
    if found and version_key(found) < version_key(wanted):
        remedy = "Atreides runs its own; keep the older one off PATH when you call it by hand"
        place = f"{found} at {shutil.which('verilator', path=path)}"
        yield Finding("verilator on PATH", "optional", wanted, place, "warning", remedy)


def version_key(version: str) -> tuple[int, ...]:
    """Numbers to compare versions by: 5.006 is older than 5.48.0, as Verilator counts."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def examine_tensors() -> Iterator[Finding]:
    """What tensors are computed with: the device beside the CPU, and the compiled kernels."""
    try:
        import torch
    except (ImportError, OSError) as error:
        remedy = f'{sys.executable} -m pip install --force-reinstall "torch"'
        yield Finding("torch imports", "required", "yes", str(error), "missing", remedy)
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    yield Finding("device", "optional", "CPU or CUDA", device, "ok")

    from sw import native

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the row says it
        compiled = native.library() is not None
    if compiled:
        yield Finding("native kernels", "optional", "compiled", "compiled", "ok")
    else:
        remedy = f"{APT} g++"
        if os.environ.get("ATREIDES_NATIVE") == "0":
            remedy = "unset ATREIDES_NATIVE"
        plain = "plain torch: the same bits, slower"
        yield Finding("native kernels", "optional", "compiled", plain, "warning", remedy)


def examine_optional(environment: Mapping[str, str]) -> Iterator[Finding]:
    """What one feature each can use, and all else does without."""
    path = environment.get("PATH", "")

    def optional(name: str, what: str, found: str, remedy: str) -> Finding:
        return Finding(
            name, "optional", what, found, *(("ok", "") if found else ("missing", remedy))
        )

    def place(program: str) -> str:
        return shutil.which(program, path=path) or ""

    yield optional("OpenSTA", "delays of cells", place("sta"), f"{APT} opensta")
    library = str(OSU018) if OSU018.is_file() else ""
    yield optional("osu018", "a cell library", library, f"{APT} qflow-tech-osu018")
    yield optional("nix", "checks flake.nix", place("nix-instantiate"), f"{APT} nix-bin")
    data = environment.get("ATREIDES_DATA", "")
    yield optional(
        "ATREIDES_DATA",
        "models, data sets",
        data if data and Path(data).is_dir() else "",
        "export ATREIDES_DATA=/path/to/data",
    )


def show(findings: list[Finding], healthy: bool) -> None:
    """Print the report as a table, and the remedies below it, where they can be copied."""
    console = Console()
    table = Table(box=None, pad_edge=False)
    for heading in ("", "tool", "for", "wanted", "found"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        mark = MARKS[finding.state]
        table.add_row(mark, finding.name, finding.purpose, finding.wanted, finding.found)
    console.print(table)
    for finding in findings:
        if finding.remedy:
            console.print(f"\n{finding.name}:", style="bold")
            console.print(f"  {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
    verdict = "Everything required is there." if healthy else "Something required is missing."
    console.print(f"\n{verdict}", style="green" if healthy else "red")

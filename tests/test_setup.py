"""scripts/setup.sh on machines that lack things, with stand-ins for the programs it calls.

The stand-in for Python makes a `.venv` of stand-ins and leaves everything else to the real one; the
stand-ins for pip, apt-get and sudo write down how they were called.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CARRIED = ("pyproject.toml", "constraints.txt", "scripts/setup.sh")
REAL = (
    *("bash", "cat", "chmod", "cp", "dirname", "env", "flock", "grep", "id", "ls", "mkdir", "mv"),
    *("perl", "printf", "rm", "sha256sum", "sh", "sleep", "tr", "true"),
)
TOOLS = ("g++", "make", "iverilog", "vvp")
CPU_INDEX = "--index-url https://download.pytorch.org/whl/cpu torch==2.13.0"

PYTHON = """#!/bin/sh
case "$*" in
"-m venv .venv")
    echo "venv" >>{log}
    mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp {pip} .venv/bin/pip ;;
"-m pip --version") [ -x .venv/bin/pip ] ;;
"-")  # a script that prints the interpreter's path must name this stand-in
    printed=$({python} -) || exit
    [ -z "$printed" ] || echo "$0" ;;
*) exec {python} "$@" ;;
esac
"""
PIP = """#!/bin/sh
echo "pip $*" >>{log}
case "$*" in *{fails}*) exit 1 ;; esac
case "$*" in *"-e .[dev]"*) sleep {seconds} ;; esac
"""


class Machine:
    """A checkout and a PATH that holds just what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.programs = folder / "checkout", folder / "bin"
        self.log, self.pip = folder / "log", folder / "pip"
        for name in CARRIED:
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.checkout / name)
        self.programs.mkdir()
        for name in REAL:
            found = shutil.which(name)
            assert found, f"{name} must be there to test setup.sh"
            (self.programs / name).symlink_to(found)
        for name in TOOLS:
            self.add(name, "exit 0")
        self.add("nvidia-smi", "exit 1")
        self.add_pip()
        # Not the running .venv's: `torch` must look absent, as in a .venv just made.
        python = PYTHON.format(log=self.log, pip=self.pip, python=f"{sys.executable} -S")
        (self.programs / "python3").write_text(python)
        (self.programs / "python3").chmod(0o755)

    def add(self, name: str, script: str) -> None:
        program = self.programs / name
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def add_pip(self, fails: str = "nothing-fails", seconds: int = 0) -> None:
        self.pip.write_text(PIP.format(log=self.log, fails=fails, seconds=seconds))
        self.pip.chmod(0o755)

    def remove(self, name: str) -> None:
        (self.programs / name).unlink()

    def setup(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.checkout / "scripts/setup.sh"],
            env={"PATH": str(self.programs), "HOME": str(self.checkout)},
            timeout=60,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        """How the stand-ins were called since the last time this was asked."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_fresh_checkout_is_set_up_once_and_then_left_alone(machine: Machine) -> None:
    first = machine.setup()
    assert first.returncode == 0, first.stderr
    assert "setup: ready" in first.stdout
    calls = machine.calls()
    assert calls[0] == "venv"
    assert calls[-1].endswith("-c constraints.txt -e .[dev]")
    second = machine.setup()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert machine.calls() == []


def test_changed_pins_are_installed_into_the_same_environment(machine: Machine) -> None:
    machine.setup()
    machine.calls()
    with (machine.checkout / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    assert machine.setup().returncode == 0
    calls = machine.calls()
    assert calls, "nothing was installed"
    assert "venv" not in calls


def test_failed_installation_is_not_taken_for_done(machine: Machine) -> None:
    machine.add_pip(fails="-e")
    assert machine.setup().returncode != 0
    machine.add_pip()
    machine.calls()
    mended = machine.setup()
    assert mended.returncode == 0, mended.stderr
    assert "incomplete" in mended.stdout
    assert machine.calls()[0] == "venv"


def test_killed_installation_is_made_anew(machine: Machine) -> None:
    machine.add_pip(seconds=20)
    process = subprocess.Popen(
        [machine.checkout / "scripts/setup.sh"],
        env={"PATH": str(machine.programs)},
        stdout=subprocess.DEVNULL,
        process_group=0,
    )
    deadline = time.monotonic() + 20
    while not (machine.log.exists() and "-e .[dev]" in machine.log.read_text()):
        assert time.monotonic() < deadline, "pip was never called"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    machine.add_pip()
    machine.calls()
    assert machine.setup().returncode == 0
    assert machine.calls()[0] == "venv"


def test_environment_whose_python_is_gone_is_made_anew(machine: Machine) -> None:
    machine.setup()
    machine.calls()
    (machine.checkout / ".venv/bin/python").unlink()
    assert machine.setup().returncode == 0
    assert machine.calls()[0] == "venv"


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has an NVIDIA GPU")
def test_without_a_gpu_the_cpu_index_is_asked_first(machine: Machine) -> None:
    machine.setup()
    torch = [call for call in machine.calls() if "torch==" in call]
    assert len(torch) == 1
    assert torch[0].endswith(CPU_INDEX)
    assert "--retries 0" in torch[0]
    assert "--timeout" in torch[0]


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has an NVIDIA GPU")
def test_cpu_index_out_of_reach_falls_back_to_the_plain_pin(machine: Machine) -> None:
    machine.add_pip(fails="--index-url")
    result = machine.setup()
    assert result.returncode == 0, result.stderr
    assert "did not answer" in result.stdout
    torch = [call for call in machine.calls() if "torch==" in call]
    assert torch[0].endswith(CPU_INDEX)
    assert torch[1].endswith("install -qq -c constraints.txt torch==2.13.0")


def test_with_a_gpu_the_plain_pin_is_taken(machine: Machine) -> None:
    machine.add("nvidia-smi", "exit 0")
    machine.setup()
    torch = [call for call in machine.calls() if "torch==" in call]
    assert [call.split()[-1] for call in torch] == ["torch==2.13.0"]
    assert "--index-url" not in torch[0]


@pytest.mark.parametrize(
    ("absent", "package"),
    [("iverilog", "iverilog"), ("vvp", "iverilog"), ("g++", "g++"), ("perl", "perl")],
)
@pytest.mark.parametrize("installed", [False, True])
def test_without_rights_the_line_to_run_is_printed(
    machine: Machine, absent: str, package: str, installed: bool
) -> None:
    machine.add("id", "echo 1000")
    machine.add("apt-get", f'echo "apt-get $*" >>{machine.log}')
    if installed:
        machine.setup()
        machine.calls()
    machine.remove(absent)
    result = machine.setup()
    assert result.returncode == 1
    install = f"apt-get install -y --no-install-recommends {package}"
    assert f"\n    sudo apt-get update && sudo {install}\n" in result.stderr
    assert machine.calls() == []


def test_passwordless_sudo_installs_what_is_missing(machine: Machine) -> None:
    machine.add("id", "echo 1000")
    machine.add("sudo", '[ "$1" = -n ] || exit 1\nshift\nexec "$@"')
    machine.add(
        "apt-get",
        f'echo "apt-get $*" >>{machine.log}\n'
        f'case "$*" in *install*) cp {machine.programs}/make {machine.programs}/g++ ;; esac',
    )
    machine.remove("g++")
    result = machine.setup()
    assert result.returncode == 0, result.stderr
    assert "installing system packages: g++" in result.stdout


def test_root_updates_stale_package_lists_and_tries_again(machine: Machine) -> None:
    machine.add("id", "echo 0")
    fresh = machine.checkout / "lists-are-fresh"
    machine.add(
        "apt-get",
        f'echo "apt-get $*" >>{machine.log}\n'
        f'case "$*" in update*) : >{fresh} ;; *) [ -e {fresh} ] || exit 100\n'
        f"    cp {machine.programs}/make {machine.programs}/iverilog ;; esac",
    )
    machine.remove("iverilog")
    result = machine.setup()
    assert result.returncode == 0, result.stderr
    apt = [call for call in machine.calls() if call.startswith("apt-get")]
    assert apt[-2:] == [
        "apt-get update",
        "apt-get install -y --no-install-recommends iverilog",
    ]


def test_package_that_cannot_be_installed_fails(machine: Machine) -> None:
    machine.add("id", "echo 0")
    machine.add("apt-get", "exit 100")
    machine.remove("iverilog")
    result = machine.setup()
    assert result.returncode == 1
    assert "apt-get could not install them" in result.stderr
    assert not (machine.checkout / ".venv").exists()


def test_system_without_apt_is_told_what_to_install(machine: Machine) -> None:
    machine.remove("iverilog")
    result = machine.setup()
    assert result.returncode == 1
    assert "must be installed first: iverilog" in result.stderr


def test_old_python_is_refused_in_one_sentence(machine: Machine) -> None:
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        machine.add(name, 'case "$1" in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac')
    result = machine.setup()
    assert result.returncode == 1
    assert "Python must be 3.11 or newer, not Python 3.9.2" in result.stderr

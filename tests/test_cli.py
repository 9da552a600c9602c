"""The command line: choices, exit statuses, and that help imports nothing heavy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from atreides import __version__
from atreides.cli import SUBCOMMANDS, Subcommand, application, main

ROOT = Path(__file__).parent.parent
COMMANDS = [subcommand.name for subcommand in SUBCOMMANDS]
HEAVY = ("torch", "numpy", "amaranth", "cocotb")


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Subcommand]:
    """Two subcommands of a module that leaves a file behind when it is imported."""
    (tmp_path / "planted_commands.py").write_text(
        "import pathlib, typer\n"
        f"pathlib.Path({str(tmp_path / 'imported')!r}).touch()\n"
        "def interrupted() -> None:\n    raise KeyboardInterrupt\n"
        "def picky(width: int) -> None:\n"
        "    if width > 16:\n"
        "        raise typer.BadParameter(f'width must be 3 to 16, not {width}')\n"
        "    raise typer.Exit(width)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "planted_commands", raising=False)
    names = ("interrupted", "picky")
    return [Subcommand(name, f"Is {name}.", "planted_commands", name) for name in names]


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"atreides {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_subcommand(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for subcommand in SUBCOMMANDS:
        assert subcommand.name in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name: str) -> None:
    command = typer.main.get_command(application([name], SUBCOMMANDS)).commands[name]
    assert [option.name for option in command.params if not getattr(option, "help", None)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_broken_by_the_terminal_and_not_by_the_source(name: str) -> None:
    command = typer.main.get_command(application([name], SUBCOMMANDS)).commands[name]
    assert all(command.help.split("\n\n")), "an empty paragraph"
    assert "\n" not in command.help.replace("\n\n", "")


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys; from atreides.cli import main; main(['--help']);"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    result = run_python("-c", code)
    assert result.stdout.endswith("heavy: []\n"), result.stdout + result.stderr


def test_help_imports_no_subcommand(planted: list[Subcommand], tmp_path: Path) -> None:
    assert main(["--help"], planted) == 0
    assert not (tmp_path / "imported").exists()
    assert main(["picky", "3"], planted) == 3
    assert (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nonsense"], f"command must be one of {', '.join(COMMANDS)}, not 'nonsense'"),
        (["--nonsense"], "No such option: --nonsense; options are --help, --version"),
        (["doctor", "--nonsense"], "No such option: --nonsense; options are --help, --json"),
    ],
)
def test_mistake_is_one_sentence_with_the_choices(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"atreides: {expected}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["picky"], ["width", "Missing"]),
        (["picky", "wide"], ["width", "valid integer"]),
        (["picky", "17"], ["width must be 3 to 16, not 17"]),
    ],
)
def test_mistake_in_an_argument_names_it(
    planted: list[Subcommand],
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments, planted) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("atreides: ")
    assert shown.count("\n") == 1, shown
    for word in words:
        assert word.lower() in shown.lower(), shown


def test_interrupt_exits_130_without_traceback(
    planted: list[Subcommand], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["interrupted"], planted) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_interrupt_signal_ends_the_process_cleanly(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import time\ndef sleep() -> None:\n    print('asleep', flush=True)\n    time.sleep(60)\n"
    )
    # A shell's background jobs, CI's perhaps, start with interrupts ignored.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import sys; from atreides.cli import Subcommand, main;"
        "sys.exit(main(['sleep'], [Subcommand('sleep', 'Sleep.', 'sleeper', 'sleep')]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors


def test_module_runs_like_the_console_script() -> None:
    result = run_python("-m", "atreides", "--version")
    assert (result.returncode, result.stdout) == (0, f"atreides {__version__}\n"), result.stderr


def test_module_passes_the_exit_status_on() -> None:
    result = run_python("-m", "atreides", "nonsense")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr

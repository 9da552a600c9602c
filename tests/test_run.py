"""``atreides run``: files in, files out, exit statuses, and one sentence for every mistake."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from atreides.cli import main
from sw.config import MachineConfig

SMALL = ("--bits", "8", "--rows", "2", "--columns", "2", "--slots", "8")
CONFIG = MachineConfig(bits=8, rows=2, columns=2, slots=8)
TEXT = "LDR 0, 2, 2\nLDC 1, 2, 2\nMATMUL\nLIN\nSTR 2, 2, 2\n"
#: MATMUL with nothing loaded, after a store of what was not computed would be the next fault.
FAULTY = "2022\n4000\n1022\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "p.s").write_text(TEXT)
    (tmp_path / "faulty.hex").write_text(FAULTY)
    np.savez(tmp_path / "in.npz", tiles=tiles())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiles() -> np.ndarray:
    found = np.zeros((8, 2, 2), np.uint16)
    found[0] = [[0x7F, 0x00], [0x00, 0x40]]  # 1, 0; 0, 1/2
    found[1] = [[0x20, 0x30], [0x40, 0xC0]]
    return found


@pytest.mark.parametrize("back_end", ["model", "amaranth"])
def test_run_writes_dump_and_report(
    back_end: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--memory", "in.npz", "--dump", "out.npz", "--report", "report.json")
    assert main(["run", "p.s", *SMALL, *files, "--backend", back_end]) == 0
    after = np.load("out.npz", allow_pickle=False)["tiles"]
    assert after.dtype == np.uint16
    assert after[2].tolist() == [[0x20, 0x30], [0x20, 0xA0]]
    assert (after[[0, 1, 3, 4, 5, 6, 7]] == tiles()[[0, 1, 3, 4, 5, 6, 7]]).all()
    report = json.loads(Path("report.json").read_text())
    assert report["fault"]["name"] == "NONE"
    assert report["words"] == 5
    assert report["backend"] == back_end
    assert report["config"]["rows"] == 2
    assert report["counters"]["macs"] == 8
    assert report["counters"]["matmul_cycles"] == 4
    assert report["cycles"] == report["counters"]["cycles"] > 4
    shown = capsys.readouterr().out
    assert "matmul_cycles" in shown
    assert "no fault" in shown
    names = {"p.s", "faulty.hex", "in.npz", "out.npz", "report.json"}
    assert {p.name for p in folder.iterdir()} == names


@pytest.mark.parametrize("back_end", ["model", "amaranth"])
def test_fault_ends_with_2_and_leaves_dump_and_report(
    back_end: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--memory", "in.npz", "--dump", "out.npz", "--report", "report.json")
    assert main(["run", "faulty.hex", *SMALL, *files, "--backend", back_end]) == 2
    error = capsys.readouterr().err
    assert error == "atreides: faulty.hex: word 1 (4000 MATMUL): MATMUL with an empty buffer\n"
    assert (np.load("out.npz")["tiles"] == tiles()).all()
    fault = json.loads(Path("report.json").read_text())["fault"]
    assert (fault["name"], fault["program_counter"]) == ("EMPTY_BUFFER", 1)


def save(**arrays: object) -> None:
    np.savez("bad.npz", **arrays)


def good(**arrays: object) -> None:
    save(tiles=tiles(), **arrays)


MISTAKES = {
    "backend must be one of model, amaranth": (None, ("--backend", "spice")),
    "bits must be 3 to 16, not 17": (None, ("--bits", "17")),
    "--stalls must have an RTL backend": (None, ("--stalls", "1")),
    "--trace must have an RTL backend": (None, ("--trace", "w.vcd")),
    "must have --backend model, not 'amaranth'": (None, ("--backend", "amaranth", "--step")),
    "trace must end in .vcd or .fst": (None, ("--backend", "amaranth", "--trace", "w.txt")),
    "none.npz must be a readable npz archive: No such": (None, ("--memory", "none.npz")),
    "p.s must be a readable npz archive: not an npz": (None, ("--memory", "p.s")),
    "must have the array tiles": (lambda: save(words=tiles()), ("--memory", "bad.npz")),
    "tiles must be uint16, not int64": (
        lambda: save(tiles=tiles().astype(np.int64)),
        ("--memory", "bad.npz"),
    ),
    "tiles must have the shape (8, 2, 2), not (7, 2, 2)": (
        lambda: save(tiles=tiles()[1:]),
        ("--memory", "bad.npz"),
    ),
    "tiles must be 0 to 255 for SF8, not 383 at (0, 0, 0)": (
        lambda: save(tiles=tiles() + np.uint16(256) * (np.arange(32) == 0).reshape(8, 2, 2)),
        ("--memory", "bad.npz"),
    ),
    "not an npz archive of plain arrays": (
        lambda: save(tiles=np.array([[object()]])),
        ("--memory", "bad.npz"),
    ),
    "must have arrays of the names tiles, biases": (
        lambda: good(extra=tiles()),
        ("--memory", "bad.npz"),
    ),
    "row_shifts must be -128 to 127, not 128": (
        lambda: good(row_shifts=np.full(1024, 128)),
        ("--memory", "bad.npz"),
    ),
    "row_shifts must be integers, not float64": (
        lambda: good(row_shifts=np.zeros(1024)),
        ("--memory", "bad.npz"),
    ),
    "biases must have the shape (256, 2), not (1, 2)": (
        lambda: good(biases=np.zeros((1, 2), np.int64)),
        ("--memory", "bad.npz"),
    ),
    "slopes must have a machine with --table": (
        lambda: good(slopes=np.ones(32, np.int64)),
        ("--memory", "bad.npz"),
    ),
    "dump.npz must be in a folder that exists": (None, ("--dump", "none/dump.npz")),
    "must be a file, not a folder": (None, ("--report", ".")),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistake_ends_with_one_sentence(
    message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, options = MISTAKES[message]
    if prepare is not None:
        prepare()
    before = {p.name for p in folder.iterdir()}
    assert main(["run", "p.s", *SMALL, "--report", "r.json", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {p.name for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad.s", "LDR 0, 2\n", "bad.s:1:1: LDR takes 3 operands"),
        ("wide.s", "LDR 0, 3, 2\n", "wide.s:1:1: size larger than the array"),
        ("bad.hex", "2022\n40\n", "bad.hex:2: line must be one four-digit hexadecimal word"),
        ("empty.s", "; nothing\n", "empty.s must have at least one instruction"),
        ("empty.hex", "", "empty.hex must have at least one instruction"),
        ("program.txt", "NOP\n", "program must end in .s or .hex"),
        ("none.s", None, "none.s must be a readable program: No such file"),
    ],
)
def test_program_that_is_none_ends_with_one_sentence(
    name: str,
    text: str | None,
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if text is not None:
        (folder / name).write_text(text)
    assert main(["run", name, *SMALL]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_simulator_ends_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sim.runner import simulator_version

    simulator_version.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    try:
        assert main(["run", "p.s", *SMALL, "--backend", "icarus", "--dump", "out.npz"]) == 1
    finally:
        simulator_version.cache_clear()
    assert "Icarus Verilog must be installed" in capsys.readouterr().err
    assert not (folder / "out.npz").exists()


def test_machine_that_is_not_done_ends_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "p.s", *SMALL, "--backend", "amaranth", "--max-cycles", "9"]) == 1
    assert "machine must be done within 9 cycles" in capsys.readouterr().err


def test_trace_is_written_with_its_views(folder: Path) -> None:
    window = ("--trace", "w.vcd", "--trace-from", "30", "--trace-to", "40")
    assert main(["run", "p.s", *SMALL, "--backend", "amaranth", *window]) == 0
    assert "$enddefinitions" in (folder / "w.vcd").read_text()
    assert (folder / "w.vcd.gtkw").exists()
    assert (folder / "w.vcd.sucl").exists()


def debug(commands: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(commands))
    return main(["run", "p.s", *SMALL, "--memory", "in.npz", "--dump", "out.npz", *options])


def test_debugger_steps_and_shows(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert debug("s\ns\nr\nt 1\nw 4 2\nl\nn\nnonsense\nc\n", monkeypatch, "--step") == 0
    shown = capsys.readouterr().out
    assert "->     0  2022  LDR 0, 2, 2" in shown
    assert "->     2  4000  MATMUL" in shown
    assert "row buffer: 2 x 2" in shown
    assert "20 30\n40 c0\n" in shown
    assert "TILE_BASE" in shown
    assert "'nonsense' is not known" in shown
    assert np.load("out.npz")["tiles"][2].tolist() == [[0x20, 0x30], [0x20, 0xA0]]


def test_debugger_stops_at_breakpoints_only(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert debug("b 4\nc\nt 2\n", monkeypatch, "--break", "2") == 0
    shown = capsys.readouterr().out
    assert "->     2  4000" in shown
    assert "->     4  1222" in shown
    assert "->     3" not in shown
    assert "00 00\n00 00\n" in shown  # before the store


def test_registers_are_shown_after_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "p.s", *SMALL, "--dump-registers"]) == 0
    assert "activation: 2 x 2" in capsys.readouterr().out


def test_a_full_disk_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    (folder / "dump.npz").write_text("old")
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert main(["run", "p.s", *SMALL, "--memory", "in.npz", "--dump", "dump.npz"]) == 2
    complaint = capsys.readouterr().err
    assert complaint == "atreides: dump.npz must be writable: No space left on device\n"
    assert (folder / "dump.npz").read_text() == "old"

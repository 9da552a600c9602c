"""FuseSoC packages of tops: a CAPI2 core file and a testbench that checks itself.

The core file says what the manifest says (https://fusesoc.readthedocs.io, CAPI2). The testbench is
Verilog with the stimulus and the expected words in it; what is expected the caller brings, for the
hardware knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: The project in the name of a core, ``vendor:library:name:version``.
VENDOR: Final = "atreides:hw"
VERSION: Final = "0.1.0"
#: Cycles without a transfer after which streams count as stuck.
PATIENCE: Final = 100_000
#: Mismatches that a testbench prints.
PRINTED: Final = 10
_HALF_PERIOD: Final = 5


@dataclass(frozen=True, slots=True)
class Steps:
    """A unit's inputs and outputs, step by step; a clocked one is looked at before each edge.

    Parameters
    ----------
    inputs, expected, mask : sequence of int
        All inputs side by side, in the order of the manifest's ports, the first lowest; all
        outputs likewise; which bits of them count.
    resets : sequence of int
        Steps in which reset is high.
    """

    inputs: Sequence[int]
    expected: Sequence[int]
    mask: Sequence[int]
    resets: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Beats:
    """What goes into a unit's streams and must come out of them.

    Parameters
    ----------
    sources : mapping of str to sequence of (int, int)
        By stream: a payload, and after how many beats of all sinks together it is offered.
    sinks : mapping of str to sequence of (int, int)
        By stream: a payload, and which bits of it count.
    """

    sources: Mapping[str, Sequence[tuple[int, int]]]
    sinks: Mapping[str, Sequence[tuple[int, int]]]


def core_text(manifest: Mapping[str, Any], simulated: bool) -> str:
    """The CAPI2 core file of a top.

    Parameters
    ----------
    manifest : mapping
        As ``hw.build`` writes it.
    simulated : bool
        Whether there is a testbench beside it.

    Returns
    -------
    str
        Targets ``default``, ``lint`` (Verilator) and, if ``simulated``, ``sim`` (Icarus).
    """
    top, module = manifest["top"], manifest["module"]
    settings = ", ".join(f"{name} {value}" for name, value in manifest["parameters"].items())
    lines = [
        "CAPI=2:",
        f"name: {VENDOR}:{top}:{VERSION}",
        f'description: "{manifest["description"]}: {settings}"',
        "",
        "filesets:",
        *_fileset("rtl", manifest["verilog"]),
        *(_fileset("testbench", testbench_name(top)) if simulated else ()),
        "",
        "targets:",
        *_target("default", ["rtl"], module),
        *_target("lint", ["rtl"], module, "lint", "verilator", 'verilator_options: ["-Wall"]'),
    ]
    if simulated:
        options = 'iverilog_options: ["-g2012"]'
        filesets = ["rtl", "testbench"]
        lines += _target("sim", filesets, f"{module}_tb", "sim", "icarus", options)
    return "\n".join(lines) + "\n"


def testbench_name(top: str) -> str:
    """The file of a top's testbench."""
    return f"{top}_tb.v"


def _fileset(name: str, file: str) -> list[str]:
    kind = "systemVerilogSource" if name == "testbench" else "verilogSource-2005"
    return [f"  {name}:", f"    files: [{file}]", f"    file_type: {kind}"]


def _target(
    name: str, filesets: Sequence[str], top: str, flow: str = "", tool: str = "", options: str = ""
) -> list[str]:
    lines = [f"  {name}:", f"    filesets: [{', '.join(filesets)}]", f"    toplevel: {top}"]
    if flow:
        lines += [
            f"    flow: {flow}",
            "    flow_options:",
            f"      tool: {tool}",
            f"      {options}",
        ]
    return lines


def make_testbench(manifest: Mapping[str, Any], stimulus: Steps | Beats) -> str:
    """A testbench that prints ``PASS`` and ends with status 0, or says what is wrong and fails.

    Parameters
    ----------
    manifest : mapping
        As ``hw.build`` writes it.
    stimulus : Steps or Beats
    """
    maker = _steps if isinstance(stimulus, Steps) else _beats
    lines = [
        f"// Testbench of {manifest['top']}, emitted by hw.build with its stimulus and the words"
        " expected.",
        "`timescale 1ns / 1ps",
        f"module {manifest['module']}_tb;",
        "  reg clk = 0, rst = 0;",
        "  integer wrong = 0;",
        *maker(manifest, stimulus),
        "endmodule",
    ]
    return "\n".join(lines) + "\n"


def _ports(manifest: Mapping[str, Any], direction: str) -> list[Mapping[str, Any]]:
    return [port for port in manifest["ports"] if port["direction"] == direction]


def _instance(manifest: Mapping[str, Any], connections: Mapping[str, str]) -> str:
    clock = {"clk": "clk", "rst": "rst"} if manifest["clock"] else {}
    told = ", ".join(f".{port}({wire})" for port, wire in {**clock, **connections}.items())
    return f"  {manifest['module']} dut({told});"


def _contents(name: str, width: int, values: Sequence[int]) -> list[str]:
    """A memory of constants."""
    lines = [f"  reg [{width - 1}:0] {name} [0:{max(len(values), 1) - 1}];", "  initial begin"]
    lines += [f"    {name}[{i}] = {width}'h{value:x};" for i, value in enumerate(values)]
    return [*lines, "  end"]


def _verdict(told: str) -> list[str]:
    return [
        f'      if (wrong != 0) $fatal(1, "FAIL: %0d of {told}", wrong);',
        f'      $display("PASS: {told}");',
        "      $finish;",
    ]


def _steps(manifest: Mapping[str, Any], stimulus: Steps) -> Iterator[str]:
    """The body for a unit without streams."""
    wires: dict[str, str] = {}
    widths = []
    for bus, direction in (("i", "input"), ("o", "output")):
        place = 0
        for port in _ports(manifest, direction):
            wires[port["name"]] = f"{bus}[{place} +: {port['width']}]"
            place += port["width"]
        widths.append(place)
    inputs, outputs = widths
    steps = len(stimulus.inputs)
    yield f"  reg [{inputs - 1}:0] i;"
    yield f"  wire [{outputs - 1}:0] o;"
    yield from _contents("inputs", inputs, stimulus.inputs)
    yield from _contents("expected", outputs, stimulus.expected)
    yield from _contents("mask", outputs, stimulus.mask)
    resets = set(stimulus.resets)
    yield from _contents("resets", 1, [step in resets for step in range(steps)])
    yield _instance(manifest, wires)
    yield "  integer step;"
    yield "  initial begin"
    if manifest["clock"]:
        yield f"    rst = 1; i = 0; #{_HALF_PERIOD} clk = 1; #{_HALF_PERIOD} clk = 0;"
    yield from (
        f"    for (step = 0; step < {steps}; step = step + 1) begin",
        f"      i = inputs[step]; rst = resets[step]; #{_HALF_PERIOD};",
        "      if ((o & mask[step]) !== (expected[step] & mask[step])) begin",
        "        wrong = wrong + 1;",
        f'        if (wrong <= {PRINTED}) $display("step %0d: inputs %h, got %h, want %h, '
        'of which count %h", step, i, o, expected[step], mask[step]);',
        "      end",
        f"      clk = 1; #{_HALF_PERIOD}; clk = 0;",
        "    end",
    )
    yield from _verdict(f"{steps} steps")
    yield "  end"


def _beats(manifest: Mapping[str, Any], stimulus: Beats) -> Iterator[str]:
    """The body for a unit with streams; sinks are ready in some cycles and not in others."""
    widths = {port["name"]: port["width"] for port in manifest["ports"]}
    streams = {**stimulus.sources, **stimulus.sinks}
    wires = {}
    for name in streams:
        for end in ("payload", "valid", "ready"):
            wires[f"{name}_{end}"] = f"{name}_{end}"
            span = f"[{widths[f'{name}_{end}'] - 1}:0] " if end == "payload" else ""
            yield f"  wire {span}{name}_{end};"
        yield f"  integer {name}_count = 0;"
    total = sum(map(len, stimulus.sinks.values()))
    yield f"  wire [31:0] received = {' + '.join(f'{name}_count' for name in stimulus.sinks)};"
    yield "  integer idle = 0;"
    yield "  reg [15:0] chance = 16'hace1;"
    for name, beats in streams.items():
        width = widths[f"{name}_payload"]
        yield from _contents(f"{name}_payloads", width, [beat[0] for beat in beats])
        second = ("after", 32) if name in stimulus.sources else ("mask", width)
        yield from _contents(f"{name}_{second[0]}", second[1], [beat[1] for beat in beats])
    yield _instance(manifest, wires)
    for name, beats in stimulus.sources.items():
        offered = f"{name}_count < {len(beats)} && received >= {name}_after[{name}_count]"
        yield f"  assign {name}_valid = !rst && {offered};"
        yield f"  assign {name}_payload = {name}_payloads[{name}_count];"
    for number, name in enumerate(stimulus.sinks):
        yield f"  assign {name}_ready = chance[{number}] | chance[{number + 5}];"
    yield "  always @(posedge clk) begin"
    # A linear feedback shift register of 16 bits with taps 16, 14, 13 and 11.
    yield "    chance <= {chance[14:0], chance[15] ^ chance[13] ^ chance[12] ^ chance[10]};"
    yield "    idle = idle + 1;"
    for name in stimulus.sources:
        yield f"    if ({name}_valid && {name}_ready === 1) begin"
        yield f"      {name}_count <= {name}_count + 1; idle = 0;"
        yield "    end"
    for name, beats in stimulus.sinks.items():
        yield from _sink(name, len(beats))
    yield "  end"
    yield f"  always #{_HALF_PERIOD} clk = !clk;"
    yield "  initial begin"
    yield f"    rst = 1; #{6 * _HALF_PERIOD + 1} rst = 0;"
    yield f"    while (received < {total} && idle < {PATIENCE}) @(negedge clk);"
    yield "    repeat (16) @(negedge clk);"
    yield f"    if (received != {total}) begin"
    yield f'      $display("got %0d beats, want {total}", received); wrong = wrong + 1;'
    yield "    end"
    yield from _verdict(f"{total} beats")
    yield "  end"


def _sink(name: str, count: int) -> Iterator[str]:
    """Count and compare what a stream gives; a beat too many is wrong, too."""
    yield f"    if (!rst && {name}_valid !== 0 && {name}_ready) begin"
    yield f"      if ({name}_valid !== 1 || {name}_count >= {count} || ({name}_payload &"
    yield f"          {name}_mask[{name}_count]) !== ({name}_payloads[{name}_count] &"
    yield f"          {name}_mask[{name}_count])) begin"
    yield "        wrong = wrong + 1;"
    yield (
        f'        if (wrong <= {PRINTED}) $display("{name} beat %0d: got %h, want %h, of which '
        f'count %h", {name}_count, {name}_payload, {name}_payloads[{name}_count],'
        f" {name}_mask[{name}_count]);"
    )
    yield "      end"
    yield f"      {name}_count <= {name}_count + 1; idle = 0;"
    yield "    end"

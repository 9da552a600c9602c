"""``atreides run``: a program, or a compiled network, on one of several back ends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from atreides.board_report import read_report
from atreides.machine_options import machine_command
from sw.config import MachineConfig
from sw.link import BAUD

#: Of a program and of a network; a program has no meaning of its own, so nothing for ``tensor``.
BACK_ENDS: Final = ("tensor", "model", "amaranth", "icarus", "verilator", "board")
NETWORK, PROGRAM, DEBUGGER, RTL = "Networks", "Programs", "Debugging a program", "RTL"
BOARD: Final = "Board"


@machine_command(MachineConfig())
def run(
    config: MachineConfig,
    chosen: frozenset[str],
    program: Annotated[
        Path,
        typer.Argument(metavar="TARGET", help="DIR of a network, PROGRAM.s, or PROGRAM.hex as is."),
    ],
    backend: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(BACK_ENDS)}; model if left, tensor for a network."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="JSON of counters and results.")] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="X.npy",
            help="One per input of the network, in order; its example if left.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    outputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            metavar="Y.npy",
            help="One per output of the network, in order; the first ones alone if fewer.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="BACKEND",
            help="Run a second back end along and compare every layer.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    memory: Annotated[
        Path | None,
        typer.Option(
            help="npz with `tiles`, uint16 (slots, rows, columns).", rich_help_panel=PROGRAM
        ),
    ] = None,
    dump: Annotated[
        Path | None,
        typer.Option(help="npz of the tiles after the run.", rich_help_panel=PROGRAM),
    ] = None,
    stalls: Annotated[
        int | None,
        typer.Option(help="Seed of random stalls on all streams.", rich_help_panel=RTL),
    ] = None,
    max_cycles: Annotated[
        int, typer.Option(min=1, help="Give up after these.", rich_help_panel=RTL)
    ] = 1 << 40,
    netlist: Annotated[
        str | None,
        typer.Option(
            help="Run ecp5, ice40 or osu018 cells after synthesis; icarus or verilator.",
            rich_help_panel=PROGRAM,
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Waveforms: .vcd, or .fst with verilator.", rich_help_panel=RTL),
    ] = None,
    trace_from: Annotated[
        int, typer.Option(min=0, help="First cycle of the trace.", rich_help_panel=RTL)
    ] = 0,
    trace_to: Annotated[
        int, typer.Option(min=1, help="Cycle after its last.", rich_help_panel=RTL)
    ] = 1 << 62,
    port: Annotated[
        str | None,
        typer.Option(help="Serial port of a board, as /dev/ttyUSB0.", rich_help_panel=BOARD),
    ] = None,
    baud: Annotated[
        int, typer.Option(min=1, help="Its bits per second.", rich_help_panel=BOARD)
    ] = BAUD,
    bitstream: Annotated[
        Path | None,
        typer.Option(
            help="That it must hold, made by `atreides build`; any with this machine if left.",
            rich_help_panel=BOARD,
        ),
    ] = None,
    step: Annotated[
        bool,
        typer.Option("--step", help="Stop before every instruction.", rich_help_panel=DEBUGGER),
    ] = False,
    breakpoints: Annotated[
        list[int] | None,
        typer.Option("--break", help="Stop before this word.", rich_help_panel=DEBUGGER),
    ] = None,
    dump_registers: Annotated[
        bool,
        typer.Option(
            "--dump-registers", help="Show the registers after it.", rich_help_panel=DEBUGGER
        ),
    ] = False,
) -> None:
    """Run a compiled network, or a program, and show its counters.

    `atreides run build/lenet --input x.npy --output y.npy` runs it by the meaning of its layers;

    `atreides run build/lenet --backend verilator --check model` runs its example on RTL and on the
    model, compares every word, and shows the first that differs;

    `atreides run product.s --memory in.npz --dump out.npz` runs a program.

    `atreides run build/lenet --backend board --port /dev/ttyUSB0` runs it on a board.

    A network brings its machine along; the sizes below, whose defaults are for programs, must then
    be left out or be the same.

    Exit status 0; 2 for a mistake of yours or a fault of the program, after which dump and report
    are written all the same; 1 if a machine or simulator fails, or a comparison.
    """
    build = None if bitstream is None else _build_of(bitstream)
    if program.is_dir():
        from atreides.run_model import run_network
        from atreides.run_options import NetworkOptions

        _refuse(
            f"{program} is a network",
            {"memory": memory, "dump": dump, "step": step, "break": breakpoints},
            {"netlist": netlist},
            {"dump-registers": dump_registers},
        )
        rtl = (stalls, max_cycles, trace, trace_from, trace_to)
        given = NetworkOptions(
            tuple(inputs or ()),
            tuple(outputs or ()),
            backend or "tensor",
            check,
            report,
            *rtl,
            port,
            baud,
            build,
        )
        run_network(program, given, {name: getattr(config, name) for name in chosen})
        return
    if not program.exists() and not program.suffix:
        raise typer.BadParameter(
            f"{program} must be the directory of a network, made by `atreides compile`, or a"
            " program ending in .s or .hex"
        )
    from atreides.run_program import ProgramOptions, run_program

    network = {"input": inputs, "output": outputs, "check": check}
    _refuse(f"{program} is no directory of a network", network)
    options = ProgramOptions(
        backend or "model",
        memory,
        dump,
        report,
        stalls,
        max_cycles,
        trace,
        trace_from,
        trace_to,
        step,
        tuple(breakpoints or ()),
        dump_registers,
        port,
        baud,
        netlist,
        build,
    )
    run_program(program, config, options)


def _build_of(bitstream: Path) -> str:
    """The digits that name a bitstream in a board's greeting."""
    try:
        return str(read_report(bitstream)["build"])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _refuse(reason: str, *options: dict[str, object]) -> None:
    for name, value in ((n, v) for group in options for n, v in group.items()):
        if value:
            raise typer.BadParameter(f"--{name} must be left out: {reason}")

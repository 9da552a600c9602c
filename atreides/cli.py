"""``atreides``: one command line, whose subcommands are imported only when they are run."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from typer.exceptions import TyperException

from atreides import __version__
from atreides.mistakes import FileMistake, refusal

#: The exit status of a process that Ctrl-C ended: 128 and the number of SIGINT.
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Subcommand:
    """A row of the command line: what ``--help`` shows, and where the function is.

    Parameters
    ----------
    name : str
        What the user types.
    summary : str
        One line for ``atreides --help``, which imports none of the modules.
    module : str
        Imported only when this subcommand is run.
    function : str
        A function of ``module`` with typer's annotations. It raises ``typer.BadParameter`` for a
        user's mistake and ``typer.Exit`` for an exit status other than 0.
    """

    name: str
    summary: str
    module: str
    function: str

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function."""
        function: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function)
        return function

    def stand_in(self) -> Callable[..., Any]:
        """A function that is listed but never run, in place of one that need not be imported."""

        def listed() -> None:
            raise AssertionError(f"{self.name} must be loaded before it is run")

        return listed


SUBCOMMANDS: Final = (
    Subcommand(
        "assemble",
        "Turn a program's text into words for the machine.",
        "atreides.assemble",
        "assemble",
    ),
    Subcommand("build", "Build a board's bitstream.", "atreides.build", "build"),
    Subcommand(
        "compile",
        "Compile a network for a machine.",
        "atreides.compile",
        "compile",
    ),
    Subcommand(
        "demo",
        "Train a small network, quantize it and run it on Superfloat arithmetic.",
        "atreides.demo",
        "demo",
    ),
    Subcommand(
        "disassemble",
        "Turn a program's words back into text.",
        "atreides.assemble",
        "disassemble",
    ),
    Subcommand(
        "doctor",
        "Show which tools are there, which are missing and how to get them.",
        "atreides.doctor",
        "doctor",
    ),
    Subcommand(
        "estimate",
        "Show what a network takes on a machine, layer by layer, without running it.",
        "atreides.estimate",
        "estimate",
    ),
    Subcommand(
        "evaluate",
        "Measure a language model's perplexity, float or quantized.",
        "atreides.evaluate",
        "evaluate",
    ),
    Subcommand(
        "explore",
        "Compare machines on boards by accuracy, area, frequency and cycles.",
        "atreides.explore",
        "explore",
    ),
    Subcommand(
        "fit",
        "Show the largest array of each width that a board holds.",
        "atreides.fit",
        "fit",
    ),
    Subcommand(
        "generate",
        "Generate text with a language model, on the machine or as quantized.",
        "atreides.generate",
        "generate",
    ),
    Subcommand(
        "heal",
        "Retrain a quantized model's weights, all or the critical ones.",
        "atreides.heal",
        "heal",
    ),
    Subcommand(
        "ppa",
        "Measure a unit's area, delay and power beside its rivals.",
        "atreides.ppa",
        "ppa",
    ),
    Subcommand("program", "Load a bitstream onto a board.", "atreides.program", "program"),
    Subcommand(
        "quantize",
        "Quantize a language model to Superfloat words.",
        "atreides.quantize",
        "quantize",
    ),
    Subcommand(
        "report",
        "Turn a log of results into one page with tables and plots.",
        "atreides.results_page",
        "report",
    ),
    Subcommand(
        "run",
        "Run a compiled network, or a program, on a model or on RTL.",
        "atreides.run",
        "run",
    ),
    Subcommand(
        "study",
        "Study parameters, activations, formats and scaling laws.",
        "atreides.study",
        "study",
    ),
)


def main(
    arguments: Sequence[str] | None = None,
    subcommands: Sequence[Subcommand] = SUBCOMMANDS,
) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows ``atreides``; the process's own arguments if omitted.
    subcommands : sequence of Subcommand
        The rows of the command line.

    Returns
    -------
    int
        The exit status: 0, the subcommand's own, 2 for a mistake in the arguments, 130 when
        interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        status = application(words, subcommands)(words, prog_name="atreides", standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:
        print(f"atreides: {sentence(error)}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("atreides: interrupted", file=sys.stderr)
        return INTERRUPTED
    except FileMistake as error:
        print(f"atreides: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        said = refusal(error)
        if said is None:
            raise
        print(f"atreides: {said}", file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0


def application(words: Sequence[str], subcommands: Sequence[Subcommand]) -> typer.Typer:
    """The typer application for one command line, with only the chosen subcommand imported.

    Raises
    ------
    typer.BadParameter
        If the first word names no subcommand.
    """
    chosen = next((word for word in words if not word.startswith("-")), None)
    names = [subcommand.name for subcommand in subcommands]
    if chosen is not None and chosen not in names:
        raise typer.BadParameter(f"command must be one of {', '.join(names)}, not {chosen!r}")
    app = typer.Typer(
        help="Superfloat: from a PyTorch model to exact words, and to the hardware that runs them.",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_common_options)
    for subcommand in subcommands:
        function = subcommand.load() if subcommand.name == chosen else subcommand.stand_in()
        more = inspect.getdoc(function) if subcommand.name == chosen else None
        text = subcommand.summary + "\n\n" + _paragraphs((more or "").partition("\n")[2])
        app.command(subcommand.name, help=text)(function)
    return app


def _paragraphs(text: str) -> str:
    """Paragraphs of a line each: the terminal breaks them, not the source."""
    return "\n\n".join(" ".join(p.split()) for p in text.strip().split("\n\n"))


def sentence(error: TyperException) -> str:
    """One sentence for a mistake in the arguments, with the choices there are."""
    # Without a parameter to name, typer would only put "Invalid value:" in front.
    about_value = hasattr(error, "param")
    plain = about_value and getattr(error, "param", None) is None
    message = " ".join((error.message if plain else error.format_message()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    if about_value or context is None:
        return message
    options = sorted(
        option
        for parameter in context.command.get_params(context)
        for option in parameter.opts
        if option.startswith("--")
    )
    return f"{message}; options are {', '.join(options)}"


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"atreides {__version__}")
        raise typer.Exit


def _common_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options that stand before any subcommand."""

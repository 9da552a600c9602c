"""The options of every command that is about one machine, and the machine they describe."""

from __future__ import annotations

import copy
import inspect
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

from sw.config import MULTIPLIER_NAMES, MachineConfig

Bits = Annotated[int, typer.Option("--bits", metavar="N", help="Bits of a word, 3 to 16.")]
Unity = Annotated[bool, typer.Option("--unity/--no-unity", help="Whether all ones is 1.")]
Rows = Annotated[int, typer.Option("--rows", metavar="N", help="Rows of the array, 1 to 32.")]
Columns = Annotated[int, typer.Option("--columns", metavar="N", help="Columns of the array.")]
Slots = Annotated[int, typer.Option("--slots", metavar="N", help="Tile slots of the memory.")]
MaxTerms = Annotated[int, typer.Option("--max-terms", metavar="N", help="Longest dot product.")]
BiasBits = Annotated[
    int | None, typer.Option("--bias-bits", metavar="N", help="Bits of a bias; a word's if left.")
]
OutputBits = Annotated[
    int | None, typer.Option("--output-bits", metavar="N", help="Bits of words on the stream.")
]
Parameters = Annotated[
    int, typer.Option("--parameters", metavar="N", help="Parameter entries per column.")
]
RowParameters = Annotated[
    int, typer.Option("--row-parameters", metavar="N", help="Parameter entries of rows.")
]
Blocks = Annotated[bool, typer.Option("--blocks", help="With scales per block of 32 terms.")]
WithTable = Annotated[bool, typer.Option("--table", help="With the piecewise-linear activation.")]
MaxSpread = Annotated[
    int, typer.Option("--max-spread", metavar="N", help="Bits that block scales may lie apart.")
]
Hold = Annotated[bool, typer.Option("--hold/--no-hold", help="Whether zeros hold operands.")]
Skipping = Annotated[
    bool,
    typer.Option(
        "--skipping/--no-skipping",
        help="Whether slices of zeros can cost no cycle; without, a memory of flags less.",
    ),
]
Wide = Annotated[
    bool,
    typer.Option(
        "--wide/--narrow",
        help="Whether memory gives twice the array's side per cycle, so that ragged tiles read "
        "in lanes cost nothing, or once: smaller.",
    ),
]
CountersOf = Annotated[
    str, typer.Option("--counters", metavar="NAME", help="Counters: all, cycles or none.")
]
Multiplier = Annotated[
    str, typer.Option("--multiplier", metavar="NAME", help=f"{', '.join(MULTIPLIER_NAMES)}.")
]
Control = Annotated[
    str,
    typer.Option(
        "--control",
        metavar="NAME",
        help="parallel, or serial: a processor with microcode instead of units side by side, much "
        "smaller and slower.",
    ),
]

#: Every size of a machine, by the name of its field, in the order of the help.
OPTIONS: Final[dict[str, Any]] = {
    "bits": Bits,
    "unity": Unity,
    "rows": Rows,
    "columns": Columns,
    "slots": Slots,
    "max_terms": MaxTerms,
    "bias_bits": BiasBits,
    "output_bits": OutputBits,
    "parameters": Parameters,
    "row_parameters": RowParameters,
    "blocks": Blocks,
    "table": WithTable,
    "max_spread": MaxSpread,
    "hold": Hold,
    "skipping": Skipping,
    "wide": Wide,
    "counters": CountersOf,
    "multiplier": Multiplier,
    "control": Control,
}
#: A function of the command line.
Command = Callable[..., None]
#: The heading of these options in a command's help.
PANEL: Final = "Machine"


def machine_command(
    defaults: MachineConfig,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every size of the machine.

    Parameters
    ----------
    defaults : MachineConfig

    Returns
    -------
    callable
        Turns a function with a parameter ``config``, the machine, and maybe one ``chosen``, the
        names of the sizes that the user gave, into one with these options instead.
    """

    def decorate(function: Command) -> Command:
        def command(context: typer.Context, **arguments: Any) -> None:
            sizes = {name: arguments.pop(name) for name in OPTIONS}
            if "chosen" in own.parameters:
                arguments["chosen"] = frozenset(
                    name for name in OPTIONS if _is_given(context, name)
                )
            function(config=machine(**sizes), **arguments)

        own = inspect.signature(function)
        hints = get_type_hints(function, include_extras=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        found = [
            inspect.Parameter("context", keyword, annotation=typer.Context),
            *(
                parameter.replace(kind=keyword, annotation=hints[name])
                for name, parameter in own.parameters.items()
                if name not in ("config", "chosen")
            ),
            *(
                inspect.Parameter(
                    name, keyword, default=getattr(defaults, name), annotation=_in_panel(option)
                )
                for name, option in OPTIONS.items()
            ),
        ]
        command.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in found}
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return command

    return decorate


def machine(**sizes: Any) -> MachineConfig:
    """The machine of these sizes.

    Raises
    ------
    typer.BadParameter
        If one is out of range.
    """
    try:
        return MachineConfig(**sizes)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _in_panel(option: Any) -> Any:
    """An option's type, listed under the machine's heading."""
    (info,) = option.__metadata__
    listed = copy.copy(info)
    listed.rich_help_panel = PANEL
    return Annotated[option.__origin__, listed]


def read_text(path: Path) -> str:
    """A text file's content; typer.BadParameter if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise typer.BadParameter(f"{path} must be a readable file: {reason}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} must be a text file in UTF-8") from None


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none; typer.BadParameter if it cannot be written."""
    try:
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.chmod(unfinished, 0o666 & ~_mask())
            os.replace(unfinished, path)
        except OSError:
            os.unlink(unfinished)
            raise
    except OSError as error:
        reason = error.strerror or error
        raise typer.BadParameter(f"{path} must be a writable file: {reason}") from None


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""``atreides study``: what values networks hold, what formats do to them, how healing scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import typer
from rich.console import Console

from atreides import study_kinds
from atreides.study_kinds import Job
from atreides.wasq_options import MAX_SEED, told_interrupt, told_mistakes
from sw.paths import check_file, check_folder

KINDS: Final[Mapping[str, Callable[[Job], None]]] = MappingProxyType(
    {
        "distribution": study_kinds.distribution,
        "activation": study_kinds.activation,
        "formats": study_kinds.formats,
        "scaling": study_kinds.scaling,
        "train-model": study_kinds.train_model,
        "write-text": study_kinds.write_text,
    }
)


def study(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS), help="What is studied.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Names, files or folders; sizes to train."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="For JSON, tables and plots.")
    ] = Path("build/study"),
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL that rows are appended to; DIR/study.jsonl."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where it is computed.")] = "cpu",
    bits: Annotated[str, typer.Option(metavar="N,N..", help="Widths that are compared.")] = "",
    text: Annotated[
        str, typer.Option(metavar="TEXT", help="To evaluate on; a name, file or folder.")
    ] = "wikitext-2:raw-test",
    window: Annotated[int, typer.Option(min=2, metavar="N", help="Tokens of a window.")] = 512,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Most windows; of write-text: how many."),
    ] = None,
    contexts: Annotated[
        str, typer.Option(metavar="N,N..", help="Of scaling: tokens that healing sees at once.")
    ] = "",
    modes: Annotated[
        str, typer.Option(metavar="MODE,..", help="Of scaling: packed, masked, padded.")
    ] = "",
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of scaling: updates per point.")
    ] = None,
    generated: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of train-model and scaling: more text.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, metavar="S", help="Leave after so long; call again to go on."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, metavar="N", help="Of the text that is written.")
    ] = 0,
) -> None:
    """Study networks; rows are appended to a log, and what is in it is not computed again.

    `atreides study distribution yolov5n smollm2-135m` counts where parameters lie;

    `atreides study activation smollm2-135m --bits 4` ranks layers by how far they are moved;

    `atreides study formats stories260k --bits 16,8 --text tinystories` compares formats;

    `atreides study train-model 1m --device cuda` trains a model of a million parameters;

    `atreides study scaling build/models/1m build/models/5m` fits perplexity by context and bits;

    `atreides study write-text smollm2-135m --limit 4096 -o build/text` lets a model write so many
    windows, for --generated.

    Ctrl-C loses at most the row at hand, of write-text the text. Exit status 2 for a mistake of
    yours.
    """
    console = Console()
    where = log or output / "study.jsonl"
    with (
        told_mistakes("take a shorter --window"),
        told_interrupt(lambda: _kept(kind, output, where)),
    ):
        if kind not in KINDS:
            raise ValueError(f"study must be one of {', '.join(KINDS)}, not {kind!r}")
        job = Job(
            models=tuple(models or ()),
            output=output,
            log=where,
            device=device,
            bits=_integers("bits", bits),
            text=text,
            window=window,
            limit=limit,
            contexts=_integers("contexts", contexts),
            modes=tuple(modes.split(",")) if modes else (),
            steps=steps,
            generated=generated,
            seconds=seconds,
            seed=seed,
            console=console,
        )
        check_folder(output)
        check_file(where)
        KINDS[kind](job)


def _kept(kind: str, output: Path, log: Path) -> str:
    """What an interrupt leaves."""
    if kind == "train-model":
        return f"the last step done is kept in {output}: run the same again to go on"
    if kind == "write-text":
        return f"the texts that are whole are in {output}, the one at hand is not kept"
    return f"the rows done are in {log}: run the same again to go on"


def _integers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(f"{name} must be numbers with commas between, not {text!r}") from None

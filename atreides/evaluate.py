"""``atreides evaluate``: the perplexity of a language model, float or quantized, on a text."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console

from atreides import __version__
from atreides.wasq_options import chosen_device, counted, told_interrupt, told_mistakes
from sw.datasets import DatasetError
from sw.paths import cache_directory, check_file
from sw.wasq.corpus import SOURCES, Corpus, CorpusError, check_overlap, load_corpus
from sw.wasq.evaluation import WINDOW, Evaluation
from sw.wasq.evaluation import evaluate as evaluate_model
from sw.wasq.healing.world import processes
from sw.wasq.intervals import recovery
from sw.wasq.language import load_language
from sw.wasq.opened import OpenedModel, open_model
from sw.wasq.records import Record, append_record, read_records
from sw.wasq.results import make_record

REFERENCES: Final = ("auto", "float", "none")
#: Fields of a row that a checkpoint's source may have.
_SPENT: Final = {"seed": int, "tokens": int, "seconds": float, "trained": float}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for: see ``atreides evaluate --help``."""

    model: str
    text: str
    window: int | None
    batch: int
    limit: int | None
    tail: bool
    reference: str
    tokenizer: Path | None
    resume: Path | None


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name, folder, file, function, or a quantized checkpoint."
        ),
    ],
    text: Annotated[
        str, typer.Option(metavar="TEXT", help=f"{', '.join(SOURCES)} (:SPLIT), a file, a folder.")
    ] = "wikitext-2:raw-test",
    window: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help=f"Tokens of a window; {WINDOW} or the context."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Windows at a time.")] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most windows, from the beginning.")
    ] = None,
    tail: Annotated[
        bool, typer.Option("--tail/--no-tail", help="Whether the last, shorter window counts.")
    ] = False,
    reference: Annotated[
        str,
        typer.Option(help="float: compare with the unquantized model; none; auto: if quantized."),
    ] = "auto",
    log: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Append the result to a log.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="tokenizer.json or a llama2.c .bin, if not beside."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where windows done are kept; in the cache if left."),
    ] = None,
) -> None:
    """Measure perplexity, and how far a quantized model is from the float one.

    `atreides evaluate stories260k --text tinystories` is done in seconds;

    `atreides evaluate smollm2-135m --text wikitext-2:raw-test --window 2048 --device cuda` is the
    protocol of docs/wasq.md, and with `build/q8` of `atreides quantize` for the name adds the
    divergence and the ratio to the float model, with 95 % intervals;

    `torchrun --nproc-per-node 2 -m -- atreides evaluate build/q8 --log log.jsonl` shares it out;
    without `--` torchrun takes `--log` for its own.

    Windows do not overlap, nothing is put before them, and the first token of each is not
    predicted. Ctrl-C keeps the windows done: run the same again to go on. Exit status 2 for a
    mistake of yours.
    """
    with (
        told_mistakes("take a smaller --batch or --window"),
        told_interrupt(lambda: "no window is kept yet: run the same again"),
    ):
        place = chosen_device(device)
        if reference not in REFERENCES:
            raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, not {reference!r}")
        for file in (log, resume):
            if file is not None:
                check_file(file)
        wishes = Wishes(model, text, window, batch, limit, tail, reference, tokenizer, resume)
        with processes(place) as world:
            opened = open_model(model, place, tokenizer)
            corpus = load_corpus(text, opened.language.tokenizer)
            _check_calibration(opened, corpus)
            found = measure(opened, corpus, wishes, place, world.leads)
            if not world.leads:
                return
            row = _row(opened, corpus, found, place, log)
            if log is not None:
                append_record(log, row)
    show(row, Console())


def measure(
    opened: OpenedModel, corpus: Corpus, wishes: Wishes, device: torch.device, shown: bool = True
) -> Evaluation:
    """Run the evaluation that the user asked for."""
    language = opened.language
    other = None
    if wishes.reference == "float" or (wishes.reference == "auto" and opened.config is not None):
        other = (
            language.module
            if opened.config is None
            else load_language(opened.float_spec, device, opened.tokenizer).module
        )
    state = wishes.resume or _state(wishes, opened, corpus)
    kept = f"the windows done are kept in {state.parent}: run the same again to go on"
    with counted("windows", shown) as progress, told_interrupt(lambda: kept):
        return evaluate_model(
            language.module,
            corpus,
            wishes.window or min(WINDOW, language.context),
            wishes.batch,
            reference=other,
            limit=wishes.limit,
            tail=wishes.tail,
            progress=progress,
            resume=state,
        )


def show(row: Record, console: Console) -> None:
    """The result in a few lines."""
    name = row.model if row.config is None else f"{row.model}, {row.method}"
    console.print(
        f"{name} on {row.data}:{row.split}: perplexity {_figure(row.perplexity)}"
        f"{_range(row.interval)}, {row.predicted:,} tokens in {row.windows} windows of "
        f"{row.window}",
        highlight=False,
        soft_wrap=True,
    )
    if row.config is not None and row.ratio is not None:
        more = "" if row.recovery is None else f", recovery {row.recovery:.3f}"
        console.print(
            f"float {_figure(row.reference_perplexity)}: {row.ratio - 1:+.3%}"
            f"{_range(row.ratio_interval, percent=True)}, divergence {row.divergence:.6f} nats"
            f"{_range(row.divergence_interval)}{more}",
            highlight=False,
            soft_wrap=True,
        )
    bits = "float32" if row.effective_bits is None else f"{row.effective_bits:.3f} bits a weight"
    console.print(
        f"{bits}, {row.evaluation_seconds:.1f} s on {row.device}", highlight=False, soft_wrap=True
    )


def _figure(value: float | None) -> str:
    return "beyond float64" if value is None else f"{value:.4f}"


def _range(values: tuple[float, float] | None, percent: bool = False) -> str:
    if values is None:
        return ""
    low, high = values
    if percent:
        return f" (95 % {low - 1:+.3%} to {high - 1:+.3%})"
    return f" (95 % {low:.4g} to {high:.4g})" if high < 1 else f" (95 % {low:.4f} to {high:.4f})"


def _row(
    opened: OpenedModel, corpus: Corpus, found: Evaluation, device: torch.device, log: Path | None
) -> Record:
    more: dict[str, Any] = {"version": __version__}
    if opened.config is not None:
        source = opened.source
        more["method"] = str(source.get("method", "vanilla"))
        for name, kind in _SPENT.items():
            if isinstance(source.get(name), int | float):
                more[name] = kind(source[name])
        more["extra"] = {"checkpoint_sha256": opened.sha256}
    row = make_record(
        opened.language.name,
        opened.language.sha256,
        corpus,
        found,
        quantized=None if opened.config is None else opened.language.module,
        config=opened.config,
        device=device,
        **more,
    )
    for name in ("calibration", "calibration_sha256"):
        if isinstance(opened.source.get(name), str):
            row = replace(row, **{name: opened.source[name]})
    vanilla = _vanilla(row, log)
    if vanilla is None or row.perplexity is None or row.reference_perplexity is None:
        return row
    return replace(row, recovery=recovery(vanilla, row.perplexity, row.reference_perplexity))


def _vanilla(row: Record, log: Path | None) -> float | None:
    """What plain rounding with the same configuration gave on the same windows, by the log."""
    if log is None or not log.is_file() or row.config is None or row.method == "vanilla":
        return None
    same = ("model_sha256", "data_sha256", "window", "windows", "predicted", "config")
    rows = [
        other.perplexity
        for other in read_records(log).records
        if other.method == "vanilla"
        and all(getattr(other, name) == getattr(row, name) for name in same)
    ]
    return rows[-1] if rows else None


def _check_calibration(opened: OpenedModel, corpus: Corpus) -> None:
    """See that a checkpoint was not made with the text that it is to be evaluated on."""
    spec = opened.source.get("calibration")
    if not isinstance(spec, str):
        return
    try:
        calibration = load_corpus(spec, opened.language.tokenizer)
    except (CorpusError, DatasetError):  # it was checked as it was used; here it may be gone
        return
    check_overlap(calibration, corpus)


def _state(wishes: Wishes, opened: OpenedModel, corpus: Corpus) -> Path:
    """Where the windows done of this evaluation are kept if the user does not say."""
    told = [opened.sha256, corpus.sha256, wishes.window, wishes.batch, wishes.limit, wishes.tail]
    name = hashlib.sha256(json.dumps([*told, wishes.reference]).encode()).hexdigest()[:16]
    folder = cache_directory() / "evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.json"

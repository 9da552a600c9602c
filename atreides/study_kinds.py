"""The studies behind ``atreides study``: rows to the log, tables, JSON and plots to a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import Progress

from atreides import wasq_plots
from atreides.report import Folder
from atreides.study_tables import activation_table, distribution_table, law_of, summary
from atreides.wasq_options import until_interrupted
from sw.wasq import inhouse
from sw.wasq.config import SFConfig
from sw.wasq.corpus import load_corpus
from sw.wasq.generated import generate_corpus
from sw.wasq.language import LanguageModel, load_language
from sw.wasq.studies import activation as activation_study
from sw.wasq.studies import distribution as distribution_study
from sw.wasq.studies import formats as formats_study
from sw.wasq.studies import scaling as scaling_study
from sw.wasq.studies.log import append_row, has_row, read_log
from sw.wasq.studies.sources import SOURCES, check_source, load_source

Row = Mapping[str, Any]
#: Windows of real text that the activation study looks at.
_LOOKED_AT: Final = 16
#: Windows that write-text makes if not told how many, and at once on a GPU.
_WRITTEN: Final = 512
_WRITTEN_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for; see the options of ``atreides study``. Empty tuples: the default."""

    models: tuple[str, ...]
    output: Path
    log: Path
    device: str
    bits: tuple[int, ...]
    text: str
    window: int
    limit: int | None
    contexts: tuple[int, ...]
    modes: tuple[str, ...]
    steps: int | None
    generated: Path | None
    seconds: float | None
    seed: int
    console: Console

    def named(self, *defaults: str) -> tuple[str, ...]:
        """The models asked for.

        Raises
        ------
        ValueError
            If there are none, and no defaults.
        """
        if not (self.models or defaults):
            raise ValueError("model must be given, at least one")
        return self.models or defaults

    def load(self, name: str) -> LanguageModel:
        """A language model on the device."""
        return load_language(name, self.device)

    def tokens(self, model: LanguageModel) -> torch.Tensor:
        """The text, cut to the windows asked for."""
        found = load_corpus(self.text, model.tokenizer).tokens
        return found if self.limit is None else found[: self.limit * self.window]

    def generated_text(self) -> str:
        """The text of ``--generated``."""
        if self.generated is None:
            return ""
        try:
            text = self.generated.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.generated} must be a text that can be read ({error})"
            ) from None
        if not text.strip():
            raise ValueError(f"{self.generated} must hold text, not be empty")
        return text


def distribution(job: Job) -> None:
    """Where parameters lie."""
    names = job.named(*SOURCES)
    for name in names:
        check_source(name)
    folder = Folder(job.output)
    rows = []
    with Progress(console=job.console) as bar:
        task = bar.add_task("counting", total=len(names))
        for name in names:
            for source in load_source(name):
                rows.append(distribution_study.study(source))
                known = {k: v for k, v in rows[-1].items() if k != "per_tensor"}
                same = {k: known[k] for k in ("study", "sha256", "form")}
                if not has_row(read_log(job.log), **same):
                    append_row(job.log, known)
            bar.advance(task)
    job.console.print(distribution_table(rows))
    folder.write("distribution.json", _json(rows))
    _pictures(folder, "distribution", lambda kind: wasq_plots.distributions(rows, kind))


def activation(job: Job) -> None:
    """How far quantization moves layers, and how far their neurons lie apart."""
    folder = Folder(job.output)
    for name in job.named():
        model = job.load(name)
        windows = _windows(job.tokens(model), job.window)[: job.limit or _LOOKED_AT]
        for bits in job.bits or (8,):
            config = SFConfig(weights=bits, activations=bits)
            with job.console.status(f"{model.name} at {bits} bits"):
                row = activation_study.study(model.module, config, windows)
            row = {**row, "model": model.name, "sha256": model.sha256, "text": job.text}
            row |= {"bits": bits, "window": job.window}
            same = {k: row[k] for k in ("study", "sha256", "config", "text", "window", "samples")}
            if not has_row(read_log(job.log), **same):
                append_row(job.log, row)
            job.console.print(activation_table(row))
            label = f"activation-{model.name}-sf{bits}"
            folder.write(f"{label}.json", _json(row))
            for part, paint in (
                ("ranking", wasq_plots.deviations),
                ("neurons", wasq_plots.spreads),
            ):
                _pictures(folder, f"{label}-{part}", lambda kind, p=paint, r=row: p(r, kind))


def formats(job: Job) -> None:
    """Formats at equal bits."""
    folder = Folder(job.output)
    end = _deadline(job)
    for name in job.named():
        model = job.load(name)
        tokens = job.tokens(model)
        about = {"model": model.name, "sha256": model.sha256, "text": job.text}
        about |= {"asked_window": job.window, "limit": job.limit}
        for bits in job.bits or (16, 8, 4):
            common = {"study": "formats", "asked_bits": bits, **about}
            known = [row for row in read_log(job.log) if has_row([row], **common)]

            def done(part: str, form: str, scale: str, known: Sequence[Row] = known) -> bool:
                key = {"part": part, "format": form, "scale": scale}
                return has_row(known, **key)

            for row in formats_study.study(model.module, tokens, bits, job.window, done):
                append_row(job.log, {**row, **common})
                figure = "perplexity" if row["part"] == "perplexity" else "sqnr_db"
                scale = "" if row["scale"] == "none" else f" per {row['scale']}"
                told = f"{row['part']}: {row['format']}{scale} {row[figure]:.5g}"
                job.console.print(told, highlight=False)
                if time.monotonic() > end:
                    job.console.print("time is up: call again to go on")
                    return
            rows = [row for row in read_log(job.log) if has_row([row], **common)]
            label = f"formats-{model.name}-{bits}"
            folder.write(f"{label}.json", _json(rows))
            _pictures(folder, label, lambda kind, r=rows: wasq_plots.formats(r, kind))
            for line in formats_study.verdict(rows) if bits == 16 else ():
                job.console.print(line, highlight=False)


def scaling(job: Job) -> None:
    """Perplexity after healing by size, context and bits."""
    folder = Folder(job.output)
    end = _deadline(job)
    points = scaling_study.points(
        job.bits or (4, 6, 8),
        job.contexts or scaling_study.CONTEXTS,
        job.modes or scaling_study.MODES,  # type: ignore[arg-type]
    )
    budget = scaling_study.Budget() if job.steps is None else scaling_study.Budget(job.steps)
    texts = inhouse.gather(job.generated_text())
    with Progress(console=job.console) as bar:
        for name in job.named():
            model = job.load(name)
            task = bar.add_task(model.name, total=len(points))
            documents = scaling_study.documents_of(texts.train, model.tokenizer.encode)
            held = torch.tensor(model.tokenizer.encode("\n".join(texts.evaluation)))
            held_out = list(_windows(held, job.window)[: job.limit])
            known = {scaling_study.key(row) for row in read_log(job.log)}
            for point in points:
                planned = _planned(model, point, budget, held_out)
                if scaling_study.key(planned) not in known:
                    if time.monotonic() > end:
                        break
                    row = scaling_study.run_point(model.module, documents, held_out, point, budget)
                    append_row(job.log, {**row, "model": model.name, "sha256": model.sha256})
                bar.advance(task)
    if time.monotonic() > end:
        job.console.print("time is up: call again to go on")
    rows = [row for row in read_log(job.log) if row.get("study") == "scaling"]
    if not rows:
        return
    found = summary(rows)
    job.console.print_json(_json({k: v for k, v in found.items() if k != "minima"}))
    folder.write("scaling.json", _json({"rows": rows, **found}))
    _pictures(folder, "scaling", lambda kind: wasq_plots.scaling(rows, law_of(rows), kind))


def train_model(job: Job) -> None:
    """Train models in-house."""
    texts = inhouse.gather(job.generated_text())
    for name in job.named(*inhouse.RECIPES):
        with until_interrupted() as stop, Progress(console=job.console) as bar:
            task = bar.add_task(name, total=None)

            def show(step: int, steps: int, told: str, name: str = name) -> None:
                if step % 50 == 0 or step == steps:
                    bar.console.print(f"{name}: step {step} of {steps}, {told}", highlight=False)
                bar.update(task, completed=step, total=steps)  # noqa: B023
                if stop():
                    raise KeyboardInterrupt

            trained = inhouse.train(
                name,
                texts,
                job.output / name,
                device=job.device,
                seconds=job.seconds,
                progress=show,
            )
        record = trained.record
        append_row(job.log, {"study": "train-model", **record})
        held = ", ".join(f"{p:.2f}" for p in record["evaluation_perplexity"])
        job.console.print(
            f"{job.output / name}: {record['parameters']:,} parameters, {record['steps']} steps, "
            f"{record['seconds']:.0f} s, perplexity {record['validation_perplexity']:.2f} on "
            f"validation, {held} on held-out text by source"
            + ("" if trained.finished else "; not finished: call again to go on"),
            highlight=False,
        )


def write_text(job: Job) -> None:
    """Let models write, for others to learn from: NAME.txt, and its tokens beside."""
    folder = Folder(job.output)
    for name in job.named():
        model = job.load(name)
        count = job.limit or _WRITTEN
        place = folder.path / f"{Path(model.name).name}.safetensors"
        with Progress(console=job.console) as bar:
            task = bar.add_task(model.name, total=count)
            corpus = generate_corpus(
                model,
                count * job.window,
                job.window,
                seed=job.seed,
                batch=_WRITTEN_AT_ONCE if job.device != "cpu" else _WRITTEN_AT_ONCE // 16,
                path=place,
                progress=lambda done, total, task=task: bar.update(task, completed=done),
            )
        parts = corpus.tokens.reshape(-1, job.window).tolist()
        folder.write(f"{place.stem}.txt", "\n\n".join(map(model.tokenizer.decode, parts)) + "\n")
        job.console.print(f"{place.with_suffix('.txt')}: {len(corpus):,} tokens", highlight=False)


def _planned(
    model: LanguageModel,
    point: scaling_study.Point,
    budget: scaling_study.Budget,
    held_out: Sequence[torch.Tensor],
) -> dict[str, Any]:
    """The row of a point as far as it is known before."""
    return {
        **{name: getattr(point, name) for name in ("bits", "context", "mode", "seed")},
        **{name: getattr(budget, name) for name in ("steps", "tokens", "rate")},
        **{"sha256": model.sha256, "window": max(map(len, held_out))},
        "predicted": sum(len(window) - 1 for window in held_out),
    }


def _windows(tokens: torch.Tensor, window: int) -> torch.Tensor:
    if len(tokens) < window:
        raise ValueError(f"text must have at least {window} tokens, a window, not {len(tokens)}")
    return tokens[: len(tokens) // window * window].reshape(-1, window)


def _deadline(job: Job) -> float:
    return float("inf") if job.seconds is None else time.monotonic() + job.seconds


def _pictures(folder: Folder, name: str, paint: Any) -> None:
    for kind in ("svg", "png"):
        folder.write(f"{name}.{kind}", paint(kind))


def _json(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"

"""Tables of configurations: each quantized, evaluated and logged, one row after the other.

Rows that the log has already are left out, so that a table is finished in as many calls as it
takes; within a row, opt and distillation go on from their folders.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sw.wasq.baselines import IntegerConfig
from sw.wasq.checkpoint import save
from sw.wasq.config import SFConfig
from sw.wasq.corpus import Corpus, check_calibration, check_overlap, windows
from sw.wasq.evaluation import Evaluation, evaluate
from sw.wasq.language import LanguageModel
from sw.wasq.opt import BlockReport
from sw.wasq.quantize import quantize_
from sw.wasq.records import Record, append_record, read_records
from sw.wasq.results import make_record
from sw.wasq.rivals import check_integer_steps, integer_model
from sw.wasq.stacks import StackOptions, run_stack
from sw.wasq.weights import QuantizedWeight

#: Windows of the calibration that static exponents are found on.
_STATIC = 32


@dataclass(frozen=True, slots=True)
class Spec:
    """A row.

    Parameters
    ----------
    name : str
        By which it is found in the log.
    config : SFConfig or IntegerConfig or None
        None: the float model.
    steps : tuple of str
        Of :data:`sw.wasq.stacks.STEPS`; one of :data:`sw.wasq.rivals.INTEGER_STEPS` or none for
        integers.
    options : StackOptions

    Raises
    ------
    ValueError
        If integers cannot be chosen so.
    """

    name: str
    config: SFConfig | IntegerConfig | None
    steps: tuple[str, ...] = ()
    options: StackOptions = field(default_factory=StackOptions)

    def __post_init__(self) -> None:
        if isinstance(self.config, IntegerConfig):
            check_integer_steps(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all rows of a table share.

    Parameters
    ----------
    language : LanguageModel
        Float, on its device.
    calibration : sequence of Corpus
        Never a test split; overlap with ``evaluation`` is refused.
    evaluation : Corpus
    log, folder : Path
        JSONL; and where rows keep what they have finished.
    sequences, length : int
        Of calibration: windows drawn evenly from the texts, in turn.
    distil_sequences : int, optional
        As many for distillation, if not the same.
    window, batch : int
        Of the evaluation.
    limit : int, optional
        Most windows that are evaluated.
    keep : bool
        Whether quantized models are saved, in ``folder / name / model``.
    """

    language: LanguageModel
    calibration: Sequence[Corpus]
    evaluation: Corpus
    log: Path
    folder: Path
    sequences: int = 128
    distil_sequences: int | None = None
    length: int = 512
    window: int = 2048
    batch: int = 4
    limit: int | None = None
    keep: bool = False


def calibration_tokens(corpora: Sequence[Corpus], sequences: int, length: int) -> torch.Tensor:
    """Windows ``[n, length]``, as many of each text as can be, spread evenly over it.

    Raises
    ------
    ValueError
        If a text is for evaluation alone or shorter than a window, or there is none.
    """
    if not corpora:
        raise ValueError("calibration must have at least one text, not none")
    parts = []
    left = sequences
    for number, corpus in enumerate(sorted(corpora, key=len)):
        check_calibration(corpus)
        all_windows = windows(corpus, length)
        count = min(len(all_windows), left // (len(corpora) - number))
        places = torch.linspace(0, len(all_windows) - 1, count).long()
        parts.append(all_windows[places])
        left -= count
    return torch.cat(parts)


def run_table(
    setting: Setting,
    specs: Sequence[Spec],
    seconds: float | None = None,
    report: Callable[[str], None] = print,
) -> list[Record]:
    """Run the rows that the log lacks; no row is begun after ``seconds``.

    Raises
    ------
    ValueError
        If two rows have one name, or calibration and evaluation overlap.
    """
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise ValueError(f"rows must have names of their own, not {', '.join(names)}")
    for corpus in setting.calibration:
        check_overlap(corpus, setting.evaluation)
    began = time.perf_counter()
    known = read_records(setting.log).records if setting.log.exists() else ()
    finished = {record.extra.get("row") for record in known}
    made = []
    for spec in specs:
        if spec.name in finished:
            report(f"{spec.name}: in the log")
            continue
        if seconds is not None and time.perf_counter() - began > seconds:
            report(f"{spec.name}: left for the next call")
            continue
        record = run_row(setting, spec, report)
        append_record(setting.log, record)
        made.append(record)
    return made


def run_row(setting: Setting, spec: Spec, report: Callable[[str], None] = print) -> Record:
    """Quantize and evaluate one row."""
    language, device = setting.language, next(setting.language.module.parameters()).device
    tokens = calibration_tokens(setting.calibration, setting.sequences, setting.length)
    model, words, spent, extra = _quantized(setting, spec, tokens.to(device), report)
    reference = None if spec.config is None else language.module
    found = evaluate(
        model,
        setting.evaluation,
        setting.window,
        setting.batch,
        reference=reference,
        limit=setting.limit,
    )
    report(f"{spec.name}: {_figures(found)}, {spent:.0f} s")
    config = spec.config if isinstance(spec.config, SFConfig) else None
    more: dict[str, Any] = {
        "method": "+".join(spec.steps) or ("float" if spec.config is None else "vanilla"),
        "seconds": spent,
        "tokens": tokens.numel() if spec.steps else 0,
        "extra": {"row": spec.name, "options": asdict(spec.options), **extra},
    }
    if spec.steps:
        texts = "+".join(f"{c.name}-{c.split}" for c in setting.calibration)
        more["calibration"] = Corpus.of(texts, f"{len(tokens)}x{setting.length}", tokens.flatten())
    if isinstance(spec.config, IntegerConfig):
        more["extra"]["integers"] = asdict(spec.config)
        more["weight_bits"] = spec.config.weights
        more["activation_bits"] = spec.config.activations
    record = make_record(
        language.name,
        language.sha256,
        setting.evaluation,
        found,
        quantized=model if words else None,
        config=config,
        device=device,
        **more,
    )
    if setting.keep and config is not None:
        source = {"model": language.name, "sha256": language.sha256, "method": record.method}
        save(model, config, setting.folder / spec.name / "model", source)
    return record


def _quantized(
    setting: Setting, spec: Spec, tokens: torch.Tensor, report: Callable[[str], None]
) -> tuple[nn.Module, bool, float, dict[str, Any]]:
    """The model, whether it has words, seconds spent and what else is worth keeping."""
    began = time.perf_counter()
    base = setting.language.module
    if spec.config is None:
        return base, False, 0.0, {}
    times: dict[str, float] = {}
    blocks: list[dict[str, Any]] = []

    def on_block(block: BlockReport, _: dict[str, QuantizedWeight] | None = None) -> None:
        blocks.append(asdict(block))
        report(
            f"{spec.name}: block {block.index + 1}/{block.blocks}, error {block.before:.5f} to "
            f"{block.after:.5f}, {block.changed / block.words:.1%} changed, {block.seconds:.1f} s"
        )

    if isinstance(spec.config, IntegerConfig):
        model = integer_model(base, spec.config, spec.steps, tokens, on_block)
        return model, False, time.perf_counter() - began, {"blocks": blocks} if blocks else {}
    model = copy.deepcopy(base)

    def on_step(step: str, _: dict[str, QuantizedWeight]) -> None:
        times[step] = time.perf_counter() - began
        report(f"{spec.name}: {step} done at {times[step]:.1f} s")

    def progress(what: str, number: int, count: int) -> None:
        if what == "distil" and number % 50 == 0:
            report(f"{spec.name}: {what} {number}/{count} at {time.perf_counter() - began:.1f} s")

    words = run_stack(
        model,
        spec.config,
        spec.steps,
        tokens,
        spec.options,
        distil_tokens=_more_tokens(setting, tokens),
        resume=setting.folder / spec.name,
        progress=progress,
        on_block=on_block,
        on_step=on_step,
    )
    spent = time.perf_counter() - began
    inputs = [(one[None],) for one in tokens[:_STATIC]]
    quantize_(model, spec.config, weights=words, calibration=inputs)
    return model, True, spent, {"times": times, "blocks": blocks}


def _more_tokens(setting: Setting, tokens: torch.Tensor) -> torch.Tensor:
    if setting.distil_sequences is None:
        return tokens
    found = calibration_tokens(setting.calibration, setting.distil_sequences, setting.length)
    return found.to(tokens.device)


def _figures(found: Evaluation) -> str:
    ratio = found.ratio()
    told = f"perplexity {found.perplexity:.4f}"
    if ratio is not None:
        told += f" ({ratio[0] - 1:+.2%}), divergence {found.divergence:.5f}"
    return told

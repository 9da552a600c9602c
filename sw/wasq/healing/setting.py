"""What methods are compared on, and the log that remembers which runs are done."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sw.wasq.config import SFConfig
from sw.wasq.corpus import Corpus, check_overlap, windows
from sw.wasq.evaluation import Evaluation, evaluate
from sw.wasq.healing.options import Healed, HealOptions
from sw.wasq.language import LanguageModel
from sw.wasq.records import Record, append_record, read_records
from sw.wasq.results import make_record

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What is compared on what.

    Parameters
    ----------
    language : LanguageModel
        The float model, on its device; it is copied, never changed.
    text, judged : Corpus
        What is healed on, and evaluated on; they must not overlap.
    config : SFConfig
    options : HealOptions
        Steps, batch, rate and all else that every method shares; seed and rho are set by studies.
    log : Path
    window : int
        Tokens of a window of ``text``.
    judged_window, batch : int
        Of the evaluation, and windows at a time.
    limit : int, optional
        Most windows of an evaluation.
    seconds : float
        After which no further run is begun that may take longer than what is left of them.
    note : callable, optional
        Told one line per run.
    """

    language: LanguageModel
    text: Corpus
    judged: Corpus
    config: SFConfig
    options: HealOptions
    log: Path
    window: int = 512
    judged_window: int = 2048
    batch: int = 1
    limit: int | None = None
    seconds: float = 540.0
    note: Note | None = None

    def samples(self) -> torch.Tensor:
        """Windows to heal on, checked against those to evaluate on."""
        check_overlap(self.text, self.judged)
        return windows(self.text, self.window)

    def copy(self) -> nn.Module:
        """The float model, to be changed."""
        return copy.deepcopy(self.language.module)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(iter(self.language.module.parameters())).device

    def judge(self, model: nn.Module, limit: int | None = None) -> Evaluation:
        """Perplexity, and divergence from the float model."""
        window = min(self.judged_window, self.language.context)
        most = self.limit if limit is None else limit
        reference = self.language.module
        return evaluate(
            model, self.judged, window, self.batch, reference=reference, limit=most, tail=False
        )

    def perplexity(self, model: nn.Module, limit: int) -> float:
        """A quick one, of the first windows."""
        window = min(self.judged_window, self.language.context)
        return evaluate(model, self.judged, window, self.batch, limit=limit, tail=False).perplexity


def spent_by(healed: Healed, method: str, options: HealOptions) -> dict[str, Any]:
    """What a healing took, as fields of :class:`Record`."""
    return {
        "method": method,
        "seed": options.seed,
        "tokens": healed.tokens,
        "seconds": healed.seconds,
        "trained": healed.fraction,
    }


def row_of(
    setting: Setting,
    model: nn.Module,
    config: SFConfig,
    spent: dict[str, Any],
    extra: dict[str, Any],
) -> Record:
    """Evaluate a model: a row for the log, with what the study adds.

    Parameters
    ----------
    setting : Setting
    model : nn.Module
        Quantized.
    config : SFConfig
    spent : dict
        Fields of :class:`Record`: method, seed, tokens, seconds, trained.
    extra : dict
    """
    return make_record(
        setting.language.name,
        setting.language.sha256,
        setting.judged,
        setting.judge(model),
        quantized=model,
        config=config,
        calibration=setting.text,
        device=setting.device,
        extra={**extra, "of": _identity(setting)},
        **spent,
    )


def _identity(setting: Setting) -> dict[str, Any]:
    """What rows of the same study have alike, besides their keys."""
    options = setting.options
    return {
        "weights": setting.config.weights,
        "activations": setting.config.activations,
        "weight_scale": setting.config.weight_scale,
        "steps": options.steps,
        "batch": options.batch,
        "rate": options.learning_rate,
        "window": setting.window,
        "limit": setting.limit,
    }


def run_missing(
    setting: Setting, runs: Iterator[tuple[dict[str, Any], Callable[[], Record]]]
) -> bool:
    """Do the runs that the log lacks, until the time is up; whether none is left."""
    started, longest = time.monotonic(), 0.0
    known = read_records(setting.log).records if setting.log.is_file() else ()
    mine = [
        record.extra
        for record in known
        if record.model_sha256 == setting.language.sha256
        and record.extra.get("of") == _identity(setting)
    ]
    for key, one in runs:
        if any(all(row.get(n) == v for n, v in key.items()) for row in mine):
            continue
        if longest and time.monotonic() - started + longest > setting.seconds:
            return False
        begun = time.monotonic()
        record = one()
        append_record(setting.log, record)
        longest = max(longest, time.monotonic() - begun)
        if setting.note is not None:
            told = ", ".join(f"{n} {v}" for n, v in key.items())
            setting.note(f"{told}: perplexity {record.perplexity}, {record.seconds:.1f} s")
    return True

"""What is healed on what: the model, its texts, and the words to start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from atreides.wasq_options import absolute
from sw.wasq.checkpoint import load
from sw.wasq.config import SFConfig
from sw.wasq.corpus import (
    SOURCES,
    Corpus,
    check_calibration,
    check_held_out,
    check_overlap,
    load_corpus,
    windows,
)
from sw.wasq.described import describe
from sw.wasq.language import LanguageModel, load_language
from sw.wasq.modules import QuantizedLayer
from sw.wasq.weights import QuantizedWeight


@dataclass(frozen=True, slots=True)
class Job:
    """What is healed on what, loaded and checked.

    Parameters
    ----------
    spec : str
        The model as the user named it, wherever it is called from.
    language : LanguageModel
    text : Corpus
    calibration : str
        As ``spec``, of the text.
    data : torch.Tensor ``[n, T]``
    judged : Corpus or None
        What the healed model is evaluated on.
    tokenizer : str or None
        As ``spec``, where it was read from, if not beside the model.
    """

    spec: str
    language: LanguageModel
    text: Corpus
    calibration: str
    data: torch.Tensor
    judged: Corpus | None
    tokenizer: str | None = None


def load_job(
    spec: str,
    device: torch.device,
    text: str,
    window: int | None,
    judged: str | None,
    tokenizer: Path | None,
) -> Job:
    """Load model and texts, and see that the one is not healed on what it is judged by."""
    language = load_language(spec, device, tokenizer)
    corpus = load_corpus(text, language.tokenizer)
    is_named = text.partition(":")[0] in SOURCES
    if is_named:  # whose splits are known not to overlap
        check_calibration(corpus)
    else:
        check_held_out(corpus, language.tokenizer)
    other = None if judged is None else load_corpus(judged, language.tokenizer)
    if other is not None:
        check_overlap(corpus, other)
    data = windows(corpus, window or min(512, language.context))
    named = f"{corpus.name}:{corpus.split}"
    calibration = named if is_named else absolute(text)
    beside = None if tokenizer is None else absolute(str(tokenizer))
    return Job(absolute(spec), language, corpus, calibration, data, other, beside)


def words_of(begin: Path, job: Job, config: SFConfig) -> dict[str, QuantizedWeight]:
    """The words of a checkpoint, whose floats the model takes over, too.

    Raises
    ------
    ValueError
        If it is of another model, or of a configuration with other words.
    """
    if describe(begin).source.get("sha256") != job.language.sha256:
        raise ValueError(f"{begin} must be a checkpoint of {job.spec}, not of another model")
    other = load_language(job.spec, "cpu", job.tokenizer and Path(job.tokenizer)).module
    load(begin, other)
    found = {n: m.weight for n, m in other.named_modules() if isinstance(m, QuantizedLayer)}
    own = dict(job.language.module.named_parameters())
    device = next(iter(own.values())).device
    with torch.no_grad():
        for name, value in other.named_parameters():
            if name not in own or own[name].shape != value.shape:
                raise ValueError(f"{begin} must have the modules of {job.spec}, not rotated ones")
            own[name].copy_(value)
    for name, words in found.items():
        layer = config.for_module(name)
        if (words.format, words.scale) != (layer.weight_format, layer.weight_scale):
            raise ValueError(f"{begin} must hold {layer.weight_format} per {layer.weight_scale}")
    return {name: words.to(device) for name, words in found.items()}

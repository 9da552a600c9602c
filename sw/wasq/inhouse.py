"""Language models trained in-house, in float32 from the start: no 4-bit grid in their past.

Llamas of 0.3 to 20 million parameters on the text at hand, with a byte pair tokenizer of 2048
tokens trained on the same text. Of every text the last tenth is held out: its first half chooses
the step that is kept, its second half is for evaluation and seen by nobody.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from sw import datasets
from sw.importers.named import detokenize
from sw.models.llama import Llama
from sw.wasq.corpus import check_text
from sw.wasq.inhouse_training import Progress, Recipe, Trainer, perplexity
from sw.wasq.language import save_language
from sw.wasq.pair_training import Pairs, train_pairs
from sw.wasq.tokens import PairTokens

VOCABULARY: Final = 2048
HELD_OUT: Final = 0.1


#: By name: about 0.34, 1.1, 5.3 and 20.0 million parameters.
RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "0.3m": Recipe(64, 176, 4, 4, 4, steps=3000, rate=4e-3, dropout=0.0),
        "1m": Recipe(128, 352, 4, 4, 4, steps=2000, rate=3e-3, dropout=0.05),
        "5m": Recipe(256, 704, 6, 8, 8, steps=1000, rate=1.5e-3, dropout=0.2),
        "20m": Recipe(512, 1376, 6, 8, 8, steps=700, rate=1e-3, dropout=0.3),
    }
)


@dataclass(frozen=True, slots=True)
class Texts:
    """The text of a model: by source, of each the first 90 %, then 5 %, then 5 %."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    evaluation: tuple[str, ...]


def gather(generated: str = "") -> Texts:
    """WikiText-2's valid split, tinyshakespeare and generated text; never WikiText's test split.

    Raises
    ------
    sw.datasets.DatasetError
        If a data set is missing.
    sw.wasq.corpus.CorpusError
        If the generated text shares any with what is held out: of the data sets here, or
        WikiText's test split where that is there.
    """
    sources = [detokenize(datasets.wikitext("valid")), datasets.tinyshakespeare()]
    if not generated:
        return divide(sources)
    own = divide(sources)
    ends = map("".join, zip(own.validation, own.evaluation, strict=True))
    names = ("wikitext-2-valid", "tinyshakespeare")
    held_out = {(name, "held-out"): end for name, end in zip(names, ends, strict=True)}
    with contextlib.suppress(datasets.DatasetError):  # nobody has evaluated on what is not there
        held_out["wikitext-2", "raw-test"] = datasets.wikitext("raw-test")
    check_text(generated, "generated text", held_out)
    return divide([*sources, generated])


def divide(sources: Sequence[str]) -> Texts:
    """Cut every source at line ends: to train on, to choose by, to evaluate on.

    Raises
    ------
    ValueError
        If a source is too short to be cut.
    """
    parts = []
    for source in sources:
        cuts = [source.find("\n", int(len(source) * (1 - share))) + 1 for share in (0.1, 0.05)]
        if not 0 < cuts[0] < cuts[1] < len(source):
            raise ValueError(f"text must have lines to hold out, not {len(source)} characters")
        parts.append((source[: cuts[0]], source[cuts[0] : cuts[1]], source[cuts[1] :]))
    train, validation, evaluation = zip(*parts, strict=True)
    return Texts(train, validation, evaluation)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What training gives.

    Parameters
    ----------
    model : Llama
        In evaluation mode, as it was when the validation text was told best.
    pairs : Pairs
        Its tokenizer.
    record : dict
        Figures as plain data: parameters, steps, tokens, seconds, perplexities, curve.
    finished : bool
        False if the time was up first: what is on disk then goes on from there.
    """

    model: Llama
    pairs: Pairs
    record: dict[str, Any]
    finished: bool


def train(
    name: str,
    texts: Texts,
    folder: Path,
    *,
    recipe: Recipe | None = None,
    device: str = "cpu",
    seconds: float | None = None,
    vocabulary: int = VOCABULARY,
    progress: Progress | None = None,
) -> Trained:
    """Train a model and save it as a Hugging Face folder; go on where a checkpoint is.

    Parameters
    ----------
    name : str
        Of :data:`RECIPES`, or of the given recipe.
    texts : Texts
    folder : Path
        Gets ``config.json`` (the record under ``atreides``), ``model.safetensors`` and
        ``tokenizer.json``; beside it is, while training is not finished, its checkpoint.
    recipe : Recipe, optional
    device : str
    seconds : float, optional
        Most seconds of this call; then a checkpoint is left and the best model so far is saved.
    vocabulary : int
    progress : callable, optional

    Raises
    ------
    ValueError
        If there is no recipe of this name, the text is too short, or the checkpoint is of
        another recipe or text.
    KeyboardInterrupt
        After Ctrl-C; a checkpoint is left.
    """
    if recipe is None and name not in RECIPES:
        raise ValueError(f"model must be one of {', '.join(RECIPES)}, not {name!r}")
    recipe = recipe or RECIPES[name]
    pairs = _pairs("\n".join(texts.train), vocabulary)
    streams = {part: _tokens(pairs, getattr(texts, part)) for part in ("train", "validation")}
    for part, stream in streams.items():
        if len(stream) < 2:
            raise ValueError(f"text to {part} must have at least 2 tokens, not {len(stream)}")
    trainer = Trainer(recipe, len(pairs.tokens), streams, torch.device(device), folder)
    end = math.inf if seconds is None else time.monotonic() + seconds
    try:
        finished = trainer.run(end, progress)
    except KeyboardInterrupt:
        trainer.leave()
        raise
    if not finished:
        trainer.leave()
    model = trainer.best_model().to(device)
    held = [perplexity(model, _tokens(pairs, (text,))) for text in texts.evaluation]
    chosen = perplexity(model, streams["validation"])
    model = model.cpu()
    record = {
        **{"name": name, "recipe": asdict(recipe), "vocabulary": vocabulary},
        **{"parameters": sum(p.numel() for p in model.parameters()), "finished": finished},
        **{"train_tokens": len(streams["train"]), "held_out": HELD_OUT},
        **trainer.figures(),
        **{"validation_perplexity": chosen, "evaluation_perplexity": held},
    }
    save_language(folder, model, PairTokens(pairs.tokens, pairs.merges), record)
    if finished:
        trainer.forget()
    return Trained(model, pairs, record, finished)


@functools.lru_cache(maxsize=1)
def _pairs(text: str, vocabulary: int) -> Pairs:
    """One tokenizer for the models of one call."""
    return train_pairs(text, vocabulary)


def _tokens(pairs: Pairs, texts: Sequence[str]) -> torch.Tensor:
    return torch.tensor(pairs.tokenizer().encode("\n".join(texts)))

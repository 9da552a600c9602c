"""heal_: one function for every method that quantizes a model by training or search."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from torch import nn

from sw.wasq.config import SFConfig
from sw.wasq.evaluation import check_tokens
from sw.wasq.healing.options import Healed, HealingError, HealOptions, Log, Progress
from sw.wasq.healing.samples import Samples
from sw.wasq.healing.settings import check_settings
from sw.wasq.healing.task import Hooks, Task
from sw.wasq.healing.teacher import Model
from sw.wasq.healing.world import World
from sw.wasq.weights import QuantizedWeight

#: Each method by its name: module and function, imported when it is asked for.
METHODS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "fpm": ("sw.wasq.healing.fpm", "heal_fpm"),
        "lth": ("sw.wasq.healing.lottery", "heal_lth"),
        "mplth": ("sw.wasq.healing.lottery", "heal_mplth"),
        "sa-mplth": ("sw.wasq.healing.annealed", "heal_sa_mplth"),
        "selective": ("sw.wasq.healing.selective", "heal_selective"),
        "mixed": ("sw.wasq.healing.mixed", "heal_mixed"),
        "opt": ("sw.wasq.healing.untrained", "heal_opt"),
        "vanilla": ("sw.wasq.healing.untrained", "heal_vanilla"),
    }
)


def heal_(
    model: nn.Module,
    method: str,
    data: object,
    config: SFConfig | None = None,
    options: HealOptions | None = None,
    *,
    window: int | None = None,
    weights: Mapping[str, QuantizedWeight] | None = None,
    teacher: Model | None = None,
    checkpoint: Path | None = None,
    resume: Path | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
    evaluate: Callable[[nn.Module], dict[str, Any]] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Healed:
    """Quantize a float model in place, and train it to do again what it did.

    Runs unchanged under ``torchrun``, inside a process group (:func:`sw.wasq.healing.processes`).

    Parameters
    ----------
    model : nn.Module
        In float32, from tokens ``[B, T]`` or any input to logits.
    method : str
        One of :data:`METHODS`.
    data : torch.Tensor, tuple, sequence or Samples
        See :meth:`Samples.of`.
    config : SFConfig, optional
    options : HealOptions, optional
    window : int, optional
        Tokens of a window, where data are one run of tokens.
    weights : mapping of str to QuantizedWeight, optional
        Words of another method to start from, by module; other layers are rounded to nearest.
    teacher : callable, optional
        The float model to learn from; a copy of ``model`` if omitted.
    checkpoint, resume : Path, optional
        Folder to keep checkpoints in, and folder of the one to go on from; the former is the
        latter if omitted.
    progress, log, evaluate, stop : callable, optional
        See :class:`Hooks`.

    Returns
    -------
    Healed
        The words are in the model already, unless ``finished`` is False and a checkpoint holds
        what is to go on.

    Raises
    ------
    HealingError
        In one sentence, before any work where that is possible.
    """
    if method not in METHODS:
        raise HealingError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    module, function = METHODS[method]
    config = SFConfig() if config is None else config
    options = HealOptions() if options is None else options
    _check(config, options)
    check_settings(options.extra)
    hooks = Hooks(checkpoint or resume, resume, progress, log, evaluate, stop)
    samples = Samples.of(data, window)
    if samples.is_text:
        check_tokens(model, list(samples.inputs))
    task = Task(model, method, samples, config, options, teacher, hooks, World.current(), weights)
    healed: Healed = getattr(importlib.import_module(module), function)(task)
    return healed


def _check(config: SFConfig, options: HealOptions) -> None:
    if options.precision != "bfloat16":
        return
    widths = [config.weights, config.activations, config.head]
    widths += [change.get(k) for change in config.overrides.values() for k in ("weights",)]
    widest = max((width for width in widths if width is not None), default=0)
    if widest > 8:
        raise HealingError(f"precision must be float32 for SF{widest}, not bfloat16")

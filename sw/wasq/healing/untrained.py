"""vanilla and opt through the same door: plain rounding, and recalibration block by block.

Options of opt (``HealOptions.extra``): ``opt``, fields of :class:`sw.wasq.opt.OptOptions`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from sw.wasq.healing.options import Healed, HealingError
from sw.wasq.healing.task import Task, calibration
from sw.wasq.modules import QuantizedLayer
from sw.wasq.quantize import quantize_
from sw.wasq.weights import QuantizedWeight


def heal_vanilla(task: Task) -> Healed:
    """Round to nearest (or take the words that the task starts from) and train nothing."""
    started = time.monotonic()
    _quantize(task, task.weights)
    found = {n: m.weight for n, m in task.model.named_modules() if isinstance(m, QuantizedLayer)}
    return Healed(found, seconds=time.monotonic() - started, fraction=0.0)


def heal_opt(task: Task) -> Healed:
    """Recalibrate words and exponents block by block: :func:`sw.wasq.opt.opt`.

    Raises
    ------
    HealingError
        If the task starts from words, or data are no text.
    """
    from sw.wasq.opt import OptOptions, opt

    if task.weights is not None or not task.samples.is_text:
        raise HealingError("opt must start from a float model and text, not from words or labels")
    started = time.monotonic()
    options = OptOptions(**{"seed": task.options.seed, **task.option("opt", {})})
    data = task.samples.inputs.to(task.device)
    folder = task.hooks.checkpoint
    resume = None if folder is None else folder / "opt"

    def tell(report: object, _words: object) -> None:
        index, blocks, after = (getattr(report, n) for n in ("index", "blocks", "after"))
        if task.hooks.progress is not None:
            task.hooks.progress(index + 1, blocks, after)
        if task.hooks.log is not None:
            seconds = getattr(report, "total", 0.0)
            row = {"method": "opt", "step": index + 1, "loss": after, "seconds": seconds}
            task.hooks.log(row)

    words = opt(task.model, task.config, data, options, resume=resume, on_block=tell)
    seconds = time.monotonic() - started
    _quantize(task, words)
    return Healed(words, seconds=seconds, tokens=data.numel())


def _quantize(task: Task, words: Mapping[str, QuantizedWeight] | None) -> None:
    parts = torch.split(calibration(task), task.options.size_of_pass)
    inputs = [[part.to(task.device)] for part in parts]
    quantize_(task.model, task.config, weights=words, calibration=inputs)

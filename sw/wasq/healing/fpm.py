"""fpm: every weight retrained under fake quantization, learning from the float model."""

from __future__ import annotations

from sw.wasq.healing.layers import prepare_healing_
from sw.wasq.healing.options import Healed, HealingError
from sw.wasq.healing.task import Task
from sw.wasq.healing.training import origin_of, start, teacher_of


def heal_fpm(task: Task) -> Healed:
    """Train all weights of all quantized layers.

    The published form caps gradients and activations at plus and minus 1, the latter by rounding
    activations without an exponent, so that what is trained is what the array computes.

    Raises
    ------
    HealingError
        If activations have exponents in the published form, or a run cannot go on.
    """
    scale = task.config.activation_scale
    if task.options.form == "published" and scale != "none":
        raise HealingError(
            f"activation_scale must be none in the published form, which caps at 1, not {scale!r}"
        )
    origin, teacher = origin_of(task), teacher_of(task)
    layers = prepare_healing_(task.model, task.config, task.weights)
    training = start(task, layers, teacher, origin)
    return training.finish(training.run())

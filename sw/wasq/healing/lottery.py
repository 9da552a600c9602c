"""lth and mplth: heal a small part of the weights, chosen by how quantization disturbs activations.

After J. Frankle and M. Carbin, "The lottery ticket hypothesis", arXiv:1803.03635, with rounds and
rewinding; several prizes as in J. Diffenderfer and B. Kailkhura, "Multi-prize lottery ticket
hypothesis", arXiv:2103.09377. Options of their own (``HealOptions.extra``): ``mask`` (a rule of
:data:`masks.RULES`), ``group`` (row, block, weight), ``clusters``, ``calibration`` (samples),
``rounds``; for mplth also ``prizes`` (pairs of rho and group), ``scout_steps``, ``held_out``
(samples), ``price`` (nats per whole share of weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch

from sw.wasq.healing.activity import mean_magnitudes
from sw.wasq.healing.findings import Findings, refuse_sharded, resumed
from sw.wasq.healing.layers import HealingLayer, prepare_healing_
from sw.wasq.healing.masks import Chooser, best_masks, group_means
from sw.wasq.healing.options import Healed, HealingError
from sw.wasq.healing.samples import Samples
from sw.wasq.healing.task import Hooks, Task, calibration
from sw.wasq.healing.teacher import Likeliest, Model, loss_of
from sw.wasq.healing.training import Training, origin_of, start, teacher_of
from sw.wasq.quantize import targets

PRIZES: Final = tuple((rho, group) for rho in (0.05, 0.1, 0.2) for group in ("row", "block"))


class Draw:
    """A model ready for tickets: layers, teacher, chooser, and the way back to the start.

    Parameters
    ----------
    task : Task
        Only weights of layers are trained, whatever its options say of norms.
    """

    def __init__(self, task: Task) -> None:
        self.task = replace(task, options=replace(task.options, trained="layers"))
        self.origin, self.teacher = origin_of(task), teacher_of(task)
        names = [target.name for target in targets(task.model, task.config)]
        size = task.options.size_of_pass
        before = mean_magnitudes(task.model, names, calibration(task), size)
        self.layers = prepare_healing_(task.model, task.config, task.weights)
        self.chooser = Chooser(self.task, self.layers, self.teacher, before)

    def freeze(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Back to the start, then let only the masked weights change."""
        for layer in self.layers:
            layer.rewind()
            layer.freeze(masks[layer.name])

    def train(self, hooks: Hooks, steps: int) -> tuple[Training, bool]:
        """Train the masked weights; whether the end was reached."""
        options = replace(self.task.options, steps=steps)
        task = replace(self.task, hooks=hooks, options=options)
        training = start(task, self.layers, self.teacher, self.origin)
        return training, training.run()


def heal_lth(task: Task) -> Healed:
    """Heal the share ``rho`` of the weights; all others keep their words.

    Raises
    ------
    HealingError
        For unknown rules or groups, or rounds of a sharded model.
    """
    group, rule = task.option("group", "block"), task.option("mask", "deviation")
    rounds = int(task.option("rounds", 1))
    if rounds > 1:
        refuse_sharded(task)
    draw = Draw(task)
    shares = [min(1.0, task.options.rho * 2.0**left) for left in reversed(range(rounds))]
    masks = draw.chooser.masks(rule, group, shares[0], task.options.seed)
    notes = {"deviations": draw.chooser.deviations(), "clusters": draw.chooser.tiers()}
    notes |= {"mask": rule, "group": group}
    for number, rho in enumerate(shares):
        if number:
            masks = _survivors(draw.layers, masks, group, rho)
        draw.freeze(masks)
        hooks = _inside(task.hooks, f"round-{number + 1}") if rounds > 1 else task.hooks
        training, finished = draw.train(hooks, task.options.steps // rounds)
        if not finished:
            break
    return training.finish(finished, notes)


def heal_mplth(task: Task) -> Healed:
    """Draw several tickets at several shares, score each after a short healing, heal the best.

    The score is the loss on samples that are held out, plus ``price`` times the share.
    """
    refuse_sharded(task)
    train, held_out = _split(task.samples, int(task.option("held_out", 8)))
    draw = Draw(replace(task, samples=train))
    prizes = [(float(rho), str(group)) for rho, group in task.option("prizes", PRIZES)]
    steps = int(task.option("scout_steps", max(1, task.options.steps // 10)))
    kept = Findings(draw.task, "scores.json", draw.origin)
    for rho, group in prizes:
        key = f"{rho} {group}"
        if key not in kept.found:
            draw.freeze(_masks(draw, rho, group))
            training, finished = draw.train(Hooks(stop=task.hooks.stop), steps)
            if not finished:
                return training.finish(False, {"scores": kept.found})
            price = float(task.option("price", 0.0)) * rho
            kept.keep(**{key: held_out_loss(draw, held_out) + price})
    best = min(prizes, key=lambda prize: (kept.found[f"{prize[0]} {prize[1]}"], prize[0]))
    draw.freeze(_masks(draw, *best))
    training, finished = draw.train(resumed(task.hooks), task.options.steps)
    return training.finish(finished, {"scores": kept.found, "prize": list(best)})


def held_out_loss(draw: Draw, samples: Samples) -> float:
    """Divergence and cross entropy on samples that nothing was trained on."""
    task, total = draw.task, 0.0
    options = task.options
    teacher: Model | Likeliest | None = draw.teacher
    if isinstance(teacher, Likeliest):  # it knows the samples of training alone
        teacher = None
    with torch.no_grad():
        for chosen in torch.split(torch.arange(len(samples)), options.size_of_pass):
            inputs = samples.inputs[chosen].to(task.device)
            loss = loss_of(task.model(inputs), samples, chosen, inputs, teacher, options)
            total += float(loss) * len(chosen)
    return total / len(samples)


def _masks(draw: Draw, rho: float, group: str) -> dict[str, torch.Tensor]:
    rule = draw.task.option("mask", "deviation")
    for layer in draw.layers:  # all tickets are chosen by the same weights
        layer.rewind()
    return draw.chooser.masks(rule, group, rho, draw.task.options.seed)  # type: ignore[arg-type]


def _survivors(
    layers: tuple[HealingLayer, ...], masks: Mapping[str, torch.Tensor], group: Any, rho: float
) -> dict[str, torch.Tensor]:
    """Of the groups that were trained, those that moved furthest."""
    scores = {}
    for layer in layers:
        moved = layer.moved() if bool(masks[layer.name].any()) else None
        inside = group_means(masks[layer.name].float(), group) > 0
        far = torch.zeros_like(inside, dtype=torch.float32)
        far = far if moved is None else group_means(moved, group)
        scores[layer.name] = torch.where(inside, far, -1.0)
    terms = {layer.name: layer.weight.shape[1] for layer in layers}
    return best_masks(scores, terms, group, rho)


def _inside(hooks: Hooks, name: str) -> Hooks:
    folder = None if hooks.checkpoint is None else hooks.checkpoint / name
    resume = None if hooks.resume is None else hooks.resume / name
    return resumed(replace(hooks, checkpoint=folder, resume=resume))


def _split(samples: Samples, held_out: int) -> tuple[Samples, Samples]:
    """All but the last samples, and the last."""
    count = len(samples) - held_out
    if held_out < 1 or count < 1:
        raise HealingError(f"data must have more than the {held_out} held out, not {len(samples)}")
    first, last = samples.inputs[:count], samples.inputs[count:]
    if samples.labels is None:
        return Samples(first), Samples(last)
    return Samples(first, samples.labels[:count]), Samples(last, samples.labels[count:])

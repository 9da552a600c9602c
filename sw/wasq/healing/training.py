"""The training that every healing method ends in: fake quantization, AdamW, checkpoints.

Straight-through estimator of Y. Bengio et al., arXiv:1308.3432, 1 inside the range and 0 outside.
On one device and one build of torch the same run gives the same bits, resumed or not.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sw.wasq.finite import check_activations
from sw.wasq.healing import checkpoint
from sw.wasq.healing.layers import HealingLayer, finish_healing_, whole
from sw.wasq.healing.options import Healed, HealingError
from sw.wasq.healing.task import Task, calibration, fingerprint
from sw.wasq.healing.teacher import Likeliest, Model, frozen_copy, loss_of
from sw.wasq.healing.trained import changing, choose, is_sharded
from sw.wasq.healing.world import shard_


def teacher_of(task: Task) -> Model | Likeliest | None:
    """The float model's answers, before the model itself is changed."""
    if not task.options.distillation and (task.samples.is_text or task.samples.labels is not None):
        return None
    model = frozen_copy(task.model) if task.teacher is None else task.teacher
    if task.options.top_k is not None:
        return Likeliest.of(model, task.samples, task.options, task.device)
    if isinstance(model, nn.Module) and is_sharded(task):
        shard_(model)
    return model


class Training:
    """A model in training.

    Parameters
    ----------
    task : Task
        Whose model holds the layers.
    layers : tuple of HealingLayer
    teacher : callable, Likeliest or None
    origin : str
        Fingerprint of the float model.
    """

    def __init__(
        self,
        task: Task,
        layers: tuple[HealingLayer, ...],
        teacher: Model | Likeliest | None,
        origin: str,
    ) -> None:
        self.task, self.layers, self.teacher, self.origin = task, layers, teacher, origin
        self.options, self.world = task.options, task.world
        if task.options.passes % task.world.size:
            raise HealingError(
                f"batch must be a multiple of micro times {task.world.size} processes, not "
                f"{task.options.batch} of {task.options.size_of_pass}"
            )
        task.model.eval()
        self._asked = {n: p.requires_grad for n, p in task.model.named_parameters()}
        names = choose(task.model, layers, task.options.trained)
        if is_sharded(task):
            shard_(task.model)
            for layer in layers:
                layer.spread()
        self.trained = {n: p for n, p in task.model.named_parameters() if n in names}
        self.forward: nn.Module = task.model
        self._in_order = task.world.size > 1 and task.options.deterministic
        self._in_order = self._in_order and not is_sharded(task)
        if task.world.size > 1 and not self._in_order and not is_sharded(task):
            self.forward = DistributedDataParallel(task.model, forward_sync_buffers=False)
        self.optimizer = torch.optim.AdamW(
            list(self.trained.values()) or [nn.Parameter(torch.zeros(()))],
            lr=task.options.learning_rate,
            betas=task.options.betas,
            weight_decay=task.options.weight_decay,
        )
        self.done, self.losses, self.seconds = 0, list[float](), 0.0
        self._saved_at = time.monotonic()

    def run(self) -> bool:
        """Train to the end, or until asked to stop; whether the end was reached.

        Raises
        ------
        HealingError
            If a loss is not a number; the last checkpoint stays.
        """
        hooks, options = self.task.hooks, self.options
        last = options.steps if options.stop_after is None else options.stop_after
        while self.done < min(last, options.steps):
            started = time.monotonic()
            loss, wanted = self.step()
            self.seconds += time.monotonic() - started
            self._tell(loss)
            if wanted:
                self._save()
                return False
            if self._is_due():
                self._save()
        if hooks.checkpoint is not None:
            self._save()
        return self.done >= options.steps

    def step(self) -> tuple[float, bool]:
        """One update: its loss, and whether a process wants to stop behind it."""
        options, world = self.options, self.world
        for group in self.optimizer.param_groups:
            group["lr"] = options.rate(self.done)
        parameters = list(self.trained.values())
        chosen = self.task.samples.chosen(self.done, options.batch, options.seed)
        passes = chosen.reshape(-1, options.size_of_pass)[world.rank :: world.size]
        sums = [torch.zeros_like(p) for p in parameters] if self._in_order else []
        losses = []
        for number, part in enumerate(passes):
            losses.append(self._one_pass(part, is_last=number == len(passes) - 1))
            if self._in_order:
                world.add_in_order(sums, parameters)
        for parameter, total in zip(parameters, sums, strict=False):
            parameter.grad = total
        stop = self.task.hooks.stop is not None and self.task.hooks.stop()
        told = world.in_order(torch.stack([*losses, losses[0].new_tensor(float(stop))]))
        told = told.double().cpu()
        loss = float(told[:, :-1].T.reshape(-1).mean())
        self._check(loss)
        self._limit(parameters)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for layer in self.layers:
            layer.enforce()
        self.done += 1
        self.losses.append(loss)
        self._refresh()
        return loss, bool(told[:, -1].any())

    def finish(self, finished: bool, notes: dict[str, Any] | None = None) -> Healed:
        """Put the quantized layers in, and tell what was trained."""
        own = {f"{layer.name}.weight" for layer in self.layers}
        others = {n: whole(p).clone() for n, p in self.trained.items() if n not in own}
        total = sum(layer.shape.numel() for layer in self.layers)
        changed = sum(changing(layer) for layer in self.layers)
        inputs = calibration(self.task)
        size = self.options.size_of_pass
        words = finish_healing_(
            self.task.model,
            self.layers,
            self.task.config,
            [[part] for part in torch.split(inputs, size)],
        )
        for name, parameter in self.task.model.named_parameters():
            parameter.requires_grad_(self._asked.get(name, False))
        return Healed(
            words,
            others,
            tuple(self.losses),
            self.seconds,
            changed / total,
            self.done * self.options.batch * self.task.samples.per_sample,
            finished,
            notes or {},
        )

    # Checkpoints

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that training changes, by name; views, so that reading fills them."""
        found = {}
        for name, parameter in self.trained.items():
            state = self.optimizer.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            found[f"value/{name}"] = parameter.detach()
            found[f"mean/{name}"], found[f"square/{name}"] = state["exp_avg"], state["exp_avg_sq"]
        for layer in self.layers:
            found[f"exponents/{layer.name}"] = layer.exponents
        return found

    def state(self) -> dict[str, Any]:
        """What belongs beside the tensors, as plain data."""
        return {
            **self._identity(),
            "step": self.done,
            "losses": self.losses,
            "seconds": self.seconds,
        }

    def resume(self) -> None:
        """Go on from the checkpoint that the task names, if it names one.

        Raises
        ------
        HealingError
            If it is of another model, method, configuration, options or data.
        """
        folder = self.task.hooks.resume
        if folder is None:
            return
        state = checkpoint.read_state(folder)
        for name, mine in self._identity().items():
            if state.get(name) != (given := json.loads(json.dumps(mine))):
                raise HealingError(
                    f"{name} must be that of the checkpoint in {folder}, "
                    + _difference(state.get(name), given)
                )
        tensors = self.tensors()
        checkpoint.read_tensors(folder, tensors, self.world)
        self.done, self.losses = state["step"], list(state["losses"])
        self.seconds = float(state["seconds"])
        for parameter in self.trained.values():
            self.optimizer.state[parameter]["step"].fill_(float(self.done))

    def _identity(self) -> dict[str, Any]:
        return {
            "method": self.task.method,
            "model": self.origin,
            "config": self.task.config.to_json(),
            "options": self.options.to_json(),
            "samples": self.task.samples.sha256(),
        }

    def _is_due(self) -> bool:
        options = self.options
        if self.task.hooks.checkpoint is None or self.done >= options.steps:
            return False
        if options.checkpoint_steps and not self.done % options.checkpoint_steps:
            return True
        late = time.monotonic() - self._saved_at > options.checkpoint_seconds > 0
        mine = torch.tensor(float(late), device=self.task.device)
        return bool(self.world.in_order(mine).any())

    def _save(self) -> None:
        folder = self.task.hooks.checkpoint
        if folder is not None:
            checkpoint.write(folder, self.done, self.tensors(), self.state(), self.world)
        self._saved_at = time.monotonic()

    # Parts of a step

    def _one_pass(self, chosen: torch.Tensor, is_last: bool) -> torch.Tensor:
        """Forward and backward of a few samples; the loss, detached."""
        task, options = self.task, self.options
        inputs = task.samples.inputs[chosen].to(task.device)
        is_averaged = self.world.size > 1 and not self._in_order
        if isinstance(self.forward, DistributedDataParallel):
            self.forward.require_backward_grad_sync = is_last
        elif is_sharded(task):
            self.forward.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        narrow = options.precision == "bfloat16"
        with torch.autocast(task.device.type, torch.bfloat16, enabled=narrow):
            logits = self.forward(inputs)
            loss = loss_of(logits, task.samples, chosen, inputs, self.teacher, options)
        share = options.passes / (self.world.size if is_averaged else 1)
        if loss.requires_grad:
            (loss / share).backward()  # type: ignore[no-untyped-call]
        return loss.detach().float()

    def _check(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        folder = self.task.hooks.checkpoint
        kept = folder is not None and checkpoint.was_written(folder, 0)
        stays = f"; the last checkpoint in {folder} stays" if kept else ""
        raise HealingError(
            f"loss must be finite, not {loss} at step {self.done + 1}{self._cause()}{stays}"
        )

    def _cause(self) -> str:
        """Where in the model a step's first samples become NaN or infinite, if that is known."""
        task = self.task
        if self.world.size > 1:
            return ""
        chosen = task.samples.chosen(self.done, self.options.batch, self.options.seed)
        first = task.samples.inputs[chosen[: self.options.size_of_pass]].to(task.device)
        try:
            for model in (task.model, self.teacher):
                if isinstance(model, nn.Module):
                    check_activations(model, first)
        except ValueError as error:
            return f": {error}"
        return ""

    def _limit(self, parameters: list[nn.Parameter]) -> None:
        if self.options.form == "published":
            nn.utils.clip_grad_value_(parameters, self.options.gradient_limit)
        else:
            nn.utils.clip_grad_norm_(parameters, self.options.gradient_limit)

    def _refresh(self) -> None:
        options = self.options
        if not options.refresh or self.done % options.refresh:
            return
        if self.done <= options.refresh_share * options.steps:
            for layer in self.layers:
                layer.refresh()

    def _tell(self, loss: float) -> None:
        hooks, options = self.task.hooks, self.options
        row: dict[str, Any] = {
            "method": self.task.method,
            "step": self.done,
            "loss": loss,
            "seconds": round(self.seconds, 4),
            "tokens": self.done * options.batch * self.task.samples.per_sample,
        }
        due = options.evaluate_steps and not self.done % options.evaluate_steps
        if hooks.evaluate is not None and (due or self.done == options.steps):
            with torch.no_grad():  # by every process, since a sharded model needs all of them
                row.update(hooks.evaluate(self.task.model))
        if not self.world.leads:
            return
        if hooks.progress is not None:
            hooks.progress(self.done, options.steps, loss)
        if hooks.log is not None:
            hooks.log(row)


def start(task: Task, layers: tuple[HealingLayer, ...], teacher: Any, origin: str) -> Training:
    """A training, gone on with from a checkpoint where the task names one."""
    training = Training(task, layers, teacher, origin)
    training.resume()
    return training


def origin_of(task: Task) -> str:
    """The float model's fingerprint, taken before it is changed."""
    return fingerprint(task.model, task.weights)


def _difference(kept: object, given: object) -> str:
    """How what was given differs from what a checkpoint has: by fields, where it has any."""
    if not isinstance(kept, dict) or not isinstance(given, dict):
        return f"not {json.dumps(given)}"
    names = [name for name in {**kept, **given} if kept.get(name) != given.get(name)]
    told = (f"{n} {json.dumps(kept.get(n))}, not {json.dumps(given.get(n))}" for n in names)
    return "with " + "; ".join(told)

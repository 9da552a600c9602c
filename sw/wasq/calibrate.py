"""Static exponents of activations: of inputs, drained outputs and cached values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD, ExponentRule
from sw.tensor import exponents, limit_spread
from sw.wasq.config import SFConfig
from sw.wasq.finite import check_finite
from sw.wasq.modules import Geometry
from sw.wasq.products import AttentionProducts
from sw.wasq.rounding import round_at

if TYPE_CHECKING:
    from sw.wasq.modules import QuantizedLayer
    from sw.wasq.quantize import Target

Inputs = Sequence[Sequence[torch.Tensor]]
#: How many exponents the rule of least squared error tries, from the largest down.
_CANDIDATES = 3


@dataclass(slots=True)
class Scales:
    """Calibrated exponents by module.

    Parameters
    ----------
    inputs : mapping of str to torch.Tensor of int64
        ``[]`` per tensor, ``[B]`` per block of K.
    outputs : mapping of str to torch.Tensor of int64 ``[N]``
    values : tuple of torch.Tensor of int64
        Of each attention's values, in the order in which the model multiplies them: their shape
        for one sequence with one token.
    """

    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    values: tuple[torch.Tensor, ...] = ()

    def attach(self, name: str, layer: QuantizedLayer) -> None:
        """Give a layer its exponents."""
        layer.input_exponents = self.inputs.get(name)
        layer.output_exponents = self.outputs.get(name)


def calibrate_(
    model: nn.Module, config: SFConfig, chosen: Sequence[Target], inputs: Inputs | None
) -> Scales:
    """Run the float model on real inputs and find every static exponent.

    Parameters
    ----------
    model : nn.Module
        Still in float, in evaluation mode.
    config : SFConfig
    chosen : sequence of Target
    inputs : sequence of sequences of torch.Tensor, optional
        Arguments of the model, call by call; run twice where the rule is "squared_error".

    Raises
    ------
    ValueError
        If exponents are asked for without inputs, or an activation is not finite: its layer and
        how many are named.
    """
    observed = [o for target in chosen for o in _observers(target)]
    values = config.products is not None and config.value_scale == "channel"
    if (observed or values) and not inputs:
        what = observed[0].name if observed else "the cache of values"
        raise ValueError(f"calibration must be given for the static exponents of {what}")
    if not (observed or values):
        return Scales()
    assert inputs is not None
    if observed:
        _run(model, inputs, observed, lambda o, x: o.see(x))
    for observer in observed:
        observer.start()
    slow = [o for o in observed if o.rule == "squared_error"]
    if slow:
        _run(model, inputs, slow, lambda o, x: o.weigh(x))
    return Scales(
        {o.name: o.found() for o in observed if not o.is_output},
        {o.name: o.found() for o in observed if o.is_output},
        _value_exponents(model, config, inputs) if values else (),
    )


@dataclass(slots=True, eq=False)
class _Observer:
    """Largest magnitudes, then squared errors, of groups of a layer's inputs or outputs.

    Groups are the blocks of K, one for all values, or the output channels.
    """

    name: str
    module: nn.Module
    form: SFx
    rule: ExponentRule
    is_output: bool
    blocks: bool
    largest: torch.Tensor | None = None
    tops: torch.Tensor | None = None
    errors: torch.Tensor | None = None

    def see(self, x: torch.Tensor) -> None:
        """Take part in the first pass."""
        rows = self._rows(x)
        check_finite(rows, f"{'output' if self.is_output else 'input'} of {self.name}")
        if not rows.numel():
            return
        found = self._groups(rows.abs().amax(0)[None]).amax((0, 2))
        self.largest = found if self.largest is None else torch.maximum(self.largest, found)

    def start(self) -> None:
        """Fix the exponents by maximum."""
        if self.largest is None:
            raise ValueError(f"calibration must reach {self.name}, which saw no input")
        tops = exponents(self.largest[:, None], self.form, "token")[:, 0]
        if self.blocks:
            tops, _ = limit_spread(tops, MAX_SPREAD)
        self.tops = tops
        self.errors = torch.zeros((_CANDIDATES, len(tops)), dtype=torch.float64, device=tops.device)

    def weigh(self, x: torch.Tensor) -> None:
        """Take part in the second pass."""
        assert self.tops is not None
        assert self.errors is not None
        groups = self._groups(self._rows(x))
        for step in range(_CANDIDATES):
            rounded = round_at(groups, self.form, (self.tops - step)[:, None])
            self.errors[step] += (rounded.double() - groups.double()).square().sum((0, 2))

    def found(self) -> torch.Tensor:
        """The exponents, ``[]`` for one group that is no channel or block."""
        assert self.tops is not None
        assert self.errors is not None
        best = self.tops
        if self.rule == "squared_error":
            best = best - self.errors.argmin(0)  # the first wins a tie
        if self.blocks:
            best, _ = limit_spread(best, MAX_SPREAD)
        return best if self.blocks or self.is_output else best.reshape(())

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """``[M, N]`` of outputs, ``[M, K]`` of inputs, patches where blocks of K matter."""
        x = x.detach().float()
        geometry = Geometry.of(self.module)
        if self.is_output:
            return (
                x.reshape(-1, x.shape[-1]) if geometry is None else x.movedim(1, -1).flatten(0, -2)
            )
        if geometry is None or not self.blocks:
            return x.reshape(-1, x.shape[-1])
        kept = []

        def keep(rows: torch.Tensor, first: int, last: int) -> torch.Tensor:
            kept.append(rows)
            return rows.new_zeros(rows.shape[0], last - first)

        geometry.apply(x, keep)
        return torch.cat(kept)

    def _groups(self, rows: torch.Tensor) -> torch.Tensor:
        """``[M, groups, values]``."""
        if self.is_output:
            return rows[:, :, None]
        if not self.blocks:
            return rows[:, None, :]
        padded = nn.functional.pad(rows, (0, -rows.shape[1] % BLOCK))
        return padded.reshape(rows.shape[0], -1, BLOCK)


def _observers(target: Target) -> list[_Observer]:
    config, made = target.config, []
    if config.activation_mode == "static" and config.activation_scale in ("tensor", "block"):
        assert config.activation_format is not None
        blocks = config.activation_scale == "block"
        form = config.activation_format
        made.append(
            _Observer(target.name, target.module, form, config.activation_rule, False, blocks)
        )
    if config.output_format is not None:
        form = config.output_format
        made.append(
            _Observer(target.name, target.module, form, config.activation_rule, True, False)
        )
    return made


def _run(
    model: nn.Module,
    inputs: Inputs,
    observed: Sequence[_Observer],
    do: Callable[[_Observer, torch.Tensor], None],
) -> None:
    """Run the model, each observer called with what its layer takes or gives."""

    def watch(observer: _Observer) -> Callable[..., None]:
        def hook(module: nn.Module, taken: tuple[torch.Tensor, ...], given: torch.Tensor) -> None:
            do(observer, given if observer.is_output else taken[0])

        return hook

    handles = [o.module.register_forward_hook(watch(o)) for o in observed]
    try:
        with torch.no_grad():
            for arguments in inputs:
                model(*_on_device(model, arguments))
    finally:
        for handle in handles:
            handle.remove()


def _value_exponents(
    model: nn.Module, config: SFConfig, inputs: Inputs
) -> tuple[torch.Tensor, ...]:
    """Exponents by maximum of every attention's values, sequence by sequence."""
    assert config.products is not None
    form = SFx(config.products, config.unity)
    watching = AttentionProducts(form, config.value_scale, ())
    with torch.no_grad(), watching.observe():
        for arguments in inputs:
            for index in range(arguments[0].shape[0]):
                one = [a[index : index + 1] for a in _on_device(model, arguments)]
                with watching.active():
                    model(*one)
    found = []
    for number, largest in enumerate(watching.observed):
        bad = int((~torch.isfinite(largest)).sum())
        if bad:
            raise ValueError(
                f"values of attention {number} must be finite, "
                f"not NaN or infinity in {bad} channels"
            )
        found.append(exponents(largest[..., None], form, "token")[..., 0])
    if not found:
        raise ValueError("products must be of a model with attention: none was found to calibrate")
    return tuple(found)


def _on_device(model: nn.Module, arguments: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    parameter = next(model.parameters(), None)
    return [a if parameter is None else a.to(parameter.device) for a in arguments]

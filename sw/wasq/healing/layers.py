"""The layers that are trained: masters in float32, words on the way, some of them frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from sw.wasq.config import SFConfig
from sw.wasq.healing.rounding import activation_scales, round_in_blocks, round_to, scales
from sw.wasq.healing.world import sharded_module, unshard_
from sw.wasq.modules import FakeQuantizedLayer
from sw.wasq.quantize import quantize_, replace_module, targets
from sw.wasq.weights import QuantizedWeight, quantize_weight, weight_exponents


class HealingLayer(FakeQuantizedLayer):
    """A :class:`FakeQuantizedLayer` that rounds without waiting for the device, and can be masked.

    Attributes
    ----------
    mask : torch.Tensor of bool ``[N, K]`` or None
        Which weights may change; None: all.
    """

    #: The float layer in whose place it is; not a part of it.
    source: nn.Module
    mask: torch.Tensor | None = None
    _start: torch.Tensor | None = None

    def rounded_weight(self) -> torch.Tensor:
        """The weight ``[N, K]`` as it acts, with the straight-through gradient."""
        form = self.config.weight_format
        assert form is not None
        factor = scales(self.exponents)
        if self.config.weight_scale == "block":
            return round_in_blocks(self.weight, factor, form)
        return round_to(self.weight, factor, form)

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        form, scale = self.config.activation_format, self.config.activation_scale
        if form is None:
            return x
        x = x.float()
        given = self.input_exponents
        factor = activation_scales(x, form, scale) if given is None else scales(given)
        if scale == "block":
            return round_in_blocks(x, factor, form)
        return round_to(x, factor, form)

    def freeze(self, mask: torch.Tensor) -> None:
        """Let only the masked weights ``[N, K]`` change, and no exponent.

        Biases stay, too; a layer without any masked weight is not trained at all.
        """
        some = bool(mask.any())
        self.mask = mask
        self._start = self.weight.detach().clone() if some else None
        self.weight.requires_grad_(some)
        if self.bias is not None:
            self.bias.requires_grad_(False)

    def spread(self) -> None:
        """Lay mask and start out over the processes as the weight is, for FSDP2."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        weight = self.weight
        if self.mask is None or self._start is None or not isinstance(weight, DTensor):
            return
        self.mask = distribute_tensor(self.mask, weight.device_mesh, weight.placements)
        self._start = distribute_tensor(self._start, weight.device_mesh, weight.placements)

    def enforce(self) -> None:
        """Put back what an update has moved outside the mask."""
        if self.mask is not None and self._start is not None:
            with torch.no_grad():
                self.weight.copy_(torch.where(self.mask, self.weight, self._start))

    def rewind(self) -> None:
        """Put back every weight as it was when the layer was frozen."""
        if self._start is not None:
            with torch.no_grad():
                self.weight.copy_(self._start)

    def moved(self) -> torch.Tensor:
        """How far each weight is from where it was when the layer was frozen, ``[N, K]``."""
        assert self._start is not None
        return (self.weight.detach() - self._start).abs()

    def matrix(self) -> torch.Tensor:
        """The float weight ``[N, K]``, gathered if it lies on several processes."""
        weight = self.weight.detach()
        gather = getattr(weight, "full_tensor", None)
        return weight if gather is None else gather()

    def refresh(self) -> None:
        """Find the weight's exponents anew, unless some weights are frozen."""
        if self.mask is None:
            self.exponents = weight_exponents(self.matrix(), self.config, self.name)

    def quantized(self) -> QuantizedWeight:
        """The words as they are now."""
        return quantize_weight(self.matrix(), self.config, self.exponents, self.name)


def prepare_healing_(
    model: nn.Module,
    config: SFConfig,
    given: Mapping[str, QuantizedWeight] | None = None,
) -> tuple[HealingLayer, ...]:
    """Put a :class:`HealingLayer` in the place of every layer that is quantized.

    Parameters
    ----------
    model : nn.Module
    config : SFConfig
    given : mapping of str to QuantizedWeight, optional
        Words of another method to start from, by module: their exponents are kept, and a master is
        the value of its word wherever the float weight would round to another one.
    """
    made = []
    for target in targets(model, config):
        words = (given or {}).get(target.name)
        given_exponents = None if words is None else words.exponents.clone()
        layer = HealingLayer(target.name, target.module, target.config, given_exponents)
        if target.is_head:  # it may share its weight with the embedding, which is not trained
            layer.weight = nn.Parameter(layer.weight.detach().clone())
        if words is not None:
            with torch.no_grad():
                same = layer.quantized().words == words.words
                layer.weight.copy_(torch.where(same, layer.weight, words.dequantize()))
        object.__setattr__(layer, "source", target.module)  # no submodule: it is not trained
        replace_module(model, target.name, layer)
        made.append(layer)
    return tuple(made)


def finish_healing_(
    model: nn.Module,
    layers: tuple[HealingLayer, ...],
    config: SFConfig,
    calibration: Sequence[Sequence[torch.Tensor]],
) -> dict[str, QuantizedWeight]:
    """Quantize the model with the trained words, in place, and give the words.

    What training leaves in float (attention products, tables, drains, static exponents) is
    quantized as :func:`sw.wasq.quantize_` does, with the given inputs where it needs any.
    """
    weights = {}
    for layer in layers:
        weights[layer.name] = layer.quantized()
        source = layer.source
        source.weight = nn.Parameter(layer.matrix().reshape(layer.shape), requires_grad=False)
        if layer.bias is not None:
            source.bias = nn.Parameter(whole(layer.bias), requires_grad=False)
    if isinstance(model, sharded_module()):
        unshard_(model)
        weights = {name: words.to("cpu") for name, words in weights.items()}
    for layer in layers:
        replace_module(model, layer.name, layer.source)
    device = next(iter(model.parameters())).device
    for layer in layers:
        layer.source.to(device)
    inputs = [[part.to(device) for part in parts] for parts in calibration]
    quantize_(model, config, weights=weights, calibration=inputs)
    return weights


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter's values, gathered if they lie on several processes."""
    gather = getattr(parameter.detach(), "full_tensor", None)
    return parameter.detach() if gather is None else gather()

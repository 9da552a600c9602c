"""Quantized layers as modules: words for inference, float weights behind them for training."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from sw.tensor import expand_blocks, exponents, fake_quantize, limit_spread
from sw.wasq import exact
from sw.wasq.config import LayerConfig
from sw.wasq.gemm import Operand
from sw.wasq.rounding import Faults
from sw.wasq.weights import QuantizedWeight, quantize_weight, weight_exponents

#: Modules whose weights can be quantized.
LAYERS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d)


class QuantizedLayer(nn.Module):
    """A linear layer or convolution on words, for inference.

    Buffers: ``words [N, K]``, ``exponents``, ``bias [N]`` or None, ``input_exponents`` where they
    are static, ``output_exponents [N]`` where the layer drains to words. A convolution is the
    linear layer on its patches (rows of im2col, ``[in channels / groups, kernel...]`` flattened).

    Parameters
    ----------
    name : str
        Of the module in its model, for errors.
    weight : QuantizedWeight
    bias : torch.Tensor of float32 ``[N]``, optional
    config : LayerConfig
    geometry : Geometry, optional
        Of a convolution.
    """

    words: torch.Tensor
    exponents: torch.Tensor
    bias: torch.Tensor | None
    input_exponents: torch.Tensor | None
    output_exponents: torch.Tensor | None

    def __init__(
        self,
        name: str,
        weight: QuantizedWeight,
        bias: torch.Tensor | None,
        config: LayerConfig,
        geometry: Geometry | None = None,
    ) -> None:
        super().__init__()
        self.name, self.config, self.geometry = name, config, geometry
        #: Shared by the layers of a model, which looks at them once per pass; None: at each call.
        self.faults: Faults | None = None
        self._operands: dict[tuple[int, int], tuple[object, Operand]] = {}
        self.register_buffer("words", weight.words)
        self.register_buffer("exponents", weight.exponents)
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self.register_buffer("input_exponents", None)
        self.register_buffer("output_exponents", None)

    @property
    def weight(self) -> QuantizedWeight:
        """The words with their meaning."""
        form = self.config.weight_format
        assert form is not None
        return QuantizedWeight(self.words, self.exponents, form, self.config.weight_scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32, as the array and the host behind it give it; of bfloat16, bfloat16."""
        dtype = x.dtype
        if self.config.output is not None:
            x = x.float()  # sums are rounded to words, not to bfloat16 first
        if self.geometry is None:
            y = self._drained(self._linear(x, 0, self.words.shape[0]), -1)
        else:
            y = self._drained(self.geometry.apply(x, self._linear), 1)
        return y.to(dtype) if dtype == torch.bfloat16 else y

    def extra_repr(self) -> str:
        """What a printed model says of the layer."""
        rows, terms = self.words.shape
        c = self.config
        return (
            f"{terms} -> {rows}, weights {c.weights} bits per {c.weight_scale}, "
            f"activations {c.activations or 'float'}"
            + (f" per {c.activation_scale}" if c.activations else "")
        )

    def _linear(self, rows: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Output channels first to last of rows (patches, for a convolution) ``[..., K]``."""
        ready = self._operand(first, last)
        return exact.linear(
            rows,
            ready.weight,
            None if self.bias is None else self.bias[first:last],
            self.config,
            self.input_exponents,
            self.name,
            operand=ready,
            faults=self.faults,
        )

    def _operand(self, first: int, last: int) -> Operand:
        """These channels' weights ready to be multiplied, anew where the words were replaced."""
        words, exponents = self.words, self.exponents
        state = (*_state(words), *_state(exponents))
        found = self._operands.get((first, last))
        if found is None or found[0] != state:
            w = self.weight
            own = w.exponents if w.exponents.dim() == 0 else w.exponents[first:last]
            part = QuantizedWeight(w.words[first:last], own, w.format, w.scale)
            found = self._operands[first, last] = (state, Operand(part))
        return found[1]

    def _drained(self, y: torch.Tensor, channel: int) -> torch.Tensor:
        form = self.config.output_format
        if form is None:
            return y
        if self.output_exponents is None:
            raise ValueError(f"{self.name} must be calibrated before it drains to {form}")
        shape = [1] * y.dim()
        shape[channel] = -1
        return fake_quantize(y.contiguous(), form, self.output_exponents.reshape(shape))


class FakeQuantizedLayer(nn.Module):
    """The same layer in training: a float32 weight, rounded on its way in, differentiable.

    Parameters
    ----------
    name : str
    layer : nn.Linear, nn.Conv1d or nn.Conv2d
        Whose weight and bias it trains, in place.
    config : LayerConfig
    given : torch.Tensor of int64, optional
        Exponents of the weight; found by the rule if omitted. They stay as they are until
        :meth:`refresh`.

    Notes
    -----
    The straight-through gradient is 1 inside the range and 0 outside, for weights and activations.
    """

    exponents: torch.Tensor
    input_exponents: torch.Tensor | None

    def __init__(
        self, name: str, layer: nn.Module, config: LayerConfig, given: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        assert isinstance(layer, LAYERS)
        self.name, self.config = name, config
        self.geometry = Geometry.of(layer)
        self.shape = layer.weight.shape
        self.weight = nn.Parameter(layer.weight.detach().float().flatten(1).contiguous())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().float())
        self.register_buffer(
            "exponents",
            weight_exponents(self.weight.detach(), config, name) if given is None else given,
        )
        self.register_buffer("input_exponents", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32, close to what :class:`QuantizedLayer` gives: sums round as float32 does."""
        if self.geometry is None:
            return functional.linear(self._rounded(x), self.rounded_weight(), self.bias)
        weight = self.rounded_weight()

        def patches(rows: torch.Tensor, first: int, last: int) -> torch.Tensor:
            bias = None if self.bias is None else self.bias[first:last]
            return functional.linear(self._rounded(rows), weight[first:last], bias)

        return self.geometry.apply(x, patches)

    def rounded_weight(self) -> torch.Tensor:
        """The weight ``[N, K]`` as it acts, with the straight-through gradient."""
        form = self.config.weight_format
        assert form is not None
        e = self.exponents
        if self.config.weight_scale == "block":
            e = expand_blocks(e, self.weight.shape[1])
        return fake_quantize(self.weight, form, e)

    def refresh(self) -> None:
        """Find the weight's exponents anew."""
        self.exponents = weight_exponents(self.weight.detach(), self.config, self.name)

    def quantized(self) -> QuantizedWeight:
        """The words as they are now."""
        return quantize_weight(self.weight, self.config, self.exponents, self.name)

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        form, scale = self.config.activation_format, self.config.activation_scale
        if form is None:
            return x
        x = x.contiguous()
        e: Any = 0
        if scale != "none":
            e = self.input_exponents
            if e is None:
                e = exponents(x.detach(), form, scale, name=f"input of {self.name}")
        if scale == "block":
            e = e.expand(*x.shape[:-1], -1)
            e = expand_blocks(limit_spread(e)[0], x.shape[-1])
        return fake_quantize(x, form, e)


class Geometry:
    """How a convolution walks over its input, as rows of patches.

    Parameters
    ----------
    layer : nn.Conv1d or nn.Conv2d
        With zero padding.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d) -> None:
        if layer.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', not {layer.padding_mode!r}")
        self.rank = len(layer.kernel_size)
        self.kernel = _pair(layer.kernel_size)
        self.stride, self.dilation = _pair(layer.stride), _pair(layer.dilation)
        self.groups, self.outputs = layer.groups, layer.out_channels
        #: Left, right, top, bottom.
        self.padding = _padding(layer, self.kernel, self.dilation)

    @classmethod
    def of(cls, layer: nn.Module) -> Geometry | None:
        """A convolution's geometry, None for a linear layer."""
        return cls(layer) if isinstance(layer, nn.Conv1d | nn.Conv2d) else None

    def apply(self, x: torch.Tensor, function: Any) -> torch.Tensor:
        """``function(rows [M, K], first channel, last channel) -> [M, channels]`` per group."""
        x = x.unsqueeze(2) if self.rank == 1 else x
        x = functional.pad(x, self.padding)
        count, _, height, width = x.shape
        sizes = [
            (size - d * (k - 1) - 1) // s + 1
            for size, k, s, d in zip(
                (height, width), self.kernel, self.stride, self.dilation, strict=True
            )
        ]
        patches = functional.unfold(x, self.kernel, self.dilation, 0, self.stride)
        rows = patches.transpose(1, 2).reshape(-1, self.groups, patches.shape[1] // self.groups)
        outputs = []
        per_group = self.outputs // self.groups
        for group in range(self.groups):
            first = group * per_group
            outputs.append(function(rows[:, group].contiguous(), first, first + per_group))
        y = torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
        y = y.reshape(count, *sizes, -1).permute(0, 3, 1, 2)
        return y.squeeze(2) if self.rank == 1 else y


def _state(tensor: torch.Tensor) -> tuple[int, int]:
    """What changes where a tensor is written to or replaced."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _pair(values: Any) -> tuple[int, int]:
    return (1, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def _padding(
    layer: nn.Conv1d | nn.Conv2d, kernel: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    if layer.padding == "valid":
        return (0, 0, 0, 0)
    if layer.padding == "same":
        (top, bottom), (left, right) = (
            (d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2)
            for k, d in zip(kernel, dilation, strict=True)
        )
        return left, right, top, bottom
    assert not isinstance(layer.padding, str)
    sides = tuple(layer.padding)
    height, width = (0, int(sides[0])) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
    return width, width, height, height

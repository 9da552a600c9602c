"""A quantized layer beside which single weights, or whole rows, stayed float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sw.wasq.modules import LAYERS, QuantizedLayer
from sw.wasq.quantize import replace_module


class SelectiveLayer(nn.Module):
    """A quantized layer, and beside it the weights that stayed float32, added by the host.

    Buffers besides those of ``quantized``: ``rows`` and ``columns`` int32 ``[n]`` and ``values``
    float32 ``[n]`` of single weights; or, with ``columns`` None, ``rows`` int32 ``[n]`` and
    ``values [n, K]`` of whole rows.

    Parameters
    ----------
    quantized : QuantizedLayer
        In whose words the kept weights are 0.
    rows, values : torch.Tensor
    columns : torch.Tensor, optional
    """

    rows: torch.Tensor
    columns: torch.Tensor | None
    values: torch.Tensor

    def __init__(
        self,
        quantized: nn.Module,
        rows: torch.Tensor,
        values: torch.Tensor,
        columns: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.quantized = quantized
        self.register_buffer("rows", rows.to(torch.int32))
        self.register_buffer("columns", None if columns is None else columns.to(torch.int32))
        self.register_buffer("values", values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32: what the array gives, plus the kept weights' part; of bfloat16, bfloat16."""
        assert isinstance(self.quantized, QuantizedLayer)
        if x.dtype == torch.bfloat16:
            return self.forward(x.float()).to(x.dtype)
        y: torch.Tensor = self.quantized(x)
        if not len(self.values):
            return y
        geometry = self.quantized.geometry
        if geometry is None:
            return y + self._kept(x)
        part: torch.Tensor = geometry.apply(x, lambda rows, a, b: rows @ self.matrix()[a:b].T)
        return y + part

    def matrix(self) -> torch.Tensor:
        """The kept weights ``[N, K]``, 0 elsewhere."""
        assert isinstance(self.quantized, QuantizedLayer)
        found = self.values.new_zeros(self.quantized.words.shape)
        if self.columns is None:
            found[self.rows.long()] = self.values
        else:
            found[self.rows.long(), self.columns.long()] = self.values
        return found

    def _kept(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.quantized, QuantizedLayer)
        flat = x.float().reshape(-1, x.shape[-1])
        outputs, terms = self.quantized.words.shape
        if self.columns is None:
            y = flat.new_zeros(len(flat), outputs)
            y[:, self.rows.long()] = flat @ self.values.T
        else:
            places = torch.stack((self.rows, self.columns)).long()
            size = (outputs, terms)
            sparse = torch.sparse_coo_tensor(places, self.values, size, check_invariants=True)
            y = torch.sparse.mm(sparse, flat.T).T
        return y.reshape(*x.shape[:-1], outputs)


def kept_structure(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What :func:`restore_kept_` needs, by layer, as JSON."""
    return {
        name: {"kept": len(layer.rows), "whole_rows": layer.columns is None}
        for name, layer in model.named_modules()
        if isinstance(layer, SelectiveLayer)
    }


def restore_kept_(model: nn.Module, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Wrap a float model's layers as they were; words and kept weights are loaded afterwards.

    Raises
    ------
    ValueError
        If a layer is none, or cannot keep so many weights.
    """
    for name, told in data.items():
        layer, count = model.get_submodule(name), int(told["kept"])
        if not isinstance(layer, LAYERS):
            raise ValueError(f"{name} must be a linear layer or convolution")
        matrix = layer.weight.flatten(1)
        if not 0 <= count <= (len(matrix) if told["whole_rows"] else matrix.numel()):
            raise ValueError(f"{name} must keep at most its own weights, not {count}")
        places = matrix.new_zeros(count, dtype=torch.int32)
        values = matrix.new_zeros(count, matrix.shape[1])
        if told["whole_rows"]:
            made = SelectiveLayer(layer, places, values)
        else:
            made = SelectiveLayer(layer, places, values[:, 0].clone(), places.clone())
        replace_module(model, name, made)

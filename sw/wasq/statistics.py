"""What real inputs say about a layer: second moments, magnitudes, samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from sw.wasq.config import LayerConfig
from sw.wasq.finite import check_finite
from sw.wasq.grid import round_activations
from sw.wasq.modules import Geometry
from sw.wasq.quantize import Target


@dataclass(slots=True)
class Moments:
    """Second moments of a layer's inputs, summed over rows (tokens) with their weights.

    Parameters
    ----------
    terms : int
        K.
    device : torch.device or str

    Attributes
    ----------
    hessian : torch.Tensor of float64 ``[K, K]``
        Of the inputs as the quantized layer sees them: ``sum w x x^T``.
    drift : torch.Tensor of float64 ``[K, K]``, or None
        ``sum w (float input - input) x^T``; None if there is no float model beside.
    residual : torch.Tensor of float64 ``[N, K]``, or None
        ``sum w (float stream - stream) x^T`` of a layer that adds to a stream.
    largest, mean : torch.Tensor of float32 ``[K]``
        Largest and mean magnitude of each input channel, before rounding.
    rows : int
    """

    terms: int
    device: torch.device | str = "cpu"
    hessian: torch.Tensor = field(init=False)
    drift: torch.Tensor | None = field(init=False, default=None)
    residual: torch.Tensor | None = field(init=False, default=None)
    largest: torch.Tensor = field(init=False)
    total: torch.Tensor = field(init=False)
    rows: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        shape = (self.terms, self.terms)
        self.hessian = torch.zeros(shape, dtype=torch.float64, device=self.device)
        self.largest = torch.zeros(self.terms, device=self.device)
        self.total = torch.zeros(self.terms, device=self.device, dtype=torch.float64)

    @property
    def mean(self) -> torch.Tensor:
        """Mean magnitude of each channel, float32."""
        return (self.total / max(self.rows, 1)).float()

    def add(
        self,
        x: torch.Tensor,
        config: LayerConfig,
        wanted: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> None:
        """Count rows.

        Parameters
        ----------
        x : torch.Tensor of float32 ``[M, K]``
            Before it is rounded for the layer.
        config : LayerConfig
            How it is rounded.
        wanted : torch.Tensor of float32 ``[M, K]``, optional
            What the float model has there.
        residual : torch.Tensor of float32 ``[M, N]``, optional
            What the stream lacks that the layer adds to.
        weights : torch.Tensor of float32 ``[M]``, optional
        """
        self.rows += x.shape[0]
        magnitude = x.abs()
        self.largest = torch.maximum(self.largest, magnitude.amax(0))
        self.total += magnitude.sum(0, dtype=torch.float64)
        seen = round_activations(x, config)
        weighted = seen if weights is None else seen * weights[:, None]
        self.hessian += (weighted.T @ seen).double()
        if wanted is not None:
            part = ((wanted - seen).T @ weighted).double()
            self.drift = part if self.drift is None else self.drift + part
        if residual is not None:
            part = (residual.T @ weighted).double()
            self.residual = part if self.residual is None else self.residual + part


@contextmanager
def inputs_of(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """The latest input of each module, by name, while the context is open."""
    seen: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def keep(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            seen[name] = arguments[0].detach()

        return keep

    handles = [m.register_forward_pre_hook(hook(name)) for name, m in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def rows_of(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A layer's input as rows ``[M, K]``: tokens, or patches of a convolution without groups."""
    geometry = Geometry.of(layer)
    if geometry is None:
        return x.reshape(-1, x.shape[-1]).float()
    kept: list[torch.Tensor] = []

    def patches(rows: torch.Tensor, first: int, last: int) -> torch.Tensor:
        kept.append(rows)
        return rows.new_zeros(rows.shape[0], last - first)

    geometry.apply(x, patches)
    return kept[0]


def gather(
    model: nn.Module, chosen: Sequence[Target], batches: Iterable[torch.Tensor]
) -> dict[str, Moments]:
    """Moments of every layer's input in the float model, all layers in one pass.

    Convolutions with groups are left out: each group has inputs of its own.

    Parameters
    ----------
    model : nn.Module
    chosen : sequence of Target
    batches : iterable of torch.Tensor
        Inputs of the model.

    Raises
    ------
    ValueError
        If there is no batch, or an activation is not finite (the layer is named).
    """
    layers = {t.name: t for t in chosen if getattr(t.module, "groups", 1) == 1}
    found: dict[str, Moments] = {}
    model.eval()
    with torch.no_grad(), inputs_of({n: t.module for n, t in layers.items()}) as seen:
        for batch in batches:
            model(batch)
            for name, x in seen.items():
                rows = rows_of(layers[name].module, x)
                check_finite(rows, f"input of {name}")
                if name not in found:
                    found[name] = Moments(rows.shape[1], rows.device)
                found[name].add(rows, layers[name].config)
            seen.clear()
    if not found:
        raise ValueError("calibration must have at least one batch, not 0")
    return found

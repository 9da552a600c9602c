"""What the array computes for a layer, on any device: words times words, exact, rounded once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sw.drain import narrowed, to_odd_binary64
from sw.format import SFx
from sw.scale import MAX_SPREAD
from sw.tensor import encode, expand_blocks, exponents, limit_spread, matmul
from sw.wasq.config import ActivationScale, LayerConfig
from sw.wasq.gemm import WEIGHT_FLOOR, Operand, Way, multiply, way
from sw.wasq.rounding import Faults, round_rows
from sw.wasq.weights import QuantizedWeight


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedActivation:
    """Activations as words.

    Parameters
    ----------
    words : torch.Tensor of uint8 or uint16 ``[M, K]``
    exponents : torch.Tensor of int64
        ``[]`` for "none" and "tensor", ``[M, 1]`` for "token", ``[M, B]`` for "block".
    format : SFx
    scale : {"none", "tensor", "token", "block"}
    """

    words: torch.Tensor
    exponents: torch.Tensor
    format: SFx
    scale: ActivationScale


def quantize_activation(
    x: torch.Tensor, config: LayerConfig, static: torch.Tensor | None = None, name: str = "input"
) -> QuantizedActivation:
    """Round activations to nearest.

    Parameters
    ----------
    x : torch.Tensor of float32 ``[M, K]``
    config : LayerConfig
        With a width for activations.
    static : torch.Tensor of int64, optional
        Calibrated exponents: ``[]``, or ``[B]`` for "block".
    name : str

    Raises
    ------
    ValueError
        If a value is NaN or, with dynamic exponents, infinite.
    """
    form = config.activation_format
    assert form is not None
    scale = config.activation_scale
    if scale == "none":
        found = torch.zeros((), dtype=torch.int64, device=x.device)
    elif static is not None:
        found = static.expand(x.shape[0], -1) if scale == "block" else static
    else:
        found = exponents(x, form, scale, name=name)
    if scale == "block":
        found, _ = limit_spread(found, MAX_SPREAD)
    spread = expand_blocks(found, x.shape[1]) if scale == "block" else found
    return QuantizedActivation(encode(x, form, spread, name=name), found, form, scale)


def product(
    a: QuantizedActivation,
    b: QuantizedWeight,
    bias: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """``a @ b.T + bias`` exactly, rounded once to float32 or bfloat16 ``[M, N]``. The definition.

    Faster ways are proven equal to it.
    """
    fraction_bits = a.format.fraction_bits + b.format.fraction_bits
    transposed = b.words.T.contiguous()
    if "block" not in (a.scale, b.scale):
        sums = matmul(a.words, transposed, a.format, b.format, output="exact")
        both = a.exponents + b.exponents.reshape(1, -1)
        both = both.reshape(()) if both.numel() == 1 else both
        return narrowed(to_odd_binary64(sums, fraction_bits, both, bias), dtype)
    blocks = -(-a.words.shape[1] // 32)
    rows, columns = a.exponents, b.exponents
    rows = rows if a.scale == "block" else rows.reshape(-1, 1).expand(a.words.shape[0], blocks)
    columns = (
        columns if b.scale == "block" else columns.reshape(-1, 1).expand(b.words.shape[0], blocks)
    )
    sums = matmul(
        a.words,
        transposed,
        a.format,
        b.format,
        output="exact",
        block=32,
        row_shift=-rows,
        column_shift=-columns.T,
    )
    return narrowed(to_odd_binary64(sums, fraction_bits, bias=bias), dtype)


def linear(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None,
    config: LayerConfig,
    static: torch.Tensor | None = None,
    name: str = "input",
    *,
    operand: Operand | None = None,
    faults: Faults | None = None,
) -> torch.Tensor:
    """A layer on ``[..., K]``, giving ``[..., N]``; float activations by torch in float32.

    Parameters
    ----------
    x : torch.Tensor ``[..., K]``
        Of bfloat16, which gives bfloat16; of any other type, which gives float32.
    weight : QuantizedWeight
    bias : torch.Tensor of float32 ``[N]``, optional
        Added before the one rounding.
    config, static, name
        As for :func:`quantize_activation`.
    operand : Operand, optional
        The weight made ready, kept by the caller from call to call.
    faults : Faults, optional
        Collects rows that are refused, so that a device need not be waited for; if omitted they
        raise ValueError here.

    Raises
    ------
    ValueError
        As :func:`quantize_activation`.
    """
    ready = Operand(weight) if operand is None else operand
    if config.activations is None:
        values = ready.values(torch.float32)
        y = torch.nn.functional.linear(_rows(x).float(), values, bias).to(_result(x))
    else:
        y = _fast(x, ready, bias, config, static, name, faults)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _rows(x: torch.Tensor) -> torch.Tensor:
    rows = x.detach().reshape(-1, x.shape[-1])
    return rows if x.dtype == torch.bfloat16 else rows.float()


def _result(x: torch.Tensor) -> torch.dtype:
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a layer's calls have in common; ``how`` is proven for any activations, or None."""

    config: LayerConfig
    kind: str
    form: SFx
    bits: int
    widest: int
    how: Way | None


def _plan(ready: Operand, config: LayerConfig, kind: str) -> _Plan:
    known = ready.plan
    if isinstance(known, _Plan) and known.config is config and known.kind == kind:
        return known
    form, other = config.activation_format, ready.weight.format
    assert form is not None
    bits, widest = form.fraction_bits + other.fraction_bits, max(form.bits, other.bits)
    # What is proven for any spread of a row's blocks needs no look at a call's.
    most = MAX_SPREAD if config.activation_scale == "block" else 0
    made = _Plan(config, kind, form, bits, widest, None)
    ready.plan = replace(made, how=_way(ready, made, most))
    return ready.plan  # type: ignore[no-any-return]


def _way(ready: Operand, plan: _Plan, spread: int) -> Way | None:
    if not ready.in_range:
        return None
    return way(
        plan.bits,
        plan.widest,
        ready.weight.words.shape[1],
        spread + ready.spread,
        plan.kind,
        largest_sum=lambda: ready.largest_sum() * (1 << plan.form.fraction_bits),
        grouped=ready.lowest >= WEIGHT_FLOOR,
    )


def _fast(
    x: torch.Tensor,
    ready: Operand,
    bias: torch.Tensor | None,
    config: LayerConfig,
    static: torch.Tensor | None,
    name: str,
    faults: Faults | None,
) -> torch.Tensor:
    """By floating point where that is proven exact, else by the definition."""
    plan = _plan(ready, config, x.device.type)
    how = plan.how or _way(ready, plan, _spread(_rows(x), config, static))
    if how is not None and x.numel():
        rounded = _rounded(x, plan, how.dtype, static, name, faults)
        if rounded is not None:
            return multiply(rounded, ready.values(how.dtype).T, how, bias, _result(x))
    words = quantize_activation(_rows(x).float(), config, static, f"input of {name}")
    return product(words, ready.weight, bias, _result(x))


def _rounded(
    x: torch.Tensor,
    plan: _Plan,
    dtype: torch.dtype,
    static: torch.Tensor | None,
    name: str,
    faults: Faults | None,
) -> torch.Tensor | None:
    """Rows rounded, or what the layer before found for the same tensor."""
    scale = plan.config.activation_scale
    if faults is None:
        return round_rows(_rows(x), plan.form, scale, static, dtype, None)
    how = (plan.form.bits, plan.form.unity, scale, dtype)
    values = faults.last.find(x, how) if static is None else None
    if values is None:
        counter = None if plan.kind == "cpu" else faults.counter(name, x.device)
        values = round_rows(_rows(x), plan.form, scale, static, dtype, counter)
        if static is None and values is not None:
            faults.last.keep(x, how, values)
    return values


def _spread(rows: torch.Tensor, config: LayerConfig, static: torch.Tensor | None) -> int:
    """How far apart the exponents of a row's blocks really lie, at most; waits for the device."""
    form = config.activation_format
    assert form is not None
    if config.activation_scale != "block":
        return 0
    rows = rows.float()
    if not bool(torch.isfinite(rows).all()):
        return MAX_SPREAD
    found = exponents(rows, form, "block") if static is None else static[None]
    return min(MAX_SPREAD, int((found.amax(-1) - found.amin(-1)).max()))

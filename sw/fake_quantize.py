"""fake_quantize: what a tensor becomes by encoding and decoding, in one pass, differentiable."""

from __future__ import annotations

from typing import Any

import torch

from sw import convert
from sw.arrays import Array, ArrayT, like, to_tensor
from sw.casting import check_range
from sw.format import Rounding, SFx
from sw.words import check_rounding, unity_step


class _FakeQuantize(torch.autograd.Function):
    """Rounds in the forward pass; a straight-through estimator inside the range, 0 outside."""

    @staticmethod
    def forward(
        context: Any,
        values: torch.Tensor,
        format: SFx,
        exponents: torch.Tensor,
        rounding: Rounding,
        name: str,
        out: torch.Tensor | None,
    ) -> torch.Tensor:
        context.save_for_backward(values, exponents)
        tensor = convert.as_floats(name, values)
        result = convert.output_tensor(out, tensor, tensor.dtype)
        library = convert.cpu_library(tensor)
        if library is not None:
            kind = str(tensor.dtype).removeprefix("torch.")
            function = getattr(library, f"fake_quantize_{kind}")
            nans = convert.run_pass(function, tensor, result, exponents, format, rounding)
        else:
            nans = int(torch.isnan(tensor).sum())
            if not nans:
                magnitude = convert.round_to_magnitudes(tensor, format, exponents, rounding)
                magnitude += unity_step(magnitude, format)
                signed = torch.where(torch.signbit(tensor), -magnitude, magnitude)
                result.copy_(convert.scale_operands(signed, format, exponents, tensor.dtype))
        convert.refuse_nans(nans, name)
        return result

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, exponents = context.saved_tensors
        first, second = convert.power_factors(exponents, torch.float64)
        wide = values if values.dtype == torch.float64 else values.float()
        # The largest finite number stands for a limit beyond it, so that infinities stay outside.
        limit = (first * second).clamp(max=torch.finfo(wide.dtype).max).to(wide.dtype)
        gradient = torch.where(wide.abs() <= limit, gradients[0], 0).to(values.dtype)
        return gradient, None, None, None, None, None


def fake_quantize(
    values: ArrayT,
    format: SFx,
    exponent: int | Array = 0,
    rounding: Rounding = "nearest",
    name: str = "tensor",
    out: torch.Tensor | None = None,
) -> ArrayT:
    """``decode(encode(values))`` in one pass, differentiable for torch.

    The gradient with respect to ``values`` is 1 where ``|v| <= 2**exponent``, ends included, and 0
    elsewhere.

    Parameters
    ----------
    values, format, exponent, rounding, name
        As for :func:`encode`.
    out : torch.Tensor, optional
        Contiguous, of the result's dtype; for torch only.

    Returns
    -------
    array shaped like ``values``
        float64 for float64, else float32; rounded once, nearest even, where a value of the format
        falls among or below the type's subnormals.

    Raises
    ------
    ValueError
        If ``values`` holds NaN, or an exponent puts values of the format beyond the type's range.
    """
    check_rounding(rounding)
    tensor = values if isinstance(values, torch.Tensor) else to_tensor(name, values)
    exponents = convert.as_exponents(exponent, tensor)
    kind = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    check_range(format, exponents, kind)
    result: torch.Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
        tensor, format, exponents, rounding, name, out
    )
    return like(values, result)

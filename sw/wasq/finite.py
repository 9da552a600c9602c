"""NaN and infinities in weights and activations: where they are, and how many."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

#: What is looked at together, so that little memory is needed on the way.
_VALUES_AT_A_TIME: Final = 1 << 20


def check_finite(values: torch.Tensor, what: str) -> None:
    """Refuse NaN and infinities.

    Parameters
    ----------
    values : torch.Tensor
    what : str
        Of which layer they are, such as ``input of blocks.0.down``.

    Raises
    ------
    ValueError
        If there are any; the sentence counts them.
    """
    bad = _bad(values)
    if bad:
        raise ValueError(f"{what} must hold finite numbers, not NaN or infinity in {bad} places")


def check_parameters(model: nn.Module) -> None:
    """Refuse a model with NaN or infinities in its parameters; ValueError names the first."""
    for name, parameter in model.named_parameters():
        layer, _, what = name.rpartition(".")
        check_finite(parameter.detach(), f"{what} of {layer}" if layer else what)


def check_activations(model: nn.Module, *inputs: torch.Tensor) -> None:
    """Refuse inputs that a model turns into NaN or infinities.

    Raises
    ------
    ValueError
        Naming the first parameter, else the first innermost module in the order of the run, that
        has any. Not where these are made between modules.
    """
    check_parameters(model)

    def look(name: str) -> object:
        def hook(module: nn.Module, given: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                check_finite(output, f"output of {name}")

        return hook

    inner = [(n, m) for n, m in model.named_modules() if n and not any(True for _ in m.children())]
    hooks = [module.register_forward_hook(look(name)) for name, module in inner]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in hooks:
            handle.remove()


def _bad(values: torch.Tensor) -> int:
    if not (values.is_floating_point() or values.is_complex()):
        return 0
    parts = torch.split(values.reshape(-1), _VALUES_AT_A_TIME)
    return sum([int((~torch.isfinite(part)).sum()) for part in parts])

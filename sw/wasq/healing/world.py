"""The processes that heal a model together, and sums over them whose order is certain.

``torchrun`` names them in the environment; without it there is one process, and nothing here
communicates. Replicated models are wrapped in DistributedDataParallel unless gradients are summed
in order; sharded ones use FSDP2 (:func:`torch.distributed.fsdp.fully_shard`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that work together.

    Parameters
    ----------
    rank, size : int
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """The default process group, or one process alone."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def leads(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier()

    def in_order(self, values: torch.Tensor) -> torch.Tensor:
        """Everyone's values one after the other, ``[size, ...]``."""
        if self.size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        distributed.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    def add_in_order(
        self, sums: Sequence[torch.Tensor], parameters: Sequence[nn.Parameter]
    ) -> None:
        """Add everyone's gradients to the sums by rank, and clear them; zeros where there is none.

        With one forward pass per process and round, passes are summed in the order of their
        samples: float32 additions as one process would do them, on any number of processes.
        """
        for total, parameter in zip(sums, parameters, strict=True):
            gradient = parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            for part in self.in_order(gradient):
                total += part
            parameter.grad = None


@contextmanager
def processes(device: torch.device) -> Iterator[World]:
    """The process group that ``torchrun`` asks for, if it does, taken down at the end."""
    started = "WORLD_SIZE" in os.environ and not distributed.is_initialized()
    if started:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World.current()
    finally:
        if started:
            distributed.destroy_process_group()


def local_device(wanted: str) -> torch.device:
    """The device of this process: of several GPUs, the one that ``torchrun`` numbers."""
    device = torch.device(wanted)
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def shard_(model: nn.Module) -> None:
    """Lay a model's parameters out over all processes, list of blocks by list of blocks."""
    from torch.distributed.fsdp import fully_shard

    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block)
    fully_shard(model)


def sharded_module() -> type[nn.Module]:
    """The class that FSDP2 makes modules of."""
    from torch.distributed.fsdp import FSDPModule

    return FSDPModule  # type: ignore[return-value]


def unshard_(model: nn.Module) -> None:
    """The inverse of :func:`shard_`: whole parameters, on the CPU, and plain modules again."""
    kind, made = sharded_module(), dict[int, nn.Parameter]()
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            gather = getattr(parameter.detach(), "full_tensor", None)
            value = parameter.detach() if gather is None else gather()
            plain = nn.Parameter(value.cpu(), requires_grad=False)
            setattr(module, name, made.setdefault(id(parameter), plain))  # ties stay ties
        if isinstance(module, kind):
            module._forward_pre_hooks.clear()
            module._forward_hooks.clear()
            bases = [base for base in type(module).__mro__[1:] if not issubclass(base, kind)]
            module.__class__ = bases[0]  # type: ignore[assignment]
    model.cpu()

"""Operations that the array has no way of doing run on the host, with the reason; none fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import sw

torch.manual_seed(5)


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.register_buffer("filter", torch.randn(5, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear((torch.fft.rfft(x) * self.filter).abs())


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.linear = nn.EmbeddingBag(20, 8, mode="mean"), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.bag(x))


class Through(nn.Module):
    """A function of the host, then a layer of the array."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], width: int = 4) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.function(x))


SQUARE = torch.randn(4, 4)
CASES = {
    "embedding_bag": (Bags(), torch.randint(0, 20, (3, 5))),
    "complex spectrum": (Spectrum(), torch.randn(2, 8)),
    "solve": (Through(lambda x: torch.linalg.solve(x + 9 * torch.eye(4), x)), SQUARE),
    "singular values": (Through(lambda x: torch.linalg.svdvals(x)[None]), SQUARE),
    "bessel": (Through(torch.special.i1), SQUARE),
    "kthvalue": (Through(lambda x: torch.kthvalue(x, 2, dim=0, keepdim=True)[0]), SQUARE),
    "histogram": (Through(lambda x: torch.histc(x, 4)[None]), SQUARE),
    "logcumsumexp": (Through(lambda x: torch.logcumsumexp(x, 1)), SQUARE),
    "as_strided": (Through(lambda x: x.as_strided((2, 4), (1, 2), 1)), SQUARE),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_without_a_unit_runs_on_the_host(name: str, tmp_path) -> None:
    module, x = CASES[name]
    artefact = sw.compile(module.eval(), (x,))
    placed = {p.node: p for p in artefact.plan.placements}
    assert any(p.on_array and p.layer for p in placed.values())
    assert all(p.reason for p in placed.values())
    artefact.save(tmp_path / "network")
    with sw.Session(sw.load(tmp_path / "network")) as session:
        (got,) = session.run(x)
    with torch.no_grad():
        want = module(x)
    assert torch.as_tensor(got).shape == want.shape
    torch.testing.assert_close(torch.as_tensor(got), want, rtol=0.05, atol=0.05)

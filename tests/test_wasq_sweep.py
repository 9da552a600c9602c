"""Columns rounded in turn: the compiled kernel, the plain loops, and the textbook's own form."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from sw import native
from sw.format import SFx
from sw.scale import MAX_SPREAD
from sw.wasq.columns import arranged, first_pass, refine
from sw.wasq.compensate import compensate, output_error
from sw.wasq.config import LayerConfig
from sw.wasq.grid import largest_exponent, snap, unit
from sw.wasq.solver import Solver, factored
from sw.wasq.statistics import Moments
from sw.wasq.sweep import Exponents, choose
from sw.wasq.weights import quantize_weight

FORMS = (SFx(4), SFx(4, unity=False), SFx(8), SFx(16))


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hessian_of(terms: int, seed: int) -> torch.Tensor:
    x = normal(3 * terms, terms, seed=seed) @ normal(terms, terms, seed=seed + 1)
    return (x.T @ x).double()


def block_case(rows: int, width: int, form: SFx, tries: int, again: bool) -> dict[str, Any]:
    """Arguments of one block; new tensors, the same numbers, at every call."""
    factor = torch.linalg.cholesky(hessian_of(width, seed=width)).T.float()
    diagonal = factor.diagonal().contiguous()
    size = (normal(rows, seed=3) * 2).exp2()
    top = largest_exponent(2 * size, form).int()
    values = normal(width, rows, seed=4) * size
    return {
        "columns": normal(width, rows, seed=5) * size,
        "scaled": (factor / diagonal[:, None]).contiguous(),
        "diagonal": diagonal,
        "exponents": Exponents(top, form, tries, 3),
        **{"values": values, "base": values if again else normal(width, rows, seed=6)},
        "change": torch.zeros(width, rows),
        "chosen": top - torch.arange(rows, dtype=torch.int32) % 4,
        "errors": None if again else torch.zeros(width, rows),
        "aside": normal(width, rows, seed=7) * size * diagonal.mean() / 40 if again else None,
        "gain": 1 - 2.0**-20,
    }


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("again", [False, True])
def test_the_kernel_gives_the_bits_of_the_plain_loops(form: SFx, again: bool) -> None:
    assert native.library() is not None, "the compiled kernels must build"
    moved = set()
    for (rows, width), tries in itertools.product(((37, 32), (16, 64), (3, 7)), (1, 3)):
        fast = block_case(rows, width, form, tries, again)
        slow = block_case(rows, width, form, tries, again)
        before = fast["values"].clone()
        choose(**fast)
        with native.plain():
            choose(**slow)
        for name in ("values", "chosen", "change", "errors"):
            if fast[name] is not None:
                assert torch.equal(fast[name], slow[name]), (name, rows, width, tries)
        moved |= set((fast["values"] != before).any(0).tolist())
    assert not again or moved == {True, False}, (
        "rows that change and rows that stay are both needed"
    )


def test_what_lies_apart_in_memory_is_refused_before_the_kernel_sees_it() -> None:
    case = block_case(16, 32, SFx(4), 1, False)
    case["columns"] = case["columns"].repeat(1, 2)[:, ::2]
    with pytest.raises(ValueError, match="columns must be contiguous, not of strides"):
        choose(**case)


def textbook(
    target: torch.Tensor, solver: Solver, top: torch.Tensor, form: SFx, tries: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """GPTQ as it was published, in float64: errors spread by the upper factor of the inverse."""
    factor = solver.factor
    work, values, loss = target.double(), torch.zeros_like(target).double(), 0.0
    for first, last in solver.parts:
        found = []
        highest = torch.minimum(largest_exponent(work[:, first:last].abs().amax(1), form), top)
        for step in range(tries):
            units = unit(torch.maximum(highest - step, top - MAX_SPREAD), form).double()
            left, errors = work.clone(), torch.zeros_like(work)
            for i in range(first, last):
                rounded = snap(left[:, i] / units, form) * units
                errors[:, i] = (left[:, i] - rounded) / factor[i, i]
                left[:, i:] -= errors[:, i : i + 1] * factor[i, i:]
                values[:, i] = rounded
            found.append((errors.square().sum(1), values[:, first:last].clone(), left))
        best = torch.stack([f[0] for f in found]).argmin(0)
        rows = torch.arange(len(target))
        values[:, first:last] = torch.stack([f[1] for f in found])[best, rows]
        work = torch.stack([f[2] for f in found])[best, rows]
        loss = loss + torch.stack([f[0] for f in found])[best, rows]
    return values, loss


@pytest.mark.parametrize("terms", [96, 70])
@pytest.mark.parametrize("tries", [1, 3])
def test_without_an_inverse_the_words_are_those_of_the_textbook(terms: int, tries: int) -> None:
    form, weight = SFx(4), normal(24, terms, seed=1) * 0.3
    solver = factored(hessian_of(terms, seed=9), 0.01, 32)
    target = arranged(weight, solver.order)
    top = largest_exponent(target.abs().amax(1), form)
    values, loss = textbook(target, solver, top, form, tries)
    got = first_pass(target.clone(), solver, top, form, tries, MAX_SPREAD)
    same = (got.values.double() == values).all(1)  # a value near a tie may fall either way
    assert float(same.float().mean()) > 0.9
    assert torch.allclose(got.errors.double().square().sum(1)[same], loss[same], rtol=1e-4)
    assert torch.allclose(
        got.errors.double(),
        (weight[:, solver.order].double() - got.values) @ upper(solver),
        atol=1e-3,
    )


def upper(solver: Solver) -> torch.Tensor:
    """F of ``H = F F^T``, from the other factor."""
    found = torch.linalg.inv(solver.factor)
    assert torch.allclose(found @ found.T, solver.hessian)
    return found


@pytest.mark.parametrize("tries", [1, 3])
def test_each_refined_row_errs_no_more_than_before(tries: int) -> None:
    form, weight = SFx(4), normal(40, 96, seed=2) * 0.3
    solver = factored(hessian_of(96, seed=8), 0.01, 32)
    target = arranged(weight, solver.order)
    top = largest_exponent(target.abs().amax(1), form)

    def losses(passes: int) -> torch.Tensor:
        rounded = first_pass(target.clone(), solver, top, form, tries, MAX_SPREAD)
        rounded = refine(rounded, target, solver, top, form, tries, MAX_SPREAD, passes)
        error = weight[:, solver.order].double() - rounded.values
        return ((error @ solver.hessian) * error).sum(1)

    every = [losses(passes) for passes in range(4)]
    for before, after in itertools.pairwise(every):
        assert bool((after <= before * (1 + 1e-6)).all())
    assert float(every[1].sum()) < 0.99 * float(every[0].sum())


def test_damping_grows_until_the_hessian_factors_and_one_that_is_not_finite_is_refused() -> None:
    hessian = torch.full((40, 40), -1.0, dtype=torch.float64)
    hessian.diagonal().fill_(1.0)
    solver = factored(hessian, 0.01)
    assert not bool(solver.failed)
    added = float(solver.hessian.diagonal()[0]) - 1
    assert added == pytest.approx(100)  # 38 is what it takes
    moments = Moments(40)
    moments.hessian, moments.rows = hessian.clone(), 40
    config = LayerConfig(weights=4, activations=None, weight_scale="block")
    weight = normal(8, 40, seed=5)
    words = compensate(weight, config, moments)  # which looks at it behind all the work
    assert output_error(weight, words, solver_hessian(solver)) < output_error(
        weight, quantize_weight(weight, config), solver_hessian(solver)
    )
    hessian[3, 4] = hessian[4, 3] = torch.nan
    with pytest.raises(ValueError, match="must hold finite numbers"):
        factored(hessian, 0.01)


def solver_hessian(solver: Solver) -> torch.Tensor:
    """Damped, columns where they were."""
    found = torch.empty_like(solver.hessian)
    found[solver.order[:, None], solver.order] = solver.hessian
    return found


@pytest.mark.parametrize("terms", [64, 45])
def test_rows_are_solved_for_without_an_inverse(terms: int) -> None:
    solver = factored(hessian_of(terms, seed=6), 0.01, 32)
    rows = normal(5, terms, seed=7).double()
    assert torch.allclose(solver.solve(rows) @ solver.hessian, rows)
    assert torch.allclose(solver.own_upper().double(), solver.own().upper, rtol=1e-4, atol=1e-6)

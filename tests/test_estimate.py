"""The closed form of a product's cycles is the machine's count, near it where sums are short."""

from __future__ import annotations

import pytest

from bench.utilisation import SHAPES, Shape, jobs
from sim.machine_backends import execute
from sw.estimate import Product, chunks, compute_cycles
from sw.registers import Counter

SMALL = tuple(s for s in SHAPES if s.rows * s.terms * s.columns < 1 << 20)
#: Sums or runs shorter than the array has rows wait in ways that the form rounds up.
SHORT = {s for s in SMALL if s.terms // s.runs < 16}


@pytest.mark.parametrize("side", [8, 16])
def test_closed_form_is_the_cycle_count_and_within_two_percent_of_short_sums(side: int) -> None:
    assert SHORT
    assert len(SMALL) > len(SHORT) + 2
    for job, shape in zip(jobs(side, 8, SMALL), SMALL, strict=True):
        cycles = execute([job], "model")[0].report[Counter.COMPUTE_CYCLES]
        run = shape.terms // shape.runs
        form = compute_cycles(job.config, Product(shape.rows, shape.columns, run, shape.runs))
        if shape in SHORT:
            assert abs(form - cycles) * 50 <= cycles, f"{shape}: {form} for {cycles}"
        else:
            assert form == cycles, f"{shape}: {form} for {cycles}"


@pytest.mark.parametrize("run", range(1, 80))
def test_no_chunk_is_short_unless_its_run_is(run: int) -> None:
    lengths = chunks(run, 16)
    assert sum(lengths) == run
    assert max(lengths) <= 16
    assert min(lengths) >= min(run, 8) or len(lengths) == 1


def test_shapes_of_the_benchmark_are_whole() -> None:
    assert all(isinstance(s, Shape) and s.terms % s.runs == 0 for s in SHAPES)

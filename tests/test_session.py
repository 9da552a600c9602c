"""Sessions: the same outputs on every back end, batches, counters, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sw.runtime.model_device import ModelDevice
from sw.runtime.session import Session
from tests.compiled import CONFIG, INNER, OUT, ROWS, artefact, float_result


def x(rows: int = ROWS, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, INNER, generator=torch.Generator().manual_seed(seed))


def test_tensor_back_end_is_near_the_float_network() -> None:
    made = artefact()
    with Session(made) as session:
        p, y = session.run(x())
    want = float_result(made.plan, x())
    assert p.shape == y.shape == (ROWS, OUT)
    assert (y - want).abs().max() < 0.5
    assert torch.equal(p, torch.softmax(y, 1))


def test_model_gives_the_tensor_back_ends_outputs_bit_for_bit() -> None:
    made = artefact()
    with Session(made) as one, Session(made, "model") as other:
        for seed in range(3):
            for want, got in zip(one.run(x(seed=seed)), other.run(x(seed=seed)), strict=True):
                assert torch.equal(want, got)


def test_numpy_in_numpy_out() -> None:
    with Session(artefact()) as session:
        given = x().numpy().astype(np.float64)
        p, y = session.run(given)
        assert isinstance(p, np.ndarray)
        assert y.dtype == np.float32
        assert np.array_equal(y, session.run(x())[1].numpy())


@pytest.mark.parametrize("samples", [1, ROWS - 1, ROWS + 1, 3 * ROWS])
def test_batches_are_looped_and_the_last_filled_up(samples: int) -> None:
    done = []
    made = artefact()
    with Session(made, progress=lambda *step: done.append(step)) as session:
        p, y = session.run(x(samples))
        assert p.shape == y.shape == (samples, OUT)
        batches = -(-samples // ROWS)
        assert done == [(i + 1, 4 * batches) for i in range(4 * batches)]
        for start in range(0, samples, ROWS):
            part = x(samples)[start : start + ROWS]
            whole = torch.cat([part, torch.zeros(ROWS - len(part), INNER)])
            assert torch.equal(y[start : start + ROWS], session.run(whole)[1][: len(part)])


def test_counters_are_kept_per_program_and_stepwise_per_layer() -> None:
    made = artefact()
    with Session(made, "model") as session:
        session.run(x(2 * ROWS))
        assert list(session.tallies) == [("first", "second")]
        whole = session.tallies["first", "second"]
        assert whole.runs == 2
    with Session(made, "model", stepwise=True) as session:
        session.run(x(2 * ROWS))
        assert list(session.tallies) == [("first",), ("second",)]
        parts = [tally.counters for tally in session.tallies.values()]
    for counter in ("COMPUTE_CYCLES", "MACS", "SLICES"):
        name = next(c for c in whole.counters if c.name == counter)
        assert whole.counters[name] == sum(part[name] for part in parts) > 0


class Recorder(ModelDevice):
    """Counts the writes of each kind."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.addresses: list[int] = []

    def write(self, address: int, words: np.ndarray) -> None:
        self.addresses.append(address)
        super().write(address, words)


def test_weights_are_written_once_and_inputs_per_call() -> None:
    device = Recorder()
    with Session(artefact(), device) as session:
        session.run(x())
        session.run(x())
    assert device.addresses == [32, 128, 0, 0]


class Stuck(ModelDevice):
    """Loses the last row of the result stream."""

    def run(self, words):
        outcome = super().run(words)
        return replace(outcome, rows=outcome.rows[:-1], counts=outcome.counts[:-1])


def test_missing_results_are_reported() -> None:
    with (
        Session(artefact(), Stuck(CONFIG)) as session,
        pytest.raises(RuntimeError, match=r"first \+ second must send 6 rows, not 5"),
    ):
        session.run(x())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"inputs must be 1 \(x\), not 0"),
        ((x(), x()), "inputs must be 1"),
        (("x",), "input x must be a numpy array or torch tensor, not str"),
        ((x().long(),), "input x must be float32, not int64"),
        ((np.array([["a"]]),), "input x must be torch.float32, not <U1"),
        ((x()[:, 1:],), r"input x must have the shape \(N, 5\), not \(6, 4\)"),
        ((x()[:0],), r"input x must have the shape \(N, 5\), not \(0, 5\)"),
        ((x() * float("nan"),), "x must hold numbers, not NaN in 30 places"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: tuple[object, ...], message: str) -> None:
    with Session(artefact()) as session, pytest.raises((TypeError, ValueError), match=message):
        session.run(*inputs)


def test_unknown_back_end_and_other_machine_are_refused() -> None:
    with pytest.raises(ValueError, match="backend must be one of tensor, model or a device"):
        Session(artefact(), "spice")
    with pytest.raises(ValueError, match="device must have the artefact's machine"):
        Session(artefact(), ModelDevice(replace(CONFIG, rows=5)))

"""The demo's joints: a layer on integers, on tensors and on rows of neurons."""

from __future__ import annotations

import numpy as np
import pytest

from atreides import demo, digits
from sw.format import SFx

FORMAT = SFx(5)


def random_layer(generator: np.random.Generator) -> digits.Layer:
    neurons = demo.LANES[0] + 3  # the first lanes take two turns
    return digits.Layer(
        weights=generator.integers(0, 32, (6, neurons)).astype(np.uint8),
        column_shift=generator.integers(-3, 4, neurons).astype(np.int8),
        bias=generator.integers(0, 1 << 16, neurons).astype(np.uint16),
        activation="relu",
        output=FORMAT,
    )


@pytest.fixture
def values() -> tuple[list[digits.Layer], list[np.ndarray]]:
    generator = np.random.default_rng(3)
    layers = [random_layer(generator)]
    words = generator.integers(0, 32, (4, 6)).astype(np.uint8)
    return layers, [words, *digits.run_on_integers(layers, words, FORMAT)]


def test_tensors_and_integers_agree_on_a_layer(
    values: tuple[list[digits.Layer], list[np.ndarray]],
) -> None:
    layers, (words, want) = values
    (got,) = digits.run_on_tensors(layers, words, FORMAT)
    assert np.array_equal(got, want)


@pytest.mark.parametrize("simulator", ["amaranth", "icarus"])
def test_neurons_agree_with_the_integer_model_and_a_wrong_word_is_seen(
    simulator: str, values: tuple[list[digits.Layer], list[np.ndarray]]
) -> None:
    layers, (words, want) = values
    board = demo._run_on_rtl(layers, [words, want], FORMAT, simulator)
    assert not board.mismatches, board.report()
    wrong = want.copy()
    wrong[2, demo.LANES[0] + 1] ^= 1
    board = demo._run_on_rtl(layers, [words, wrong], FORMAT, simulator)
    assert [mismatch.lane for mismatch in board.mismatches] == [1]


def test_same_seed_gives_the_same_split_of_the_data() -> None:
    first, second = digits.load(1), digits.load(1)
    assert first.test_images.equal(second.test_images)
    assert len(first.test_labels) == 359
    assert not digits.load(2).test_images.equal(first.test_images)

"""The benchmark of zeros: tiles, their sums through gates, and schedules without skipping."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from atreides import digits
from bench import sparsity
from bench.sparsity_array import HeldArray, Tile, WrongSums, stimulus, tiles_of
from bench.sparsity_layers import LayerWords, layer_words, skipping, without_skipping
from hw.synthesis import LIBERTY
from sw.compiler.compile import DEFAULT_MACHINE
from sw.compiler.compile import compile as compile_network
from sw.format import SFx
from sw.registers import Counter
from sw.runtime.artefact import Artefact
from sw.runtime.session import Session
from sw.tensor import encode
from sw.words import widen

FORMAT = SFx(3)
MISSING = [t for t in ("sta", "iverilog") if shutil.which(t) is None] + (
    [] if LIBERTY.is_file() else ["osu018"]
)
gates = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed")


def handwriting(rows: int) -> np.ndarray:
    """Pixels of scikit-learn's digits as words, an image per row: about half of them are zero."""
    pixels = digits.load(0).test_images[:rows].reshape(rows, -1)
    return widen(encode(pixels, FORMAT)).numpy()


def test_tiles_cover_a_product_once_where_there_is_time() -> None:
    a, b = np.arange(2 * 5 * 3).reshape(2, 5, 3), np.arange(2 * 3 * 4).reshape(2, 3, 4)
    found = tiles_of(a, b, 2, 3, 10**6)
    assert len(found) == 2 * 3 * 2
    assert sum(tile.a.shape[0] * tile.b.shape[1] for tile in found) == 2 * 5 * 4
    for tile in found:
        assert tile.a.shape[1] == tile.b.shape[0] == 3
    few = tiles_of(a, b, 2, 3, 7)
    assert len(few) == 2
    whole = [(tile.a.tolist(), tile.b.tolist()) for tile in found]
    assert all((tile.a.tolist(), tile.b.tolist()) in whole for tile in few)


def test_a_stimulus_has_one_first_and_one_last_per_tile_and_room_for_the_rows() -> None:
    short = Tile(np.full((4, 2), 1), np.full((2, 3), 2))
    lines = stimulus([short, short], FORMAT, 4, 3)
    assert {len(line) for line in lines.values()} == {2 * 4 + 4 + 3 + 8}
    assert sum(lines["valid"]) == 4
    assert [k for k, last in enumerate(lines["last"]) if last] == [1, 5]
    assert [k for k, first in enumerate(lines["first"]) if first] == [0, 4]


def test_zeros_are_counted_with_either_sign() -> None:
    words = np.array([[[0, 1 << 7, 3, 1 << 7 | 3]]])
    layer = LayerWords("network", "layer", words, words[:, :, :2])
    assert layer.zeros(DEFAULT_MACHINE) == (0.5, 1.0)


@gates
@pytest.mark.slow
def test_handwriting_goes_through_the_gates_and_other_sums_are_noticed() -> None:
    a = handwriting(2)[None, :, 20:44]
    b = np.random.default_rng(1).integers(0, 8, (1, a.shape[2], 2))
    array = HeldArray(FORMAT, 2, 2, 64)
    tiles = tiles_of(a, b, 2, 2, 100)
    plain, held = array.measure(tiles, False), array.measure(tiles, True)
    assert plain.cycles == held.cycles == a.shape[2] + 2 + 2 + 8
    for found in (plain, held):
        assert found.toggles > 0
        assert found.power.total > found.power.clock > 0
    assert plain.toggles != held.toggles
    wrong = [replace(tiles[0], b=(tiles[0].b + 1) % 4)]
    with pytest.raises(WrongSums, match="column 0 must send"):
        array._check(wrong, array.record(tiles, True))


def sparse_network() -> tuple[Artefact, torch.Tensor]:
    """A layer whose weights are zero for half of its inputs."""
    module = nn.Sequential(nn.Linear(64, 16))
    with torch.no_grad():
        module[0].weight[:, ::2] = 0
    image = digits.load(0).test_images[:1].reshape(1, 64)
    return compile_network(module, (image,), DEFAULT_MACHINE, calibration=[(image,)]), image


def cycles_of(artefact: Artefact, image: torch.Tensor) -> int:
    with Session(artefact, "model") as session:
        session.run(image)
        return sum(tally.counters[Counter.CYCLES] for tally in session.tallies.values())


def test_skipping_saves_the_cycles_that_the_machine_saves() -> None:
    artefact, image = sparse_network()
    (row,) = skipping("sparse", artefact)
    assert row.skipped_slices == row.slices // 2
    assert row.cycles < row.dense_cycles
    assert cycles_of(artefact, image) == row.cycles
    plain = replace(artefact, schedule=without_skipping(artefact.schedule))
    assert cycles_of(plain, image) == row.dense_cycles


def test_words_of_layers_are_what_the_layer_multiplies() -> None:
    artefact, image = sparse_network()
    (layer,) = layer_words("sparse", artefact, image)
    assert layer.a.shape == (1, 1, 64)
    assert layer.b.shape == (1, 64, 16)
    assert (layer.b[:, ::2] == 0).all()
    config = artefact.plan.config
    a, b = layer.zeros(config)
    assert b >= 0.5
    assert a == pytest.approx(float((image == 0).double().mean()), abs=0.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--bits", "2"], "bits must be 3 to 16, not 2"),
        (["--network", "vgg"], "--network: invalid choice"),
        (["--cycles", "0"], "--cycles"),
    ],
)
def test_mistakes_end_with_2(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        sparsity.main(options)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@gates
@pytest.mark.slow
def test_the_command_prints_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sparsity.json"
    sizes = ["--rows", "1", "--columns", "2", "--bits", "4", "--cycles", "100", "--layers", "1"]
    assert sparsity.main(["--network", "digits", *sizes, "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "Operand hold" in shown
    assert "Skipping slices" in shown
    content = json.loads(output.read_text())
    (row,) = content["hold"]
    assert 0.2 < row["zeros_a"] < 0.9
    assert row["plain"]["cycles"] == row["held"]["cycles"]
    assert content["totals"]["digits"]["cycles"] > 0

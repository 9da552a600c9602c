"""Lockstep: equal back ends agree everywhere, and a planted fault is found to the element."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sw.compiler.layers import (
    ArrayTensor,
    Convolution,
    HostOutput,
    Matmul,
    Plan,
    View,
    Weights,
)
from sw.runtime.check import (
    Mismatch,
    compare_example,
    lockstep,
    operand_words,
    record_example,
)
from sw.runtime.checksums import Boundary, checksum
from sw.runtime.device import Outcome
from sw.runtime.layer import compute
from sw.runtime.model_device import ModelDevice
from sw.runtime.session import Session
from tests.compiled import CONFIG, HIDDEN, INNER, ROWS, H, artefact, network


def x(seed: int = 1, rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, INNER, generator=torch.Generator().manual_seed(seed))


def test_equal_back_ends_agree_on_every_layer() -> None:
    made = artefact()
    seen: list[Boundary] = []
    with lockstep(made, "tensor", "model", observer=seen.append) as session:
        p, _ = session.run(x(rows=2 * ROWS))
    assert [boundary.layer for boundary in seen] == ["first", "second"] * 2
    with Session(made) as alone:
        assert torch.equal(p, alone.run(x(rows=2 * ROWS))[0])


class Faulty(ModelDevice):
    """Spoils one thing after one of the programs that it runs."""

    def __init__(self, after: int, address: int | None = None, row: int = 0, lane: int = 0) -> None:
        super().__init__(CONFIG)
        self._left, self._address, self._row, self._lane = after, address, row, lane

    def run(self, words: tuple[int, ...]) -> Outcome:
        outcome = super().run(words)
        self._left -= 1
        if self._left == 0 and self._address is not None:
            self.write(self._address, self.read(self._address, 1) ^ np.uint16(4))
        elif self._left == 0:
            rows = outcome.rows.copy()
            rows[self._row, self._lane] += 3
            return replace(outcome, rows=rows)
        return outcome


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 6), (5, 2)])
def test_one_spoilt_word_is_found(row: int, column: int) -> None:
    made = artefact()
    device = Faulty(1, H + row * HIDDEN + column)
    with (
        lockstep(made, "tensor", device, ("tensor", "faulty")) as session,
        pytest.raises(Mismatch) as caught,
    ):
        session.run(x())
    found = caught.value.difference
    assert (found.layer, found.element, found.count) == ("first", (0, 0, row, column), 1)
    assert found.tile == (0, row // 4, column // 4)
    assert not found.exact
    assert found.values[0] ^ found.values[1] == 4
    layer = made.plan.layers["first"]
    assert found.b == tuple(layer.weights.words[0, 0, 0, :, column].tolist())
    assert len(found.a) == INNER
    text = str(found)
    for part in (f"row tile {row // 4}", f"w {row}, c {column}", "A row: 00", "on faulty"):
        assert part in text


def test_one_spoilt_sum_is_found_in_the_inference_where_it_is() -> None:
    made = artefact()
    device = Faulty(4, None, row=5, lane=1)  # second inference, second layer
    with (
        lockstep(made, "tensor", device) as session,
        pytest.raises(Mismatch) as caught,
    ):
        session.run(x(rows=2 * ROWS))
    found = caught.value.difference
    assert (found.layer, found.element, found.tile) == ("second", (0, 0, 5, 1), (0, 1, 0))
    assert found.exact
    assert found.values[1] - found.values[0] == 3


def test_stored_checksums_hold_on_the_model_and_not_for_another_network() -> None:
    made = artefact()
    example = record_example(made, (x(),))
    for backend in ("tensor", "model"):
        layers: dict[str, int] = {}
        keep = lambda b, layers=layers: layers.update({b.layer: b.checksum})  # noqa: E731
        with Session(made, backend, observer=keep) as session:
            session.run(*example.inputs)
        assert compare_example(example, layers) == []
    other = artefact(seed=1)
    assert compare_example(example, record_example(other, (x(),)).layers) == [
        f"layer {name} must have checksum {example.layers[name]:08x}, not "
        f"{record_example(other, (x(),)).layers[name]:08x}"
        for name in ("first", "second")
    ]
    assert compare_example(example, {})[0].endswith("not none")


def test_checksum_is_that_of_little_endian_words() -> None:
    import zlib

    assert checksum(torch.tensor([1, 255], dtype=torch.uint8)) == zlib.crc32(b"\1\0\xff\0")
    wide = torch.tensor([1, 0xFFFE], dtype=torch.int32).to(torch.uint16)
    assert checksum(wide) == zlib.crc32(b"\1\0\xfe\xff")
    assert checksum(torch.tensor([-2])) == zlib.crc32(b"\xfe" + b"\xff" * 7)


def random_words(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


VIEW = View((1,), (0,))
CONVOLUTION = Convolution(
    "l",
    "a",
    Weights(random_words((2, 3, 2, 2, 3)), torch.zeros(6, dtype=torch.int64)),
    HostOutput("v", VIEW),
    stride=(2, 1),
    padding=(1, 1, 0, 1),
    dilation=(1, 2),
)
MATMUL = Matmul("l", "a", "b", HostOutput("v", VIEW), transposed=True, repeat=2)
TENSORS = {
    "conv": {"a": ArrayTensor("a", (2, 5, 6, 4), 0)},
    "matmul": {"a": ArrayTensor("a", (4, 1, 3, 5), 0), "b": ArrayTensor("b", (2, 1, 6, 5), 0)},
}


@pytest.mark.parametrize("kind", ["conv", "matmul"])
def test_operands_are_those_whose_products_are_summed(kind: str) -> None:
    layer = CONVOLUTION if kind == "conv" else MATMUL
    plan = replace_layers(network(), TENSORS[kind], layer)
    words = {name: random_words(t.shape) for name, t in plan.tensors.items()}
    sums = compute(layer, plan, words)
    f = CONFIG.format
    for element in np.ndindex(*sums.shape):
        a, b = operand_words(plan, "l", element, words)
        total = sum(f.operand(p) * f.operand(q) for p, q in zip(a, b, strict=True))
        assert total == int(sums[element]), element


def replace_layers(
    plan: Plan, tensors: dict[str, ArrayTensor], layer: Convolution | Matmul
) -> Plan:
    return replace(plan, tensors=tensors, layers={"l": layer})

"""Implementations of tensor functions that must agree: compiled, plain torch, numpy, CUDA."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sw import native
from sw.format import SFx

WIDTHS = range(3, 17)
FORMATS = [SFx(bits, unity) for bits in WIDTHS for unity in (True, False)]
CORNER_FORMATS = [SFx(bits, unity) for bits in (3, 4, 8, 9, 15, 16) for unity in (True, False)]


@dataclass(frozen=True)
class Path:
    """One way to compute: where arrays live and whether kernels may be used."""

    name: str

    def send(self, array: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))
        if self.name.startswith("numpy"):
            return tensor.numpy()
        return tensor.to("cuda" if self.name == "cuda" else "cpu")

    def fetch(self, result: np.ndarray | torch.Tensor) -> np.ndarray:
        if self.name.startswith("numpy"):
            assert isinstance(result, np.ndarray), f"numpy in must give numpy out, not {result!r}"
            return result
        assert isinstance(result, torch.Tensor)
        assert result.device.type == ("cuda" if self.name == "cuda" else "cpu")
        return result.cpu().numpy()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        if self.name in ("plain", "numpy plain"):
            with native.plain():
                yield
        else:
            if self.name != "cuda":
                assert native.library() is not None, "the compiled kernels must build"
            yield


NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
PATHS = [
    *(pytest.param(Path(name), id=name) for name in ("native", "plain", "numpy", "numpy plain")),
    pytest.param(Path("cuda"), id="cuda", marks=NEEDS_CUDA),
]


def every_word(format: SFx) -> np.ndarray:
    return np.arange(1 << format.bits).astype(word_type(format))


def word_type(format: SFx) -> type:
    return np.uint8 if format.bits <= 8 else np.uint16


def random_words(format: SFx, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Words of which a third are corners: zeros of both signs, all ones, one below, one."""
    code, sign = format.max_code, format.sign_bit
    corners = [0, sign, code, code | sign, code - 1, code - 1 | sign, 1, 1 | sign]
    words = generator.integers(0, 1 << format.bits, shape)
    chosen = generator.choice(corners, shape)
    return np.where(generator.random(shape) < 1 / 3, chosen, words).astype(word_type(format))


def assert_same(got: np.ndarray, want: np.ndarray, **inputs: object) -> None:
    """Bit equality; a mismatch prints the first differing element and its inputs."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"shape {got.shape}, want {want.shape}; {inputs}"
    assert got.dtype == want.dtype, f"dtype {got.dtype}, want {want.dtype}; {inputs}"
    bits = f"u{got.dtype.itemsize}"
    different = got.view(bits) != want.view(bits) if got.ndim else got != want
    if np.any(different):
        index = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(different)))
        at = {
            name: value[index] if np.shape(value) == got.shape else value
            for name, value in inputs.items()
        }
        first, wanted = np.atleast_1d(got)[index], np.atleast_1d(want)[index]
        raise AssertionError(
            f"{int(np.sum(different))} differ, first at {index}: got {first!r}, "
            f"want {wanted!r}, inputs {at}"
        )

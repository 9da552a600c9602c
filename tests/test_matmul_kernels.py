"""The compiled products, on this processor and on an emulated matrix extension, at their limits.

``amx_emulation.h`` stands for the tile instructions of Intel's server processors, so that the
kernels for them run everywhere; on a processor that has them "native" runs them as well.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tensor_paths import WIDTHS, assert_same, random_words, word_type

from sw import matmul_native, native, tensor
from sw.format import SFx

EMULATION = Path(__file__).parent / "amx_emulation.h"
SHAPES = [(1, 1, 1), (37, 130, 70), (16, 64, 16), (33, 65, 129), (5, 257, 300), (64, 63, 1)]


@functools.cache
def emulated() -> ctypes.CDLL:
    digest = hashlib.sha256(EMULATION.read_bytes()).hexdigest()  # so that the cache sees changes
    flags = ("-O1", "-include", str(EMULATION), f"-DATREIDES_EMULATION=0x{digest[:8]}")
    return native.load(native.build(flags))


@pytest.fixture(params=["native", "emulated"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    assert native.library() is not None, "the compiled kernels must build"
    if request.param == "emulated":
        monkeypatch.setattr(native, "library", emulated)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param
    torch.set_num_threads(threads)


@functools.cache
def operand_table(format: SFx) -> np.ndarray:
    """The integer model's operand of every word."""
    return np.array([format.operand(word) for word in range(1 << format.bits)], np.int64)


def product(a: np.ndarray, b: np.ndarray, left: SFx, right: SFx) -> np.ndarray:
    """The integer model's dot products; int64 holds them: K * 2**30 < 2**63."""
    return operand_table(left)[a] @ operand_table(right)[b]


def check(a: np.ndarray, b: np.ndarray, left: SFx, right: SFx, **inputs: object) -> None:
    want = product(a, b, left, right)
    turned = [torch.from_numpy(m.T.copy()).T for m in (a, b)]
    plain = [torch.from_numpy(m.copy()) for m in (a, b)]
    for x, y in (plain, (turned[0], plain[1]), (plain[0], turned[1]), turned):
        got = tensor.matmul(x, y, left, right, output="exact")
        strides = x.stride(), y.stride()
        assert_same(got.numpy(), want, left=left, right=right, strides=strides, **inputs)


def unity_heavy(
    format: SFx, shape: tuple[int, int], share: float, generator: np.random.Generator
) -> np.ndarray:
    words = generator.integers(0, 1 << format.bits, shape)
    ones = words & format.sign_bit | format.max_code
    return np.where(generator.random(shape) < share, ones, words).astype(word_type(format))


def test_the_matrix_extension_is_used_where_there_is_one():
    info = Path("/proc/cpuinfo")
    has = info.exists() and all(f" {f}" in info.read_text() for f in ("amx_int8", "amx_bf16"))
    assert native.library().matmul_uses_amx() == has
    assert emulated().matmul_uses_amx() == 1


@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_every_pair_of_widths_equals_the_model(bits, unity, kernels):
    left = SFx(bits, unity)
    generator = np.random.default_rng(bits)
    for other in WIDTHS:
        right = SFx(other, unity)
        shape = SHAPES[(bits + other) % len(SHAPES)]
        a = random_words(left, shape[:2], generator)
        b = random_words(right, shape[1:], generator)
        check(a, b, left, right, seed=bits, shape=shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [(16, 16), (16, 8), (8, 16), (8, 8), (16, 4), (15, 16), (9, 9)])
def test_matrices_with_any_share_of_unity_equal_the_model(bits, shape, kernels):
    left, right = SFx(bits[0]), SFx(bits[1])
    generator = np.random.default_rng(sum(shape))
    for share in (0.0, 0.002, 0.05, 0.5, 1.0):
        a = unity_heavy(left, shape[:2], share, generator)
        b = unity_heavy(right, shape[1:], share / 2, generator)
        check(a, b, left, right, seed=sum(shape), share=share)


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("bits", [(16, 16), (15, 15), (16, 8), (8, 8), (9, 9), (9, 7), (7, 7)])
def test_one_unity_in_a_large_matrix_is_not_lost(bits, sign, kernels):
    left, right = SFx(bits[0]), SFx(bits[1])
    generator = np.random.default_rng(7)
    a = generator.integers(0, left.max_code, (70, 200)).astype(word_type(left))
    b = generator.integers(0, right.max_code, (200, 70)).astype(word_type(right))
    a[69, 130] = left.max_code | sign * left.sign_bit
    b[130, 69] = b[199, 0] = right.max_code
    check(a, b, left, right, seed=7)


@pytest.mark.parametrize("terms", [1025, 32769, 66000])
@pytest.mark.parametrize("bits", [(16, 16), (15, 15), (16, 8), (9, 9), (8, 8), (7, 7), (7, 16)])
def test_the_longest_sums_of_the_largest_digits_do_not_overflow(bits, terms, kernels):
    for unity in (True, False):
        left, right = SFx(bits[0], unity), SFx(bits[1], unity)
        # all ones, and the negative words whose digits are the largest, -128 and 255
        for below in (0, 254):
            a = np.full((3, terms), max(left.max_code - below, 1), word_type(left))
            b = np.full((terms, 2), max(right.max_code - below, 1), word_type(right))
            a[1] |= left.sign_bit
            a[2, ::2] |= left.sign_bit
            b[:, 1] |= right.sign_bit
            want = product(a, b, left, right)
            x, y = torch.from_numpy(a), torch.from_numpy(b)
            got = tensor.matmul(x, y, left, right, output="exact", max_terms=terms)
            assert_same(got.numpy(), want, left=left, right=right, terms=terms, below=below)


@pytest.mark.parametrize("bits", [(16, 16), (16, 9), (9, 9), (8, 8), (8, 9), (4, 9)])
def test_long_sums_of_large_odd_digits_are_not_rounded(bits, kernels):
    """A sum beyond 2**24 in binary32 loses odd terms; equal terms could lose and win in turn."""
    generator = np.random.default_rng(17)
    for unity in (True, False):
        left, right = SFx(bits[0], unity), SFx(bits[1], unity)
        a, b = (
            np.where(
                generator.random(shape) < 0.5,
                format.max_code,
                format.max_code - generator.integers(0, min(300, format.max_code), shape),
            ).astype(word_type(format))
            for format, shape in ((left, (6, 5000)), (right, (5000, 5)))
        )
        check(a, b, left, right, seed=17)


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (8, 16), (5, 12)])
def test_drained_words_equal_the_drained_accumulators(bits, kernels):
    left, right = SFx(bits[0]), SFx(bits[1])
    generator = np.random.default_rng(11)
    a = torch.from_numpy(unity_heavy(left, (45, 150), 0.01, generator))
    b = torch.from_numpy(unity_heavy(right, (150, 77), 0.01, generator))
    bias = torch.from_numpy(random_words(left, (77,), generator))
    rows, columns = (torch.from_numpy(generator.integers(0, 5, n)) for n in (45, 77))
    sums = torch.from_numpy(product(a.numpy(), b.numpy(), left, right))
    how = dict(bias=bias, row_shift=rows, column_shift=columns, activation="relu", output=SFx(7))
    want = tensor.drain(sums, left, right, **how)
    assert_same(tensor.matmul(a, b, left, right, **how).numpy(), want.numpy(), seed=11)


@pytest.mark.parametrize("bits", [(7, 7), (7, 16), (15, 15), (9, 12)])
def test_one_bad_word_anywhere_is_refused(bits, kernels):
    left, right = SFx(bits[0]), SFx(bits[1])
    for row, term in ((0, 0), (40, 99), (17, 64)):
        a = np.zeros((41, 100), word_type(left))
        b = np.zeros((100, 41), word_type(right))
        for matrix, format, at in ((a, left, (row, term)), (b, right, (term, row))):
            if format.bits in (8, 16):
                continue  # every word is one of the format
            matrix[at] = 1 << format.bits
            for x, y in ((a, b), (a.T.copy().T, b.T.copy().T)):
                with pytest.raises(ValueError, match=r"must hold words from 0 to .* not 1 others"):
                    tensor.matmul(torch.from_numpy(x), torch.from_numpy(y), left, right)
            matrix[at] = 0


def test_threads_and_shapes_give_the_same_bits(kernels, monkeypatch):
    monkeypatch.setattr(matmul_native, "_PRODUCTS_PER_THREAD", 1)
    format, generator = SFx(16), np.random.default_rng(13)
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        for shape in ((200, 70, 150), (1, 300, 600), (600, 300, 1), (97, 33, 1100)):
            a = unity_heavy(format, shape[:2], 0.001, generator)
            b = unity_heavy(format, shape[1:], 0.001, generator)
            check(a, b, format, format, seed=13, shape=shape, threads=count)

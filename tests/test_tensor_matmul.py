"""Products of words, their drains and the host's conversion equal the integer model's bits."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from tensor_paths import PATHS, WIDTHS, assert_same, random_words, word_type

from sw import native, tensor
from sw.format import SFx
from sw.scale import align_blocks, power_of_two, to_binary32

MIXED = [(4, 8), (8, 4), (16, 3), (3, 16), (16, 8), (8, 16), (12, 16), (16, 12), (13, 16), (9, 15)]
PAIRS = [(bits, bits) for bits in WIDTHS] + MIXED


def model_matmul(a: np.ndarray, b: np.ndarray, left: SFx, right: SFx) -> np.ndarray:
    columns = b.T.tolist()
    sums = [[left.dot(row, column, right) for column in columns] for row in a.tolist()]
    return np.array(sums, np.int64).reshape(len(a), len(columns))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", PAIRS, ids=lambda pair: f"SF{pair[0]}xSF{pair[1]}")
def test_exact_matmul_equals_the_model(bits, unity, path):
    left, right = SFx(bits[0], unity), SFx(bits[1], unity)
    generator = np.random.default_rng(bits[0] * 100 + bits[1])
    for rows, terms, columns in ((7, 37, 9), (1, 1, 1), (2, 64, 33)):
        a = random_words(left, (rows, terms), generator)
        b = random_words(right, (terms, columns), generator)
        want = model_matmul(a, b, left, right)
        with path.active():
            got = tensor.matmul(path.send(a), path.send(b), left, right, output="exact")
            turned = torch.from_numpy(b.T.copy()).numpy().T  # the same matrix, stored by columns
            again = tensor.matmul(path.send(a), path.send(turned), left, right, output="exact")
        assert_same(path.fetch(got), want, left=left, right=right, shape=(rows, terms, columns))
        assert_same(path.fetch(again), want, left=left, right=right)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bits", [(3, 3), (8, 8), (12, 12), (13, 13), (14, 14), (16, 16), (16, 9)])
def test_extreme_words_do_not_overflow_any_partial_sum(bits, path):
    left, right = SFx(bits[0]), SFx(bits[1])
    for a_negative, b_negative in ((0, 0), (1, 0), (1, 1)):
        for terms in (1025, 3000):
            a = np.full((3, terms), left.max_code | a_negative * left.sign_bit, word_type(left))
            b = np.full((terms, 5), right.max_code | b_negative * right.sign_bit, word_type(right))
            a[1, ::2] ^= left.sign_bit  # one row whose sum nearly cancels
            one = 1 << left.fraction_bits + right.fraction_bits
            sign = 1 - 2 * (a_negative ^ b_negative)
            want = np.array([terms, -(terms % 2), terms], np.int64) * one * sign
            with path.active():
                got = tensor.matmul(path.send(a), path.send(b), left, right, output="exact")
            assert_same(path.fetch(got), np.repeat(want[:, None], 5, 1), terms=terms)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("rounding", ["nearest", "truncate"])
@pytest.mark.parametrize(
    ("bits", "output_bits", "bias_bits"),
    [
        (3, 3, 3),
        (8, 8, 8),
        (8, 8, 16),
        (8, 3, 16),
        (4, 16, 3),
        (16, 16, 16),
        (16, 8, 3),
        (12, 5, 9),
    ],
)
def test_drained_matmul_equals_the_model(bits, output_bits, bias_bits, rounding, activation, path):
    generator = np.random.default_rng(bits + output_bits)
    for unity in (True, False):
        format, output = SFx(bits, unity), SFx(output_bits, unity)
        bias_format = SFx(bias_bits, unity)
        a, b = random_words(format, (9, 21), generator), random_words(format, (21, 19), generator)
        bias = random_words(bias_format, (19,), generator)
        rows = generator.choice([-128, -30, -3, -1, 0, 1, 2, 5, 127], 9)
        columns = generator.choice([-128, -20, -2, 0, 0, 1, 4, 60, 127], 19)
        sums = model_matmul(a, b, format, format)
        want = [
            [
                format.drain(
                    int(sums[i, j]),
                    row_shift=int(rows[i]),
                    column_shift=int(columns[j]),
                    bias=int(bias[j]),
                    bias_format=bias_format,
                    activation=activation,
                    rounding=rounding,
                    output=output,
                )
                for j in range(19)
            ]
            for i in range(9)
        ]
        how = dict(bias_format=bias_format, activation=activation, rounding=rounding, output=output)
        with path.active():
            shifts = dict(row_shift=path.send(rows), column_shift=path.send(columns))
            got = tensor.matmul(
                path.send(a), path.send(b), format, bias=path.send(bias), **shifts, **how
            )
            again = tensor.drain(path.send(sums), format, bias=path.send(bias), **shifts, **how)
        assert_same(path.fetch(got), np.array(want, word_type(output)), sums=sums)
        assert_same(again.cpu().numpy(), np.array(want, word_type(output)), sums=sums)


def test_drain_equals_the_model_at_every_boundary_of_the_accumulator():
    generator = np.random.default_rng(5)
    for format, output in (
        (SFx(16), SFx(8)),
        (SFx(4), SFx(16)),
        (SFx(8, unity=False), SFx(3, False)),
    ):
        edges = [1 << k for k in range(48)]
        sums = np.array([0, *edges, *(e - 1 for e in edges), *(e + 1 for e in edges)], np.int64)
        sums = np.concatenate([sums, -sums])[:, None]
        shifts = generator.integers(-40, 60, len(sums))
        bias = random_words(SFx(16, format.unity), (3,), generator)
        for rounding in ("nearest", "truncate"):
            want = [
                [
                    format.drain(
                        int(s),
                        row_shift=int(r),
                        bias=int(c),
                        bias_format=SFx(16, format.unity),
                        rounding=rounding,
                        output=output,
                    )
                    for c in bias
                ]
                for (s,), r in zip(sums, shifts, strict=True)
            ]
            got = tensor.drain(
                np.repeat(sums, 3, 1),
                format,
                row_shift=shifts,
                bias=bias,
                rounding=rounding,
                bias_format=SFx(16, format.unity),
                output=output,
            )
            assert_same(got.numpy(), np.array(want, word_type(output)), sums=np.repeat(sums, 3, 1))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("spread", [2, 15])
@pytest.mark.parametrize("bits", [(3, 3), (4, 8), (8, 8), (16, 16), (16, 4)])
def test_block_scaled_matmul_equals_the_model(bits, spread, path):
    generator = np.random.default_rng(spread)
    for unity, terms in ((True, 100), (False, 64), (True, 5)):
        left, right, blocks = SFx(bits[0], unity), SFx(bits[1], unity), -(-terms // 32)
        a = random_words(left, (7, terms), generator)
        b = random_words(right, (terms, 18), generator)
        rows = generator.integers(-8 - spread // 2, -8 + spread // 2 + spread % 2 + 1, (7, blocks))
        columns = generator.integers(4, 5 + spread, (blocks, 18))
        want_sums, want_words = [], []
        for i in range(7):
            for j in range(18):
                parts = [
                    left.dot(a[i, k : k + 32].tolist(), b[k : k + 32, j].tolist(), right)
                    for k in range(0, terms, 32)
                ]
                total, row, column = align_blocks(parts, rows[i].tolist(), columns[:, j].tolist())
                want_sums.append(total)
                want_words.append(
                    left.drain(total, row_shift=row, column_shift=column, other=right)
                )
        with path.active():
            shifts = dict(row_shift=path.send(rows), column_shift=path.send(columns), block=32)
            sent = (path.send(a), path.send(b), left, right)
            words = path.fetch(tensor.matmul(*sent, **shifts))
            sums = tensor.matmul(*sent, **shifts, output="exact")
            single = tensor.to_binary32(sums, left.fraction_bits + right.fraction_bits)
        got = sums.high.cpu().numpy().astype(object) * 2**32 + sums.low.cpu().numpy()
        assert got.ravel().tolist() == want_sums, f"{left} x {right}, seed {spread}"
        assert sums.low.min() >= 0
        assert sums.low.max() < 1 << 32
        assert_same(words, np.array(want_words, word_type(left)).reshape(7, 18))
        scale = power_of_two(-left.fraction_bits - right.fraction_bits)
        shift = rows.max(1)[:, None] + columns.max(0)
        flat = zip(want_sums, shift.ravel().tolist(), strict=True)
        want = [to_binary32(s * scale * power_of_two(-e)) for s, e in flat]
        assert_same(single.cpu().numpy(), np.array(want, np.float32).reshape(7, 18))


def test_two_limbs_hold_the_widest_block_sums():
    """SF16 at the largest spread needs 2F + log2 K + 2R bits: more than int64 has."""
    format, terms = SFx(16), 4096
    a, b = torch.full((1, terms), format.max_code), torch.full((terms, 1), format.max_code)
    rows = torch.full((1, terms // 32), -15)
    rows[0, 0] = 0
    sums = tensor.matmul(
        a, b, format, row_shift=rows, column_shift=rows.T.contiguous(), block=32, output="exact"
    )
    want = (32 + (terms - 32) * 2**30) * 2**30
    assert want > 2**63
    assert (int(sums.high) << 32) + int(sums.low) == want
    assert tensor.to_binary32(sums, 30).item() == to_binary32(Fraction(want, 1 << 30))
    for output in (SFx(16), SFx(4)):
        assert tensor.drain(sums, format, output=output).item() == output.max_code


def cancelling_cases() -> list[tuple[int, int, float]]:
    """Accumulators, exponents and biases: random, ties, cancellation, subnormals, overflow."""
    generator = np.random.default_rng(6)
    cases = []
    for _ in range(4000):
        bits = int(generator.integers(1, 62))
        sums = int(generator.integers(0, 1 << bits)) * int(generator.choice([-1, 1]))
        power = int(generator.integers(-60, 20))
        near = to_binary32(-sums * power_of_two(power))
        biases = [0.0, near, float(np.nextafter(np.float32(near), np.float32(0)))]
        biases.append(float(np.float32(generator.normal() * 2.0 ** generator.integers(-60, 40))))
        cases += [(sums, power, bias) for bias in biases]
    for sums in (0, 1, -1, 3, (1 << 24) + 1, (1 << 25) + 2, (1 << 25) + 6, (1 << 53) + 1, 1 << 61):
        for power in (-700, -220, -175, -151, -150, -149, -130, -30, 0, 66, 90, 128, 700):
            cases += [(sums, power, bias) for bias in (0.0, -1e-45, 1.0, 2.0**-25, -3e38)]
    return [(sums, power, float(np.float32(bias))) for sums, power, bias in cases]


@pytest.mark.parametrize("path", PATHS)
def test_the_host_rounds_scale_and_bias_once_to_binary32(path):
    sums, powers, biases = zip(*cancelling_cases(), strict=True)
    want = [
        to_binary32(s * power_of_two(p) + Fraction(c))
        for s, p, c in zip(sums, powers, biases, strict=True)
    ]
    with path.active():
        got = tensor.to_binary32(
            path.send(np.array(sums)),
            30,
            path.send(np.array(powers) + 30),
            torch.as_tensor(path.send(np.array(biases, np.float32))),
        )
    assert_same(
        got.cpu().numpy(),
        np.array(want, np.float32),
        sums=np.array(sums),
        powers=np.array(powers),
        biases=np.array(biases),
    )


@pytest.mark.parametrize("path", PATHS)
def test_batches_broadcast(path):
    format, generator = SFx(8), np.random.default_rng(7)
    a = random_words(format, (2, 3, 4, 20), generator)
    b = random_words(format, (3, 20, 5), generator)
    rows = generator.integers(-3, 3, (2, 3, 4))
    with path.active():
        sums = path.fetch(tensor.matmul(path.send(a), path.send(b), format, output="exact"))
        words = path.fetch(
            tensor.matmul(path.send(a), path.send(b), format, row_shift=path.send(rows))
        )
    for i in range(2):
        for j in range(3):
            want = model_matmul(a[i, j], b[j], format, format)
            assert_same(sums[i, j], want)
            drained = [
                [format.drain(int(s), row_shift=int(r)) for s in row]
                for row, r in zip(want, rows[i, j], strict=True)
            ]
            assert_same(words[i, j], np.array(drained, np.uint8))


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_empty_products_are_zero(shape):
    a = torch.zeros(shape[:2], dtype=torch.uint8)
    b = torch.zeros(shape[1:], dtype=torch.uint8)
    want = torch.zeros(shape[0], shape[2], dtype=torch.int64)
    assert torch.equal(tensor.matmul(a, b, SFx(8), output="exact"), want)
    assert torch.equal(tensor.matmul(a, b, SFx(8)), want.to(torch.uint8))


def test_many_shapes_and_threads_agree_with_the_plain_way():
    generator = np.random.default_rng(8)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            for rows, terms, columns in (
                (200, 70, 150),
                (1, 600, 300),
                (300, 600, 1),
                (97, 33, 4100),
            ):
                for format in (SFx(8), SFx(16)):
                    a = torch.from_numpy(random_words(format, (rows, terms), generator))
                    b = torch.from_numpy(random_words(format, (terms, columns), generator))
                    got = tensor.matmul(a, b, format, output="exact")
                    with native.plain():
                        assert torch.equal(got, tensor.matmul(a, b, format, output="exact"))
    finally:
        torch.set_num_threads(threads)


def test_float32_is_left_where_torch_may_round_it():
    format, generator = SFx(8), np.random.default_rng(9)
    a = torch.from_numpy(random_words(format, (40, 300), generator))
    b = torch.from_numpy(random_words(format, (300, 40), generator))
    want = tensor.matmul(a, b, format, output="exact")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with native.plain(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(tensor.matmul(a, b, format, output="exact"), want)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("path", PATHS)
def test_bad_products_are_refused_before_they_run(path):
    format = SFx(7)
    a, b = path.send(np.ones((2, 70), np.uint8)), path.send(np.ones((70, 3), np.uint8))
    bad = path.send(np.full((70, 3), 128, np.uint8))
    blocks = path.send(np.array([[0, 0, 16], [0, 0, 0]]))
    with path.active():
        for arguments, options, message in (
            ((a, b), dict(max_terms=69), "K must be at most 69 terms, not 70"),
            ((a, a), {}, "a and b must be"),
            ((a, bad), {}, "b must hold words from 0 to 127 for SF7, not 210 others"),
            ((a, b), dict(row_shift=128), "row_shift must be -128 to 127, not 128"),
            ((a, b), dict(column_shift=-129), "column_shift must be -128 to 127, not -129"),
            ((a, b), dict(block=32, row_shift=blocks), "row_shift must lie at most 15 apart"),
            ((a, b), dict(block=16, row_shift=blocks), "row_shift must have shape"),
            ((a[:, :0], b[:0]), dict(block=32), "K must be at least 1 with block scales, not 0"),
            ((a, b), dict(output="words"), "output must be a format or 'exact'"),
            ((a, b), dict(activation="tanh"), "activation must be one of linear, relu"),
            ((a, b), dict(b_format=SFx(7, unity=False)), "must have the same unity"),
        ):
            with pytest.raises(ValueError, match=message):
                tensor.matmul(*arguments, format, **options)

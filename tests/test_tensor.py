"""encode, decode, fake_quantize and dense storage on tensors equal the integer model's bits."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import pytest
import torch
from tensor_paths import CORNER_FORMATS, FORMATS, PATHS, Path, assert_same, every_word, word_type

from sw import native, tensor
from sw.format import SFx
from sw.scale import power_of_two, to_binary32

ROUNDINGS = ("nearest", "truncate")
EXHAUSTIVE = [SFx(bits, unity) for bits in (3, 8, 16) for unity in (True, False)]


@functools.cache
def every_binary16() -> np.ndarray:
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return values[~np.isnan(values)]


@functools.cache
def model_encode(format: SFx, rounding: str, exponent: int, key: str) -> np.ndarray:
    """The integer model's words; every path is compared with one computation of them."""
    down = power_of_two(-exponent)
    words = [
        format.encode(v if np.isinf(v) else Fraction(v) * down, rounding)
        for v in VALUES[key]().astype(np.float64).tolist()
    ]
    return np.array(words, word_type(format))


@functools.cache
def binary32_corners() -> np.ndarray:
    """Every boundary of every format with its neighbours, subnormals, infinities, random bits."""
    grid = np.array([k / 2**f for f in (2, 3, 7, 15) for k in range(0, 2 ** min(f, 5) + 2)])
    steps = np.concatenate([grid, grid / 2, 1 - grid, 1 - grid / 2**10, 1 - grid / 2**15 / 2])
    exact = steps.astype(np.float32)
    near = np.concatenate(
        [exact, np.nextafter(exact, np.float32(2)), np.nextafter(exact, exact * 0)]
    )
    bits = np.random.default_rng(1).integers(0, 1 << 32, 1500, dtype=np.uint64).astype(np.uint32)
    noise = bits.view(np.float32)
    small = np.random.default_rng(2).normal(size=500).astype(np.float32)
    ends = np.array([0, 1e-45, 1.1754944e-38, 3.4028235e38, np.inf], np.float32)
    values = np.concatenate([near, noise[~np.isnan(noise)], small, ends])
    return np.concatenate([values, -values])


VALUES = {"binary16": every_binary16, "binary32": binary32_corners}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("format", EXHAUSTIVE, ids=str)
def test_encode_equals_the_model_for_every_binary16(format, rounding, path):
    check_encode(format, rounding, 0, "binary16", path)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("format", [f for f in FORMATS if f not in EXHAUSTIVE], ids=str)
def test_encode_equals_the_model_for_every_binary16_at_other_widths(format, rounding, path):
    check_encode(format, rounding, 0, "binary16", path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_encode_equals_the_model_for_binary32_corners(format, rounding, path):
    check_encode(format, rounding, 0, "binary32", path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("exponent", [-149, -127, -3, 5, 100, 128])
@pytest.mark.parametrize("format", [SFx(16), SFx(8, unity=False)], ids=str)
def test_encode_scales_by_any_power_of_two(format, exponent, path):
    check_encode(format, "nearest", exponent, "binary32", path)


def check_encode(format: SFx, rounding: str, exponent: int, key: str, path: Path) -> None:
    values = VALUES[key]()
    want = model_encode(format, rounding, exponent, key)
    with path.active():
        got = path.fetch(tensor.encode(path.send(values), format, exponent, rounding))
    assert_same(got, want, value=values, format=format, exponent=exponent)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_encode_takes_every_float_type(kind, path):
    values = torch.from_numpy(binary32_corners()).to(kind)
    if kind == torch.bfloat16 and path.name.startswith("numpy"):
        path = Path("native")  # numpy's bfloat16 needs ml_dtypes: see test_carrier_numpy
    if kind == torch.float64:
        values = torch.cat(
            [values, torch.nextafter(values, torch.zeros_like(values)), values * 1e-200]
        )
    format = SFx(16)
    want = [format.encode(v if np.isinf(v) else Fraction(v)) for v in values.double().tolist()]
    with path.active():
        got = path.fetch(tensor.encode(path.send(values), format))
    assert_same(got, np.array(want, np.uint16), value=values.double().numpy())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_decode_equals_the_model_for_every_word_and_encode_inverts_it(format, path):
    words = every_word(format)
    want = np.array([float(format.decode(w)) for w in words.tolist()], np.float32)
    canonical = np.where(words == format.sign_bit, 0, words).astype(words.dtype)
    with path.active():
        values = tensor.decode(path.send(words), format)
        assert_same(path.fetch(values), want, word=words, format=format)
        for rounding in ROUNDINGS:
            again = path.fetch(tensor.encode(values, format, 0, rounding))
            assert_same(again, canonical, word=words, format=format)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("exponent", [-134, -20, 7, 127])
def test_decode_scales_exactly_in_float32_and_float64(exponent, path):
    format, words = SFx(16), every_word(SFx(16))[::7]
    exact = [float(format.decode(w) * power_of_two(exponent)) for w in words.tolist()]
    with path.active():
        single = path.fetch(tensor.decode(path.send(words), format, exponent))
        double = path.fetch(tensor.decode(path.send(words), format, exponent, torch.float64))
    assert_same(single, np.array(exact, np.float32), word=words)
    assert_same(double, np.array(exact, np.float64), word=words)


def test_decode_refuses_a_type_that_would_round():
    words = torch.zeros(1, dtype=torch.uint16)
    for exponent in (-135, 128):
        with pytest.raises(ValueError, match="exponent must be at"):
            tensor.decode(words, SFx(16), exponent)
    with pytest.raises(ValueError, match="dtype must carry 15 fraction bits"):
        tensor.decode(words, SFx(16), dtype=torch.float16)
    tensor.decode(words, SFx(16, unity=False), 128)  # (2**15 - 1) * 2**113 fits


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_casting_table_carries_every_value_exactly(format):
    kind = tensor.carrier(format)
    expected = (
        torch.float8_e4m3fn
        if format.bits <= 4
        else torch.bfloat16
        if format.bits <= 8
        else torch.float16
        if format.bits <= 11
        else torch.float32
    )
    assert kind == expected
    words = torch.from_numpy(every_word(format))
    carried = tensor.decode(words, format, dtype=kind)
    assert carried.dtype == kind
    exact = [float(format.decode(w)) for w in words.tolist()]
    assert carried.double().tolist() == exact


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("exponent", [-140, -2, 0, 9])
@pytest.mark.parametrize("format", CORNER_FORMATS, ids=str)
def test_fake_quantize_is_decode_of_encode_rounded_to_the_type(format, exponent, rounding, path):
    values = binary32_corners()[::5]
    with path.active():
        words = path.fetch(tensor.encode(path.send(values), format, exponent, rounding))
        got = path.fetch(tensor.fake_quantize(path.send(values), format, exponent, rounding))
    scale = power_of_two(exponent)
    want = [to_binary32(format.decode(w) * scale) for w in words.tolist()]
    assert_same(got, np.array(want, np.float32) + np.float32(0), value=values, format=format)


SHAPES = {
    "tensor": (4, 6, 40),
    "channel": (4, 6, 40),
    "token": (4, 6, 40),
    "element": (4, 6, 40),
    "middle": (4, 6, 40),
    "long": (3, 5000),
}
EXPONENT_SHAPES = {
    "tensor": (),
    "channel": (4, 1, 1),
    "token": (4, 6, 1),
    "element": (4, 6, 40),
    "middle": (6, 1),
    "long": (3, 1),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("granularity", SHAPES)
def test_exponents_broadcast_like_numpy(granularity, path):
    generator = np.random.default_rng(3)
    format = SFx(9)
    values = generator.normal(size=SHAPES[granularity]).astype(np.float32)
    exponents = generator.integers(-4, 4, EXPONENT_SHAPES[granularity])
    each = np.broadcast_to(exponents, values.shape)
    flat = zip(values.ravel().tolist(), each.ravel().tolist(), strict=True)
    want = np.array([format.encode(Fraction(v) * power_of_two(-e)) for v, e in flat], np.uint16)
    decoded = [
        float(format.decode(w) * power_of_two(e))
        for w, e in zip(want.tolist(), each.ravel().tolist(), strict=True)
    ]
    with path.active():
        e = path.send(np.asarray(exponents))
        words = tensor.encode(path.send(values), format, e)
        back = path.fetch(tensor.decode(words, format, e))
        fake = path.fetch(tensor.fake_quantize(path.send(values), format, e))
    assert_same(path.fetch(words), want.reshape(values.shape), value=values, exponent=each)
    assert_same(back, np.array(decoded, np.float32).reshape(values.shape), value=values)
    assert_same(fake, back, value=values)


@pytest.mark.parametrize("path", PATHS)
def test_large_tensors_take_the_streaming_way_with_the_same_bits(path):
    format = SFx(8)
    values = np.random.default_rng(4).normal(size=(1 << 21) + 3).astype(np.float32)
    scaled = np.abs(values.astype(np.float64)) * 128
    code = np.where(scaled >= 127, 128, np.minimum(np.floor(scaled + 0.5), 126))
    want = (np.copysign(code, values) / 128 + 0.0).astype(np.float32)
    with path.active():
        got = path.fetch(tensor.fake_quantize(path.send(values), format))
        words = tensor.encode(path.send(values), format)
        back = path.fetch(tensor.decode(words, format))
    assert_same(got, want, value=values)
    assert_same(back, want, value=values)


@pytest.mark.parametrize("path", [p for p in PATHS if not p.id.startswith("numpy")])
def test_the_gradient_is_one_inside_the_range_ends_included(path):
    one = np.float32(4)
    values = np.array(
        [0, -0.0, 1, -3.9, one, -one, np.nextafter(one, np.float32(9)), -5, np.inf, -np.inf],
        np.float32,
    )
    inside = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    with path.active():
        for kind in (torch.float32, torch.float64, torch.bfloat16):
            leaf = path.send(torch.from_numpy(values)).to(kind).requires_grad_()
            out = tensor.fake_quantize(leaf, SFx(8), 2)
            out.backward(torch.full_like(out, 3))
            want = [3 * g for g in inside] if kind != torch.bfloat16 else [3] * 7 + [0] * 3
            assert leaf.grad.dtype == kind
            assert leaf.grad.tolist() == want
        wide = path.send(torch.tensor([3e38, float("inf")])).requires_grad_()
        tensor.fake_quantize(wide, SFx(8, unity=False), 128).sum().backward()
        assert wide.grad.tolist() == [1, 0]


@pytest.mark.parametrize("path", PATHS)
def test_nan_is_refused_by_name_and_number(path):
    values = np.ones(70000, np.float32)
    values[[5, 40000, 69999]] = np.nan
    with path.active():
        for function in (tensor.encode, tensor.fake_quantize):
            with pytest.raises(ValueError, match="weight must hold numbers, not NaN in 3 places"):
                function(path.send(values), SFx(8), name="weight")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", [SFx(3), SFx(7), SFx(9), SFx(15)], ids=str)
def test_words_outside_the_format_are_refused(format, path):
    words = np.zeros(100, word_type(format))
    words[[3, 50]] = 1 << format.bits
    with path.active():
        for function in (tensor.decode, tensor.pack):
            with pytest.raises(ValueError, match=r"not 2 others"):
                function(path.send(words), format)
    with pytest.raises(ValueError, match=r"not 1 others"):
        tensor.decode(torch.tensor([0, -1]), format)


def test_bad_arguments_are_refused_in_one_sentence():
    values = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="rounding must be one of nearest, truncate, not 'up'"):
        tensor.encode(values, SFx(8), rounding="up")
    with pytest.raises(ValueError, match="exponent must broadcast"):
        tensor.encode(values, SFx(8), torch.zeros(2, dtype=torch.int32))
    with pytest.raises(TypeError, match="exponent must hold integers"):
        tensor.encode(values, SFx(8), torch.zeros(3))
    with pytest.raises(TypeError, match="must be a numpy array or a torch tensor, not list"):
        tensor.encode([0.5], SFx(8))
    with pytest.raises(TypeError, match="must be float16, bfloat16, float32 or float64"):
        tensor.encode(torch.zeros(3, dtype=torch.int32), SFx(8))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_pack_is_little_endian_and_unpack_inverts_it(format, path):
    for count in (0, 1, 7, 8, 9, 1000):
        words = np.random.default_rng(count).integers(0, 1 << format.bits, count)
        words = words.astype(word_type(format))
        stream = sum(int(w) << i * format.bits for i, w in enumerate(words))
        size = -(-count * format.bits // 8)
        want = np.frombuffer(stream.to_bytes(size, "little"), np.uint8)
        with path.active():
            packed = tensor.pack(path.send(words), format)
            assert_same(path.fetch(packed), want, format=format, count=count)
            assert_same(path.fetch(tensor.unpack(packed, format, count)), words, format=format)
    with pytest.raises(ValueError, match="packed must have 0 bytes for 0 words, not 1"):
        tensor.unpack(torch.zeros(1, dtype=torch.uint8), format, 0)


def test_empty_and_strided_tensors_are_taken():
    format = SFx(8)
    assert tensor.encode(torch.zeros(0, 3), format).shape == (0, 3)
    values = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    for view in (values.t(), values[:, ::2], values[1:, 3:]):
        assert torch.equal(tensor.encode(view, format), tensor.encode(view.contiguous(), format))
    reverse = values.numpy()[::-1]
    assert_same(tensor.encode(reverse, format), tensor.encode(reverse.copy(), format))


def test_results_can_be_written_to_a_given_tensor():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    words, out = torch.empty(1000, dtype=torch.uint8), torch.empty(1000)
    for context in (native.plain(), torch.no_grad()):
        with context:
            assert tensor.encode(values, SFx(8), out=words) is words
            assert tensor.decode(words, SFx(8), out=out).data_ptr() == out.data_ptr()
            assert torch.equal(tensor.fake_quantize(values, SFx(8)), out)

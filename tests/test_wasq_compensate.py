import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from sw.format import SFx
from sw.models.llama import Llama, LlamaConfig
from sw.tensor import decode, encode, word_dtype
from sw.wasq import sequential
from sw.wasq.compensate import CompensateOptions, compensate, output_error, words_of
from sw.wasq.config import LayerConfig, SFConfig
from sw.wasq.exact import quantize_activation
from sw.wasq.grid import round_activations, round_weights, snap
from sw.wasq.quantize import quantize_, targets
from sw.wasq.sequential import compensate_at_once, compensate_model
from sw.wasq.solver import factored
from sw.wasq.statistics import Moments, gather
from sw.wasq.weights import QuantizedWeight, quantize_weight

SCALES: list[Any] = ["none", "tensor", "channel", "block"]


def layer_config(bits: int = 4, scale: Any = "block") -> LayerConfig:
    return LayerConfig(weights=bits, activations=None, weight_scale=scale)


def correlated(rows: int, terms: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(terms, terms, generator=generator) * torch.linspace(0.1, 1, terms) ** 2
    return torch.randn(rows, terms, generator=generator) @ mix


def moments_of(x: torch.Tensor, config: LayerConfig) -> Moments:
    moments = Moments(x.shape[1], x.device)
    moments.add(x, config)
    return moments


def tiny(seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    return Llama(LlamaConfig(32, 48, 2, 4, 2, 40, 64)).eval()


@pytest.mark.parametrize("unity", [True, False])
def test_snap_gives_the_operand_that_encoding_gives(unity: bool) -> None:
    form = SFx(4, unity)
    top = 1 << form.fraction_bits
    for eighths in range(-100, 101):
        if eighths % 8 == 4:
            continue  # ties may go either way
        value = Fraction(eighths, 8 * top)
        want = form.decode(form.encode(value)) * top
        assert float(snap(torch.tensor(eighths / 8), form)) == float(want), value


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bits", [4, 8])
def test_fast_rounding_of_weights_is_the_rounding_of_quantize_weight(scale: Any, bits: int) -> None:
    weight = torch.randn(9, 70, generator=torch.Generator().manual_seed(1))
    config = layer_config(bits, scale)
    assert torch.equal(round_weights(weight, config), quantize_weight(weight, config).dequantize())


@pytest.mark.parametrize("scale", ["none", "tensor", "token", "block"])
def test_fast_rounding_of_activations_gives_the_words_of_the_array(scale: Any) -> None:
    x = torch.randn(7, 70, generator=torch.Generator().manual_seed(2)) * 3
    x[2] *= 1e-6
    config = LayerConfig(activations=8, activation_scale=scale)
    got = round_activations(x, config)
    words = quantize_activation(x, config)
    shaped = QuantizedWeight(
        words.words,
        words.exponents,
        words.format,
        {"token": "channel"}.get(words.scale, words.scale),
    )
    assert torch.equal(got, shaped.dequantize())


@pytest.mark.parametrize("scale", SCALES)
def test_compensation_errs_less_than_rounding(scale: Any) -> None:
    config = layer_config(4, scale)
    x = correlated(500, 72)
    weight = torch.randn(24, 72, generator=torch.Generator().manual_seed(3)) * 0.3
    hessian = (x.double().T @ x.double()).float()
    rounded = quantize_weight(weight, config)
    words = compensate(weight, config, moments_of(x, config))
    assert words.format == rounded.format
    assert words.scale == scale
    assert output_error(weight, words, hessian) < 0.6 * output_error(weight, rounded, hessian)


def test_refinement_never_errs_more() -> None:
    config = layer_config()
    x = correlated(400, 96)
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(4)) * 0.3
    moments = moments_of(x, config)
    solver = factored(moments.hessian, 0.01)
    hessian = torch.empty_like(solver.hessian)
    hessian[solver.order[:, None], solver.order] = solver.hessian
    errors = [
        output_error(
            weight, compensate(weight, config, moments, CompensateOptions(passes=n)), hessian
        )
        for n in range(4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_a_tiny_case_comes_close_to_the_best_of_all_words() -> None:
    config = LayerConfig(weights=3, activations=None, weight_scale="none")
    for seed in range(5):
        x = correlated(50, 4, seed) + 0.1
        weight = torch.rand(1, 4, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
        grid = sorted({SFx(3).decode(w) for w in range(8)})
        every = torch.tensor([[float(v) for v in row] for row in itertools.product(grid, repeat=4)])
        errors = ((every - weight) @ x.T).square().sum(1)
        hessian = x.T @ x
        got = output_error(weight, compensate(weight, config, moments_of(x, config)), hessian)
        plain = output_error(weight, quantize_weight(weight, config), hessian)
        assert float(errors.min()) * 0.999 <= got <= plain * 1.0001
        assert got <= 2 * float(errors.min()) + 1e-6


def test_inputs_that_never_occur_and_singular_hessians_are_damped() -> None:
    config = layer_config()
    x = torch.zeros(10, 40)
    x[:, 3] = 1.0
    x[:, 5] = 1.0
    weight = torch.randn(4, 40, generator=torch.Generator().manual_seed(5))
    words = compensate(weight, config, moments_of(x, config))
    assert bool(torch.isfinite(words.dequantize()).all())
    zero = compensate(weight, config, moments_of(torch.zeros(3, 40), config))
    assert bool(torch.isfinite(zero.dequantize()).all())


def test_targets_follow_the_float_models_outputs() -> None:
    config = layer_config(8, "channel")
    wanted = correlated(600, 48)
    x = wanted * 0.9 + 0.05 * torch.randn(600, 48, generator=torch.Generator().manual_seed(6))
    weight = torch.randn(12, 48, generator=torch.Generator().manual_seed(7)) * 0.3
    moments = Moments(48)
    moments.add(x, config, wanted=wanted)

    def error(options: CompensateOptions) -> float:
        words = compensate(weight, config, moments, options).dequantize()
        return float((x @ words.T - wanted @ weight.T).square().sum())

    assert error(CompensateOptions()) < 0.3 * error(CompensateOptions(correction=0))


def test_blocks_of_a_row_stay_within_the_spread() -> None:
    config = layer_config()
    weight = torch.randn(3, 96, generator=torch.Generator().manual_seed(8))
    weight[:, 32:64] *= 2.0**-30
    words = compensate(weight, config, moments_of(correlated(200, 96), config))
    assert int((words.exponents.amax(1) - words.exponents.amin(1)).max()) <= 15


def test_a_llama_is_compensated_with_less_error_than_it_is_rounded() -> None:
    model = tiny()
    config = SFConfig(weights=4, activations=8, weight_scale="block", activation_scale="block")
    tokens = torch.randint(0, 40, (6, 24), generator=torch.Generator().manual_seed(9))
    before = {n: p.clone() for n, p in model.named_parameters()}
    seen: list[tuple[str, int, int]] = []
    words = compensate_model(model, config, tokens, progress=lambda *a: seen.append(a), batch=4)
    assert seen == [("blocks.0", 1, 2), ("blocks.1", 2, 2)]
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert set(words) == {t.name for t in targets(model, config)}
    fresh = torch.randint(0, 40, (4, 24), generator=torch.Generator().manual_seed(10))
    with torch.no_grad():
        want = model(fresh)
        plain = quantize_(tiny(), config)(fresh)
        ours = quantize_(tiny(), config, weights=words)(fresh)
    assert float((ours - want).square().sum()) < 0.7 * float((plain - want).square().sum())


def test_layers_of_one_input_get_the_words_that_each_would_get_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = torch.randint(0, 40, (6, 24), generator=torch.Generator().manual_seed(11))
    for scale in ("tensor", "channel", "block"):
        config = SFConfig(weights=4, weight_scale=scale)  # type: ignore[arg-type]
        together = compensate_model(tiny(), config, tokens)
        with monkeypatch.context() as patch:
            patch.setattr(sequential, "_together", lambda layers: [[y] for y in layers])
            alone = compensate_model(tiny(), config, tokens)
        assert together.keys() == alone.keys()
        same = sum(
            int((w.dequantize() == alone[n].dequantize()).sum()) for n, w in together.items()
        )
        assert same > 0.98 * sum(w.words.numel() for w in alone.values())


def test_any_model_is_compensated_at_once_convolutions_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
    config = SFConfig(weights=4, activations=8)
    images = torch.randn(64, 2, 4, 4)
    words = compensate_at_once(model, config, [images[:32], images[32:]])
    assert set(words) == {"0", "3"}
    want = model(images).detach()
    plain = quantize_(nn.Sequential(*[m for m in model]), config)(images)
    assert words["0"].words.shape == (6, 18)
    ours = nn.Sequential(*[m for m in model])
    got = quantize_(ours, config, weights=words)(images)
    assert float((got - want).square().sum()) < float((plain - want).square().sum())


def test_inputs_that_are_not_finite_are_told_with_their_layer() -> None:
    model = tiny()
    with torch.no_grad():
        model.blocks[0].attention_norm.weight.fill_(3e38)
    config = SFConfig(overrides={"head": {"weights": None, "activations": None}})
    tokens = torch.full((1, 4), 7)
    with pytest.raises(ValueError, match=r"input of blocks\.0\.attention\.q must hold finite"):
        compensate_model(model, config, tokens)
    with pytest.raises(ValueError, match=r"input of blocks\.0\.attention\.q must hold finite"):
        gather(model, targets(model, config), [tokens])


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="damping must be at least 0, not -1"):
        CompensateOptions(damping=-1)
    with pytest.raises(ValueError, match="weight must have inputs to be compensated on, not none"):
        compensate(torch.ones(2, 4), layer_config(), Moments(4))
    with pytest.raises(ValueError, match="must be a Llama to be walked block by block"):
        compensate_model(nn.Linear(4, 4), SFConfig(), torch.zeros(1, 1, dtype=torch.int64))
    for tokens, sentence in (
        (torch.zeros(0, 4, dtype=torch.int64), "both at least 1"),
        (torch.zeros(1, 65, dtype=torch.int64), "at most 64 positions long, not 65"),
        (torch.full((1, 4), 40), "must be 0 to 39, not 40"),
    ):
        with pytest.raises(ValueError, match=sentence):
            compensate_model(tiny(), SFConfig(), tokens)
    with pytest.raises(ValueError, match="at least one batch"):
        gather(tiny(), targets(tiny(), SFConfig()), [])


def test_the_factor_is_of_the_inverse() -> None:
    x = correlated(700, 300)
    solver = factored((x.T @ x).double(), 0.01, 32)
    inverse = solver.factor.T @ solver.factor
    error = inverse @ solver.hessian - torch.eye(300, dtype=torch.float64)
    assert float(error.abs().max()) < 1e-9
    assert torch.equal(solver.factor.triu(), solver.factor)
    assert sorted(solver.order.tolist()) == list(range(300))
    assert solver.parts[-1][1] == 300


@pytest.mark.parametrize("terms", [300, 96, 45, 8])
@pytest.mark.parametrize("block", [32, None])
def test_columns_have_their_turn_by_the_diagonal(terms: int, block: int | None) -> None:
    x = correlated(2 * terms, terms)
    hessian = (x.T @ x).double()
    solver = factored(hessian, 0.01, block)
    diagonal = hessian.diagonal()
    size = block or terms
    blocks = [range(first, min(first + size, terms)) for first in range(0, terms, size)]
    blocks.sort(key=lambda b: -float(diagonal[b.start : b.stop].mean()))
    want = [c for b in blocks for c in sorted(b, key=lambda c: -float(diagonal[c]))]
    assert solver.order.tolist() == want
    ends = list(itertools.accumulate(map(len, blocks))) if block else [*range(64, terms, 64), terms]
    assert solver.starts.tolist() == [0, *ends]
    own = solver.own()
    for part, (first, last) in enumerate(solver.parts):
        count = last - first
        square = solver.hessian[first:last, first:last]
        for found in own:  # the unit matrix beyond
            assert torch.equal(found[part, count:].triu(), torch.eye(solver.width).double()[count:])
        lower, inverse, upper = (found[part, :count, :count] for found in own)
        assert torch.allclose(lower @ lower.T, square)
        assert torch.allclose(inverse @ square, torch.eye(count).double(), atol=1e-8)
        assert torch.allclose(upper.T @ upper, inverse)
        assert torch.equal(upper, upper.triu())
        assert torch.equal(lower, lower.tril())


def test_words_of_values_are_those_that_encoding_finds() -> None:
    for bits, unity in itertools.product((3, 4, 8, 16), (True, False)):
        form = SFx(bits, unity)
        words = torch.arange(1 << bits).to(word_dtype(form))[None].repeat(4, 1)
        e = torch.tensor([[-40], [-1], [0], [7]])
        values = decode(words, form, e)
        assert torch.equal(words_of(values, e, form), encode(values, form, e)), (bits, unity)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("scale", ["block", "channel", "tensor"])
def test_one_kernel_errs_as_the_loops_do(scale: str) -> None:
    config = layer_config(4, scale)
    x = correlated(400, 104)
    weight = torch.randn(50, 104, generator=torch.Generator().manual_seed(4)) * 0.3
    here, there = moments_of(x, config), moments_of(x.cuda(), config)
    for passes in (0, 2):
        options = CompensateOptions(passes=passes)
        slow = compensate(weight, config, here, options)
        fast = compensate(weight.cuda(), config, there, options)
        errors = [output_error(weight, q, x.T @ x) for q in (slow, fast.dequantize().cpu())]
        assert errors[1] == pytest.approx(errors[0], rel=0.02)
        # A value within a rounding error of a tie may fall either way, and what follows it.
        assert float((slow.words == fast.words.cpu()).float().mean()) > 0.9

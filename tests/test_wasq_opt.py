import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sw.format import SFx
from sw.models.llama import Llama, LlamaConfig
from sw.wasq.config import LayerConfig, SFConfig
from sw.wasq.distil import DistilOptions, distil
from sw.wasq.learned import LearnedLinear
from sw.wasq.opt import BlockReport, OptOptions, opt
from sw.wasq.quantize import quantize_, targets
from sw.wasq.stacks import STEPS, StackOptions, check_steps, run_stack
from sw.wasq.weights import QuantizedWeight, quantize_weight

CONFIG = SFConfig(weights=4, activations=8, weight_scale="block", activation_scale="block")
TOKENS = torch.randint(0, 40, (12, 16), generator=torch.Generator().manual_seed(1))
MANY = torch.randint(0, 40, (96, 12), generator=torch.Generator().manual_seed(3))
FRESH = torch.randint(0, 40, (12, 16), generator=torch.Generator().manual_seed(2))
QUICK = OptOptions(steps=6, batch=4)


def tiny() -> Llama:
    """With weights so large that the blocks matter, and correlated inputs."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(32, 48, 2, 4, 2, 40, 32)).eval()
    with torch.no_grad():
        for name, parameter in model.blocks.named_parameters():
            if "norm" not in name:
                parameter.mul_(3)
        model.embedding.weight.copy_(torch.randn(40, 12) @ torch.randn(12, 32) * 0.1)
    return model


def equal(first: dict[str, QuantizedWeight], second: dict[str, QuantizedWeight]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(w.words, second[n].words) and torch.equal(w.exponents, second[n].exponents)
        for n, w in first.items()
    )


def rounded() -> dict[str, QuantizedWeight]:
    chosen = targets(tiny(), CONFIG)
    return {t.name: quantize_weight(t.module.get_parameter("weight"), t.config) for t in chosen}


def divergence(words: dict[str, QuantizedWeight]) -> float:
    """From the float model, on text that nothing was learned from."""
    with torch.no_grad():
        want = tiny()(FRESH).log_softmax(-1)
        got = quantize_(tiny(), CONFIG, weights=words)(FRESH).log_softmax(-1)
    return float((want.exp() * (want - got)).sum(-1).mean())


@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("scale", ["none", "tensor", "channel", "block"])
def test_a_learned_layer_begins_with_the_words_it_is_given(scale: str, unity: bool) -> None:
    config = LayerConfig(weights=4, weight_scale=scale, unity=unity)  # type: ignore[arg-type]
    weight = torch.randn(6, 70, generator=torch.Generator().manual_seed(3))
    start = quantize_weight(weight, config)
    layer = LearnedLinear("layer", weight + 0.3, start, config)
    layer.limit()
    assert torch.equal(layer.rounded_weight().detach(), start.dequantize())
    assert torch.equal(layer.quantized().words, start.words)
    assert layer.changed() == 0


@pytest.mark.parametrize("unity", [True, False])
def test_learned_words_stay_within_one_code_of_where_they_began(unity: bool) -> None:
    form = SFx(4, unity)
    ladder = sorted({float(form.decode(w)) for w in range(16)})
    values = torch.tensor([ladder])
    config = LayerConfig(weights=4, weight_scale="none", unity=unity)
    for direction in (-9.0, 9.0):
        layer = LearnedLinear("layer", values, quantize_weight(values, config), config)
        with torch.no_grad():
            layer.position += direction
        layer.limit()
        got = layer.quantized().dequantize()[0].tolist()
        last = len(ladder) - 1
        step = 1 if direction > 0 else -1
        assert got == [ladder[min(max(i + step, 0), last)] for i in range(len(ladder))]


def test_gradients_reach_words_and_exponents() -> None:
    config = LayerConfig(weights=4, activations=8, weight_scale="block", activation_scale="block")
    weight = torch.randn(6, 70, generator=torch.Generator().manual_seed(4))
    layer = LearnedLinear("layer", weight, quantize_weight(weight, config), config)
    x = torch.randn(5, 70, requires_grad=True)
    layer(x).square().sum().backward()
    assert layer.shift is not None
    for tensor in (layer.position, layer.shift, x):
        assert tensor.grad is not None
        assert float(tensor.grad.abs().sum()) > 0


def test_opt_diverges_less_than_rounding_on_text_it_has_not_seen() -> None:
    reports: list[BlockReport] = []
    options = OptOptions(steps=24, batch=24, rate=0.01, start="round")
    words = opt(tiny(), CONFIG, MANY, options, batch=96, on_block=lambda r, _: reports.append(r))
    assert [r.index for r in reports] == [0, 1]
    assert all(r.after < r.before and 0 < r.changed < r.words / 2 for r in reports)
    assert divergence(words) < 0.8 * divergence(rounded())


def test_a_run_that_was_cut_off_goes_on_to_the_same_words(tmp_path: Path) -> None:
    whole = opt(tiny(), CONFIG, TOKENS, QUICK)

    class Cut(Exception):
        pass

    def stop(report: BlockReport, _: dict[str, QuantizedWeight]) -> None:
        raise Cut

    with pytest.raises(Cut):
        opt(tiny(), CONFIG, TOKENS, QUICK, resume=tmp_path, on_block=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("block-0000.json", "block-0000.safetensors", "run.json")
    ]
    rest: list[int] = []
    resumed = opt(tiny(), CONFIG, TOKENS, QUICK, resume=tmp_path)
    opt(tiny(), CONFIG, TOKENS, QUICK, resume=tmp_path, on_block=lambda r, _: rest.append(r.index))
    assert equal(whole, resumed)
    assert rest == [0, 1]


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    opt(tiny(), CONFIG, TOKENS, OptOptions(steps=0), resume=tmp_path)
    for tokens, options in ((FRESH, OptOptions(steps=0)), (TOKENS, OptOptions(steps=1))):
        with pytest.raises(ValueError, match="must hold parts of this model, data and settings"):
            opt(tiny(), CONFIG, tokens, options, resume=tmp_path)
    (tmp_path / "run.json").write_text("no")
    with pytest.raises(ValueError, match="must be what an interrupted run wrote"):
        opt(tiny(), CONFIG, TOKENS, OptOptions(steps=0), resume=tmp_path)


def test_norms_are_learned_only_if_asked(tmp_path: Path) -> None:
    model = tiny()
    opt(model, CONFIG, TOKENS, QUICK)
    norm = "blocks.0.attention_norm.weight"
    assert torch.equal(model.get_parameter(norm), torch.ones(32))
    options = OptOptions(steps=12, batch=4, norms=True, start="round")
    first = opt(model, CONFIG, TOKENS, options, resume=tmp_path)
    assert not torch.equal(model.get_parameter(norm), torch.ones(32))
    again = tiny()
    assert equal(first, opt(again, CONFIG, TOKENS, options, resume=tmp_path))
    assert torch.equal(model.get_parameter(norm), again.get_parameter(norm))


def test_distillation_brings_predictions_closer_and_resumes(tmp_path: Path) -> None:
    start = rounded()
    options = DistilOptions(steps=16, batch=16, rate=0.008, every=8)
    losses: list[float] = []
    words = distil(
        tiny(), CONFIG, MANY, start, options, on_steps=lambda n, s, loss, w: losses.append(loss)
    )
    assert losses[-1] < losses[0]
    assert divergence(words) < 0.85 * divergence(start)

    class Cut(Exception):
        pass

    def stop(name: str, number: int, count: int) -> None:
        if number == 11:
            raise Cut

    with pytest.raises(Cut):
        distil(tiny(), CONFIG, MANY, start, options, resume=tmp_path, progress=stop)
    assert equal(words, distil(tiny(), CONFIG, MANY, start, options, resume=tmp_path))


@pytest.mark.parametrize("steps", [(), ("rotate",), ("compensate",), STEPS])
def test_a_stack_gives_words_for_every_layer(steps: tuple[str, ...]) -> None:
    model = tiny()
    options = StackOptions(opt=QUICK, distil=DistilOptions(steps=2, batch=2))
    done: list[str] = []
    words = run_stack(
        model, CONFIG, steps, TOKENS, options, on_step=lambda name, _: done.append(name)
    )
    assert words.keys() == {t.name for t in targets(model, CONFIG)}
    assert sorted(done) == sorted(set(steps) - ({"compensate"} if "opt" in steps else set()))
    with torch.no_grad():
        want = tiny()(FRESH)
        got = quantize_(copy.deepcopy(model), CONFIG, weights=words)(FRESH)
    assert float((got - want).square().sum() / want.square().sum()) < 0.5


def test_mistakes_are_one_sentence() -> None:
    assert check_steps(("opt", "rotate")) == ("rotate", "opt")
    with pytest.raises(ValueError, match=r"step must be one of rotate, equalise, .* not 'turn'"):
        check_steps(("turn",))
    with pytest.raises(ValueError, match="named once each"):
        check_steps(("opt", "opt"))
    with pytest.raises(ValueError, match="must be a Llama for rotate, not Linear"):
        run_stack(nn.Linear(4, 4), CONFIG, ("rotate",), TOKENS)
    with pytest.raises(ValueError, match="rate must be above 0, not 0"):
        OptOptions(rate=0)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        DistilOptions(steps=0)

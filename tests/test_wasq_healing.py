"""Healing by full-parameter training: it helps, is repeatable, resumes bit for bit, and refuses."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from sw import tensor
from sw.format import SFx
from sw.models.llama import Llama
from sw.wasq import QuantizedWeight, SFConfig, quantize_
from sw.wasq.healing import METHODS, Healed, HealingError, HealOptions, check_settings, heal_
from sw.wasq.healing.layers import prepare_healing_
from sw.wasq.healing.rounding import activation_scales, round_in_blocks, round_to, scales
from sw.wasq.healing.samples import Samples
from tests.tiny_models import TinyVision, tiny_llama, tiny_text

FOUR = SFConfig(weights=4, activations=8, weight_scale="block", activation_scale="block")
OPTIONS = HealOptions(steps=10, batch=4, micro=2, learning_rate=3e-3, warmup=2, refresh=4)


def same_words(one: dict[str, QuantizedWeight], other: dict[str, QuantizedWeight]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[n].words, other[n].words)
        and torch.equal(one[n].exponents, other[n].exponents)
        for n in one
    )


def divergence(model: torch.nn.Module, teacher: Llama, text: torch.Tensor) -> float:
    with torch.no_grad():
        mine = functional.log_softmax(model(text), -1)
        wanted = functional.log_softmax(teacher(text), -1)
    return float((wanted.exp() * (wanted - mine)).sum(-1).mean())


def corners(form: SFx) -> torch.Tensor:
    """Every half unit and its neighbours in binary32, both signs, up to beyond saturation."""
    halves = torch.arange(0, 4 * form.sign_bit + 4, dtype=torch.float64) / (2 * form.sign_bit)
    x = halves.float()
    near = torch.cat((x, torch.nextafter(x, x + 1), torch.nextafter(x, x - 1)))
    return torch.cat((near, -near, torch.tensor([0.49999997, 1e30, -1e30, 1e-40])))


@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8, 16])
@pytest.mark.parametrize("exponent", [-9, 0, 5])
def test_rounding_in_training_gives_the_values_of_the_tensor_model(
    bits: int, unity: bool, exponent: int
) -> None:
    form = SFx(bits, unity)
    x = corners(form) * 2.0**exponent
    wanted = tensor.fake_quantize(x, form, exponent)
    assert torch.equal(round_to(x, scales(torch.tensor(exponent)), form), wanted)


@pytest.mark.parametrize("length", [64, 70])
@pytest.mark.parametrize("scale", ["tensor", "token", "block"])
def test_scales_of_activations_are_those_of_the_tensor_model(scale: str, length: int) -> None:
    form = SFx(8)
    x = torch.randn(5, length, generator=torch.Generator().manual_seed(1)) * 3
    x[0, :3], x[1], x[2, 0] = torch.tensor([4.0, -0.5, 1e-9]), 0.0, 1e6
    found = tensor.exponents(x, form, scale)  # type: ignore[arg-type]
    wide = found
    if scale == "block":
        wide = tensor.expand_blocks(tensor.limit_spread(found)[0], length)
    factor = activation_scales(x, form, scale)  # type: ignore[arg-type]
    rounded = (round_in_blocks if scale == "block" else round_to)(x, factor, form)
    assert torch.equal(rounded, tensor.fake_quantize(x, form, wide))


def test_the_gradient_is_one_inside_the_range_and_zero_outside() -> None:
    x = torch.tensor([0.1, -2.0, 2.0, 2.0000002, -9.0], requires_grad=True)
    round_to(x, torch.tensor(2.0), SFx(4)).backward(torch.arange(1.0, 6.0))
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 3.0, 0.0, 0.0]


def test_a_layer_in_training_computes_what_its_quantized_layer_does() -> None:
    one, other = tiny_llama(), tiny_llama()
    prepare_healing_(one, FOUR)
    quantize_(other, FOUR)
    text = tiny_text(3)
    with torch.no_grad():
        assert torch.allclose(one(text), other(text), atol=1e-4)


def test_healing_brings_the_model_nearer_to_the_float_one() -> None:
    teacher, vanilla, model = tiny_llama(), tiny_llama(), tiny_llama()
    text = tiny_text(264)
    quantize_(vanilla, FOUR)
    options = replace(
        OPTIONS, steps=40, batch=8, micro=None, distillation=1.0, refresh=0, learning_rate=1e-3
    )
    healed = heal_(model, "fpm", text[:256], FOUR, options)
    assert divergence(model, teacher, text[256:]) < 0.8 * divergence(vanilla, teacher, text[256:])
    assert sum(healed.losses[-5:]) < 0.8 * sum(healed.losses[:5])
    assert healed.fraction == 1
    assert healed.tokens == 40 * 8 * 12


def test_the_model_holds_the_words_that_are_returned() -> None:
    model = tiny_llama()
    healed = heal_(model, "fpm", tiny_text(), FOUR, OPTIONS)
    for name, weight in healed.weights.items():
        assert torch.equal(model.get_submodule(name).words, weight.words)


def heal(model: Llama, options: HealOptions = OPTIONS, **more: object) -> Healed:
    return heal_(model, "fpm", tiny_text(), FOUR, options, **more)  # type: ignore[arg-type]


def test_the_same_run_gives_the_same_words_and_another_seed_others() -> None:
    first, second = heal(tiny_llama()), heal(tiny_llama())
    third = heal(tiny_llama(), replace(OPTIONS, seed=2))
    assert same_words(dict(first.weights), dict(second.weights))
    assert first.losses == second.losses
    assert first.losses != third.losses


@pytest.mark.parametrize("top_k", [None, 5])
def test_five_steps_and_five_resumed_are_ten_steps_bit_for_bit(
    tmp_path: Path, top_k: int | None
) -> None:
    options = replace(OPTIONS, top_k=top_k)
    whole = heal(tiny_llama(), options)
    part = heal(tiny_llama(), replace(options, stop_after=5), checkpoint=tmp_path)
    assert not part.finished
    assert len(part.losses) == 5
    rest = heal(tiny_llama(), options, resume=tmp_path)
    assert rest.finished
    assert rest.losses == whole.losses
    assert same_words(dict(rest.weights), dict(whole.weights))
    assert all(torch.equal(rest.others[n], whole.others[n]) for n in whole.others)


def test_stopping_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    steps: list[int] = []
    part = heal(
        tiny_llama(),
        checkpoint=tmp_path,
        progress=lambda step, _steps, _loss: steps.append(step),
        stop=lambda: len(steps) >= 2,
    )
    assert not part.finished
    assert json.loads((tmp_path / "latest.json").read_text()) == {"checkpoint": "step-00000003"}
    assert heal(tiny_llama(), resume=tmp_path).losses == heal(tiny_llama()).losses


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    heal(tiny_llama(), checkpoint=tmp_path)
    names = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {".safetensors", ".json"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "model"),
        ({"config": replace(FOUR, weights=5)}, "config, with weights 4, not 5"),
        (
            {"config": replace(FOUR, weights=5, activations=16)},
            f"config, with weights 4, not 5; activations {json.dumps(FOUR.activations)}, not 16",
        ),
        ({"options": replace(OPTIONS, learning_rate=1.0)}, "options, with learning_rate "),
        ({"text": tiny_text(8)}, "samples"),
        ({"text": tiny_text(seed=6)}, "samples"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    heal(tiny_llama(), replace(OPTIONS, stop_after=1), checkpoint=tmp_path)
    given: dict[str, object] = {"seed": 0, "config": FOUR, "options": OPTIONS, "text": tiny_text()}
    given |= change
    model = tiny_llama(given["seed"])  # type: ignore[arg-type]
    named, _, fields = named.partition(", ")
    with pytest.raises(HealingError, match=f"^{named} must be that of the .*, {fields}"):
        heal_(model, "fpm", given["text"], given["config"], given["options"], resume=tmp_path)  # type: ignore[arg-type]


def test_a_damaged_checkpoint_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HealingError, match="must hold a checkpoint of a healing"):
        heal(tiny_llama(), resume=tmp_path)
    heal(tiny_llama(), replace(OPTIONS, stop_after=1), checkpoint=tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(HealingError, match="must be a whole checkpoint"):
        heal(tiny_llama(), resume=tmp_path)


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    calls = []

    def teacher(tokens: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        logits = torch.zeros(*tokens.shape, 32)
        return logits if len(calls) <= 2 * 3 else logits * float("nan")

    options = replace(OPTIONS, checkpoint_steps=2)
    with pytest.raises(HealingError, match="not nan at step 4; the last checkpoint in"):
        heal(tiny_llama(), options, teacher=teacher, checkpoint=tmp_path)
    assert json.loads((tmp_path / "latest.json").read_text()) == {"checkpoint": "step-00000002"}


def test_the_published_form_caps_gradients_and_wants_activations_without_exponents() -> None:
    published = replace(OPTIONS, form="published")
    with pytest.raises(HealingError, match="activation_scale must be none"):
        heal(tiny_llama(), published)
    config = SFConfig(weights=8, weight_scale="none", activation_scale="none")
    text = tiny_text()
    healed = heal_(tiny_llama(), "fpm", text, config, published)
    assert all(int(w.exponents) == 0 for w in healed.weights.values())


def test_text_is_cut_into_windows_and_too_little_is_refused() -> None:
    assert len(Samples.of(torch.arange(25), 8)) == 3
    with pytest.raises(HealingError, match="at least 8 tokens, not 7"):
        Samples.of(torch.arange(7), 8)
    with pytest.raises(HealingError, match="at least 2 tokens"):
        Samples.of(torch.arange(7)[:, None])
    with pytest.raises(HealingError, match="one sample, not none"):
        Samples.of(torch.zeros(0, 8, dtype=torch.int64))


def test_every_epoch_takes_each_sample_once() -> None:
    samples = Samples.of(tiny_text(10))
    order = torch.cat([samples.chosen(step, 4, seed=3) for step in range(5)]).tolist()
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_what_training_leaves_in_float_is_quantized_behind_it() -> None:
    config = replace(FOUR, products=8, embedding=8, norms=8, head=8, output=8)
    config = replace(config, activation_scale="block", activation_mode="static")
    model, text = tiny_llama(), tiny_text()
    healed = heal_(model, "fpm", text, config, OPTIONS)
    assert "head" in healed.weights
    table = tiny_llama().embedding.weight
    assert not torch.equal(model.embedding.weight, table)
    assert torch.allclose(model.embedding.weight, table, atol=2**-7)  # rounded, not trained
    with torch.no_grad():
        assert bool(torch.isfinite(model(text)).all())
    drained = [model.get_submodule(n).output_exponents for n in healed.weights if n != "head"]
    assert all(exponents is not None for exponents in drained)


def test_images_with_labels_are_healed_too() -> None:
    images = torch.randn(16, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(16) % 4
    config = SFConfig(weights=4, activations=8, weight_scale="channel")
    model, before = TinyVision(), copy.deepcopy(TinyVision())
    healed = heal_(model, "fpm", (images, labels), config, OPTIONS)
    assert len(healed.losses) == 10
    assert not torch.equal(healed.others["classes.bias"], before.classes.bias)


def test_bfloat16_products_are_refused_for_wide_words_and_near_for_narrow_ones() -> None:
    options = replace(OPTIONS, precision="bfloat16")
    with pytest.raises(HealingError, match="precision must be float32 for SF16"):
        heal_(tiny_llama(), "fpm", tiny_text(), replace(FOUR, activations=16), options)
    narrow = heal(tiny_llama(), options)
    plain = heal(tiny_llama())
    assert narrow.losses == pytest.approx(plain.losses, rel=0.1)


def test_vanilla_and_opt_go_through_the_same_door() -> None:
    plain = heal_(tiny_llama(), "vanilla", tiny_text(), FOUR)
    zero = heal(tiny_llama(), replace(OPTIONS, steps=0))
    assert same_words(dict(plain.weights), dict(zero.weights))
    assert plain.fraction == 0
    model = tiny_llama()
    options = replace(OPTIONS, extra={"opt": {"steps": 2, "batch": 2}})
    found = heal_(model, "opt", tiny_text(), FOUR, options)
    assert found.weights.keys() == plain.weights.keys()
    assert not same_words(dict(found.weights), dict(plain.weights))
    with pytest.raises(HealingError, match="opt must be fields of OptOptions by name"):
        heal_(tiny_llama(), "opt", tiny_text(), FOUR, replace(OPTIONS, extra={"opt": {"x": 1}}))


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"mesk": "random"}, "set must be one of .*mask.*, not 'mesk'"),
        ({"mask": "best"}, "mask must be one of deviation, .*, not 'best'"),
        ({"rounds": True}, "rounds must be an integer of at least 1, not True"),
        ({"rho": 0.1}, "not 'rho'"),
        ({"price": float("nan")}, "price must be a finite number, not nan"),
        ({"percentile": 101}, "percentile must be a number from 0 to 100, not 101"),
        ({"bits": [3, 17]}, r"bits must be widths of 3 to 16 bits, not \[3, 17\]"),
        ({"bits": []}, "bits must be widths"),
        ({"prizes": [[0.1, "column"]]}, "prizes must be pairs of a share and a group"),
        ({"opt": {"steps": 0.5}}, "opt must be fields of OptOptions"),
    ],
)
def test_settings_are_checked_before_any_work(extra: dict[str, object], sentence: str) -> None:
    with pytest.raises(HealingError, match=sentence):
        heal_(torch.nn.Linear(2, 2), "fpm", tiny_text(), FOUR, HealOptions(extra=extra))


def test_a_method_takes_its_own_settings_alone() -> None:
    for method in METHODS:
        check_settings({"calibration": 1}, method)
    check_settings({"prizes": [(0.1, "row")], "price": 1, "scout_steps": 0}, "mplth")
    check_settings({"opt": {"rate": 1, "norms": True, "start": "round"}}, "opt")
    with pytest.raises(HealingError, match=r"set of lth must be one of .*, not 'prizes'"):
        check_settings({"prizes": [(0.1, "row")]}, "lth")


def test_text_beyond_the_model_is_refused_before_any_work() -> None:
    text = tiny_text()
    with pytest.raises(ValueError, match=r"tokens must be 0 to .*, the model's vocabulary"):
        heal_(tiny_llama(), "fpm", text + 10_000)
    wide = torch.zeros(2, tiny_llama().config.context + 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"window must be at most .*, the model's context"):
        heal_(tiny_llama(), "fpm", wide)


def test_unknown_methods_and_options_are_named() -> None:
    with pytest.raises(HealingError, match="method must be one of fpm, lth"):
        heal_(tiny_llama(), "magic", tiny_text())
    with pytest.raises(ValueError, match="batch must be a multiple of micro 3, not 4"):
        HealOptions(batch=4, micro=3)
    with pytest.raises(ValueError, match="form must be one of corrected, published"):
        HealOptions(form="best")  # type: ignore[arg-type]

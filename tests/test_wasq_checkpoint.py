"""Quantized models on disk: the same bits back, and one sentence for what is wrong."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from sw.models.llama import Llama, LlamaConfig
from sw.wasq import SFConfig, quantize_
from sw.wasq.checkpoint import load, save
from sw.wasq.described import CheckpointError, describe, is_checkpoint
from sw.wasq.modules import QuantizedLayer
from sw.wasq.rotate import rotate_

SOURCE = {"model": "made here", "sha256": "0" * 64, "method": "vanilla"}


def tiny(seed: int = 0, width: int = 32) -> Llama:
    torch.manual_seed(seed)
    return Llama(LlamaConfig(width, 48, 2, 4, 2, 40, 96)).eval()


def tokens() -> torch.Tensor:
    return torch.randint(0, 40, (2, 50), generator=torch.Generator().manual_seed(1))


def saved(tmp_path, config: SFConfig | None = None, model: nn.Module | None = None):
    config = config or SFConfig()
    model = quantize_(model or tiny(), config, calibration=[(tokens(),)])
    return model, save(model, config, tmp_path / "net", SOURCE)


@pytest.mark.parametrize(
    "config",
    [
        SFConfig(),
        SFConfig(weights=3, activations=11, weight_scale="block", unity=False),
        SFConfig(weights=5, weight_scale="tensor", head=6, embedding=7, norms=8),
        SFConfig(activation_scale="block", activation_mode="static", output=8),
        SFConfig(weight_scale="none", products=8, value_scale="channel"),
        SFConfig(overrides={"blocks.0.*": {"weights": None, "activations": None}}),
    ],
    ids=["plain", "blocks", "tables", "static", "products", "overrides"],
)
def test_loaded_model_gives_the_same_bits(tmp_path, config):
    model, path = saved(tmp_path, config)
    other = load(path, tiny(seed=5), config)
    assert torch.equal(other(tokens()).view(torch.int32), model(tokens()).view(torch.int32))
    told = describe(path)
    assert told.config == config
    assert told.source == SOURCE
    tied = model.head.weight is getattr(model.embedding, "weight", None)
    assert (other.head.weight is getattr(other.embedding, "weight", None)) == tied
    want = {n for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    assert set(told.layers) == want


def test_rotated_model_is_built_up_again_from_a_plain_one(tmp_path):
    model = tiny(width=64)
    rotate_(model)
    model, path = saved(tmp_path, model=model)
    other = load(path, tiny(seed=5, width=64))
    assert torch.equal(other(tokens()), model(tokens()))


def test_convolutions_and_biases_come_back(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, padding=1), nn.ReLU(), nn.Conv1d(8, 3, 2))
    plain = copy.deepcopy(net)
    x = torch.randn(2, 4, 5, 6)

    def run(layers: nn.Module) -> torch.Tensor:
        return layers[2](layers[1](layers[0](x)).flatten(2))

    model = quantize_(net, SFConfig(weights=6))
    path = save(model, SFConfig(weights=6), tmp_path / "net", SOURCE)
    assert torch.equal(run(load(path, plain)), run(model))


def test_words_lie_on_disk_without_gaps(tmp_path):
    model, path = saved(tmp_path, SFConfig(weights=3))
    words = sum(m.words.numel() for m in model.modules() if isinstance(m, QuantizedLayer))
    rows = sum(m.words.shape[0] for m in model.modules() if isinstance(m, QuantizedLayer))
    floats = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    size = (path / "weights.safetensors").stat().st_size
    assert size < words * 3 / 8 + rows + 4 * floats + 200 * 40


def test_checkpoint_replaces_a_checkpoint_and_nothing_else(tmp_path):
    model, path = saved(tmp_path)
    save(model, SFConfig(), path, {**SOURCE, "seed": 7})
    assert describe(path).source["seed"] == 7
    other = tmp_path / "mine"
    other.mkdir()
    (other / "file").write_text("precious")
    with pytest.raises(CheckpointError, match="must be a new directory or a checkpoint"):
        save(model, SFConfig(), other, SOURCE)
    assert (other / "file").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "net"]


def test_float_model_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="must be quantized"):
        save(tiny(), SFConfig(), tmp_path / "net", SOURCE)


def test_other_models_and_configurations_are_refused(tmp_path):
    _, path = saved(tmp_path)
    with pytest.raises(CheckpointError, match="no layer of shape"):
        load(path, tiny(width=64))
    with pytest.raises(CheckpointError, match="which has no blocks"):
        load(path, nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(CheckpointError, match="weights differs"):
        load(path, tiny(), SFConfig(weights=7))
    bigger = Llama(LlamaConfig(32, 48, 3, 4, 2, 40, 96))
    with pytest.raises(CheckpointError, match="is not in both"):
        load(path, bigger)
    quantized = quantize_(tiny(), SFConfig())
    with pytest.raises(CheckpointError, match="no layer of shape"):
        load(path, quantized)


def test_damaged_tensors_are_refused(tmp_path):
    _, path = saved(tmp_path)
    file = path / "weights.safetensors"
    whole = file.read_bytes()
    for broken in (whole[:-1], whole[:100] + b"\x01" + whole[101:], b""):
        file.write_bytes(broken)
        with pytest.raises(CheckpointError, match="hash"):
            load(path, tiny())
    file.unlink()
    with pytest.raises(CheckpointError, match="must be a file to read"):
        load(path, tiny())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "must be a checkpoint"),
        ({"format": 2}, "must have the format 1, not 2"),
        ({"config": {"weights": 2}}, "weights must be 3 to 16"),
        ({"layers": []}, "layers of .* must be dict"),
        ({"layers": {"blocks.0.attention.q": {"weights": 8}}}, "must be a whole checkpoint"),
        ({"extra": 1}, "must have the fields"),
    ],
)
def test_damaged_configurations_are_refused(tmp_path, change, message):
    _, path = saved(tmp_path)
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load(path, tiny())


def test_what_is_no_checkpoint_is_told_apart(tmp_path):
    _, path = saved(tmp_path)
    assert is_checkpoint(path)
    assert not is_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    assert not is_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="must hold an object"):
        describe(tmp_path)
    with pytest.raises(CheckpointError, match="must be the directory"):
        describe(tmp_path / "nowhere")


def test_source_without_a_model_asks_for_one(tmp_path):
    model = quantize_(tiny(), SFConfig())
    path = save(model, SFConfig(), tmp_path / "net", {})
    with pytest.raises(CheckpointError, match="must say in its source"):
        load(path)

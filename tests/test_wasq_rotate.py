import pytest
import torch
from torch import nn

from sw.models.llama import Llama, LlamaConfig
from sw.wasq.rotate import (
    RotatedInput,
    RotateOptions,
    hadamard,
    residual_rotation,
    restore_structure_,
    rotate_,
    structure,
    turn,
)


def tiny(seed: int = 0, tied: bool = True) -> Llama:
    torch.manual_seed(seed)
    model = Llama(LlamaConfig(48, 96, 2, 6, 2, 64, 32), tied).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)
        elif hasattr(module, "epsilon"):
            nn.init.uniform_(module.weight, 0.2, 3.0)
    return model


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_turn_multiplies_each_block_by_sylvesters_matrix(size: int) -> None:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    x = torch.randn(5, 3 * size, dtype=torch.float64)
    want = (x.reshape(5, 3, size) @ (matrix / size**0.5)).reshape(5, -1)
    torch.testing.assert_close(turn(x, size), want)
    torch.testing.assert_close(turn(turn(x, size), size), x)
    torch.testing.assert_close(hadamard(size), matrix / size**0.5)


@pytest.mark.parametrize("mix", [False, True])
def test_residual_rotations_are_orthogonal_and_seeded(mix: bool) -> None:
    first = residual_rotation(36, torch.Generator().manual_seed(1), mix)
    torch.testing.assert_close(first @ first.T, torch.eye(36, dtype=torch.float64))
    assert torch.equal(first, residual_rotation(36, torch.Generator().manual_seed(1), mix))
    assert not torch.equal(first, residual_rotation(36, torch.Generator().manual_seed(2), mix))
    assert bool((first[:4, 4:] == 0).all()) is not mix


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        RotateOptions(),
        RotateOptions(mix=True, seed=5),
        RotateOptions(values=False, down=False),
        RotateOptions(residual=False, down=False),
        RotateOptions(residual=False, values=False),
    ],
)
def test_a_rotated_model_computes_the_same_function(options: RotateOptions, tied: bool) -> None:
    model = tiny(tied=tied)
    tokens = torch.randint(0, 64, (2, 20))
    want = model(tokens).detach()
    before = {n: p.clone() for n, p in model.blocks[0].named_parameters()}
    rotate_(model, options)
    got = model(tokens)
    after = dict(model.blocks[0].named_parameters())
    assert not all(torch.equal(after.get(n, -p), p) for n, p in before.items())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_rotation_spreads_an_outlier_channel() -> None:
    model = tiny()
    with torch.no_grad():
        model.embedding.weight[:, 3] *= 100
    rotate_(model, RotateOptions(mix=True))
    stream = model.embedding(torch.arange(64)).detach().abs()
    assert float(stream.amax(0).max() / stream.amax(0).median()) < 5


def test_a_model_is_not_rotated_twice_nor_another_kind_at_all() -> None:
    model = tiny()
    rotate_(model)
    with pytest.raises(ValueError, match="must not be rotated twice"):
        rotate_(model)
    with pytest.raises(ValueError, match="must be a Llama to be rotated, not Linear"):
        rotate_(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="size must be a power of two, not 3"):
        RotatedInput(nn.Linear(3, 3), 3)


def test_a_rotated_model_is_rebuilt_from_its_structure_and_weights() -> None:
    model = tiny()
    rotate_(model)
    other = tiny(seed=9)
    restore_structure_(other, structure(model))
    other.load_state_dict(model.state_dict())
    tokens = torch.randint(0, 64, (1, 9))
    assert torch.equal(other(tokens), model(tokens))

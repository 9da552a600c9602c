"""A LeNet-style network for MNIST, trained here."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional

from sw import datasets
from sw.paths import cache_directory

#: Threads to train with: another number adds gradients up in another order, and more than one
#: gain little on layers this small.
_THREADS = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the network is trained; the same recipe gives the same weights on one machine.

    Parameters
    ----------
    epochs : int
        Passes over the 60,000 training images; the rate rises in the first fifth of all steps
        and falls to zero along a cosine.
    seed : int
        Of the initial weights, the order of images and their shifts.
    batch : int
    rate : float
        Largest learning rate, of Adam.
    shift : int
        Images are moved by up to so many pixels along each axis.
    """

    epochs: int = 4
    seed: int = 1
    batch: int = 200
    rate: float = 6e-3
    shift: int = 1


class LeNet(nn.Module):
    """Two convolutions, each halved by average pooling, and two fully connected layers.

    Images ``[n, 1, 28, 28]`` with values from 0 to 1 become logits ``[n, 10]``. 46,730 parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.pool = nn.AvgPool2d(2)
        self.fc1 = nn.Linear(32 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        hidden = self.pool(functional.relu(self.conv1(images)))
        hidden = self.pool(functional.relu(self.conv2(hidden)))
        hidden = functional.relu(self.fc1(hidden.flatten(1)))
        logits: torch.Tensor = self.fc2(hidden)
        return logits


def prepare(images: torch.Tensor) -> torch.Tensor:
    """Grey images ``[n, 28, 28]`` uint8 as the network takes them: ``[n, 1, 28, 28]``, 0 to 1."""
    return images.unsqueeze(1).float() / 255


def accuracy(module: nn.Module, data: datasets.Images, batch: int = 500) -> float:
    """Fraction of images of which the largest logit is that of the class."""
    correct = 0
    with torch.no_grad():
        for start in range(0, len(data), batch):
            part = slice(start, start + batch)
            logits = module(prepare(data.images[part]))
            correct += int((logits.argmax(1) == data.labels[part]).sum())
    return correct / len(data)


def train(recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> LeNet:
    """Train on the MNIST training images.

    Parameters
    ----------
    recipe : Recipe
    progress : callable, optional
        Told the number of steps done and of all steps after each.

    Returns
    -------
    LeNet
        In evaluation mode.

    Raises
    ------
    sw.datasets.DatasetError
        If the training images are missing or corrupt.
    """
    data = datasets.mnist("train")
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            return _train(recipe, data, progress)
    finally:
        torch.set_num_threads(threads)


def trained(
    recipe: Recipe | None = None, progress: Callable[[int, int], None] | None = None
) -> LeNet:
    """The trained network, from the cache if it has been trained before."""
    recipe = recipe or Recipe()
    path = cache_directory() / f"lenet-{recipe_hash(recipe)[:16]}.safetensors"
    module = _cached(path)
    if module is None:
        module = train(recipe, progress)
        _store(module, path)
    return module


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 over the recipe, this file and torch's version: all that decides the weights."""
    parts = json.dumps([asdict(recipe), torch.__version__], sort_keys=True).encode()
    return hashlib.sha256(parts + Path(__file__).read_bytes()).hexdigest()


def _train(
    recipe: Recipe, data: datasets.Images, progress: Callable[[int, int], None] | None
) -> LeNet:
    torch.manual_seed(recipe.seed)
    module = LeNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = prepare(data.images)
    optimizer = torch.optim.Adam(module.parameters(), recipe.rate)
    batches = len(data) // recipe.batch
    steps = recipe.epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=steps, pct_start=0.2
    )
    for step in range(steps):
        if step % batches == 0:
            order = torch.randperm(len(data))
        start = step % batches * recipe.batch
        chosen = order[start : start + recipe.batch]
        loss = functional.cross_entropy(
            module(_shifted(images[chosen], recipe.shift)), data.labels[chosen]
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    return module.to(memory_format=torch.contiguous_format).eval()  # type: ignore[no-any-return]


def _shifted(images: torch.Tensor, most: int) -> torch.Tensor:
    """A batch moved by up to ``most`` pixels, zeros moving in."""
    down, right = (int(n) for n in torch.randint(-most, most + 1, (2,)))
    return functional.pad(images, (right, -right, down, -down))


def _cached(path: Path) -> LeNet | None:
    """The network in the cache; None if there is none, or none that can be read."""
    module = LeNet()
    try:
        module.load_state_dict(load(path.read_bytes()))
    except (OSError, SafetensorError, RuntimeError):
        return None
    return module.eval()


def _store(module: nn.Module, path: Path) -> None:
    """Write the weights, atomically; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(save(module.state_dict()))
        os.replace(file.name, path)
    except OSError:
        return

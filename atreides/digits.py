"""The demo's network: scikit-learn's handwritten digits and a small residual network for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CLASSES = 10
#: Side of an image in pixels.
SIDE = 8
#: Channels of the first convolution, and of the others.
CHANNELS = (16, 24)
#: Images per step of training.
BATCH = 64


@dataclass(frozen=True)
class Digits:
    """1,797 images of 8 x 8 pixels in [0, 1], float32 ``[images, 1, 8, 8]``, split by the seed."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load(seed: int) -> Digits:
    """Load the data set that scikit-learn ships and hold out a fifth of it."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    pixels = (bunch.data[order] / 16).astype(np.float32).reshape(-1, 1, SIDE, SIDE)
    images, labels = torch.from_numpy(pixels), torch.from_numpy(bunch.target[order].astype("int64"))
    held_out = len(order) // 5
    return Digits(images[held_out:], labels[held_out:], images[:held_out], labels[:held_out])


class DigitNetwork(nn.Module):
    """Four convolutions with batch norm, a residual around two of them, and a linear classifier.

    ``[images, 1, 8, 8]`` to logits ``[images, 10]``; about 18,000 parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        narrow, wide = CHANNELS
        self.stem = _block(1, narrow)
        self.down = _block(narrow, wide, stride=2)
        self.first = _block(wide, wide)
        self.second = _block(wide, wide)
        self.classifier = nn.Linear(wide * (SIDE // 2) ** 2, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        narrow = functional.relu(self.down(functional.relu(self.stem(images))))
        residual = self.second(functional.relu(self.first(narrow)))
        return self.classifier(functional.relu(narrow + residual).flatten(1))


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution and its batch norm."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def train(
    data: Digits, epochs: int, seed: int, progress: Callable[[float, float], None]
) -> DigitNetwork:
    """A network trained in float32, by Adam on cross entropy with a falling learning rate.

    Parameters
    ----------
    data : Digits
    epochs : int
    seed : int
        Of the weights and of the order of the images.
    progress : callable
        Called after each epoch with its mean loss and the accuracy on the test images.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = DigitNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(epochs, 1))
    for _ in range(epochs):
        network.train()
        order = torch.randperm(len(data.train_labels), generator=generator)
        losses = []
        for batch in order.split(BATCH):
            images = shifted(data.train_images[batch], generator)
            loss = functional.cross_entropy(network(images), data.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        schedule.step()
        network.eval()
        progress(float(np.mean(losses)), accuracy(predict(network, data.test_images), data))
    return network.eval()


def predict(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits without gradient."""
    with torch.no_grad():
        logits: torch.Tensor = network(images)
    return logits


def accuracy(logits: torch.Tensor, data: Digits) -> float:
    """Fraction of test images whose largest logit is that of their label."""
    return float((logits.argmax(1) == data.test_labels).double().mean())


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images moved by up to one pixel, with zeros moved in: what handwriting does by itself."""
    rows, columns = torch.randint(0, 3, (2,), generator=generator).tolist()
    padded = functional.pad(images, (1, 1, 1, 1))
    return padded[:, :, rows : rows + SIDE, columns : columns + SIDE]

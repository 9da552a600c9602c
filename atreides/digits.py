"""The demo's network: scikit-learn's handwritten digits, trained, quantized to SFx and healed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sw import tensor
from sw.format import SFx

HIDDEN = 32
CLASSES = 10
#: Biases enter in the drain at this width, whatever the operands' width.
BIAS_FORMAT = SFx(16)
#: The logits leave at this width.
LOGIT_FORMAT = SFx(16)


@dataclass(frozen=True)
class Digits:
    """1,797 images of 8 x 8 pixels in [0, 1], float32, split once by the seed."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


@dataclass(frozen=True)
class Layer:
    """One quantized linear layer as the hardware sees it.

    Parameters
    ----------
    weights : ndarray
        Words, shape (inputs, outputs).
    column_shift : ndarray
        int8, shape (outputs,): ``e_out - e_in - e_weight`` of each column.
    bias : ndarray
        Words of `BIAS_FORMAT`, shape (outputs,), in the output's scale.
    activation : {"linear", "relu"}
    output : SFx
        Format of the drained words.
    """

    weights: np.ndarray
    column_shift: np.ndarray
    bias: np.ndarray
    activation: str
    output: SFx


def load(seed: int) -> Digits:
    """Load the data set that scikit-learn ships and hold out a fifth of it."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    images = torch.from_numpy((bunch.data[order] / 16).astype(np.float32))
    labels = torch.from_numpy(bunch.target[order].astype(np.int64))
    held_out = len(order) // 5
    return Digits(images[held_out:], labels[held_out:], images[:held_out], labels[:held_out])


def network() -> nn.Sequential:
    """The float network: 64 inputs, `HIDDEN` ReLU neurons, 10 classes."""
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def fit(
    forward: Callable[[torch.Tensor], torch.Tensor],
    model: nn.Module,
    data: Digits,
    epochs: int,
    learning_rate: float,
    generator: torch.Generator,
    progress: Callable[[], None],
) -> None:
    """Train by Adam on cross entropy, batches of 64, calling ``progress`` after each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(epochs):
        order = torch.randperm(len(data.train_labels), generator=generator)
        for batch in order.split(64):
            loss = functional.cross_entropy(
                forward(data.train_images[batch]), data.train_labels[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        progress()


class Quantized:
    """Static exponents of a trained network, and the network under fake quantization.

    Parameters
    ----------
    model : nn.Sequential
        What `network` returns, trained.
    format : SFx
        Format of weights and activations.
    images : Tensor
        Float32 images to calibrate the activations' exponents on.
    """

    def __init__(self, model: nn.Sequential, format: SFx, images: torch.Tensor) -> None:
        self.format = format
        self.first, self.last = model[0], model[2]
        with torch.no_grad():
            hidden = torch.relu(self.first(images))
            logits = self.last(hidden)
        self.hidden_exponent = self._exponent(hidden, self.first.bias)
        self.logit_exponent = self._exponent(logits, self.last.bias)

    def _exponent(self, *groups: torch.Tensor) -> int:
        values = torch.cat([group.detach().flatten() for group in groups])
        return int(tensor.exponents(values, self.format, "tensor"))

    def _weight_exponents(self, layer: nn.Linear) -> torch.Tensor:
        return tensor.exponents(layer.weight.detach(), self.format, "channel")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits under fake quantization of weights and activations, differentiable."""
        values = tensor.fake_quantize(images, self.format)
        for layer in (self.first, self.last):
            exponent = self._weight_exponents(layer)
            weight = tensor.fake_quantize(layer.weight, self.format, exponent)
            values = functional.linear(values, weight, layer.bias)
            if layer is self.first:
                values = torch.relu(values)
                values = tensor.fake_quantize(values, self.format, self.hidden_exponent)
        return values

    def layers(self) -> list[Layer]:
        """The layers as words, shifts and biases."""
        exponents = (0, self.hidden_exponent, self.logit_exponent)
        result = []
        for i, (layer, activation, output) in enumerate(
            ((self.first, "relu", self.format), (self.last, "linear", LOGIT_FORMAT))
        ):
            weight_exponent = self._weight_exponents(layer)
            words = tensor.encode(layer.weight.detach(), self.format, weight_exponent)
            shift = exponents[i + 1] - exponents[i] - weight_exponent.flatten()
            bias = tensor.encode(layer.bias.detach(), BIAS_FORMAT, exponents[i + 1])
            result.append(
                Layer(
                    np.ascontiguousarray(words.numpy().T),
                    shift.numpy().astype(np.int8),
                    bias.numpy(),
                    activation,
                    output,
                )
            )
        return result


def run_on_tensors(layers: list[Layer], words: np.ndarray, format: SFx) -> list[np.ndarray]:
    """Run the layers on the tensor model.

    Parameters
    ----------
    words : ndarray
        Image words, shape (images, 64).

    Returns
    -------
    list of ndarray
        The words that leave each layer, shape (images, outputs) each.
    """
    results = []
    for layer in layers:
        words = tensor.matmul(
            words,
            layer.weights,
            format,
            bias=layer.bias,
            bias_format=BIAS_FORMAT,
            column_shift=layer.column_shift,
            activation=layer.activation,
            output=layer.output,
        )
        results.append(words)
    return results


def run_on_integers(layers: list[Layer], words: np.ndarray, format: SFx) -> list[np.ndarray]:
    """The same on the integer model, one word at a time: slow, and the definition."""
    results = []
    for layer in layers:
        columns = layer.weights.T.tolist()
        words = np.array(
            [
                [
                    format.drain(
                        format.dot(row, column),
                        column_shift=int(layer.column_shift[j]),
                        bias=int(layer.bias[j]),
                        bias_format=BIAS_FORMAT,
                        activation=layer.activation,
                        output=layer.output,
                    )
                    for j, column in enumerate(columns)
                ]
                for row in words.tolist()
            ]
        )
        results.append(words)
    return results

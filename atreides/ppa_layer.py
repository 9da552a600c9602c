"""A real layer's operands, as a multiply-accumulate unit of any format sees them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from atreides import digits
from hw.ppa import Rival
from sw.exponents import exponents
from sw.format import SFx
from sw.tensor import encode

#: What is told of it beside figures.
DESCRIPTION: Final = (
    "a 3 x 3 convolution of 24 channels in the demo's network, trained on handwritten digits, on "
    "images that it was not trained on"
)
#: Dot products that are computed, each of 216 terms.
OUTPUTS: Final = 4
#: Of the layer: no more columns of weights can be asked for.
CHANNELS: Final = 24
#: Of each dot product.
TERMS: Final = 9 * CHANNELS
EPOCHS: Final = 6
SEED: Final = 20261122
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Dot products of a layer: pairs of rows.

    Parameters
    ----------
    activations, weights : array of float32, shape (outputs, terms)
    activation_peak : float
        Of the whole layer's input: its exponent is the layer's.
    weight_peaks : array of float32, shape (outputs, 1)
        Of the whole channel that each row of weights is of.
    """

    activations: Floats
    weights: Floats
    activation_peak: float
    weight_peaks: Floats

    @property
    def zeros(self) -> float:
        """Share of products with a zero among their operands, in float."""
        return float(((self.activations == 0) | (self.weights == 0)).mean())


def real_layer(folder: Path, outputs: int = OUTPUTS) -> Layer:
    """The layer, trained on the first call and kept in a folder.

    Parameters
    ----------
    folder : Path
    outputs : int
        Rows of activations and of weights, at most :data:`CHANNELS`.
    """
    path = folder / f"layer-{SEED}-{EPOCHS}-{outputs}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return Layer(
                kept["activations"], kept["weights"], float(kept["peak"]), kept["weight_peaks"]
            )
    layer = _trained(outputs)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(
        unfinished,
        activations=layer.activations,
        weights=layer.weights,
        peak=np.float32(layer.activation_peak),
        weight_peaks=layer.weight_peaks,
    )
    os.replace(unfinished, path)
    return layer


def operands(rival: Rival, layer: Layer) -> dict[str, list[int]]:
    """What each input of a unit holds in each cycle: all terms of a dot product, then the next.

    SFx and integers have the same codes: exponents by maximum, of the layer's input and of each
    channel of weights, nearest, no unity. Floats are the values themselves, rounded to the format.
    """
    first = np.zeros_like(layer.activations, dtype=np.int64)
    first[:, 0] = 1
    found: dict[str, list[int]] = {}
    for name, values, peaks in (
        ("a", layer.activations, np.full((len(layer.weights), 1), layer.activation_peak)),
        ("b", layer.weights, layer.weight_peaks),
    ):
        if rival.kind == "float":
            words = _float_words(rival.name, values)
        else:
            words = _codes(rival, values, np.float32(peaks))
        found[name] = [int(word) for word in words.ravel()]
    if rival.kind != "multiplier":
        found["first"] = [int(bit) for bit in first.ravel()]
    return found


def format_words(format: SFx, values: Floats, peaks: Floats) -> npt.NDArray[np.int64]:
    """Values as words of a format, to nearest, each row with the exponent of its peak."""
    scales = exponents(torch.from_numpy(peaks), format, dim=1)
    return encode(torch.from_numpy(values), format, scales).numpy().astype(np.int64)


def _float_words(name: str, values: Floats) -> npt.NDArray[Any]:
    tensor = torch.from_numpy(values)
    if name == "binary32":
        return values.view(np.uint32)
    kind = torch.bfloat16 if name == "bfloat16" else torch.float16
    return tensor.to(kind).contiguous().view(torch.int16).numpy().view(np.uint16)


def _codes(rival: Rival, values: Floats, peaks: Floats) -> npt.NDArray[Any]:
    """Words of SFx, magnitudes for a multiplier, signed numbers for an integer unit."""
    format = SFx(rival.bits, unity=False)
    words = format_words(format, values, peaks)
    if rival.kind.startswith("superfloat"):
        return words
    magnitudes = words & format.sign_bit - 1
    if rival.kind == "multiplier":
        return magnitudes
    return np.where(words & format.sign_bit, -magnitudes, magnitudes)


def _trained(outputs: int) -> Layer:
    data = digits.load(SEED)
    network = digits.train(data, EPOCHS, SEED, lambda loss, accuracy: None)
    convolution, norm = network.second
    with torch.no_grad():
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weights = (convolution.weight * scale[:, None, None, None]).flatten(1)
        images = data.test_images[:outputs]
        given = torch.relu(network.down(torch.relu(network.stem(images))))
        given = torch.relu(network.first(given))
        windows = torch.nn.functional.unfold(given, 3, padding=1)  # [images, terms, places]
    generator = np.random.default_rng(SEED)
    channels = generator.choice(len(weights), outputs, replace=False)
    places = generator.integers(0, windows.shape[2], outputs)
    rows = torch.stack([windows[n, :, place] for n, place in enumerate(places.tolist())])
    chosen = weights[torch.from_numpy(channels)]
    return Layer(
        rows.numpy(),
        chosen.numpy(),
        float(given.abs().max()),
        chosen.abs().amax(dim=1, keepdim=True).numpy(),
    )

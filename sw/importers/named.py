"""The networks that the project knows by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch

from sw import datasets
from sw.datasets import detokenize as detokenize
from sw.importers.gguf_file import load_gguf
from sw.importers.loaded import Calibration, Inputs, Loaded, file_hash
from sw.importers.tflite_file import load_tflite
from sw.models import byte_pairs, lenet, smollm, stories

#: Length of the window that a language model is traced with if none is given.
WINDOW: Final = 64
#: More characters than any token of plain English text has on average.
_CHARACTERS: Final = 8


def _lenet() -> Loaded:
    """MNIST: images [1, 1, 28, 28] from 0 to 1; calibrated on training images."""
    recipe = lenet.Recipe()
    module = lenet.trained(recipe)

    def calibration(count: int) -> list[Inputs]:
        images = lenet.prepare(datasets.mnist("train").images[:count])
        return [(image[None],) for image in images]

    example = (torch.zeros(1, 1, 28, 28),)
    return Loaded("lenet", module, example, calibration, lenet.recipe_hash(recipe))


def _tflite(name: str, file: str, calibration: Calibration | None = None) -> Loaded:
    path = datasets.path_of("mlperf-tiny", file)
    module, example = load_tflite(path)
    return Loaded(name, module, example, calibration, file_hash(path))


def _resnet8() -> Loaded:
    """MLPerf Tiny image classification: images [1, 32, 32, 3] from 0 to 255."""
    return _tflite("resnet8", "pretrainedResnet.tflite", cifar_calibration)


def cifar_calibration(count: int) -> list[Inputs]:
    """Every class alike, from the end of the subset: images [1, 32, 32, 3] from 0 to 255."""
    data = datasets.cifar10()
    per_class = len(data) // 10
    order = torch.arange(len(data)).reshape(10, per_class).flip(1).T.flatten()[:count]
    return [(image[None].float(),) for image in data.images[order]]


def _autoencoder() -> Loaded:
    """MLPerf Tiny anomaly detection: [1, 640] log-mel energies in decibels."""
    return _tflite("autoencoder", "ad01_fp32.tflite")


def _mobilenet_vww() -> Loaded:
    """MLPerf Tiny visual wake words: images [1, 96, 96, 3] from 0 to 1."""
    return _tflite("mobilenet-vww", "vww_96_float.tflite")


def _ds_cnn() -> Loaded:
    """MLPerf Tiny keyword spotting: [1, 49, 10, 1] mel-frequency cepstral coefficients."""
    return _tflite("ds-cnn", "kws_ref_model_float32.tflite")


def _stories260k() -> Loaded:
    """A Llama of 260,032 parameters: a window of tokens [1, 64]; calibrated on its sample."""
    module = stories.load_stories()
    path = datasets.path_of("stories260K", "stories260K.bin")
    example = (torch.full((1, WINDOW), stories.BOS),)
    return Loaded("stories260k", module, example, stories_calibration, file_hash(path))


def stories_calibration(count: int) -> list[Inputs]:
    """Windows [1, 64] of the sample's stories, each from its beginning on."""
    tokenizer = stories.load_tokenizer()
    windows: list[Inputs] = []
    for story in datasets.tinystories():
        tokens = torch.tensor(tokenizer.encode(story))
        whole = len(tokens) // WINDOW * WINDOW
        windows += [(window[None],) for window in tokens[:whole].reshape(-1, WINDOW)]
    return windows[:count]


def _smollm2() -> Loaded:
    """SmolLM2-135M-Instruct: a window of tokens [1, 64]; calibrated on WikiText-2's valid split."""
    path = smollm.model_path()
    module, file = load_gguf(path)
    tokenizer = byte_pairs.from_metadata(file.metadata)

    def calibration(count: int) -> list[Inputs]:
        text = detokenize(datasets.wikitext("valid"))[: count * WINDOW * _CHARACTERS]
        tokens = torch.tensor(tokenizer.encode(text))
        whole = len(tokens) // WINDOW * WINDOW
        return [(w[None],) for w in tokens[:whole].reshape(-1, WINDOW)[:count]]

    example = (torch.zeros(1, WINDOW, dtype=torch.int64),)
    return Loaded("smollm2-135m", module, example, calibration, file_hash(path))


NAMED: Final[Mapping[str, Callable[[], Loaded]]] = {
    "lenet": _lenet,
    "resnet8": _resnet8,
    "autoencoder": _autoencoder,
    "mobilenet-vww": _mobilenet_vww,
    "ds-cnn": _ds_cnn,
    "stories260k": _stories260k,
    "smollm2-135m": _smollm2,
}

"""Data sets, read from the folder that the environment variable ``ATREIDES_DATA`` names.

Nothing is downloaded: what is missing is asked for in one sentence that says where it is kept.
Sizes, types and magic numbers are checked before anything of that size is allocated.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt
import torch

VARIABLE: Final = "ATREIDES_DATA"
#: Where each folder's data is published.
HOMES: Final[Mapping[str, str]] = {
    "mnist": "the four idx .gz files of https://yann.lecun.com/exdb/mnist",
    "cifar10_test_jpg2000": "2,000 test images of https://www.cs.toronto.edu/~kriz/cifar.html "
    "as x [n, 32, 32, 3] and y [n], uint8, in cifar10_test_jpg2000.npz",
    "mlperf-tiny": "the trained models of https://github.com/mlcommons/tiny",
    "stories260K": "stories260K.bin and tok512.bin of "
    "https://huggingface.co/karpathy/tinyllamas/tree/main/stories260K",
    "tinystories_sample": "stories of https://huggingface.co/datasets/roneneldan/TinyStories, "
    "separated by <|endoftext|>, in tinystories_sample.txt",
    "tinyshakespeare": "data/tinyshakespeare/input.txt of https://github.com/karpathy/char-rnn",
    "wikitext-2-raw": "wiki.test.raw of WikiText-2 raw, "
    "https://huggingface.co/datasets/Salesforce/wikitext",
    "wikitext-2-tok": "valid.txt and test.txt in word_language_model/data/wikitext-2 of "
    "https://github.com/pytorch/examples",
    "yolov5n": "the weights of yolov5n.pt, release 6, of https://github.com/ultralytics/yolov5 "
    "as float16 in yolov5n.safetensors",
    "yolox-nano": "yolox_nano.onnx of https://github.com/Megvii-BaseDetection/YOLOX",
}
#: What ends a story in TinyStories.
END_OF_TEXT: Final = "<|endoftext|>"
_MNIST: Final = {
    "train": (60_000, ("train-images-idx3-ubyte.gz", "train-images-recovered-pm1-idx3-ubyte.gz")),
    "test": (10_000, ("t10k-images-idx3-ubyte.gz",)),
}
_MNIST_LABELS: Final = {"train": "train-labels-idx1-ubyte.gz", "test": "t10k-labels-idx1-ubyte.gz"}
#: More bytes of text than this are not a sample of it.
_MAX_TEXT: Final = 1 << 28
_MAX_IMAGES: Final = 60_000
_CLASSES: Final = 10


class DatasetError(ValueError):
    """A data set that is missing or is not what it should be, in one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Images with their classes.

    Parameters
    ----------
    images : torch.Tensor of uint8
        ``[n, height, width]`` grey or ``[n, height, width, 3]`` red, green, blue.
    labels : torch.Tensor of int64
        ``[n]``, from 0.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def path_of(folder: str, *names: str) -> Path:
    """A file of a data set: the first of ``names`` that is there, or the folder without names.

    Raises
    ------
    DatasetError
        If the variable is not set or the file is missing; the sentence names its public home.
    """
    home = HOMES.get(folder, "its public home")
    base = os.environ.get(VARIABLE)
    if not base:
        raise DatasetError(
            f"{VARIABLE} must name the folder of data sets, not be empty: put {home} "
            f"into its subfolder {folder}"
        )
    paths = [Path(base) / folder / name for name in names] or [Path(base) / folder]
    for path in paths:
        if path.exists():
            return path
    raise DatasetError(f"{paths[0]} must exist: put {home} into {VARIABLE}'s subfolder {folder}")


def mnist(split: str = "test") -> Images:
    """Handwritten digits, 28 x 28, grey: 60,000 to train on, 10,000 to test.

    Parameters
    ----------
    split : {"train", "test"}

    Raises
    ------
    DatasetError
        If a file is missing, cut short, too long or not the data set's.
    """
    if split not in _MNIST:
        raise ValueError(f"split must be one of {', '.join(_MNIST)}, not {split!r}")
    count, names = _MNIST[split]
    images = _idx(path_of("mnist", *names), (count, 28, 28))
    labels = _idx(path_of("mnist", _MNIST_LABELS[split]), (count,))
    return Images(torch.from_numpy(images), _labels(path_of("mnist"), labels))


def cifar10() -> Images:
    """CIFAR-10 test images that went through JPEG, 200 per class.

    Raises
    ------
    DatasetError
        If the file is missing, or holds anything but uint8 images and their classes.
    """
    path = path_of("cifar10_test_jpg2000", "cifar10_test_jpg2000.npz")
    try:
        with zipfile.ZipFile(path) as archive:
            images = _member(path, archive, "x.npy", (32, 32, 3))
            labels = _member(path, archive, "y.npy", ())
    except (zipfile.BadZipFile, zlib.error, KeyError, OSError, EOFError, NotImplementedError) as e:
        raise DatasetError(f"{path} must be a whole npz file with x and y ({e})") from None
    if len(images) != len(labels):
        raise DatasetError(
            f"{path} must have a class per image, not {len(labels)} for {len(images)}"
        )
    return Images(torch.from_numpy(images), _labels(path, labels))


def tinystories() -> list[str]:
    """The stories of the sample, each without the line breaks around it."""
    text = _text(path_of("tinystories_sample", "tinystories_sample.txt"))
    return [story for part in text.split(END_OF_TEXT) if (story := part.strip())]


def tinyshakespeare() -> str:
    """The concatenated plays."""
    return _text(path_of("tinyshakespeare", "input.txt"))


def wikitext(kind: str = "raw-test") -> str:
    """WikiText-2.

    Parameters
    ----------
    kind : {"raw-test", "test", "valid"}
        The raw test split, to evaluate on; or the tokenized splits, with ``<unk>``.
    """
    places = {
        "raw-test": ("wikitext-2-raw", "wiki.test.raw"),
        "test": ("wikitext-2-tok", "test.txt"),
        "valid": ("wikitext-2-tok", "valid.txt"),
    }
    if kind not in places:
        raise ValueError(f"kind must be one of {', '.join(places)}, not {kind!r}")
    return _text(path_of(*places[kind]))


def detokenize(text: str) -> str:
    """WikiText's tokenized text as raw text has it, nearly: punctuation and contractions joined."""
    for joined, separate in ((",", " @,@ "), (".", " @.@ "), ("-", " @-@ ")):
        text = text.replace(separate, joined)
    text = re.sub(r" ([.,;:!?)\]%]|'s\b|n't\b)", r"\1", text)
    return re.sub(r"([(\[]) ", r"\1", text)


def _idx(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An idx file of bytes: zero, zero, type 8, dimensions, each size as big-endian uint32."""
    header = 4 + 4 * len(shape)
    size = int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            data = file.read(header + size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} must be a whole gzip file ({error})") from None
    expected = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    if data[:header] != expected:
        raise DatasetError(f"{path} must begin as an idx file of bytes of shape {shape} does")
    if len(data) != header + size:
        raise DatasetError(f"{path} must hold {header + size} bytes, not {len(data)} or more")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


def _member(
    path: Path, archive: zipfile.ZipFile, name: str, item: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """An array of an npz file, its header checked before its size is believed."""
    with archive.open(name) as file:
        shape, dtype = _header(path, file)
        if dtype != np.uint8 or shape[1:] != item or not 0 < shape[0] <= _MAX_IMAGES:
            raise DatasetError(
                f"{path} must hold uint8 [n, *{item}] in {name}, not {dtype} {shape}"
            )
        size = int(np.prod(shape))
        data = file.read(size + 1)
    if len(data) != size:
        raise DatasetError(f"{path} must hold {size} bytes in {name}, not {len(data)} or more")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        shape, transposed, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise DatasetError(f"{path} must hold arrays in npy format 1.0 ({error})") from None
    if transposed or not shape:
        raise DatasetError(f"{path} must hold arrays with the last dimension contiguous")
    return shape, dtype


def _labels(path: Path, labels: npt.NDArray[np.uint8]) -> torch.Tensor:
    if labels.max() >= _CLASSES:
        raise DatasetError(f"{path} must have classes from 0 to 9, not {labels.max()}")
    return torch.from_numpy(labels.astype(np.int64))


def _text(path: Path) -> str:
    """A text, its lines ended by line feeds alone."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_TEXT + 1)
    except OSError as error:
        raise DatasetError(f"{path} must be a file that can be read ({error.strerror})") from None
    if len(data) > _MAX_TEXT:
        raise DatasetError(f"{path} must hold at most {_MAX_TEXT} bytes of text")
    try:
        return data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} must be UTF-8 text ({error})") from None

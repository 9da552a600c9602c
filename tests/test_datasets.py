"""Data sets: what is missing or corrupt is said in one sentence; what is there is as published."""

from __future__ import annotations

import gzip
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from sw import datasets
from sw.datasets import DatasetError

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATREIDES_DATA", str(tmp_path))
    for name in ("mnist", "cifar10_test_jpg2000", "tinystories_sample"):
        (tmp_path / name).mkdir()
    return tmp_path


def idx(shape: tuple[int, ...], content: bytes, kind: int = 8) -> bytes:
    header = struct.pack(f">4B{len(shape)}I", 0, 0, kind, len(shape), *shape)
    return gzip.compress(header + content, 1, mtime=0)


def test_without_the_variable_the_sentence_names_it_and_the_home(monkeypatch) -> None:
    monkeypatch.delenv("ATREIDES_DATA", raising=False)
    with pytest.raises(DatasetError, match=r"ATREIDES_DATA .* http.*mnist"):
        datasets.mnist()


def test_a_missing_file_is_named_with_its_home(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"t10k-images.* must exist: put .*http"):
        datasets.mnist()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(b"", mtime=0),
        idx((10_000, 28, 28), b"\0" * 100),
        idx((10_000, 28, 28), b"\0" * (10_000 * 784 + 1)),
        idx((1 << 31, 28, 28), b"\0" * (10_000 * 784)),
        idx((10_000, 28, 28), b"\0" * (10_000 * 784), kind=13),
        idx((10_000, 28, 28), b"\0" * (10_000 * 784))[:-50],
    ],
)
def test_corrupt_images_are_refused(folder: Path, content: bytes) -> None:
    (folder / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(idx((10_000,), b"\1" * 10_000))
    with pytest.raises(DatasetError, match="t10k-images"):
        datasets.mnist()


def test_labels_beyond_the_classes_are_refused(folder: Path) -> None:
    images = idx((10_000, 28, 28), b"\0" * (10_000 * 784))
    (folder / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(images)
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(idx((10_000,), b"\12" * 10_000))
    with pytest.raises(DatasetError, match="classes from 0 to 9, not 10"):
        datasets.mnist()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


IMAGES = np.zeros((3, 32, 32, 3), np.uint8)
LABELS = np.zeros(3, np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        npz(x=IMAGES),
        npz(x=IMAGES.astype(np.float32), y=LABELS),
        npz(x=IMAGES[:2], y=LABELS),
        npz(x=IMAGES, y=LABELS + 10),
        npz(x=np.array([[1, None]], object), y=LABELS),
        npz(x=IMAGES, y=LABELS).replace(b"(3, 32, 32, 3)", b"(9, 32, 32, 3)"),
        npz(x=IMAGES, y=LABELS).replace(b"(3,), }" + b" " * 10, b"(30000000000,), }"),
        npz(x=IMAGES, y=LABELS)[:-40],
    ],
)
def test_corrupt_archives_are_refused(folder: Path, content: bytes) -> None:
    (folder / "cifar10_test_jpg2000" / "cifar10_test_jpg2000.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"npz|ATREIDES"):
        datasets.cifar10()


def test_a_sound_archive_is_read(folder: Path) -> None:
    content = npz(x=IMAGES + np.arange(3, dtype=np.uint8)[:, None, None, None], y=LABELS + 2)
    (folder / "cifar10_test_jpg2000" / "cifar10_test_jpg2000.npz").write_bytes(content)
    found = datasets.cifar10()
    assert len(found) == 3
    assert found.images[:, 5, 5, 1].tolist() == [0, 1, 2]
    assert found.labels.tolist() == [2, 2, 2]


def test_stories_are_split_where_they_end(folder: Path) -> None:
    place = folder / "tinystories_sample" / "tinystories_sample.txt"
    place.write_bytes(b"One.\r\nTwo.\n<|endoftext|>\nThree.\n<|endoftext|>\n")
    assert datasets.tinystories() == ["One.\nTwo.", "Three."]
    place.write_bytes(b"\xff")
    with pytest.raises(DatasetError, match="UTF-8"):
        datasets.tinystories()


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of train, test"):
        datasets.mnist("valid")
    with pytest.raises(ValueError, match="kind must be one of raw-test, test, valid"):
        datasets.wikitext("train")


@data
def test_mnist_has_its_published_statistics() -> None:
    found = datasets.mnist("test")
    assert found.images.shape == (10_000, 28, 28)
    # Published: https://yann.lecun.com/exdb/mnist shows 7, 2, 1, 0, 4 first; 980 zeros.
    assert found.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert found.labels.bincount().tolist()[0] == 980
    train = datasets.mnist("train")
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(float(train.images.float().mean()) / 255 - 0.1307) < 1e-4


@data
def test_texts_and_images_are_there() -> None:
    assert datasets.cifar10().labels.bincount().tolist() == [200] * 10
    assert len(datasets.tinystories()) == 5
    raw, tokenized = datasets.wikitext("raw-test"), datasets.wikitext("test")
    assert len(raw.split()) == len(tokenized.split()) == 241_211
    assert "\r" not in raw
    assert datasets.tinyshakespeare().startswith("First Citizen:")

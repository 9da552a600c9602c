"""GGUF files of the Llama family.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The header is read here, every
length checked against the file before it is followed; quantized blocks are decoded by the ``gguf``
package. Weights become float32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import gguf
import numpy as np
import numpy.typing as npt
import torch

from sw.importers.loaded import ModelError
from sw.models.llama import Llama, LlamaConfig, deinterleave

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = dict(
    zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?",
         "<u8", "<i8", "<f8"), strict=True)
)  # fmt: skip
#: Positions beyond these are cut off: tables for them would be large, and no one traces them.
MAX_CONTEXT: Final = 1 << 15
_MAX_DIMENSIONS: Final = 4
_MAX_SIZE: Final = 1 << 20

Value: TypeAlias = int | float | bool | str | list[int] | list[float] | list[str]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies.

    Parameters
    ----------
    shape : tuple of int
        Slowest dimension first, as torch has it.
    kind : gguf.GGMLQuantizationType
    offset : int
        In the file.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset: int


class GgufFile:
    """The header of a file, checked, and its data, mapped.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ModelError
        If the file is missing, cut short, or not as its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ModelError(f"{path} must exist")
        try:
            self._data: npt.NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} must be a file that can be read ({error})") from None
        self._place = 0
        try:
            self._read_header()
        except (struct.error, UnicodeDecodeError) as error:
            raise self.error(f"must be a whole GGUF file ({error})") from None

    def error(self, sentence: str) -> ModelError:
        """An exception about this file."""
        return ModelError(f"{self.path} {sentence}")

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor as float32.

        Raises
        ------
        ModelError
            If it is missing, of another shape, or in a type that cannot be decoded.
        """
        stored = self.tensors.get(name)
        if stored is None:
            raise self.error(f"must have a tensor {name}")
        if stored.shape != shape:
            raise self.error(f"must have {name} of {list(shape)}, not {list(stored.shape)}")
        block, size = gguf.GGML_QUANT_SIZES[stored.kind]
        count = math.prod(shape) // block * size
        raw = self._data[stored.offset : stored.offset + count]
        rows = np.asarray(raw).reshape(math.prod(shape[:-1]), -1)
        try:
            values = gguf.quants.dequantize(rows, stored.kind)
        except NotImplementedError:
            raise self.error(f"must have {name} in a known type, not {stored.kind.name}") from None
        return torch.from_numpy(np.array(values, np.float32).reshape(shape))

    def _read_header(self) -> None:
        if bytes(self._data[:4]) != _MAGIC:
            raise self.error("must be a GGUF file, with GGUF in its header")
        self._place = 4
        version = self._number("<I")
        if version not in _VERSIONS:
            raise self.error(f"must be of GGUF version 2 or 3, not {version}")
        tensors, pairs = self._number("<Q"), self._number("<Q")
        self.metadata: dict[str, Value] = {}
        for _ in range(pairs):  # ends with the file at the latest: every pair takes 12 bytes
            key = self._string()
            if key in self.metadata:
                raise self.error(f"must have each key once, not {key!r} twice")
            self.metadata[key] = self._value(self._number("<I"))
        self.tensors: dict[str, StoredTensor] = {}
        for _ in range(tensors):
            name = self._string()
            if name in self.tensors:
                raise self.error(f"must have each tensor once, not {name!r} twice")
            self.tensors[name] = self._tensor_information(name)
        self._settle_offsets()

    def _tensor_information(self, name: str) -> StoredTensor:
        dimensions = self._number("<I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self.error(f"must have {name} of 1 to 4 dimensions, not {dimensions}")
        shape = tuple(reversed([self._number("<Q") for _ in range(dimensions)]))
        number, offset = self._number("<I"), self._number("<Q")
        try:
            kind = gguf.GGMLQuantizationType(number)
        except ValueError:
            raise self.error(f"must have {name} in a known type, not {number}") from None
        block = gguf.GGML_QUANT_SIZES[kind][0]
        if min(shape) < 1 or shape[-1] % block:
            raise self.error(f"must have {name} in rows of whole blocks, not {list(shape)}")
        return StoredTensor(shape, kind, offset)

    def _settle_offsets(self) -> None:
        """Turn offsets in the data into offsets in the file, and check that all lie in it."""
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise self.error(f"must have an alignment from 1 to 2**20, not {alignment}")
        start = -(-self._place // alignment) * alignment
        for name, stored in self.tensors.items():
            block, size = gguf.GGML_QUANT_SIZES[stored.kind]
            length = math.prod(stored.shape) // block * size
            if start + stored.offset + length > len(self._data):
                raise self.error(f"must hold {name} whole, not end before it")
            moved = StoredTensor(stored.shape, stored.kind, start + stored.offset)
            self.tensors[name] = moved

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._place:
            raise self.error(f"must hold {count} more bytes at byte {self._place}")
        taken = bytes(self._data[self._place : self._place + count])
        self._place += count
        return taken

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(number)

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode()

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._number("<I"), self._number("<Q")
            if inner == _STRING:
                return [self._string() for _ in range(count)]  # each takes 8 bytes at least
            values: list[int] | list[float] = self._numbers(inner, count).tolist()
            return values
        value: int | float | bool = self._numbers(kind, 1)[0].item()
        return value

    def _numbers(self, kind: int, count: int) -> npt.NDArray[np.generic]:
        if kind not in _SCALARS:
            raise self.error(f"must have values of known types, not {kind}")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)


def load_gguf(path: Path) -> tuple[Llama, GgufFile]:
    """Read a network of the Llama family.

    Returns
    -------
    Llama
        With at most ``MAX_CONTEXT`` positions.
    GgufFile
        For its tokenizer (:func:`sw.models.byte_pairs.from_metadata`).

    Raises
    ------
    ModelError
        If the file is missing, corrupt, of another architecture, or has tensors that it should not.
    """
    file = GgufFile(path)
    config = _config(file)
    tied = "output.weight" not in file.tensors
    names = _names(config, tied)
    extra = sorted(set(file.tensors) - set(names))
    if extra:
        raise file.error(f"must have the tensors of a Llama, not {extra[0]}")
    state = {}
    for name, (place, shape) in names.items():
        weight = file.tensor(name, shape)
        for ending, heads in (("attn_q.weight", config.heads), ("attn_k.weight", config.kv_heads)):
            if name.endswith(ending):
                weight = deinterleave(weight, heads)
        state[place] = weight
    return Llama.from_state(config, state, tied), file


def _config(file: GgufFile) -> LlamaConfig:
    metadata = file.metadata
    if metadata.get("general.architecture") != "llama":
        kind = metadata.get("general.architecture")
        raise file.error(f"must be of the architecture llama, not {kind!r}")
    if metadata.get("llama.rope.scaling.type", "none") != "none":
        raise file.error("must have rotary positions without scaling")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise file.error("must have token_embd.weight")
    heads = _integer(file, "attention.head_count")
    try:
        config = LlamaConfig(
            width=_integer(file, "embedding_length"),
            hidden=_integer(file, "feed_forward_length"),
            layers=_integer(file, "block_count"),
            heads=heads,
            kv_heads=_integer(file, "attention.head_count_kv", heads),
            vocabulary=embedding.shape[0],
            context=min(_integer(file, "context_length"), MAX_CONTEXT),
            rope_theta=_real(file, "rope.freq_base", 10000.0),
            epsilon=_real(file, "attention.layer_norm_rms_epsilon", 1e-5),
        )
    except ModelError:
        raise
    except ValueError as error:
        raise file.error(f"must be a Llama that can be built ({error})") from None
    if _integer(file, "rope.dimension_count", config.head_size) != config.head_size:
        raise file.error("must have rotary positions in all of a head")
    if 9 * config.layers + 2 > len(file.tensors):
        raise file.error(f"must have tensors for {config.layers} blocks, not {len(file.tensors)}")
    return config


def _integer(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.metadata.get(f"llama.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_SIZE:
        raise file.error(f"must have llama.{key} from 1 to {_MAX_SIZE}, not {value!r}")
    return value


def _real(file: GgufFile, key: str, default: float) -> float:
    value = file.metadata.get(f"llama.{key}", default)
    if not isinstance(value, float) or not 0 < value < math.inf:
        raise file.error(f"must have llama.{key} above 0, not {value!r}")
    return value


def _names(config: LlamaConfig, tied: bool) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """Name in the file: name in the module, and shape."""
    width, hidden, inner = config.width, config.hidden, config.kv_heads * config.head_size
    names: dict[str, tuple[str, tuple[int, ...]]] = {
        "token_embd.weight": ("embedding.weight", (config.vocabulary, width)),
        "output_norm.weight": ("norm.weight", (width,)),
    }
    if not tied:
        names["output.weight"] = ("head.weight", (config.vocabulary, width))
    blocks: dict[str, tuple[str, tuple[int, ...]]] = {
        "attn_norm": ("attention_norm", (width,)),
        "attn_q": ("attention.q", (width, width)),
        "attn_k": ("attention.k", (inner, width)),
        "attn_v": ("attention.v", (inner, width)),
        "attn_output": ("attention.o", (width, width)),
        "ffn_norm": ("feed_forward_norm", (width,)),
        "ffn_gate": ("feed_forward.gate", (hidden, width)),
        "ffn_up": ("feed_forward.up", (hidden, width)),
        "ffn_down": ("feed_forward.down", (width, hidden)),
    }
    for layer in range(config.layers):
        for stored, (place, shape) in blocks.items():
            names[f"blk.{layer}.{stored}.weight"] = (f"blocks.{layer}.{place}.weight", shape)
    return names

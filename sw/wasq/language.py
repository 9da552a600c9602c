"""Language models from outside, as modules from tokens to logits with their tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from sw import datasets
from sw.importers.gguf_file import MAX_CONTEXT, GgufFile, load_gguf
from sw.importers.loaded import ModelError, file_hash, one_line
from sw.importers.onnx_file import load_onnx
from sw.importers.python_source import call_factory
from sw.models import byte_pairs, smollm, stories
from sw.models.llama import Llama
from sw.wasq.described import is_checkpoint
from sw.wasq.huggingface import (
    first_token,
    folder_hash,
    load_folder,
    save_folder,
    weight_files,
)
from sw.wasq.tokens import (
    JSON_FILE,
    STORIES_FILE,
    LanguageTokenizer,
    PairTokens,
    check_fit,
    load_tokens,
    read_json,
)

#: First bytes of files that PyTorch pickles: its zip archives, and plain pickles.
_PICKLES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_REFUSED: Final = (".pt", ".pth", ".pt2", ".pkl", ".ckpt")
_UNPICKLES: Final = (
    "reading it unpickles, which runs what the file says; give safetensors with config.json"
)


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel:
    """A language model.

    Parameters
    ----------
    name : str
        For reports.
    module : nn.Module
        From tokens ``[B, T]`` int64 to logits ``[B, T, vocabulary]``, in evaluation mode.
    tokenizer : LanguageTokenizer
    sha256 : str
        Of the file of weights; of several, over theirs; of a function, of the file it is in.
    context : int
        Most tokens of a window.
    """

    name: str
    module: nn.Module
    tokenizer: LanguageTokenizer
    sha256: str
    context: int


def load_language(
    spec: str, device: torch.device | str = "cpu", tokenizer: Path | None = None
) -> LanguageModel:
    """Load a language model in float32; nothing is downloaded and nothing unpickled.

    Parameters
    ----------
    spec : str
        A name (``stories260k``, ``smollm2-135m``); a Hugging Face folder with ``config.json`` and
        safetensors, or one ``.safetensors`` file of it; a ``.gguf`` file; a llama2.c ``.bin``; an
        ``.onnx`` file from tokens to logits; or a function, ``path/file.py:factory`` or
        ``package.module:factory``, which is run and gives a module, or (module, tokenizer).
    device : torch.device or str
    tokenizer : Path, optional
        ``tokenizer.json`` or a llama2.c tokenizer ``.bin``; if omitted, the model's own or the one
        beside it.

    Raises
    ------
    ModelError
        If a file is missing, corrupt, pickled or not supported, or the tokenizer does not fit.
    sw.datasets.DatasetError
        If the files of a name are missing.
    """
    if not isinstance(spec, str) or not spec:
        raise ModelError(f"model must be {describe_languages()}, not {spec!r}")
    place = _device(device)
    if tokenizer is not None and not tokenizer.is_file():
        raise ModelError(f"{tokenizer} must be a tokenizer's file that exists")
    found = _load(spec, tokenizer)
    try:
        found.module.to(place)
    except torch.OutOfMemoryError:
        raise ModelError(f"{place} must have memory for {spec}: take a smaller model") from None
    return found


def describe_languages() -> str:
    """What :func:`load_language` takes, as part of a sentence."""
    return (
        f"one of {', '.join(KNOWN)}, a folder with config.json, a file "
        f"({', '.join(sorted(READERS))}) or module:factory"
    )


def save_language(
    directory: Path,
    module: Llama,
    tokenizer: LanguageTokenizer,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a network as a Hugging Face folder, which :func:`load_language` reads back.

    See :func:`sw.wasq.huggingface.save_folder`.
    """
    save_folder(directory, module, tokenizer, provenance)


def _load(spec: str, tokenizer: Path | None) -> LanguageModel:
    if spec in KNOWN:
        return KNOWN[spec](tokenizer)
    place, colon, factory = spec.rpartition(":")
    if colon and factory.isidentifier() and place:
        return _factory(place, factory, tokenizer)
    path = Path(spec)
    if path.is_dir():
        if is_checkpoint(path):
            raise ModelError(f"model must be a float one, not the quantized checkpoint {spec!r}")
        return _folder(path, weight_files(path), tokenizer)
    suffix = path.suffix.lower()
    if suffix in _REFUSED:
        raise ModelError(f"{spec} must not be a {suffix} file: {_UNPICKLES}")
    if suffix not in READERS:
        raise ModelError(f"model must be {describe_languages()}, not {spec!r}")
    if not path.is_file():
        raise ModelError(f"{path} must exist")
    return READERS[suffix](path, tokenizer)


def _stories260k(tokenizer: Path | None) -> LanguageModel:
    path = datasets.path_of("stories260K", "stories260K.bin")
    own = tokenizer or datasets.path_of("stories260K", "tok512.bin")
    return _bin(path, own, "stories260k")


def _smollm2(tokenizer: Path | None) -> LanguageModel:
    return _gguf(smollm.model_path(), tokenizer, "smollm2-135m")


def _gguf(path: Path, tokenizer: Path | None, name: str = "") -> LanguageModel:
    module, file = load_gguf(path)
    vocabulary = module.config.vocabulary
    if tokenizer is not None:
        tokens = load_tokens(tokenizer, vocabulary)
    else:
        tokens = _gguf_tokens(file)
        check_fit(tokens, vocabulary, f"{path}'s tokenizer")
    return LanguageModel(name or path.stem, module, tokens, file_hash(path), module.config.context)


def _gguf_tokens(file: GgufFile) -> LanguageTokenizer:
    try:
        byte_pairs.from_metadata(file.metadata)  # which checks it
    except ValueError as error:
        raise file.error(f"must have a known tokenizer, or be given one ({error})") from None
    pieces, merges = (file.metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges"))
    digits = file.metadata["tokenizer.ggml.pre"] == "smollm"
    return PairTokens(
        pieces,  # type: ignore[arg-type]
        merges,  # type: ignore[arg-type]
        digits,
    )


def _bin(path: Path, tokenizer: Path | None, name: str = "") -> LanguageModel:
    with open(path, "rb") as file:
        head = file.read(4)
    if head.startswith(_PICKLES):
        raise ModelError(f"{path} must be a llama2.c model, not a pickle: {_UNPICKLES}")
    if head == b"24ka":
        raise ModelError(f"{path} must be a llama2.c model of version 0, not of a later one")
    try:
        module = stories.load_stories(path)
    except stories.StoriesError as error:
        raise ModelError(str(error)) from None
    tokens = load_tokens(_beside(path, tokenizer), module.config.vocabulary)
    return LanguageModel(name or path.stem, module, tokens, file_hash(path), module.config.context)


def _folder(path: Path, weights: tuple[Path, ...], tokenizer: Path | None) -> LanguageModel:
    config = path / "config.json"
    if not config.is_file():
        raise ModelError(f"{path} must hold config.json")
    module = load_folder(config, weights)
    data = read_json(config)
    size = data.get("vocab_size")
    if not isinstance(size, int):
        raise ModelError(f"{config} must have vocab_size, not {size!r}")
    tokens = load_tokens(_beside(path / "config.json", tokenizer), size, first_token(data, path))
    return LanguageModel(
        path.resolve().name, module, tokens, folder_hash(weights), _context(module)
    )


def _safetensors(path: Path, tokenizer: Path | None) -> LanguageModel:
    return _folder(path.parent, (path,), tokenizer)


def _onnx(path: Path, tokenizer: Path | None) -> LanguageModel:
    module, examples = load_onnx(path)
    if len(examples) != 1 or examples[0].dim() != 2 or examples[0].is_floating_point():
        raise ModelError(f"{path} must have one input, tokens [batch, length]")
    vocabulary = _vocabulary(module, examples[0], str(path))
    tokens = load_tokens(_beside(path, tokenizer), vocabulary)
    length = examples[0].shape[1]
    context = length if length > 1 else MAX_CONTEXT
    return LanguageModel(path.stem, module.eval(), tokens, file_hash(path), context)


def _factory(place: str, factory: str, tokenizer: Path | None) -> LanguageModel:
    made, digest = call_factory(place, factory)
    spec = f"{place}:{factory}"
    tokens: Any
    module, tokens = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec} must give an nn.Module, not {type(module).__name__}")
    vocabulary = _vocabulary(module.eval(), torch.zeros(1, 2, dtype=torch.int64), spec)
    if tokenizer is not None:
        tokens = load_tokens(tokenizer, vocabulary)
    needed = ("encode", "decode", "vocabulary")
    if not all(hasattr(tokens, name) for name in needed):
        raise ModelError(f"{spec} must give (module, tokenizer), or have a tokenizer file given")
    check_fit(tokens, vocabulary, f"tokenizer of {spec}")
    return LanguageModel(factory, module, tokens, digest, _context(module))


def _vocabulary(module: nn.Module, tokens: torch.Tensor, spec: str) -> int:
    """Logits per position, found by running it."""
    try:
        with torch.no_grad():
            logits = module(torch.zeros_like(tokens))
    except Exception as error:  # the user's network: whatever it raises
        raise ModelError(f"{spec} must take tokens [batch, length] ({one_line(error)})") from None
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 3 or shape[:2] != tuple(tokens.shape):
        raise ModelError(f"{spec} must give logits [batch, length, vocabulary], not {shape}")
    return int(shape[2])


def _context(module: nn.Module) -> int:
    for holder in (module, getattr(module, "config", None)):
        for name in ("context", "max_position_embeddings"):
            context = getattr(holder, name, None)
            if isinstance(context, int) and context > 0:
                return context
    return MAX_CONTEXT


def _beside(path: Path, tokenizer: Path | None) -> Path:
    """The tokenizer's file for a model's file."""
    if tokenizer is not None:
        return tokenizer
    names = (JSON_FILE, STORIES_FILE, f"{path.stem}.tokenizer.bin")
    for name in names:
        if (path.parent / name).is_file():
            return path.parent / name
    raise ModelError(f"{path.parent} must hold {' or '.join(names[:2])}, or a tokenizer be given")


def _device(device: torch.device | str) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ModelError(f"device must be cpu or cuda, not {str(device)!r}") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("device must be cpu, not 'cuda': this machine has none")
    return place


KNOWN: Final[Mapping[str, Callable[[Path | None], LanguageModel]]] = {
    "stories260k": _stories260k,
    "smollm2-135m": _smollm2,
}
READERS: Final[Mapping[str, Callable[[Path, Path | None], LanguageModel]]] = {
    ".gguf": _gguf,
    ".bin": _bin,
    ".safetensors": _safetensors,
    ".onnx": _onnx,
}

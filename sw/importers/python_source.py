"""Networks that the user's own Python makes: ``package.module:factory``, ``path/file.py:factory``.

This runs the named code, which is what naming it asks for.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sw.importers.loaded import Loaded, ModelError, one_line


def load_factory(place: str, factory: str) -> Loaded:
    """Call a function without arguments that gives a module, or (module, example inputs).

    Parameters
    ----------
    place : str
        A module's dotted name, or a file that ends in ``.py``.
    factory : str
        Name of the function.

    Raises
    ------
    ModelError
        If there is no such module or function, it raises, or it gives something else.
    """
    made, source = call_factory(place, factory)
    spec = f"{place}:{factory}"
    network, inputs = _taken_apart(spec, made)
    return Loaded(factory, network.eval(), inputs, None, source)


def call_factory(place: str, factory: str) -> tuple[Any, str]:
    """What a function without arguments gives, and the SHA-256 of the file that it is in.

    Raises
    ------
    ModelError
        If there is no such module or function, or it raises.
    """
    spec = f"{place}:{factory}"
    module = _import(place)
    function = getattr(module, factory, None)
    if not callable(function):
        raise ModelError(f"{spec} must name a function of {place}")
    try:
        made = function()
    except Exception as error:  # the user's code: its own traceback is the cause
        raise ModelError(
            f"{spec} must give a module, not raise {type(error).__name__} ({one_line(error)})"
        ) from error
    source = Path(module.__file__).read_bytes() if module.__file__ else spec.encode()
    return made, hashlib.sha256(source).hexdigest()


def _taken_apart(spec: str, made: Any) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    network, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if inputs is None:
        inputs = getattr(network, "example_inputs", None)
        inputs = inputs() if callable(inputs) else inputs
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spec} must give an nn.Module, not {type(network).__name__}")
    if not isinstance(inputs, tuple) or not all(isinstance(x, torch.Tensor) for x in inputs):
        raise ModelError(f"{spec} must give (module, (tensor, ...)), or have example_inputs")
    return network, inputs


def _import(place: str) -> ModuleType:
    try:
        if place.endswith(".py"):
            return _import_file(Path(place))
        return importlib.import_module(place)
    except ModelError:
        raise
    except Exception as error:  # a syntax error, or whatever the module raises
        raise ModelError(
            f"{place} must be a Python module that can be imported "
            f"({type(error).__name__}: {one_line(error)})"
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"{path} must exist")
    name = f"_atreides_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ModelError(f"{path} must be a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

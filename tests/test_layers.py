"""The import rules of ARCHITECTURE.md, read from the source with ast.

A rule is a function from a layer and a parsed module to the sentences it finds wrong. Every rule is
run over the code base, and shown to fail on planted code that breaks it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("sw", "hw", "sim", "atreides", "bench")
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))

#: Top-level packages of this project that a layer must not import.
FORBIDDEN = {
    "sw": {"hw", "sim", "atreides", "bench", "tests"},
    "hw": {"sim", "atreides", "bench", "tests", "torch"},
    "sim": {"atreides", "bench", "tests", "torch"},
    "atreides": {"tests"},
    "bench": {"tests"},
}
#: The modules of `sw` that state facts; hardware may import these alone, and they no tensors.
FACTS = {
    *("sw.activation", "sw.format", "sw.scale"),
    *("sw.isa", "sw.riscv", "sw.config", "sw.registers", "sw.link"),
}
#: Methods of SFx that are the model.
MODEL = {"encode", "decode", "operand", "multiply", "fma", "dot", "drain", "widen"}
#: Modules that run whatever the file they read tells them to.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imports(tree: ast.AST) -> Iterator[tuple[str, list[str], int]]:
    """Every absolute import: the module, the names taken from it (none: the module itself)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, [alias.name for alias in node.names], node.lineno
        elif isinstance(node, ast.Call) and spelled(node.func).endswith("import_module"):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value, [], node.lineno


def spelled(node: ast.expr) -> str:
    """A dotted name as written: ``self.format.encode``; empty parts where it is not a name."""
    if isinstance(node, ast.Attribute):
        return f"{spelled(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{spelled(node.func)}()"
    return node.id if isinstance(node, ast.Name) else ""


def upward_imports(layer: str, tree: ast.AST) -> Iterator[str]:
    """Imports of packages that this layer must not know."""
    for module, _, line in imports(tree):
        if module.split(".")[0] in FORBIDDEN[layer]:
            yield f"{line}: {layer} must not import {module}"


def relative_imports(layer: str, tree: ast.AST) -> Iterator[str]:
    """Relative imports, which the other rules would have to resolve."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{node.lineno}: imports must be absolute"


def models_in_hardware(layer: str, tree: ast.AST) -> Iterator[str]:
    """Imports from `sw` into hardware of anything but facts: constants, types, SFx."""
    if layer != "hw":
        return
    for module, names, line in imports(tree):
        if module.split(".")[0] != "sw":
            continue
        if module not in FACTS or not names:
            yield f"{line}: hw must import names from the facts, not {module}"
        for name in names:
            if not name[0].isupper():
                yield f"{line}: hw must import constants and types from {module}, not {name}"


def is_format_type(annotation: ast.expr | None) -> bool:
    if annotation is None:
        return False
    return any(
        spelled(node).split(".")[-1] == "SFx"
        or (isinstance(node, ast.Constant) and "SFx" in str(node.value))
        for node in ast.walk(annotation)
        if isinstance(node, ast.expr)
    )


def format_names(tree: ast.AST) -> set[str]:
    """Names and attributes that hold a format: annotated as one, or assigned from one."""
    found = {"SFx", "format"}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and is_format_type(node.annotation):
            found.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and is_format_type(node.annotation):
            found.add(last_name(node.target))
        elif isinstance(node, ast.FunctionDef) and is_format_type(node.returns):
            found.add(node.name)
    size = 0
    while size != len(found):  # until no assignment passes a format on to another name
        size = len(found)
        for target, value in assignments(tree):
            if holds_format(value, found):
                found.add(last_name(target))
    return found - {""}


def assignments(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Every target and the value it is given, tuples taken apart."""
    for node in ast.walk(tree):
        if isinstance(node, ast.NamedExpr):
            yield node.target, node.value
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    yield from zip(target.elts, node.value.elts, strict=False)
                else:
                    yield target, node.value


def holds_format(node: ast.expr, formats: set[str]) -> bool:
    """Whether an expression is a format, or chooses between things one of which is."""
    if isinstance(node, ast.BoolOp):
        return any(holds_format(value, formats) for value in node.values)
    if isinstance(node, ast.IfExp):
        return any(holds_format(value, formats) for value in (node.body, node.orelse))
    return last_name(node) in formats


def last_name(node: ast.expr) -> str:
    """What an expression is known by: ``format`` for ``self.format`` and for ``format(...)``."""
    return spelled(node).removesuffix("()").split(".")[-1]


def model_calls_in_hardware(layer: str, tree: ast.AST) -> Iterator[str]:
    """Uses of the model's methods on a format, called or passed on."""
    if layer != "hw":
        return
    formats = format_names(tree)
    for node in ast.walk(tree):
        modelled = isinstance(node, ast.Attribute) and node.attr in MODEL
        if modelled and holds_format(node.value, formats):
            yield f"{node.lineno}: hw must not use the model: {spelled(node)}"
        reflected = isinstance(node, ast.Call) and spelled(node.func) == "getattr" and node.args
        if reflected and holds_format(node.args[0], formats):
            yield f"{node.lineno}: hw must name what it reads of a format, not use getattr"


def tensors_in_facts(layer: str, tree: ast.AST) -> Iterator[str]:
    """Imports of array packages into a module of facts."""
    for module, _, line in imports(tree):
        if module.split(".")[0] in {"torch", "numpy"}:
            yield f"{line}: facts must be plain Python, not use {module}"


def unsafe_code(layer: str, tree: ast.AST) -> Iterator[str]:
    """Code that would run what a file or a user says."""
    for module, _, line in imports(tree):
        if module.split(".")[0] in UNSAFE_MODULES:
            yield f"{line}: {module} runs what the file says"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = spelled(node.func)
        constants = {
            keyword.arg: keyword.value.value
            for keyword in node.keywords
            if isinstance(keyword.value, ast.Constant)
        }
        if name in {"eval", "exec", "os.system", "os.popen"}:
            yield f"{node.lineno}: {name} must not be called"
        if name == "torch.load" and constants.get("weights_only") is not True:
            yield f"{node.lineno}: torch.load must have weights_only=True"
        if constants.get("allow_pickle") is True:
            yield f"{node.lineno}: allow_pickle must not be True"
        if constants.get("shell") is True:
            yield f"{node.lineno}: shell must not be True"


RULES = (
    upward_imports,
    relative_imports,
    models_in_hardware,
    model_calls_in_hardware,
    unsafe_code,
)


@cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree, which every rule reads."""
    return ast.parse(path.read_bytes())


@pytest.mark.parametrize("rule", RULES)
def test_code_base_keeps_the_rule(rule) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{sentence}"
        for path in FILES
        for sentence in rule(path.relative_to(ROOT).parts[0], parsed(path))
    ]
    assert not found, "\n".join(found)


def test_facts_are_plain_python() -> None:
    facts = [ROOT / (name.replace(".", "/") + ".py") for name in sorted(FACTS)]
    present = [path for path in facts if path.exists()]
    assert ROOT / "sw/format.py" in present
    for path in present:
        assert not list(tensors_in_facts("sw", ast.parse(path.read_bytes()))), path


def test_every_layer_has_files_to_check() -> None:
    checked = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert {"sw", "hw", "sim", "atreides"} <= checked


def test_hardware_is_imported_without_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in FILES
        if path.relative_to(ROOT).parts[0] == "hw" and path.stem != "__main__"
    ]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


PLANTED = [
    (upward_imports, "sw", "import hw.fma"),
    (upward_imports, "sw", "def f():\n    from sim import bus"),
    (upward_imports, "sw", "import importlib\nimportlib.import_module('hw.fma')"),
    (upward_imports, "hw", "from torch import nn"),
    (upward_imports, "hw", "import sim.plan as plan"),
    (upward_imports, "sim", "import torch.nn.functional"),
    (upward_imports, "sim", "from tests.conftest import x"),
    (upward_imports, "atreides", "import tests"),
    (relative_imports, "hw", "from . import fma"),
    (relative_imports, "sw", "from .format import SFx"),
    (models_in_hardware, "hw", "from sw.tensor import encode"),
    (models_in_hardware, "hw", "from sw.tensor import CASTING"),
    (models_in_hardware, "hw", "from sw.scale import exponent"),
    (models_in_hardware, "hw", "from sw.format import SFx, _check_choice"),
    (models_in_hardware, "hw", "import sw.format"),
    (models_in_hardware, "hw", "from sw import format"),
    (models_in_hardware, "hw", "from sw.format import *"),
    (model_calls_in_hardware, "hw", "def f(x: SFx):\n    return x.encode(1)"),
    (model_calls_in_hardware, "hw", "def f(x: 'SFx | None'):\n    return x.decode(1)"),
    (model_calls_in_hardware, "hw", "def f(*, x: SFx):\n    y = x\n    z = y\n    z.dot([], [])"),
    (model_calls_in_hardware, "hw", "SFx(8).multiply(1, 2)"),
    (model_calls_in_hardware, "hw", "SFx.operand(SFx(8), 3)"),
    (model_calls_in_hardware, "hw", "def f(x: SFx):\n    self.o = x\n    self.o.drain(0)"),
    (model_calls_in_hardware, "hw", "words = map(unit.format.decode, range(8))"),
    (
        model_calls_in_hardware,
        "hw",
        "class C:\n    x: SFx\n    def f(self):\n        self.x.fma(1)",
    ),
    (model_calls_in_hardware, "hw", "def f() -> SFx: ...\nf().widen(1, to)"),
    (model_calls_in_hardware, "hw", "def f(x: SFx):\n    getattr(x, 'en' + 'code')(1)"),
    (model_calls_in_hardware, "hw", "def f(x: SFx, y):\n    (y or x).encode(1)"),
    (model_calls_in_hardware, "hw", "def f(x: SFx, y):\n    a, b = y, x\n    b.encode(1)"),
    (model_calls_in_hardware, "hw", "def f(x: SFx, y):\n    a = x if y else y\n    a.encode(1)"),
    (tensors_in_facts, "sw", "import numpy as np"),
    (unsafe_code, "sw", "import pickle"),
    (unsafe_code, "atreides", "from pickle import loads"),
    (unsafe_code, "sim", "eval('1')"),
    (unsafe_code, "sw", "torch.load(path)"),
    (unsafe_code, "sw", "torch.load(path, weights_only=False)"),
    (unsafe_code, "sw", "np.load(path, allow_pickle=True)"),
    (unsafe_code, "hw", "subprocess.run(line, shell=True)"),
]
HARMLESS = [
    (upward_imports, "sw", "import hwloc, simplejson, torch"),
    (upward_imports, "sim", "from hw.fma import FusedMultiplyAdd\nfrom sw.tensor import encode"),
    (models_in_hardware, "hw", "from sw.format import MAX_BITS, Rounding, SFx"),
    (models_in_hardware, "sim", "from sw.tensor import encode"),
    (model_calls_in_hardware, "hw", "def f(x: SFx):\n    return x.bits + x.accumulator_bits()"),
    (model_calls_in_hardware, "hw", "m.submodules.drain = drain = Drain()\nself.unit.encode.i"),
    (model_calls_in_hardware, "hw", "text.encode()\nself.product.multiply.a"),
    (model_calls_in_hardware, "sim", "def f(x: SFx):\n    return x.encode(1)"),
    (unsafe_code, "sw", "model.eval()\ntorch.load(path, weights_only=True)\nre.compile('a')"),
]


@pytest.mark.parametrize(("rule", "layer", "source"), PLANTED)
def test_rule_finds_planted_code(rule, layer: str, source: str) -> None:
    assert list(rule(layer, ast.parse(source)))


@pytest.mark.parametrize(("rule", "layer", "source"), HARMLESS)
def test_rule_leaves_harmless_code_alone(rule, layer: str, source: str) -> None:
    assert not list(rule(layer, ast.parse(source)))

"""An exported program as a :class:`sw.compiler.graph.Graph`."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from sw.compiler.canonical import Call, canonical, complete
from sw.compiler.graph import Argument, Graph, Input, Node, Ref
from sw.compiler.operations import DTYPES, GETITEM, operation

_CHECKS = ("_assert", "sym_constrain", "_functional_assert", "_functional_sym_constrain")
# Contexts that export wraps around a part of a network: how many arguments come before that part.
_CONTEXTS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
_BRANCHES = {"cond", "while_loop", "scan", "map_impl", "associative_scan"}


def read_program(program: ExportedProgram) -> Graph:
    """The graph of a program that is functional and decomposed.

    Raises
    ------
    ValueError
        As :func:`sw.compiler.trace.trace` says, but for what torch.export finds itself.
    """
    reader = _Reader(program)
    return reader.graph()


class _Reader:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.inputs: list[Input] = []
        self.nodes: list[Node] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.parameters: set[str] = set()
        self.names: set[str] = set()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.values: dict[fx.Node, Any] = {}

    def graph(self) -> Graph:
        module = self.program.graph_module
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        specs = zip(placeholders, self.program.graph_signature.input_specs, strict=True)
        # Constants first: they keep their own names, whatever else has to give way.
        for node, spec in sorted(specs, key=lambda s: s[1].kind == InputKind.USER_INPUT):
            self._placeholder(node, spec)
        results = self._run(module)
        outputs = []
        for result in results:
            if isinstance(result, Ref):
                outputs.append(result.name)
            elif result is not None:
                raise ValueError(f"outputs must be tensors, not {result!r}")
        if not outputs:
            raise ValueError("model must have an output, not none")
        read = {name for node in self.nodes for name in node.references()} | set(outputs)
        constants = {name: value for name, value in self.constants.items() if name in read}
        _check_finite(constants, self.parameters, self.nodes)
        return Graph(tuple(self.inputs), tuple(self.nodes), tuple(outputs), constants)

    def _placeholder(self, node: fx.Node, spec: Any) -> None:
        if spec.kind == InputKind.USER_INPUT:
            if isinstance(spec.arg, TensorArgument):
                value = node.meta["val"]
                name = self._unique(node.name)
                self.inputs.append(Input(name, _shape(name, value), _dtype(name, value)))
                self._define(node, name, value)
            else:
                self.values[node] = spec.arg.value
            return
        table: Mapping[str, Any] = self.program.state_dict
        value = table.get(spec.target)
        if value is None:
            value = self.program.constants.get(spec.target)
        if not isinstance(value, torch.Tensor) or spec.target is None:
            raise ValueError(f"constant {spec.target} must be a tensor, not {value!r}")
        if spec.kind == InputKind.PARAMETER:
            self.parameters.add(spec.target)
        _dtype(spec.target, value)
        self.names.add(spec.target)
        self.constants[spec.target] = value.detach().cpu().contiguous()
        self._define(node, spec.target, value)

    def _define(self, node: fx.Node, name: str, value: torch.Tensor | None) -> None:
        self.values[node] = Ref(name)
        if value is not None:
            self.shapes[name] = tuple(value.shape)

    def _unique(self, name: str) -> str:
        found, count = name, 0
        while found in self.names:
            count += 1
            found = f"{name}_{count}"
        self.names.add(found)
        return found

    def _run(self, module: fx.GraphModule) -> tuple[Any, ...]:
        for node in module.graph.nodes:
            if node.op == "call_function":
                self._call(node, module)
            elif node.op == "output":
                results = self._argument(node.args[0])
                return results if isinstance(results, tuple) else (results,)
        raise AssertionError("a graph has an output")

    def _call(self, node: fx.Node, module: fx.GraphModule) -> None:
        if node.target is operator.getitem:
            self._getitem(node)
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            self._inline(node, module)
        elif not isinstance(node.target, torch._ops.OpOverload):
            raise ValueError(
                f"{_where(node)}model must have no shape or control flow that depends on data, "
                f"as {node.name} has"
            )
        elif not node.target._opname.startswith(_CHECKS):
            self._operation(node, node.target)

    def _getitem(self, node: fx.Node) -> None:
        several, index = node.args
        assert isinstance(several, fx.Node)
        assert isinstance(index, int)
        parts = self.values[several]
        if isinstance(parts, tuple):
            self.values[node] = parts[index]
        else:
            self._append(node, GETITEM, (parts, index), {}, node.meta["val"])

    def _inline(self, node: fx.Node, module: fx.GraphModule) -> None:
        name = str(node.target)
        if name in _BRANCHES:
            raise ValueError(
                f"{_where(node)}model must have no control flow that depends on data, not {name}"
            )
        if name not in _CONTEXTS:
            raise ValueError(f"{_where(node)}operation must be one of ATen, not {name}")
        skipped = _CONTEXTS[name]
        inner = node.args[skipped]
        assert isinstance(inner, fx.Node)
        part = getattr(module, str(inner.target))
        starts = [n for n in part.graph.nodes if n.op == "placeholder"]
        for start, given in zip(starts, node.args[skipped + 1 :], strict=True):
            self.values[start] = self._argument(given)
        self.values[node] = self._run(part)

    def _operation(self, node: fx.Node, op: torch._ops.OpOverload) -> None:
        if op.namespace != "aten":
            raise ValueError(f"{_where(node)}operation must be one of ATen, not {op}")
        if torch.Tag.nondeterministic_seeded in op.tags:
            raise ValueError(f"{_where(node)}model must not use random numbers, as {op} does")
        value = node.meta.get("val")
        args = tuple(self._argument(a) for a in complete(op, node.args))
        kwargs = {name: self._argument(a) for name, a in node.kwargs.items()}
        if op._opname == "_native_batch_norm_legit_no_training":
            every = (*args[:5], False, *args[5:], False)
            assert isinstance(value, list | tuple)
            self._append(node, "aten.batch_norm.default", every, {}, value[0])
            self.values[node] = (self.values[node], None, None)
            return
        _check_layout(node, op)
        several = isinstance(value, list | tuple)
        operands = tuple(self.shapes.get(a.name) if isinstance(a, Ref) else None for a in args)
        result = None if several else value
        if not several:
            _shape(node.name, value, node)
        call = Call(op._opname, op._overloadname, args, kwargs, operands, result)
        self._append(node, *canonical(call), result)

    def _append(
        self,
        node: fx.Node,
        target: str,
        args: tuple[Argument, ...],
        kwargs: Mapping[str, Argument],
        value: torch.Tensor | None,
    ) -> None:
        plain = "batch_norm" if target == "aten.batch_norm.default" else node.name
        name = self._unique(plain)
        shape = () if value is None else _shape(name, value, node)
        dtype = None if value is None else _dtype(f"{_where(node)}{name}", value)
        if target != GETITEM:
            try:
                operation(target)
            except ValueError as error:
                raise ValueError(f"{_where(node)}{error}") from None
        self.nodes.append(Node(name, target, args, kwargs, shape, dtype, _source(node)))
        self._define(node, name, value)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.values[value] if value.op != "get_attr" else None
        if isinstance(value, list | tuple):
            return tuple(self._argument(part) for part in value)
        if value is None or isinstance(
            value, bool | int | float | str | torch.dtype | torch.device
        ):
            return value
        if isinstance(value, torch.memory_format | torch.layout):
            return None
        raise ValueError(f"argument must be plain data, not {value!r}")


def _shape(name: str, value: Any, node: fx.Node | None = None) -> tuple[int, ...]:
    """The fixed shape of a fake value."""
    if not isinstance(value, torch.Tensor) or any(type(size) is not int for size in value.shape):
        where = "" if node is None else _where(node)
        raise ValueError(f"{where}model must have no shape that depends on data, as {name} has")
    return tuple(value.shape)


def _dtype(name: str, value: torch.Tensor) -> torch.dtype:
    if str(value.dtype).removeprefix("torch.") not in DTYPES:
        raise ValueError(f"{name} must be of a supported dtype, not {value.dtype}")
    return value.dtype


def _check_layout(node: fx.Node, op: torch._ops.OpOverload) -> None:
    """Refuse to read memory by strides that the host may not have."""
    if op._opname == "as_strided":
        first = node.args[0]
        assert isinstance(first, fx.Node)
        if not first.meta["val"].is_contiguous():
            raise ValueError(f"{_where(node)}as_strided must be given a contiguous tensor")


def _source(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return str(path).removeprefix("L['self']").lstrip(".")


def _where(node: fx.Node) -> str:
    source = _source(node)
    return f"{source}: " if source else ""


def _check_finite(
    constants: dict[str, torch.Tensor], parameters: set[str], nodes: list[Node]
) -> None:
    """Refuse NaN anywhere, infinity except in buffers that are not batch norm's (masks)."""
    strict = set(parameters)
    for node in nodes:
        if node.target == "aten.batch_norm.default":
            strict.update(node.references())
    for name, value in constants.items():
        if not value.is_floating_point():
            continue
        wrong = value.isfinite().logical_not() if name in strict else value.isnan()
        if count := int(wrong.sum()):
            what = "NaN or infinite" if name in strict else "NaN"
            raise ValueError(
                f"{name} must be finite, not {what} in {count} of its {value.numel()} elements"
            )

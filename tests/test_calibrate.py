"""Exponents found by running a graph, against the definition in sw.scale over all values seen."""

from __future__ import annotations

import json

import pytest
import torch

from sw.compiler.calibrate import (
    Calibration,
    calibrate,
    calibrated_values,
    is_calibration_needed,
)
from sw.compiler.fold import fold
from sw.compiler.graph import Graph, Input, Node, Ref
from sw.compiler.options import ACTIVATION_MODES, CompileOptions
from sw.compiler.place import place
from sw.config import MachineConfig
from sw.format import SFx
from sw.scale import EXPONENT_RULES, ExponentRule, exponent
from tests import networks


def network() -> Graph:
    """``relu(x w1' + b) w2'``, written down."""
    generator = torch.Generator().manual_seed(1)
    constants = {
        "w1": torch.randn(6, 4, generator=generator),
        "b": torch.randn(6, generator=generator),
        "w2": torch.randn(3, 6, generator=generator) * 20,
    }
    linear, shape = "aten.linear.default", (5, 6)
    nodes = (
        Node("first", linear, (Ref("x"), Ref("w1"), Ref("b")), {}, shape, torch.float32, "one"),
        Node("relu", "aten.relu.default", (Ref("first"),), {}, shape, torch.float32),
        Node("last", linear, (Ref("relu"), Ref("w2"), None), {}, (5, 3), torch.float32, "two"),
        Node("softmax", "aten.softmax.int", (Ref("last"), 1, None), {}, (5, 3), torch.float32),
    )
    return Graph((Input("x", (5, 4), torch.float32),), nodes, ("softmax",), constants)


def runs(count: int) -> list[tuple[torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(5, 4, generator=generator) ** 3,) for _ in range(count)]


def options(rule: ExponentRule, bits: int = 8, unity: bool = True) -> CompileOptions:
    return CompileOptions(MachineConfig(bits=bits, unity=unity), activation_rule=rule)


@pytest.mark.parametrize("rule", EXPONENT_RULES)
@pytest.mark.parametrize("format", [SFx(8), SFx(8, unity=False), SFx(4), SFx(16)], ids=str)
def test_exponents_are_those_of_all_values_in_order(rule: ExponentRule, format: SFx) -> None:
    graph, inputs = network(), runs(7)
    found = calibrate(graph, options(rule, format.bits, format.unity), iter(inputs))
    c = graph.constants
    relu = [torch.relu(torch.nn.functional.linear(x, c["w1"], c["b"])) for (x,) in inputs]
    seen = {
        "x": torch.cat([x for (x,) in inputs]),
        "relu": torch.cat(relu),
        "last": torch.cat([torch.nn.functional.linear(r, c["w2"]) for r in relu]),
    }
    assert dict(found.exponents) == {
        name: exponent(value.flatten().tolist(), format, rule) for name, value in seen.items()
    }
    assert found.maxima == {name: float(value.abs().max()) for name, value in seen.items()}


def test_squared_error_differs_from_maximum_where_outliers_are_rare() -> None:
    graph, inputs = network(), runs(7)
    inputs[3][0][2, 2] = 900.0
    most = calibrate(graph, options("maximum", 16), inputs)
    least = calibrate(graph, options("squared_error", 4), runs(7))
    assert most.exponents["x"] == 10
    assert least.exponents["x"] < calibrate(graph, options("maximum", 4), runs(7)).exponents["x"]


def test_what_the_array_could_read_or_make_is_calibrated_and_nothing_else() -> None:
    assert calibrated_values(network(), options("maximum")) == ("x", "relu", "last")
    held = CompileOptions(MachineConfig(bits=8), host_only=frozenset({"two"}))
    assert calibrated_values(network(), held) == ("x", "relu")


@pytest.mark.parametrize("name", ["cnn", "depthwise", "residual", "encoder", "heads", "shared"])
def test_calibration_is_needed_where_a_plan_has_static_exponents_and_nowhere_else(
    name: str,
) -> None:
    _, inputs = networks.network(name)
    graph = fold(networks.traced(name))
    for mode in ACTIVATION_MODES:
        chosen = CompileOptions(MachineConfig(bits=8), activations=mode)
        plan = place(graph, chosen, calibrate(graph, chosen, [inputs]))
        static = any(tensor.exponent is not None for tensor in plan.tensors.values())
        assert is_calibration_needed(graph, chosen) == static, mode
        if not static:
            bare = place(graph, chosen, None)
            assert (bare.steps, bare.tensors) == (plan.steps, plan.tensors)


def test_values_that_are_all_zero_have_exponent_zero() -> None:
    graph = network()
    for constant in graph.constants.values():
        constant.zero_()
    found = calibrate(graph, options("squared_error"), [(torch.zeros(5, 4),)])
    assert dict(found.exponents) == {"x": 0, "relu": 0, "last": 0}


def test_a_calibration_survives_json() -> None:
    found = calibrate(network(), options("squared_error"), runs(2))
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "median"}, "rule must be one of maximum, squared_error, not 'median'"),
        ({"exponents": {"x": 1.5}}, "exponents of a calibration must be integers by name"),
        ({"maxima": [1.0]}, "maxima of a calibration must be numbers by name"),
        ({"bits": 2}, "bits must be 3 to 16, not 2"),
        ({"more": 1}, "calibration must have bits, unity, rule, exponents and maxima"),
    ],
)
def test_data_that_are_no_calibration_are_refused(change: dict[str, object], message: str) -> None:
    data = calibrate(network(), options("maximum"), runs(1)).to_json()
    with pytest.raises(ValueError, match=message):
        Calibration.from_json(data | change)


def test_bad_inputs_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="calibration must have at least one input, not none"):
        calibrate(network(), options("maximum"), [])
    with pytest.raises(ValueError, match=r"input x must be torch.float32 of shape \[5, 4\]"):
        calibrate(network(), options("maximum"), [(torch.zeros(4, 4),)])
    value = torch.zeros(5, 4)
    value[1, 1] = float("inf")
    with pytest.raises(ValueError, match="x must hold finite numbers, not NaN or infinity in 1"):
        calibrate(network(), options("maximum"), [(value,)])

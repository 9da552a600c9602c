"""Static exponents of activations, found by running the network in floating point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sw.compiler.candidates import Values
from sw.compiler.edges import decide, needs_static
from sw.compiler.graph import Graph
from sw.compiler.match import find_matches
from sw.compiler.options import CompileOptions
from sw.format import SFx
from sw.runtime.host import bind, run_nodes
from sw.scale import EXPONENT_RULES, ExponentRule
from sw.tensor import exponents, fake_quantize


@dataclass(frozen=True, slots=True)
class Calibration:
    """Exponents of values.

    Parameters
    ----------
    format : SFx
        Of the words that they are for.
    rule : {"maximum", "squared_error"}
    exponents : mapping of str to int
        By name of the graph's value.
    maxima : mapping of str to float
        The largest magnitude that each had.
    """

    format: SFx
    rule: ExponentRule
    exponents: Mapping[str, int]
    maxima: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain data; numbers stay exact in JSON."""
        return {
            "bits": self.format.bits,
            "unity": self.format.unity,
            "rule": self.rule,
            "exponents": dict(sorted(self.exponents.items())),
            "maxima": dict(sorted(self.maxima.items())),
        }

    @classmethod
    def from_json(cls, data: object) -> Calibration:
        """The inverse of :meth:`to_json`.

        Raises
        ------
        ValueError
            If the data are no calibration.
        """
        if not isinstance(data, dict) or data.keys() != {
            "bits",
            "unity",
            "rule",
            "exponents",
            "maxima",
        }:
            raise ValueError("calibration must have bits, unity, rule, exponents and maxima")
        found, maxima = data["exponents"], data["maxima"]
        if not isinstance(found, dict) or not all(type(e) is int for e in found.values()):
            raise ValueError("exponents of a calibration must be integers by name")
        if not isinstance(maxima, dict) or not all(type(m) is float for m in maxima.values()):
            raise ValueError("maxima of a calibration must be numbers by name")
        if data["rule"] not in EXPONENT_RULES:
            raise ValueError(
                f"rule must be one of {', '.join(EXPONENT_RULES)}, not {data['rule']!r}"
            )
        return cls(SFx(data["bits"], data["unity"]), data["rule"], found, maxima)


def calibrate(
    graph: Graph, options: CompileOptions, inputs: Iterable[Sequence[torch.Tensor]]
) -> Calibration:
    """Find the exponents of everything that the array could read or make.

    Parameters
    ----------
    graph : Graph
        After folding.
    options : CompileOptions
        For the format and ``activation_rule``.
    inputs : iterable of sequences of torch.Tensor
        Inputs of the graph, any number of times; read once by "maximum" and twice by
        "squared_error", so that an iterator is kept in a list for the latter. Of all values, those
        of one run are held at a time.

    Returns
    -------
    Calibration
        "maximum": the smallest exponent that covers every value seen. "squared_error": the best of
        it and the two below by the squared error, summed in float64 in the order of runs and
        indices, the first winning a tie.

    Raises
    ------
    ValueError
        If there are no inputs, they do not fit the graph, or a value is not finite.
    """
    names = calibrated_values(graph, options)
    form, rule = options.machine.format, options.activation_rule
    if rule == "squared_error":
        inputs = list(inputs)
    maxima = dict.fromkeys(names, 0.0)
    runs = 0
    for values in _runs(graph, names, inputs):
        runs += 1
        for name in names:
            maxima[name] = max(maxima[name], _largest(name, values[name]))
    if not runs:
        raise ValueError("calibration must have at least one input, not none")
    found = {
        n: int(exponents(torch.tensor([m], dtype=torch.float64), form)) for n, m in maxima.items()
    }
    if rule == "squared_error":
        found = _by_squared_error(_runs(graph, names, inputs), found, form)
    return Calibration(form, rule, found, maxima)


def is_calibration_needed(graph: Graph, options: CompileOptions) -> bool:
    """Whether any value has a static exponent: not if the host finds all of them as it encodes.

    Were all exponents alike, no addition would stay on the host for exponents that lie apart; what
    is not words then is not words with any exponents.
    """
    matches = find_matches(graph, options)
    if options.activations == "static":
        return bool(matches.found)
    edges = decide(matches, Values(graph), options, dict.fromkeys(matches.found, 0))
    return any(needs_static(match, edges) for match in edges.active.values())


def calibrated_values(graph: Graph, options: CompileOptions) -> tuple[str, ...]:
    """Names of the values that may need a static exponent, in the order of the graph."""
    matches = find_matches(graph, options)
    values = Values(graph)
    wanted = {
        name
        for match in matches.found.values()
        for name in (match.final, *(operand.value for operand in match.operands))
        if math.prod(values.shape(name)) and values.is_real(name)
    }
    order = [*(i.name for i in graph.inputs), *graph.constants, *(n.name for n in graph.nodes)]
    return tuple(name for name in order if name in wanted)


def _runs(
    graph: Graph, names: Sequence[str], inputs: Iterable[Sequence[torch.Tensor]]
) -> Iterable[Mapping[str, torch.Tensor]]:
    """The values of these names, run by run."""
    nodes = [node.name for node in graph.nodes]
    for one in inputs:
        values: dict[str, Any] = bind(graph, tuple(one))
        run_nodes(graph, nodes, values, keep=names)
        yield {name: values[name] if name in values else graph.constants[name] for name in names}


def _largest(name: str, value: torch.Tensor) -> float:
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise ValueError(f"{name} must hold finite numbers, not NaN or infinity in {bad} places")
    return float(value.abs().max())


def _by_squared_error(
    runs: Iterable[Mapping[str, torch.Tensor]], tops: Mapping[str, int], form: SFx
) -> dict[str, int]:
    errors = {name: [0.0, 0.0, 0.0] for name in tops}
    for values in runs:
        for name, sums in errors.items():
            flat = values[name].reshape(-1).double()
            for step in range(3):
                rounded = fake_quantize(flat, form, tops[name] - step)
                squares = (flat - rounded).square().numpy()
                squares[0] += sums[step]
                # numpy defines accumulate to add in index order
                sums[step] = float(np.add.accumulate(squares)[-1])
    return {name: tops[name] - sums.index(min(sums)) for name, sums in errors.items()}

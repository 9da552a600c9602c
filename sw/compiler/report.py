"""What runs where and why, with what it costs: as plain data and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sw.compiler.cost import LayerCost, cost, total
from sw.compiler.layers import HostOutput, Plan
from sw.compiler.schedule import Schedule


def describe(
    plan: Plan, schedule: Schedule, source: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A report on a compiled network.

    Parameters
    ----------
    plan : Plan
    schedule : Schedule
        Of that plan.
    source : mapping, optional
        What is known of the network it came from.

    Returns
    -------
    dict
        ``machine``, ``source``; ``layers`` and ``total`` with MACs, cycles, bytes, bound; ``nodes``
        with where each runs and why.
    """
    costs = {found.name: found for found in cost(plan, schedule)}
    return {
        "source": dict(source or {}),
        "machine": asdict(plan.config),
        "layers": [_layer(found, plan) for found in costs.values()],
        "total": _numbers(total(list(costs.values()))),
        "nodes": list(_nodes(plan, costs)),
    }


def describe_text(report: Mapping[str, Any]) -> str:
    """The report as text: layers on the array, then what stays on the host and why."""
    head = ("layer", "kind", "MACs", "cycles", "busy", "bytes in", "bytes out", "bound", "results")
    rows = [
        (
            row["name"],
            row["kind"],
            f"{row['macs']:,}",
            f"{row['cycles']:,}",
            f"{row['utilisation']:.1%}",
            f"{row['bytes_in']:,}",
            f"{row['bytes_out']:,}",
            row["bound"],
            row["results"],
        )
        for row in (*report["layers"], {"kind": "", "results": "", **report["total"]})
    ]
    lines = list(_aligned([head, *rows], right=range(2, 7)))
    lines += ["", "On the host:"]
    lines += [f"  {count} x {name}: {reason}" for name, reason, count in host_parts(report)]
    return "\n".join(lines) + "\n"


def host_parts(report: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Operations of the host with their reasons and how many there are, most first."""
    found = Counter(
        (node["operation"], node["reason"]) for node in report["nodes"] if node["where"] == "host"
    )
    return sorted(
        ((name, reason, count) for (name, reason), count in found.items()),
        key=lambda part: (-part[2], part[0], part[1]),
    )


def _layer(found: LayerCost, plan: Plan) -> dict[str, Any]:
    layer = plan.layers[found.name]
    sums = isinstance(layer.output, HostOutput)
    return {
        **_numbers(found),
        "kind": found.kind.value,
        "source": layer.source,
        "nodes": list(layer.nodes),
        "results": "sums" if sums else "words",
        "why": found.reason(),
    }


def _numbers(found: LayerCost) -> dict[str, Any]:
    return {
        "name": found.name,
        "macs": found.macs,
        "cycles": found.cycles,
        "compute_cycles": found.program.compute_cycles,
        "utilisation": found.utilisation,
        "bytes_in": found.traffic.bytes_in,
        "bytes_out": found.traffic.bytes_out,
        "bound": found.bound.value,
        "bound_cycles": found.bound_cycles,
    }


def _nodes(plan: Plan, costs: Mapping[str, LayerCost]) -> Iterator[dict[str, Any]]:
    nodes = {node.name: node for node in plan.graph.nodes}
    for placement in plan.placements:
        node = nodes[placement.node]
        found = costs.get(placement.node)
        yield {
            "name": node.name,
            "operation": node.target.removeprefix("aten."),
            "source": node.source,
            "where": "array" if placement.on_array else "host",
            "reason": placement.reason,
            "layer": placement.layer,
            "macs": placement.macs,
            "cycles": found.cycles if found else 0,
            "bytes": found.traffic.bytes if found else 0,
        }


def _aligned(rows: Sequence[Sequence[str]], right: range) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()

"""The studies of a log as sections of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from atreides import wasq_plots
from atreides.report import HtmlTable
from atreides.study_tables import law_of, summary
from sw.wasq.studies.formats import verdict

Row = dict[str, Any]
#: Layers that a table of activations shows.
_LAYERS: Final = 12


def study_sections(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A section per study that the rows have anything of, in a fixed order.

    Returns
    -------
    list of dict
        ``title``, ``text`` (paragraphs), ``tables`` (title and table), ``figures`` (name, function
        that draws it, caption).
    """
    found = []
    for kind, make in _KINDS.items():
        mine = [row for row in rows if row.get("study") == kind]
        if mine:
            found += make(mine)
    return found


def _distribution(rows: list[Row]) -> list[dict[str, Any]]:
    heads = (
        *("network", "form", "parameters", "outside [-1, 1]", "beyond SF16", "inside"),
        *("below one ulp, SF16", "unity", "min", "max", "tensors touched"),
    )
    cells = []
    for row in rows:
        width, told = row["widths"]["16"], row.get("published") or {}
        cells.append(
            (
                *(row["model"], row["form"], f"{row['values']:,}", f"{row['outside']:.4f} %"),
                *(f"{width['beyond']:.4f} %", f"{100 - width['beyond']:.4f} %"),
                *(f"{width['sparse']:.2f} %", f"{width['unity']:.2f} %"),
                *(f"{row['min']:.3f}", f"{row['max']:.3f}", f"{row['touched']:.1f} %"),
            )
        )
        if told:
            published = (f"{told['outside']:.4f} %", f"{told['inside']:.4f} %")
            rest = (f"{told['sparse']:.2f} %", f"{told['unity']:.2f} %", "", "", "")
            cells.append((row["model"], "published", "", "", *published, *rest))
    return [
        _section(
            "Where parameters lie",
            [
                "Beyond SF16: magnitudes that become all ones, (2^15 - 1) / 2^15 and more. Tensors "
                "touched: with at least one value outside [-1, 1], which the published rule leaves "
                "in their native type. Fused: batch normalization multiplied into convolutions."
            ],
            [("", HtmlTable(heads, cells, text=(1,)))],
            [
                (
                    "distribution",
                    lambda: wasq_plots.distributions(rows),
                    "Share of parameters by power of two: at k, magnitudes from 2^k to 2^(k+1).",
                )
            ],
        )
    ]


def _activation(rows: list[Row]) -> list[dict[str, Any]]:
    made = []
    for number, row in enumerate(rows):
        heads = ("layer", "deviation", "cluster", "float", "quantized", "neurons", "spread")
        cells = [
            (
                *(layer["layer"], f"{layer['deviation']:.2%}", str(layer["cluster"] + 1)),
                *(f"{layer['float']:.4f}", f"{layer['quantized']:.4f}"),
                *(f"{layer['neuron_deviation']:.2%}", f"{layer['spread']:.1f}"),
            )
            for layer in row["layers"][:_LAYERS]
        ]
        made.append(
            _section(
                f"Activations of {row['model']} at {row.get('bits', '')} bits",
                [
                    "Mean magnitude of what layers give on real text, float and quantized; the "
                    "layers that are moved most, in clusters. Neurons: mean change of one. Spread: "
                    "the largest neuron over the median."
                ],
                [(f"The {len(cells)} layers that are moved most", HtmlTable(heads, cells))],
                [
                    (
                        f"ranking{number}",
                        lambda row=row: wasq_plots.deviations(row),
                        "Layers by how far quantization moves their mean magnitude.",
                    ),
                    (
                        f"neurons{number}",
                        lambda row=row: wasq_plots.spreads(row),
                        "Mean magnitudes of neurons, by layer.",
                    ),
                ],
            )
        )
    return made


def _formats(rows: list[Row]) -> list[dict[str, Any]]:
    made = []
    keys = dict.fromkeys((row["model"], row["asked_bits"], row["text"]) for row in rows)
    for number, key in enumerate(keys):
        mine = [r for r in rows if (r["model"], r["asked_bits"], r["text"]) == key]
        model, bits, text = key
        made.append(
            _section(
                f"Formats of {bits} bits, {model} on {text}",
                verdict(mine) if bits == 16 else [],
                [("", _formats_table(mine))],
                [
                    (
                        f"formats{number}",
                        lambda mine=mine: wasq_plots.formats(mine),
                        "Signal to noise (more is better) and perplexity (less is better); blue: "
                        "Superfloat, green: integers, orange: floats; dotted: float32.",
                    )
                ],
            )
        )
    return made


def _formats_table(rows: Sequence[Row]) -> HtmlTable:
    heads = (
        *("format", "scale", "weights, dB", "largest relative error", "lost", "clipped"),
        *("activations, dB", "SF without scale is closer", "perplexity", "KL, nats"),
    )
    by_part = {(r["part"], r["format"], r["scale"]): r for r in rows}
    cells = []
    for name, scale in dict.fromkeys((r["format"], r["scale"]) for r in rows):
        weights, inputs, told = (
            by_part.get((part, name, scale), {})
            for part in ("weights", "activations", "perplexity")
        )
        cells.append(
            (
                *(name, "" if scale == "none" else scale),
                *(_figure(weights, "sqnr_db", ".2f"), _figure(weights, "max_relative", ".3g")),
                *(_percent(weights, "lost_percent"), _percent(weights, "clipped_percent")),
                *(_figure(inputs, "sqnr_db", ".2f"), _percent(weights, "sf_closer_percent")),
                *(_figure(told, "perplexity", ".4f"), _figure(told, "divergence", ".5f")),
            )
        )
    return HtmlTable(heads, cells, text=(1,))


def _scaling(rows: list[Row]) -> list[dict[str, Any]]:
    found = summary(rows)
    law, text = found["law"], []
    if law:
        text.append(
            f"ln P = {law['E']:.3f} {law['A']:+.3f} (n / 10^6)^-{law['alpha']:.3f} "
            f"{law['B']:+.3f} c^-{law['beta']:.3f} "
            f"{law['D']:+.3f} (n / 10^6)^-{law['delta']:.3f} 2^(-{law['gamma']:.3f} x), "
            f"through {law['points']} points without padding; root mean square error of ln P "
            f"{law['error']:.4f}, {law['explained']:.2%} of its variance."
        )
    held = HtmlTable(
        ("left out of the fit", "points", "mean relative error", "of the mean by width"),
        [
            (r["held_out"], str(r["points"]), f"{r['error']:.1%}", f"{r['naive']:.1%}")
            for r in found["out_of_sample"]
        ],
    )
    lowest = HtmlTable(
        ("windows", "parameters", "bits", "lowest at context", "perplexity", "at the longest"),
        [
            (
                *(r["mode"], f"{r['size']:,}", str(r["bits"]), f"{r['context']:,}"),
                *(f"{r['perplexity']:.2f}", f"{r['longest']:.2f}"),
            )
            for r in found["minima"]
        ],
    )
    masked = HtmlTable(
        ("context", "pairs", "counting the padding adds"),
        [(str(r["context"]), str(r["pairs"]), f"{r['percent']:+.2f} %") for r in found["masking"]],
    )
    tables = [("Out of sample", held), ("Padding", masked), ("Lowest perplexity", lowest)]
    return [
        _section(
            "Scaling with size, context and bits",
            text,
            [(name, table) for name, table in tables if table.rows],
            [
                (
                    "scaling",
                    lambda: wasq_plots.scaling(rows, law_of(rows)),
                    "Perplexity on held-out text after healing on windows of so many tokens, all "
                    "points with equal tokens in the loss.",
                )
            ],
        )
    ]


def _trained(rows: list[Row]) -> list[dict[str, Any]]:
    heads = ("model", "parameters", "steps", "best at", "tokens", "seconds", "validation")
    cells = [
        (
            *(row["name"], f"{row['parameters']:,}", f"{row['steps']:,}", str(row["best_step"])),
            *(f"{row['tokens']:,}", f"{row['seconds']:.0f}"),
            f"{row['validation_perplexity']:.2f}",
            ", ".join(f"{p:.2f}" for p in row["evaluation_perplexity"]),
        )
        for row in rows
    ]
    table = HtmlTable((*heads, "held-out, by source"), cells)
    text = "Float32 from the start. Perplexity of the last tenth of every text, windows of 512."
    return [_section("Models trained in-house", [text], [("", table)], [])]


_Figure = tuple[str, Callable[[], bytes], str]
_KINDS: Final[Mapping[str, Callable[[list[Row]], list[dict[str, Any]]]]] = {
    "distribution": _distribution,
    "activation": _activation,
    "formats": _formats,
    "scaling": _scaling,
    "train-model": _trained,
}


def _section(
    title: str,
    text: Sequence[str],
    tables: Sequence[tuple[str, HtmlTable]],
    figures: Sequence[_Figure],
) -> dict[str, Any]:
    return {"title": title, "text": list(text), "tables": list(tables), "figures": list(figures)}


def _figure(row: Mapping[str, Any], name: str, form: str) -> str:
    value = row.get(name)
    return format(value, form) if isinstance(value, int | float) else ""


def _percent(row: Mapping[str, Any], name: str) -> str:
    told = _figure(row, name, ".2f")
    return f"{told} %" if told else ""

"""What studies found, as tables, and the law through the points of the scaling study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.table import Table

from atreides.results_rows import Row
from sw.wasq.studies import scaling_fit


def distribution_table(rows: Iterable[Row]) -> Table:
    """Where parameters lie, a row per network."""
    table = _table("Percent of parameters; of tensors that are touched", "network")
    for head in ("count", "beyond", "sparse", "unity", "min", "max", "touched"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        width = row["widths"]["16"]
        table.add_row(
            row["model"] + (", fused" if row["form"] == "fused" else ""),
            f"{row['values']:,}",
            f"{width['beyond']:.4f}",
            *(f"{width[k]:.2f}" for k in ("sparse", "unity")),
            *(f"{row[k]:.2f}" for k in ("min", "max")),
            f"{row['touched']:.1f}",
        )
    table.caption = "beyond, sparse, unity: at SF16"
    return table


def activation_table(row: Row) -> Table:
    """The layers that quantization moves most, the first of them first."""
    table = _table(f"{row['model']} at {row['bits']} bits: layers that are moved most", "layer")
    for head in ("deviation %", "cluster", "neurons %", "spread"):
        table.add_column(head, justify="right")
    for layer in row["layers"][:12]:
        table.add_row(
            layer["layer"],
            f"{100 * layer['deviation']:.2f}",
            str(layer["cluster"] + 1),
            f"{100 * layer['neuron_deviation']:.2f}",
            f"{layer['spread']:.1f}",
        )
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    return table


def law_of(rows: Sequence[Row]) -> scaling_fit.Law | None:
    """The law through the points without padding, None if they are too few."""
    packed = [row for row in rows if row["mode"] == "packed"]
    enough = len(packed) >= 9 and all(
        len({row[name] for row in packed}) > 1 for name in ("size", "context", "bits")
    )
    return scaling_fit.fit(packed) if enough else None


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The law, its errors out of sample, minima over context and what masking changes."""
    law = law_of(rows)
    packed = [row for row in rows if row["mode"] == "packed"]
    return {
        "law": law.to_json() if law else None,
        "out_of_sample": scaling_fit.out_of_sample(packed) if law else [],
        "minima": scaling_fit.minima(rows),
        "masking": scaling_fit.masking_effect(rows),
    }

"""The demo's tables on the terminal and its page: what was found, in words and numbers."""

from __future__ import annotations

from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from atreides import demo_plots
from atreides.demo_results import CLOCK, Agreement, Results
from atreides.digits import CLASSES
from atreides.plots import Bar, cycle_bars
from atreides.report import HtmlTable, inline, picture, render, versions

#: Images that the page shows: the wrong ones first.
SAMPLES: Final = 24
#: Columns of a table that a terminal shows: what is behind them is on the page.
NARROW: Final = 6


def page(results: Results) -> str:
    """The report as one HTML file."""
    return render("demo.html", content(results))


def show(results: Results, console: Console) -> None:
    """The tables on the terminal."""
    for title, table in (
        (f"Accuracy on {len(results.data.test_labels)} test images", accuracy_table(results)),
        (f"Cycles of a batch of {results.batch} images, by layer", layer_table(results)),
        ("The same words everywhere", agreement_table(results)),
    ):
        console.print(_terminal_table(title, table))
    console.print(
        f"{results.rate:,.0f} images per second at {CLOCK / 1e6:g} MHz, transfers not counted."
    )


def _terminal_table(title: str, table: HtmlTable) -> Table:
    """A table for the terminal, without the columns that only a page has room for."""
    shown = Table(title=title, title_justify="left")
    for number, head in enumerate(table.heads[:NARROW]):
        left = number == 0 or number in table.text
        shown.add_column(head, justify="left" if left else "right")
    for row in table.rows:
        shown.add_row(*row[:NARROW])
    if table.foot:
        shown.add_section()
        shown.add_row(*table.foot[:NARROW])
    return shown


def accuracy_table(results: Results) -> HtmlTable:
    """Float, rounded and healed."""
    first = results.accuracies[0]
    rows = []
    for row in results.accuracies:
        apart = "" if row is first else f"{row.divergence(first):.5f}"
        cells = (row.name, f"{row.accuracy(results.data):.2%}", str(row.wrong(results.data)), apart)
        rows.append(cells)
    return HtmlTable(("network", "correct", "images wrong", "divergence from float32, nats"), rows)


def agreement_table(results: Results) -> HtmlTable:
    """Every back end against the tensor model."""
    heads = ("executed on", "images", "words", "differing", "cycles", "seconds", "results")
    rows = [_agreement_row(agreement) for agreement in results.agreements]
    return HtmlTable(heads, rows)


def layer_table(results: Results) -> HtmlTable:
    """Cycles and utilisation of every layer, for one batch."""
    heads = ("layer", "kind", "MACs", "cycles", "utilisation", "bound", "above it, because of")
    rows = [
        (
            layer.name,
            str(layer.kind),
            f"{layer.macs:,}",
            f"{layer.cycles:,}",
            f"{layer.utilisation:.1%}" if layer.macs else "",
            f"{layer.bound_cycles:,}",
            layer.reason(),
        )
        for layer in results.layers
    ]
    macs = sum(layer.macs for layer in results.layers)
    bound = sum(layer.bound_cycles for layer in results.layers)
    whole = f"{results.cycles:,}", f"{results.utilisation:.1%}", f"{bound:,}", ""
    return HtmlTable(heads, rows, ("all", "", f"{macs:,}", *whole), text=(1, 6), share=4)


def content(results: Results) -> dict[str, Any]:
    """What the page's template asks for."""
    config, data = results.config, results.data
    words = sum(agreement.words for agreement in results.agreements)
    ends = [a.label for a in results.agreements]
    fraction, name = results.accuracies[-1].accuracy(data), str(config.format)
    parameters = sum(p.numel() for p in results.training.network.parameters())
    return {
        "title": f"Handwritten digits on a {config.rows} x {config.columns} array of {name} cells",
        "summary": (
            f"A residual convolutional network of {parameters:,} parameters, trained in float32, "
            f"rounded to {name} weights and activations, healed, compiled, and run on the "
            f"tensor model, {_listed(ends)}."
        ),
        "agrees": results.agrees,
        "verdict": "Every word agrees." if results.agrees else "Words differ.",
        "verdict_detail": (
            f"{words:,} words and exact sums, all that layers left for these images, were "
            f"compared: the tensor model against {_listed(ends)}."
        ),
        "difference": "\n\n".join(
            f"{a.label}: {a.difference}" for a in results.agreements if a.difference
        ),
        "cards": [
            (f"{fraction:.2%}", f"correct at {name}, healed"),
            (f"{results.accuracies[0].accuracy(data):.2%}", "correct in float32"),
            (f"{results.rate:,.0f}/s", f"images at {CLOCK / 1e6:g} MHz"),
            (f"{results.utilisation:.1%}", "of the array's peak, whole network"),
            (f"{words / 1e6:.1f} M", "words compared"),
        ],
        "accuracy": accuracy_table(results),
        "accuracy_text": (
            f"{len(data.test_labels)} test images that no training saw, {len(data.train_labels)} "
            f"for training, from scikit-learn. Rounded: every weight and activation to the nearest "
            f"{name} word, with powers of two as scales, found on the training images."
        ),
        "samples": samples(results),
        "samples_title": f"{SAMPLES} of the test images and what the array makes of them",
        "agreement": agreement_table(results),
        "agreement_text": (
            "The tensor model computes layers by their meaning. The other back ends run the "
            "compiled program, with addresses, on the machine: a model of it that counts cycles, "
            "and its RTL. What every layer leaves is compared word by word. In simulators a "
            "multiplication is their own operator, which every multiplier of gates is proven "
            "equal to; the Verilog that is emitted has the gates."
        ),
        "layers": layer_table(results),
        "cycles_text": (
            f"One batch of {results.batch} images takes {results.cycles:,} cycles of the "
            f"machine: {results.rate:,.0f} images per second at {CLOCK / 1e6:g} MHz, transfers "
            f"of images and logits not counted. {_counted(results)}"
        ),
        "plots": pictures(results),
        "machine": machine(results),
        "commands": f"make setup\n{results.command}",
        "origin": [
            ("seed", str(results.seed)),
            ("time", f"{results.seconds:.0f} s"),
            ("Verilog", ", ".join(f"{name} ({size:,} bytes)" for name, size in results.verilog)),
            *versions(),
        ],
    }


def pictures(results: Results) -> dict[str, str]:
    """The page's plots as inline SVG; empty where there is none."""
    training, name = results.training, str(results.config.format)
    bars = [Bar(c.name, str(c.kind), c.cycles, c.utilisation) for c in results.layers]
    accuracies = [row.accuracy(results.data) for row in results.accuracies]
    by_width = {**results.widths, results.config.bits: (accuracies[1], accuracies[2])}
    widths = sorted(by_width)
    made = {
        "training": demo_plots.training_curves(
            training.losses, training.accuracies, results.healing, name
        ),
        "confusions": demo_plots.confusions(
            results.data.test_labels.numpy(), results.found, CLASSES
        ),
        "cycles": cycle_bars("", bars),
        "roofline": results.roofline,
        "weights": demo_plots.distributions(results.weights, results.config.format),
        "activations": demo_plots.distributions(results.activations, results.config.format),
        "widths": demo_plots.widths(
            widths,
            [by_width[b][0] for b in widths],
            [by_width[b][1] for b in widths],
            accuracies[0],
        )
        if results.widths
        else b"",
    }
    return {key: inline(svg, key) if svg else "" for key, svg in made.items()}


def samples(results: Results) -> list[dict[str, Any]]:
    """Test images with what was found in them: wrong ones first, then as they come."""
    data = results.data
    likely = torch.softmax(results.accuracies[-1].logits, 1)
    right = torch.from_numpy(results.found) == data.test_labels
    chosen = torch.argsort(right.int(), stable=True)[:SAMPLES].tolist()
    return [
        {
            "image": picture(data.test_images[n, 0].double().numpy()),
            "label": int(data.test_labels[n]),
            "found": int(results.found[n]),
            "share": f"{float(likely[n].max()):.0%}",
            "right": bool(right[n]),
        }
        for n in chosen
    ]


def machine(results: Results) -> list[tuple[str, str]]:
    """The configuration in words."""
    config = results.config
    unity = "all ones mean exactly 1" if config.unity else "all ones mean the largest fraction"
    size = config.memory_words * config.bits / 8 / 1024
    return [
        ("array", f"{config.rows} x {config.columns} cells, output stationary"),
        ("words", f"{config.format}: {config.bits} bits, sign and magnitude, {unity}"),
        ("biases", f"{config.bias_format}"),
        ("accumulators", f"{config.accumulator_bits} bits, exact up to {config.max_terms:,} terms"),
        ("tile memory", f"{config.memory_words:,} words ({size:,.0f} KiB), two read copies"),
        ("parameters", f"{config.parameters} entries of bias and shift per column"),
        ("peak", f"{config.rows * config.columns * CLOCK / 1e9:g} G MAC/s at {CLOCK / 1e6:g} MHz"),
    ]


def _agreement_row(agreement: Agreement) -> tuple[str, ...]:
    return (
        agreement.label,
        f"{agreement.images}",
        f"{agreement.words:,}",
        "yes" if agreement.difference else "0",
        f"{agreement.cycles:,}",
        f"{agreement.seconds:.1f}",
        f"{agreement.results:,} of layers",
    )


def _counted(results: Results) -> str:
    """Whether back ends that ran the same images count the same cycles."""
    first, *others = results.agreements
    others = [other for other in others if other.images == first.images]
    if not others:
        return ""
    alike = all(other.cycles == first.cycles for other in others)
    return "Model and RTL count the same cycles." if alike else "Model and RTL count other cycles!"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

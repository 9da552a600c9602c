"""A language model on the array: text and perplexity of stories260K, from its compiled words.

    python -m bench.language [--bits 8,16] [--tokens 16] [--rtl verilator] [--stories 5]

The decoding step (one token, the keys and values of those before it) is compiled for an 8 x 8 array
that keeps all weights. For every width: tokens generated greedily, every layer's exact sums equal
on tensor model, machine model and RTL, with equal cycle counts on the latter two; cycles of the
machine's programs per token and what they make of 50 MHz; then the perplexity of the sample stories
with the same words, of which a part is compared with the machine model. Prints two tables and
writes build/bench/language.json. The data folder is ATREIDES_DATA's; two widths take about ten
minutes on two cores, most of them perplexity.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.arguments import Parser, count, writable
from bench.timing import machine, write_json
from sim.machine_backends import RTL
from sim.machine_device import make_device
from sim.runner import MissingSimulator
from sw import datasets
from sw.compiler.compile import DEFAULT_MACHINE, compile_traced, trace_model
from sw.config import MachineConfig
from sw.format import MAX_BITS, MIN_BITS
from sw.importers.language import Language, load_language
from sw.models import stories
from sw.registers import Counter
from sw.runtime.artefact import Artefact
from sw.runtime.check import lockstep
from sw.runtime.generate import Decoder, generate, negative_log_likelihood
from sw.runtime.session import Session

#: Clock of the boards that the project has in mind.
HERTZ: Final = 50_000_000
#: Positions that generation has caches for.
CONTEXT: Final = 64
#: Tile slots that hold all weights and the caches of 512 positions.
SLOTS: Final = 8192
#: Tokens of the first story that the machine model computes, too.
COMPARED: Final = 16


@dataclass(frozen=True)
class Generated:
    """A text, and what it took.

    Parameters
    ----------
    bits : int
    tokens : int
        Generated.
    positions : int
        Fed: those of the prompt too.
    text : str
    equal : int
        Results of layers that were equal on all back ends.
    rtl : str
        The back end of the RTL.
    cycles : int
        Of the programs, per token.
    utilisation : float
        Share of the array's multiply-accumulates.
    tokens_per_second : float
        At ``HERTZ``, the host's part not counted.
    seconds : float
        For the text on all back ends.
    """

    bits: int
    tokens: int
    positions: int
    text: str
    equal: int
    rtl: str
    cycles: int
    utilisation: float
    tokens_per_second: float
    seconds: float


def machine_of(bits: int) -> MachineConfig:
    """An 8 x 8 array with memory for all weights."""
    return replace(DEFAULT_MACHINE, bits=bits, bias_bits=16, slots=SLOTS)


def compared(
    artefact: Artefact, prompt: Sequence[int], tokens: int, names: tuple[str, str]
) -> tuple[list[int], int, dict[tuple[str, ...], dict[Counter, int]]]:
    """Generate on two back ends in lockstep.

    Returns
    -------
    tokens : list of int
        Generated.
    equal : int
        Results of layers that both have.
    counters : dict
        Of the second, by layers.

    Raises
    ------
    sw.runtime.check.Mismatch
        At the first layer that differs.
    """
    first, second = (
        name if name == "tensor" else make_device(artefact.config, name) for name in names
    )
    equal: list[str] = []
    with lockstep(artefact, first, second, names, lambda b: equal.append(b.layer)) as session:
        found = list(generate(Decoder(session), prompt, tokens))
        counters = {layers: tally.counters for layers, tally in session.tallies.items()}
    return found, len(equal), counters


def generated(
    language: Language, artefact: Artefact, prompt: str, tokens: int, rtl: str
) -> Generated:
    """Text on all back ends, which must agree; cycles by the machine model's counters."""
    start = time.perf_counter()
    first = language.tokenizer.encode(prompt)
    found, equal, modelled = compared(artefact, first, tokens, ("tensor", "model"))
    again, as_many, counted = compared(artefact, first, tokens, ("model", rtl))
    if (again, as_many, counted) != (found, equal, modelled):
        sys.exit(f"bench.language: tokens or counters of model and {rtl} differ")
    seconds = time.perf_counter() - start
    with Session(artefact, "model") as session:
        Decoder(session).feed(first[0])
        tallies = session.tallies.values()
        cycles = sum(tally.counters[Counter.CYCLES] for tally in tallies)
    macs = artefact.report["total"]["macs"]
    return Generated(
        bits=artefact.config.bits,
        tokens=tokens,
        positions=len(first) + tokens - 1,
        text=language.tokenizer.decode([*first, *found]),
        equal=equal,
        rtl=rtl,
        cycles=cycles,
        utilisation=macs / (cycles * artefact.config.rows * artefact.config.columns),
        tokens_per_second=HERTZ / cycles,
        seconds=seconds,
    )


def likelihood(
    artefact: Artefact, sequences: Sequence[Sequence[int]], progress: Progress
) -> dict[str, Any]:
    """The sequences' likelihood on the tensor model, and a part of it on the machine model too."""
    part = [sequences[0][: COMPARED + 1]]
    equal: list[str] = []
    with lockstep(artefact, "tensor", "model", observer=lambda b: equal.append(b.layer)) as session:
        negative_log_likelihood(Decoder(session), part)
    start = time.perf_counter()
    bar = progress.add_task(str(artefact.config.format))
    with Session(artefact, "tensor") as session:
        total, tokens = negative_log_likelihood(
            Decoder(session),
            sequences,
            lambda done, wanted: progress.update(bar, completed=done, total=wanted),
        )
    progress.remove_task(bar)
    return {
        "format": str(artefact.config.format),
        "nats_per_token": total / tokens,
        "perplexity": math.exp(total / tokens),
        "tokens": tokens,
        "compared_tokens": COMPARED,
        "compared_results": len(equal),
        "seconds": time.perf_counter() - start,
    }


def in_float(language: Language, sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The same in floating point, a window per sequence."""
    total, tokens = stories.negative_log_likelihood(language.model, sequences)
    return {
        "format": "float32",
        "nats_per_token": total / tokens,
        "perplexity": math.exp(total / tokens),
        "tokens": tokens,
        "compared_tokens": 0,
        "compared_results": 0,
    }


def show(texts: Sequence[Generated], rows: Sequence[dict[str, Any]]) -> None:
    """Texts and both tables."""
    console = Console()
    table = Table("words", "equal results of layers", "cycles/token", "busy", "tokens/s", "seconds")
    for row in texts:
        console.print(f"SF{row.bits}: {row.text}", highlight=False)
        table.add_row(
            f"SF{row.bits}",
            f"{row.equal:,} on tensors, model, {row.rtl}",
            f"{row.cycles:,}",
            f"{row.utilisation:.2%}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.seconds:.0f}",
        )
    console.print(table)
    table = Table("words", "nats/token", "perplexity", "tokens", "on the machine model too")
    for found in rows:
        also = f"{found['compared_tokens']} tokens, {found['compared_results']:,} results equal"
        table.add_row(
            found["format"],
            f"{found['nats_per_token']:.5f}",
            f"{found['perplexity']:.4f}",
            f"{found['tokens']:,}",
            also if found["compared_tokens"] else "",
        )
    console.print(table)


def widths(text: str) -> tuple[int, ...]:
    """Widths of words, as in 4,6,8,16."""
    found = tuple(int(part) if part.isdecimal() else 0 for part in text.split(","))
    if not all(MIN_BITS <= bits <= MAX_BITS for bits in found):
        raise argparse.ArgumentTypeError(
            f"must be numbers from {MIN_BITS} to {MAX_BITS}, as in 4,6,8,16, not {text!r}"
        )
    return found


def arguments() -> argparse.Namespace:
    """What the command line asks for, checked."""
    parser = Parser("language", __doc__ or "")
    parser.add_argument("--bits", type=widths, default=(8, 16), help="widths, as in 4,6,8,16")
    parser.add_argument("--tokens", type=count, default=16, help="to generate")
    parser.add_argument("--prompt", default="Once upon a time", metavar="TEXT")
    parser.add_argument("--rtl", choices=RTL, default="verilator")
    parser.add_argument("--stories", type=count, default=5, help="of the sample, for perplexity")
    parser.add_argument("-o", "--output", type=writable, default="build/bench/language.json")
    options = parser.parse_args()
    if options.tokens > CONTEXT // 2:
        parser.error(f"tokens must be at most {CONTEXT // 2}, not {options.tokens}")
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)  # a token's products are too small to share
    try:
        language = load_language("stories260k")
        sequences = [language.tokenizer.encode(text) for text in datasets.tinystories()]
        sequences = sequences[: options.stories]
        longest = max(len(sequence) for sequence in sequences) - 1
        short, long = (trace_model(*language.step(size)) for size in (CONTEXT, longest))
        texts, rows = [], [in_float(language, sequences)]
        with Progress(transient=True) as progress:
            for bits in progress.track(options.bits, description="widths"):
                made = compile_traced(short, machine_of(bits))
                texts.append(generated(language, made, options.prompt, options.tokens, options.rtl))
                rows.append(likelihood(compile_traced(long, machine_of(bits)), sequences, progress))
    except (datasets.DatasetError, MissingSimulator, ValueError) as error:
        sys.exit(f"bench.language: {error}")
    show(texts, rows)
    found = {"text": [asdict(text) for text in texts], "perplexity": rows}
    write_json(Path(options.output), {"machine": machine(), **found})


if __name__ == "__main__":
    main()

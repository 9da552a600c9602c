"""One GPTQ step, from Hessian to quantized weight: ours against public implementations.

    python -m bench.gptq [--device cuda] [--public build/gptq-env/site | --alone] [--repeats 5]

At the sizes of SmolLM2-135M's layers, to 4 bits with one scale per 32 columns and per row. Prints
milliseconds and what the rounding leaves of the output, ``tr((W - Q) H (W - Q)^T)`` as a part of
``tr(W H W^T)``, and writes build/bench/gptq.json. Public implementations are those of
:mod:`bench.gptq_public` that can be imported, from the folder ``--public`` too; they round to
integers at float scales, ours to SFx at powers of two. "the same work" is one pass with exponents
by maximum; the default tries three exponents and refines twice. ``--alone`` leaves the public ones
out. A last table says where our default's time goes, each stage timed by itself. On a busy machine
the CPU's figures hold with ``OMP_NUM_THREADS=1`` only: threads that wait for each other time the
other work.

Weights and inputs are made here: weights with heavy tails, inputs that are correlated (a spectrum
that falls as a power) and have a few channels much larger than the rest, as in language models.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.arguments import Parser, count, writable
from bench.gptq_public import PUBLIC, ROWS, Step, quiet
from bench.timing import machine, medians, write_json
from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.wasq.columns import Rounded, arranged, first_pass, refine
from sw.wasq.compensate import CompensateOptions, compensate, output_error
from sw.wasq.config import LayerConfig
from sw.wasq.grid import largest_exponent
from sw.wasq.solver import factored
from sw.wasq.statistics import Moments

#: Output and input channels: queries and outputs, keys and values, gate and up, down.
SIZES: Final = ((576, 576), (192, 576), (1536, 576), (576, 1536))
SCALES: Final = {"4 bits per 32 columns": BLOCK, "4 bits per row": None}
OURS: Final = {
    "ours, the same work": CompensateOptions(passes=0, exponents=1),
    "ours, default": CompensateOptions(),
}
SITE: Final = Path("build/gptq-env/site")


def problem(outputs: int, inputs: int, device: torch.device) -> tuple[torch.Tensor, Moments]:
    """A weight, and moments of inputs as language models have them; the same in every run."""
    generator = torch.Generator().manual_seed(outputs * 10007 + inputs)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight = 0.03 * normal(outputs, inputs) * (0.3 * normal(outputs, inputs)).exp()
    basis = torch.linalg.qr(normal(inputs, inputs)).Q
    spectrum = torch.arange(1, inputs + 1, dtype=torch.float64) ** -0.5
    x = (normal(ROWS, inputs) * spectrum) @ basis
    channels = (0.5 * normal(inputs)).exp()
    channels[torch.randperm(inputs, generator=generator)[: inputs // 100]] *= 20
    x *= channels
    moments = Moments(inputs, device)
    moments.hessian += (x.T @ x).to(device)
    moments.rows = ROWS
    return weight.float().to(device), moments


def run_ours(
    weight: torch.Tensor, moments: Moments, group: int | None, options: CompensateOptions
) -> torch.Tensor:
    """Our step; the words are decoded, as the public ones end in values."""
    config = LayerConfig(
        weights=4,
        activations=None,
        weight_scale="block" if group else "channel",
        weight_rule="maximum",
    )
    return compensate(weight, config, moments, options).dequantize()


def available(site: Path | None) -> tuple[dict[str, Step], dict[str, str]]:
    """Steps of the public implementations that can be imported, and why others cannot."""
    if site is not None and site.is_dir():
        sys.path.append(str(site.resolve()))
    found: dict[str, Step] = {}
    missing: dict[str, str] = {}
    for public in PUBLIC:
        try:
            with silence():
                found[public.name] = public.make()
        except Exception as error:  # other people's packages fail in ways of their own
            missing[public.name] = reason(error)
    return found, missing


def steps(
    weight: torch.Tensor, moments: Moments, group: int | None, public: dict[str, Step]
) -> dict[str, Callable[[], torch.Tensor]]:
    """What is timed at one size: each row gives the quantized weight."""
    hessian = (moments.hessian * (2 / ROWS)).float()  # as the public ones sum it

    def both(step: Step) -> torch.Tensor:
        return step(torch.stack([weight, weight]), hessian, group)[0]

    rows: dict[str, Callable[[], torch.Tensor]] = {
        name: functools.partial(run_ours, weight, moments, group, options)
        for name, options in OURS.items()
    }
    if weight.is_cuda:  # rows know nothing of each other: layers of one input are one call
        pair = torch.cat([weight, weight])
        rows[OWN_PAIR] = lambda: run_ours(pair, moments, group, OURS[DEFAULT])[: len(weight)]
    rows |= {n: functools.partial(step, weight, hessian, group) for n, step in public.items()}
    if weight.is_cuda and "llmcompressor" in public:  # its default where layers have one shape
        rows[PAIR] = functools.partial(both, public["llmcompressor"])
    return rows


#: Two layers in one call; its seconds are those of one.
PAIR: Final = "llmcompressor, of two at once"
DEFAULT: Final = "ours, default"
OWN_PAIR: Final = "ours, default, of two of one input"


def measure(
    size: tuple[int, int],
    group: int | None,
    public: dict[str, Step],
    repeats: int,
    device: torch.device,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of one size and scale, and what failed to run."""
    weight, moments = problem(*size, device)
    whole = output_error(weight, torch.zeros_like(weight), moments.hessian)
    errors: dict[str, float] = {}
    failed: dict[str, str] = {}
    rows = steps(weight, moments, group, public)
    for name, step in list(rows.items()):
        try:
            with silence():
                quantized = step()
            errors[name] = output_error(weight, quantized.float(), moments.hessian) / whole
        except Exception as error:
            if name.startswith("ours"):
                raise
            failed[name] = reason(error)
            del rows[name]

    def timed(step: Callable[[], torch.Tensor]) -> Callable[[], object]:
        def once() -> None:
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return once

    with silence():
        seconds = medians({name: timed(step) for name, step in rows.items()}, repeats)
    for name in (PAIR, OWN_PAIR):
        if name in seconds:
            seconds[name] /= 2
    best = min((s for n, s in seconds.items() if not n.startswith("ours")), default=None)
    found = [
        {
            "name": name,
            "outputs": size[0],
            "inputs": size[1],
            "group": group,
            "seconds": taken,
            "ratio": None if best is None else taken / best,
            "error": errors[name],
        }
        for name, taken in seconds.items()
    ]
    return found, failed


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Swallow what other people's packages print."""
    quiet()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    quiet()


def reason(error: Exception) -> str:
    """One line of what went wrong."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def tables(rows: list[dict[str, Any]]) -> Iterator[Table]:
    """One table per scale."""
    for title, group in SCALES.items():
        own = [row for row in rows if row["group"] == group]
        sizes = [f"{n} x {k}" for n, k in SIZES]
        table = Table(title=f"{title}: ms (time / fastest public's), error")
        table.add_column("", no_wrap=True)
        for size in sizes:
            table.add_column(size, justify="right")
        for name in dict.fromkeys(row["name"] for row in own):
            cells = {(r["outputs"], r["inputs"]): r for r in own if r["name"] == name}
            table.add_row(name, *(cell(cells.get(size)) for size in SIZES))
        yield table


def cell(row: dict[str, Any] | None) -> str:
    """Milliseconds, ratio and error."""
    if row is None:
        return "-"
    milliseconds = row["seconds"] * 1e3
    digits = 0 if milliseconds >= 100 else 1
    ratio = "" if row["ratio"] is None else f" ({row['ratio']:.2f})"
    return f"{milliseconds:.{digits}f}{ratio}\n{row['error']:.2%}"


def stages(size: tuple[int, int], repeats: int, device: torch.device) -> dict[str, float]:
    """Seconds of each stage of our default per 32 columns."""
    weight, moments = problem(*size, device)
    form, spread = SFx(4), MAX_SPREAD
    solver = factored(moments.hessian, 0.01, BLOCK)
    top = largest_exponent(weight.abs().amax(-1), form)

    def first() -> Rounded:
        return first_pass(arranged(weight, solver.order), solver, top, form, 3, spread)

    rounded, target = first(), arranged(weight, solver.order)

    def refined() -> object:
        into = Rounded(*(part.clone() for part in rounded))
        return refine(into, target, solver, top, form, 3, spread, 2)

    rows: dict[str, Callable[[], object]] = {
        "factor": lambda: factored(moments.hessian, 0.01, BLOCK),
        "first pass": first,
        "two passes of refinement": refined,
        "all of it": lambda: run_ours(weight, moments, BLOCK, CompensateOptions()),
    }

    def timed(step: Callable[[], object]) -> Callable[[], object]:
        def once() -> None:
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return once

    return medians({name: timed(step) for name, step in rows.items()}, repeats)


def installed(name: str) -> str:
    """A package's version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def main() -> None:
    parser = Parser("gptq", __doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--public", type=Path, default=None, metavar="FOLDER")
    parser.add_argument("--alone", action="store_true", help="no public implementation")
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("-o", "--output", type=writable, default=Path("build/bench/gptq.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device must be cpu where there is no CUDA device")
    if options.public is not None and not options.public.is_dir():
        parser.error(f"--public must be a folder of installed packages, not '{options.public}'")
    public, missing = ({}, {}) if options.alone else available(options.public or SITE)
    if not public and not options.alone:
        needs = " ".join(need for one in PUBLIC for need in one.needs)
        parser.error(
            "a public implementation must be importable: beside transformers pip install --no-deps "
            f"--target {options.public or SITE} {needs}"
        )
    rows: list[dict[str, Any]] = []
    cases = [(size, group) for group in SCALES.values() for size in SIZES]
    with torch.no_grad():
        for size, group in track(cases, "measuring", console=Console(stderr=True), transient=True):
            found, failed = measure(size, group, public, options.repeats, device)
            rows += found
            missing |= failed
    for table in tables(rows):
        Console().print(table)
    with torch.no_grad():
        split = {size: stages(size, options.repeats, device) for size in SIZES}
    table = Table(title="stages of our default, ms")
    for head in ("", *(f"{n} x {k}" for n, k in SIZES)):
        table.add_column(head, justify="left" if not head else "right")
    for name in split[SIZES[0]]:
        table.add_row(name, *(f"{split[size][name] * 1e3:.2f}" for size in SIZES))
    Console().print(table)
    for name, why in missing.items():
        Console().print(f"left out: {name} ({why})", highlight=False, markup=False)
    write_json(
        options.output,
        {
            "machine": machine(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "repeats": options.repeats,
            "versions": {name: installed(name) for name in public},
            "left_out": missing,
            "rows": rows,
            "stages": {f"{n} x {k}": taken for (n, k), taken in split.items()},
        },
    )


if __name__ == "__main__":
    main()

"""``atreides generate``: text of a language model, compiled here and run token by token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from rich.console import Console

from atreides.compile import progress_of_stages
from atreides.generate_float import is_file_of_model, show_text, tell
from atreides.machine_options import machine_command
from atreides.run_model import FAILURE, open_device
from atreides.run_options import BACK_ENDS, NetworkOptions, check_options
from sim.machine_job import MachineFailed
from sim.runner import MissingSimulator, SimulationFailed
from sw.compiler.compile import DEFAULT_MACHINE, compile_traced, trace_model
from sw.config import MachineConfig
from sw.importers import language as language_models
from sw.importers.language import LANGUAGES, load_language
from sw.registers import Counter
from sw.runtime.artefact import Artefact
from sw.runtime.check import Mismatch, lockstep
from sw.runtime.device_engine import DeviceFailed
from sw.runtime.generate import Decoder, check_temperature
from sw.runtime.generate import generate as generate_tokens
from sw.runtime.session import Session

#: Clock of the boards that the project has in mind.
HERTZ: Final = 50_000_000


@machine_command(DEFAULT_MACHINE)
def generate(
    config: MachineConfig,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=f"{', '.join(LANGUAGES)}: compiled; a folder, file or checkpoint: as it is.",
        ),
    ],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to go on from.")] = "",
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="How many to add.")] = 64,
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACK_ENDS)}.")] = "tensor",
    check: Annotated[
        str | None, typer.Option(help="Another back end: compare every layer of every token.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="0 for the most likely token; else draw.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the draws.")] = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="tokenizer.json or .bin of a folder or file, if apart."),
    ] = None,
) -> None:
    """Generate text with a language model on the machine.

    `atreides generate stories260k --prompt "Once upon a time" --tokens 64 --bits 8`;

    `atreides generate stories260k --backend verilator --check model --tokens 16` on the RTL, too.

    Weights that the tile memory holds stay there: --slots 8192 for those of stories260k.

    `atreides generate build/q8 --prompt "Once"` is a checkpoint of `atreides quantize`, computed as
    the array computes it, but not compiled; so are a Hugging Face folder, a file and a function in
    float32. The machine's options are not for these.
    """
    if model not in language_models.LANGUAGES or is_file_of_model(model):
        tell(model, prompt, tokens, temperature, seed, tokenizer)
        return
    options = NetworkOptions(backend=backend, check=check)
    if tokenizer is not None:
        raise typer.BadParameter(f"tokenizer must be left out: {model} has its own")
    try:
        check_options(options)
        check_temperature(temperature)
        language = load_language(model)
        known = language.tokenizer.encode(prompt)
        if not known:
            raise ValueError(f"prompt must be at least one token of {model}")
        with progress_of_stages() as stage:
            traced = trace_model(*language.step(len(known) + tokens - 1), stage)
            artefact = compile_traced(traced, config, stage=stage)
        with _opened(artefact, options) as session:
            drawn = torch.Generator().manual_seed(seed)
            found = generate_tokens(Decoder(session), known, tokens, temperature, drawn)
            show_text(language.tokenizer, known, found)
            _show(session, artefact, len(known) + tokens - 1)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    except (Mismatch, DeviceFailed, MissingSimulator, SimulationFailed, MachineFailed) as error:
        typer.echo(f"atreides: {error}", err=True)
        raise typer.Exit(FAILURE) from error


@contextmanager
def _opened(artefact: Artefact, options: NetworkOptions) -> Iterator[Session]:
    with ExitStack() as stack:
        backend = stack.enter_context(open_device(artefact.config, options.backend, options))
        if options.check is None:
            session = Session(artefact, backend)
        else:
            other = stack.enter_context(open_device(artefact.config, options.check, options))
            session = lockstep(artefact, other, backend, (options.check, options.backend))
        yield stack.enter_context(session)


def _show(session: Session, artefact: Artefact, positions: int) -> None:
    """What a token took, by the machine's counters or, without a machine, by the estimate."""
    cells = artefact.config.rows * artefact.config.columns
    total = artefact.report["total"]
    cycles = sum(tally.counters[Counter.CYCLES] for tally in session.tallies.values()) / positions
    counted = "counted" if cycles else "estimated"
    cycles = cycles or total["cycles"]
    Console(stderr=True).print(
        f"{artefact.config.format} on {artefact.config.rows} x {artefact.config.columns}: "
        f"{cycles:,.0f} cycles per token ({counted}), {total['macs'] / (cells * cycles):.1%} of "
        f"the array, {HERTZ / cycles:,.0f} tokens per second at {HERTZ / 1e6:.0f} MHz without the "
        "host's part",
        highlight=False,
    )

"""``atreides heal``: quantize a language model and retrain it until it does again what it did."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from atreides.cli import INTERRUPTED
from atreides.heal_job import Job, load_job, words_of
from atreides.heal_result import Result
from atreides.wasq_config import read_config
from atreides.wasq_options import (
    MAX_SEED,
    chosen_device,
    drawn_bar,
    told_interrupt,
    told_mistakes,
    until_interrupted,
)
from sw.paths import check_file, check_folder
from sw.wasq.config import ACTIVATION_SCALES, WEIGHT_SCALES, SFConfig
from sw.wasq.described import check_target
from sw.wasq.evaluation import evaluate as evaluate_model
from sw.wasq.healing import METHODS, Healed, HealOptions, World, check_settings, heal_, processes
from sw.wasq.healing.checkpoint import was_written
from sw.wasq.healing.options import FORMS, PRECISIONS, SHARDINGS
from sw.wasq.weights import QuantizedWeight


def heal(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, folder, file, function.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where the checkpoint goes.")
    ],
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}.")] = "fpm",
    weights: Annotated[
        str | None, typer.Option(metavar="N", help="Bits of weights, 3 to 16.")
    ] = None,
    activations: Annotated[
        str | None, typer.Option(metavar="N", help="Bits of activations, or float.")
    ] = None,
    weight_scale: Annotated[str | None, typer.Option(help=f"{', '.join(WEIGHT_SCALES)}.")] = None,
    activation_scale: Annotated[
        str | None, typer.Option(help=f"{', '.join(ACTIVATION_SCALES)}.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.json", help="More of the configuration."),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN:FIELD=VALUE", help="For modules of this name; again."),
    ] = None,
    text: Annotated[
        str, typer.Option(metavar="TEXT", help="What to heal on, as `atreides evaluate` has it.")
    ] = "wikitext-2:valid",
    window: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Tokens of a window; 512 or the context.")
    ] = None,
    steps: Annotated[int, typer.Option(min=0, metavar="N", help="Updates.")] = 200,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Windows of an update.")] = 8,
    micro: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Windows at a time; all if left.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Learning rate at its peak.")] = 1e-4,
    distillation: Annotated[
        float, typer.Option(help="Share of the divergence from the float model in the loss.")
    ] = 0.9,
    form: Annotated[str, typer.Option(help=f"{', '.join(FORMS)}.")] = "corrected",
    rho: Annotated[float, typer.Option(help="Share of weights that tickets heal.")] = 0.1,
    precision: Annotated[str, typer.Option(help=f"{', '.join(PRECISIONS)}.")] = "float32",
    sharding: Annotated[
        str, typer.Option(help=f"Under torchrun: {', '.join(SHARDINGS)}.")
    ] = "replicated",
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_SEED, metavar="N", help="Of the order of windows and every choice."
        ),
    ] = 1,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=JSON", help="What one method takes besides; again."),
    ] = None,
    begin: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="A checkpoint of this model to start from."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on from this folder's last checkpoint.")
    ] = None,
    evaluate: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Evaluate on it at the end.")
    ] = None,
    evaluate_steps: Annotated[
        int, typer.Option(min=0, metavar="N", help="And on its first windows every N steps.")
    ] = 0,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Append the evaluation to a log.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="tokenizer.json or .bin, if not beside.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Quantize a language model and retrain its weights, all or the critical ones.

    `atreides heal stories260k --text tinystories --steps 50 -o build/healed` is done in a minute;

    `atreides heal smollm2-135m --method lth --rho 0.05 --weights 4 -o build/ticket --device cuda
    --evaluate wikitext-2:raw-test --log results.jsonl` heals a twentieth of the weights;

    `torchrun --nproc-per-node 2 -m -- atreides heal ... --micro 4` shares the windows out; without
    `--` torchrun takes `--log` for its own.

    Checkpoints and a log of steps go to DIR.healing. Ctrl-C leaves a checkpoint and says how to go
    on. Exit status 2 for a mistake of yours, 130 when interrupted.
    """
    started = time.time()
    folder = resume or output.with_name(f"{output.name}.healing")
    with (
        told_mistakes("take a smaller --batch, --micro or --window"),
        told_interrupt(lambda: _kept(folder, 0.0 if resume else started)),
    ):
        place = chosen_device(device)
        given = {
            "weights": weights,
            "activations": activations,
            "weight_scale": weight_scale,
            "activation_scale": activation_scale,
        }
        config = read_config(config_file, given, override or ())
        options = HealOptions(
            steps=steps,
            batch=batch,
            micro=micro,
            learning_rate=rate,
            distillation=distillation,
            form=form,  # type: ignore[arg-type]
            rho=rho,
            precision=precision,  # type: ignore[arg-type]
            sharding=sharding,  # type: ignore[arg-type]
            seed=seed,
            evaluate_steps=evaluate_steps,
            extra=dict(_setting(pair) for pair in setting or ()),
        )
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
        check_settings(options.extra, method)
        if log is not None and evaluate is None:
            raise ValueError("log must come with --evaluate, whose result it gets")
        if log is not None:
            check_file(log)
        check_target(output)
        check_folder(folder)
        with processes(place) as world:
            job = load_job(model, place, text, window, evaluate, tokenizer)
            start = None if begin is None else words_of(begin, job, config)
            healed = run(job, method, config, options, folder, resume, start, world)
            if not healed.finished:
                _say_how_to_go_on(folder, len(healed.losses), world)
                raise typer.Exit(INTERRUPTED)
            result = Result(job, method, config, options, healed, place)
            result.write(output, world)
            with told_interrupt(lambda: f"{output} is whole, and `atreides evaluate` measures it"):
                result.evaluate(log, world)


def run(
    job: Job,
    method: str,
    config: SFConfig,
    options: HealOptions,
    folder: Path,
    resume: Path | None,
    start: dict[str, QuantizedWeight] | None,
    world: World,
) -> Healed:
    """Heal, with a bar, a log of steps and a way out by Ctrl-C."""
    rows = folder / "steps.jsonl"

    def note(row: dict[str, Any]) -> None:
        rows.parent.mkdir(parents=True, exist_ok=True)
        with open(rows, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def judge(network: nn.Module) -> dict[str, Any]:
        assert job.judged is not None
        found = evaluate_model(network, job.judged, job.data.shape[1], limit=16, tail=False)
        return {"perplexity": found.perplexity, "text": job.judged.name}

    with until_interrupted() as stop, _bar(world.leads) as progress:
        return heal_(
            job.language.module,
            method,
            job.data,
            config,
            options,
            weights=start,
            checkpoint=folder,
            resume=resume,
            progress=progress,
            log=note,
            evaluate=judge if job.judged is not None and options.evaluate_steps else None,
            stop=stop,
        )


@contextmanager
def _bar(shown: bool) -> Iterator[Callable[[int, int, float], None]]:
    """A bar with the loss and the time left, on standard error."""
    with drawn_bar("heal", shown) as update:

        def progress(done: int, count: int, loss: float) -> None:
            if update is not None:
                update(completed=done, total=count, description=f"loss {loss:.4f}")

        yield progress


def _kept(folder: Path, since: float) -> str:
    """What is left of a healing that was ended, not asked to end."""
    if was_written(folder, since):
        return f"a checkpoint is kept: go on with the same command and --resume {folder}"
    return "no checkpoint is kept yet: run the same again"


def _say_how_to_go_on(folder: Path, done: int, world: World) -> None:
    if world.leads:
        print(f"interrupted after step {done}; go on with the same command and --resume {folder}")


def _setting(pair: str) -> tuple[str, Any]:
    name, found, value = pair.partition("=")
    if not found or not name:
        raise ValueError(f"set must be NAME=JSON, not {pair!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value

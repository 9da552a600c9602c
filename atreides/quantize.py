"""``atreides quantize``: from a language model to a checkpoint of words."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from atreides.wasq_config import read_config
from atreides.wasq_methods import VANILLA, Job, check_method, describe_methods, run_method
from atreides.wasq_options import (
    MAX_SEED,
    absolute,
    chosen_device,
    counted,
    told_interrupt,
    told_mistakes,
)
from sw.wasq.checkpoint import save
from sw.wasq.config import SFConfig
from sw.wasq.corpus import Corpus, check_held_out, load_corpus, windows
from sw.wasq.described import check_target
from sw.wasq.language import LanguageModel, load_language
from sw.wasq.quantize import quantize_, targets
from sw.wasq.results import effective_bits

#: What is calibrated on unless the user says.
CALIBRATION: Final = "wikitext-2:valid"
_WINDOW: Final = 512
_TOKENS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for besides the configuration: see ``atreides quantize --help``."""

    method: str
    calibration: str
    tokens: int
    window: int
    seed: int


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, folder, file, function.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where the checkpoint goes.")
    ],
    method: Annotated[
        str, typer.Option(metavar="NAME", help=f"{describe_methods().capitalize()}.")
    ] = VANILLA,
    weights: Annotated[
        str | None, typer.Option(metavar="N", help="Bits of weights, 3 to 16; 8.")
    ] = None,
    activations: Annotated[
        str | None, typer.Option(metavar="N|float", help="Bits of activations; 8.")
    ] = None,
    weight_scale: Annotated[
        str | None, typer.Option(help="none, tensor, channel (the default) or block, of 32.")
    ] = None,
    weight_rule: Annotated[
        str | None, typer.Option(help="squared_error (the default) or maximum.")
    ] = None,
    activation_scale: Annotated[
        str | None, typer.Option(help="none, tensor, token (the default) or block.")
    ] = None,
    activation_mode: Annotated[
        str | None, typer.Option(help="dynamic (the default) or static: calibrated.")
    ] = None,
    activation_rule: Annotated[
        str | None, typer.Option(help="maximum (the default) or squared_error.")
    ] = None,
    output_bits: Annotated[
        str | None, typer.Option(metavar="N", help="Drain layers to words; exact sums if left.")
    ] = None,
    products: Annotated[
        str | None, typer.Option(metavar="N", help="Attention products and the cache; float.")
    ] = None,
    value_scale: Annotated[
        str | None, typer.Option(help="block (the default) or channel: of cached values.")
    ] = None,
    head: Annotated[str | None, typer.Option(metavar="N", help="The output head; float.")] = None,
    embedding: Annotated[str | None, typer.Option(metavar="N", help="Tables; float.")] = None,
    norms: Annotated[str | None, typer.Option(metavar="N", help="Weights of norms; float.")] = None,
    unity: Annotated[
        bool | None, typer.Option("--unity/--no-unity", help="Whether all ones is 1.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN:field=value,...", help="For some modules; again for more."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="All of this as a file; options go before it."),
    ] = None,
    calibration: Annotated[
        str, typer.Option(metavar="TEXT", help="What methods and static exponents look at.")
    ] = CALIBRATION,
    calibration_tokens: Annotated[
        int, typer.Option(min=2, metavar="N", help="How many of its tokens, from the beginning.")
    ] = _TOKENS,
    calibration_window: Annotated[
        int, typer.Option(min=2, metavar="N", help="Tokens of a window; at most the context.")
    ] = _WINDOW,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, metavar="N", help="Of every choice by chance.")
    ] = 0,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="If it is not beside the model.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Quantize a language model: words, exponents, and what stayed float, in a checkpoint.

    `atreides quantize smollm2-135m -o build/q8` is SF8 weights per channel, SF8 activations per
    token;

    `atreides quantize smollm2-135m -o build/q4 --weights 4 --weight-scale block --activations 16`
    is four bits and an exponent per 32 weights;

    `atreides quantize my/folder -o q --override 'blocks.0.*:weights=16' --override
    '*.down:weights=float,activations=float'` keeps some layers wider, others float.

    `--method vanilla-published` is the published rule: no scales, layers beyond [-1, 1] left float;

    `--method rotate+compensate+opt --calibration wikitext-2:valid` looks at text to lose less, and
    refuses text that WikiText-2's test split shares.

    Then `atreides evaluate build/q8` and `atreides generate build/q8`. All is checked before any
    work starts; Ctrl-C keeps the blocks that opt has finished beside DIR: run the same again to go
    on. Exit status 2 for a mistake of yours.
    """
    started = time.monotonic()
    options = {
        **{"weights": weights, "weight_scale": weight_scale, "weight_rule": weight_rule},
        **{"activations": activations, "activation_scale": activation_scale},
        **{"activation_mode": activation_mode, "activation_rule": activation_rule},
        **{"output": output_bits, "products": products, "value_scale": value_scale},
        **{"head": head, "embedding": embedding, "norms": norms, "unity": unity},
    }
    wishes = Wishes(method, calibration, calibration_tokens, calibration_window, seed)
    with (
        told_mistakes("take fewer --calibration-tokens or a shorter --calibration-window"),
        told_interrupt(lambda: _kept(output)),
    ):
        place = chosen_device(device)
        check_target(output)
        check_method(method)
        wanted = read_config(config, options, override or ())
        language = load_language(model, place, tokenizer)
        targets(language.module, wanted)
        bits = quantize_language(model, language, wanted, wishes, output, tokenizer)
    size = sum(path.stat().st_size for path in output.iterdir())
    Console().print(
        f"{output}: {size / 1e6:,.1f} MB, {bits:.3f} bits a weight, "
        f"{time.monotonic() - started:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def quantize_language(
    spec: str,
    language: LanguageModel,
    config: SFConfig,
    wishes: Wishes,
    output: Path,
    tokenizer: Path | None = None,
) -> float:
    """Quantize a model in place and save it; the effective bits of a weight.

    ``tokenizer``: where it was read from, if not beside the model.

    Raises
    ------
    ValueError
        As :func:`sw.wasq.quantize_` and the methods; or if the calibration is held out.
    """
    corpus = _calibration(language, config, wishes)
    tokens = None
    if corpus is not None:
        device = next(language.module.parameters()).device
        tokens = windows(corpus, min(wishes.window, language.context)).to(device)
    started = time.monotonic()
    unfinished = _unfinished(output)
    with counted("layers") as progress:
        job = Job(
            language,
            config,
            tokens,
            wishes.seed,
            unfinished,
            lambda _, done, count: progress(done, count),
        )
        config, words = run_method(wishes.method, job)
        quantize_(
            language.module,
            config,
            weights=words,
            calibration=None if tokens is None else [(part[None],) for part in tokens],
            progress=job.progress,
        )
    source = {
        **{"model": absolute(spec), "sha256": language.sha256, "method": wishes.method},
        **{"seed": wishes.seed, "seconds": time.monotonic() - started},
        "tokens": 0 if tokens is None else tokens.numel(),
        "trained": 0.0,
    }
    if tokenizer is not None:
        source |= {"tokenizer": absolute(str(tokenizer))}
    if corpus is not None:
        source |= {"calibration": absolute(wishes.calibration), "calibration_sha256": corpus.sha256}
    save(language.module, config, output, source)
    shutil.rmtree(unfinished, ignore_errors=True)
    return effective_bits(language.module) or 0.0


def _unfinished(output: Path) -> Path:
    """Where methods keep what they have finished."""
    return output.with_name(f"{output.name}.unfinished")


def _kept(output: Path) -> str:
    """What an interrupt leaves."""
    parts = list(_unfinished(output).glob("*/*.safetensors"))
    if not parts:
        return f"nothing is kept yet and {output} is as it was: run the same again"
    kept = f"{len(parts)} finished parts are kept in {_unfinished(output)}"
    return f"{kept}: run the same again to go on"


def is_text_needed(config: SFConfig) -> bool:
    """Whether any exponent of a configuration is static, and so found on text."""
    told = [config.base, *(config.for_module(pattern) for pattern in config.overrides)]
    static = any(
        layer.output is not None
        or (
            layer.activations is not None
            and layer.activation_mode == "static"
            and layer.activation_scale != "none"
        )
        for layer in told
    )
    return static or (config.products is not None and config.value_scale == "channel")


def _calibration(language: LanguageModel, config: SFConfig, wishes: Wishes) -> Corpus | None:
    """The text to look at, if any is needed; it must not be what models are evaluated on."""
    if not check_method(wishes.method) and not is_text_needed(config):
        return None
    corpus = load_corpus(wishes.calibration, language.tokenizer).head(wishes.tokens)
    check_held_out(corpus, language.tokenizer)
    return corpus

"""Superfloat, integers and MXINT on a language model: perplexity of each configuration and method.

    python -m bench.wasq_language [MODEL] [--device cuda] [--rows PATTERN] [--seconds 540]

Appends a line per row to build/bench/wasq_language/MODEL.jsonl; rows that it has are left out, so
that the table is finished in as many calls as it takes. ``python -m bench.wasq_tables`` and
``atreides report`` show it. Calibrated on WikiText-2's valid split, tinyshakespeare and text that
the float model writes (``--calibration``, ``--generated``); evaluated on the raw test split at
windows of 2048. Hours on a CPU: a GPU is meant, or ``--limit`` for the first windows alone.
"""

from __future__ import annotations

import fnmatch
import re
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from bench.arguments import Parser, count
from sw.datasets import DatasetError
from sw.importers import ModelError
from sw.wasq.baselines import IntegerConfig
from sw.wasq.config import SFConfig
from sw.wasq.corpus import Corpus, CorpusError, load_corpus
from sw.wasq.distil import DistilOptions
from sw.wasq.experiments import Setting, Spec, run_table
from sw.wasq.generated import generate_corpus, read_corpus
from sw.wasq.language import LanguageModel, load_language
from sw.wasq.opt import OptOptions
from sw.wasq.stacks import StackOptions
from sw.wasq.vanilla import mxint

OUTPUT: Final = Path("build/bench")
_WINDOW: Final = 2048
_TEXTS: Final = "wikitext-2:valid,tinyshakespeare"
BLOCK: Final[dict[str, Any]] = {"weight_scale": "block", "activation_scale": "block"}
#: What the targets are stated for: linear layers but the head, exact sums, products in float.
CONFIGS: Final = {
    "w16a16 channel/token": SFConfig(weights=16, activations=16),
    "w8a8 channel/token": SFConfig(),
    "w8a8 block": SFConfig(**BLOCK),
    "w6a8 block": SFConfig(weights=6, **BLOCK),
    "w4a16 block/token": SFConfig(weights=4, activations=16, weight_scale="block"),
    "w4a8 block/token": SFConfig(weights=4, weight_scale="block"),
    "w4a8 block": SFConfig(weights=4, **BLOCK),
}
#: Methods that each is tried with, besides rounding to nearest.
METHODS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "w8a8 channel/token": (("equalise",), ("rotate", "equalise")),
    "w8a8 block": (("equalise",), ("compensate",), ("rotate", "compensate")),
    "w6a8 block": (("compensate",), ("rotate", "compensate")),
    **{
        name: (
            ("compensate",),
            ("rotate", "compensate"),
            ("compensate", "opt"),
            ("rotate", "compensate", "opt", "distil"),
        )
        for name in ("w4a16 block/token", "w4a8 block/token")
    },
}
#: What rows are also made of with more on words, and the method besides rounding to nearest.
WIDER: Final[dict[str, tuple[str, ...]]] = {
    "w16a16 channel/token": (),
    "w8a8 channel/token": ("equalise",),
    "w8a8 block": ("equalise",),
    "w6a8 block": ("rotate", "compensate"),
    "w4a16 block/token": ("rotate", "compensate"),
    "w4a8 block/token": ("rotate", "compensate"),
}
LEARNED: Final = StackOptions(opt=OptOptions(steps=100), distil=DistilOptions(steps=500))


def specs() -> list[Spec]:
    """All rows: rounding first, then methods, the same with more on words, then the others."""
    rows = [Spec("float", None)]
    rows += [Spec(name, config) for name, config in CONFIGS.items()]
    for name, methods in METHODS.items():
        rows += [Spec(f"{name} {'+'.join(m)}", CONFIGS[name], m, LEARNED) for m in methods]
    for name in WIDER:
        rows += _wider(name, CONFIGS[name], ())
    for name, method in WIDER.items():
        if method:
            rows += _wider(f"{name} {'+'.join(method)}", CONFIGS[name], method)
    rows += [
        Spec("int8 row", IntegerConfig(8, 8, "row")),
        Spec("int4 block", IntegerConfig(4, 8, "block")),
        *_rivals("int4 block", IntegerConfig(4, 8, "block")),
        Spec("int4 block, float activations nearest", IntegerConfig(4, None, "block")),
        *_rivals("int4 block, float activations", IntegerConfig(4, None, "block")),
        Spec("mxint8", mxint(8)),
        Spec("mxint6, mxint8", mxint(6, 8)),
        Spec("mxint4, mxint8", mxint(4, 8)),
    ]
    return rows


def _wider(name: str, config: SFConfig, method: tuple[str, ...]) -> list[Spec]:
    """The same with attention products, then the head, then every layer's result on words too."""
    products = replace(config, products=config.activations)
    head = replace(products, head=max(8, config.weights or 0))
    drains = replace(head, output=config.activations, value_scale="channel")
    return [
        Spec(f"{name}, products", products, method, LEARNED),
        Spec(f"{name}, products, head", head, method, LEARNED),
        Spec(f"{name}, products, head, drains", drains, method, LEARNED),
    ]


def _rivals(name: str, config: IntegerConfig) -> list[Spec]:
    """Rows of the methods of others on integers."""
    steps = {"gptq": "compensate", "awq": "awq", "autoround": "autoround"}
    return [Spec(f"{name} {method}", config, (step,)) for method, step in steps.items()]


def calibration(
    language: LanguageModel, names: list[str], tokens: int, folder: Path
) -> list[Corpus]:
    """The texts that may be looked at; what the model writes is written once."""
    texts = [load_corpus(name, language.tokenizer) for name in names]
    if not tokens:
        return texts
    place = folder / f"generated-{language.sha256[:12]}-{tokens}.safetensors"
    if place.exists():
        return [*texts, read_corpus(place)]
    place.parent.mkdir(parents=True, exist_ok=True)
    length = min(512, language.context)
    return [*texts, generate_corpus(language, tokens, length, batch=512, path=place)]


def _part(parser: Parser, options: Namespace) -> str:
    """What tells a log from that of the usual texts and window: rows are not to be mixed."""
    part = f"-window-{options.window}" if options.window != _WINDOW else ""
    part += f"-{options.limit}" if options.limit else ""
    for name in ("text", "calibration", "sequences", "generated"):
        value = getattr(options, name)
        if value != parser.get_default(name):
            part += f"-{name}-{re.sub(r'[^A-Za-z0-9.]+', '-', str(value)).strip('-') or 'none'}"
    return part


def main(arguments: list[str] | None = None) -> int:
    """Run the rows that are asked for and not in the log."""
    parser = Parser("wasq_language", __doc__ or "")
    parser.add_argument("model", nargs="?", default="smollm2-135m", metavar="MODEL")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", default="*", metavar="PATTERN", help="names, as fnmatch has them")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--text", default="wikitext-2:raw-test", metavar="TEXT")
    parser.add_argument("--window", type=count, default=_WINDOW)
    parser.add_argument("--limit", type=count, help="first windows alone")
    parser.add_argument("--sequences", type=count, default=192, help="of calibration, of 512")
    parser.add_argument("--calibration", default=_TEXTS, metavar="TEXTS")
    parser.add_argument("--generated", type=int, default=1 << 16, help="tokens the model writes")
    parser.add_argument("--seconds", type=count, help="begin no row after it")
    options = parser.parse_args(arguments)
    chosen = [spec for spec in specs() if fnmatch.fnmatch(spec.name, options.rows)]
    if options.list:
        print("\n".join(spec.name for spec in chosen))
        return 0
    if not chosen:
        parser.error(f"--rows must match a name that --list prints, not {options.rows!r}")
    try:
        language = load_language(options.model, options.device)
        name = f"{Path(language.name).name}-{language.sha256[:8]}"
        folder = OUTPUT / "wasq_language" / f"{name}{_part(parser, options)}"
        names = [name for name in options.calibration.split(",") if name]
        texts = calibration(language, names, options.generated, OUTPUT / "wasq_language")
        if not texts:
            parser.error("--calibration must name a text where --generated is 0")
        setting = Setting(
            language=language,
            calibration=texts,
            evaluation=load_corpus(options.text, language.tokenizer),
            log=folder.with_suffix(".jsonl"),
            folder=folder,
            sequences=options.sequences,
            distil_sequences=8 * options.sequences,
            length=min(512, language.context),
            window=min(options.window, language.context),
            batch=1,
            limit=options.limit,
        )
        run_table(setting, chosen, options.seconds)
    except (DatasetError, ModelError, CorpusError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())

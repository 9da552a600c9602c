"""Healing in several processes, for tests: run by ``python -m torch.distributed.run``."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sw.wasq import SFConfig
from sw.wasq.healing import Healed, HealOptions, World, heal_, processes
from tests.tiny_models import tiny_llama, tiny_text

CONFIG = SFConfig(weights=4, activations=8, weight_scale="block", activation_scale="block")
OPTIONS = HealOptions(steps=4, batch=4, micro=1, learning_rate=3e-3, warmup=2, refresh=2)


def heal(folder: Path, case: dict[str, Any]) -> Healed:
    """Heal the tiny model as a case says.

    ``options`` are changes, ``run`` is a folder of checkpoints, ``resume`` says whether to go on.
    """
    run, model = folder / case["run"], tiny_llama()
    healed = heal_(
        model,
        case.get("method", "fpm"),
        tiny_text(),
        CONFIG,
        replace(OPTIONS, **case.get("options", {})),
        checkpoint=run,
        resume=run if case.get("resume") else None,
    )
    with torch.no_grad():  # a whole model again, on every process
        assert bool(torch.isfinite(model(tiny_text(2))).all())
    return healed


def summary(healed: Healed) -> dict[str, Any]:
    """Losses and words as plain data."""
    words = {n: [w.words.tolist(), w.exponents.tolist()] for n, w in healed.weights.items()}
    return {"losses": list(healed.losses), "words": words}


def main(folder: Path, cases: list[dict[str, Any]]) -> None:
    """Run the cases one after the other; the first process writes what came out."""
    torch.set_num_threads(1)
    with processes(torch.device("cpu")):
        world = World.current()
        for case in cases:
            found = summary(heal(folder, case))
            if world.leads:
                (folder / f"{case['run']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

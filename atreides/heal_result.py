"""What a healing ended in: a checkpoint, and an evaluation if one was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from atreides import __version__
from atreides.heal_job import Job
from sw.wasq.checkpoint import save
from sw.wasq.config import SFConfig
from sw.wasq.evaluation import evaluate
from sw.wasq.healing import Healed, HealOptions, World
from sw.wasq.language import load_language
from sw.wasq.records import append_record
from sw.wasq.results import make_record


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A healed model, and what it is from.

    Parameters
    ----------
    job : Job
        Whose module is the healed one by now.
    method : str
    config : SFConfig
        As it was asked for; what a method made of it is in the notes of ``healed``.
    options : HealOptions
    healed : Healed
    device : torch.device
    """

    job: Job
    method: str
    config: SFConfig
    options: HealOptions
    healed: Healed
    device: torch.device

    @property
    def used(self) -> SFConfig:
        """The configuration that the words follow."""
        return SFConfig.from_json(self.healed.notes.get("config", self.config.to_json()))

    @property
    def spent(self) -> dict[str, Any]:
        """Fields of a row of results that tell what the healing took."""
        return {
            "seed": self.options.seed,
            "tokens": self.healed.tokens,
            "seconds": self.healed.seconds,
            "trained": self.healed.fraction,
        }

    def write(self, output: Path, world: World) -> None:
        """Write the checkpoint, and tell; by the leading process."""
        if not world.leads:
            return
        job, healed = self.job, self.healed
        told = {
            **{"model": job.spec, "sha256": job.language.sha256, "method": self.method},
            **self.spent,
            **{"calibration": job.calibration, "calibration_sha256": job.text.sha256},
        }
        if job.tokenizer is not None:
            told["tokenizer"] = job.tokenizer
        save(job.language.module, self.used, output, told)
        total = sum(words.words.numel() for words in healed.weights.values())
        loss = f", loss {healed.losses[-1]:.4f}" if healed.losses else ""
        Console().print(
            f"{output}: {healed.fraction:.2%} of {total:,} weights healed in "
            f"{len(healed.losses)} steps, {healed.seconds:.1f} s{loss}",
            highlight=False,
            soft_wrap=True,
        )

    def evaluate(self, log: Path | None, world: World) -> None:
        """Evaluate it if that was asked for, by all processes; tell, and append to the log."""
        job = self.job
        if job.judged is None:
            return
        reference = load_language(job.spec, self.device).module
        network = job.language.module.to(self.device)
        found = evaluate(network, job.judged, job.data.shape[1], reference=reference)
        if not world.leads:
            return
        row = make_record(
            job.language.name,
            job.language.sha256,
            job.judged,
            found,
            quantized=network,
            config=self.used,
            calibration=job.text,
            device=self.device,
            method=self.method,
            version=__version__,
            **self.spent,
            **{n: self.healed.notes[n] for n in ("effective_bits",) if n in self.healed.notes},
        )
        if log is not None:
            append_record(log, row)
        Console().print(
            f"perplexity {found.perplexity:.4f} on {job.judged.name}:{job.judged.split}, "
            f"float {found.reference_perplexity:.4f}",
            highlight=False,
        )

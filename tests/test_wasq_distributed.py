"""Healing in two processes does what one does, and each goes on from the other's checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sw.wasq.healing import HealingError, World
from sw.wasq.healing.samples import Samples
from tests.healing_processes import heal, summary
from tests.tiny_models import tiny_text

CASES: list[dict[str, Any]] = [
    {"run": "in order"},
    {"run": "ddp", "options": {"deterministic": False}},
    {"run": "fsdp", "options": {"sharding": "sharded"}},
    {"run": "lottery", "method": "lth", "options": {"rho": 0.2}},
    {"run": "from one", "resume": True},
    {"run": "to one", "options": {"stop_after": 2}},
    {"run": "to one of fsdp", "options": {"stop_after": 2, "sharding": "sharded"}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have made of all cases, one after the other."""
    folder = tmp_path_factory.mktemp("processes")
    heal(folder, {"run": "from one", "options": {"stop_after": 2}})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run(
        [*command, "-m", "tests.healing_processes", str(folder), json.dumps(CASES)],
        check=True,
        capture_output=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process makes of it."""
    torch.set_num_threads(1)
    return summary(heal(tmp_path_factory.mktemp("alone"), {"run": "alone"}))


def result(folder: Path, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{run}.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("run", ["in order", "from one"])
def test_two_processes_that_sum_in_order_give_the_bits_of_one(
    folder: Path, alone: dict[str, Any], run: str
) -> None:
    assert result(folder, run) == alone


@pytest.mark.slow
@pytest.mark.parametrize("run", ["ddp", "fsdp"])
def test_two_processes_give_the_losses_of_one_within_rounding_and_its_words(
    folder: Path, alone: dict[str, Any], run: str
) -> None:
    found = result(folder, run)
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert found["words"] == alone["words"]


@pytest.mark.slow
def test_a_lottery_ticket_is_the_same_on_two_processes(folder: Path, tmp_path: Path) -> None:
    case = {"run": "x", "method": "lth", "options": {"rho": 0.2}}
    assert result(folder, "lottery") == summary(heal(tmp_path, case))


@pytest.mark.slow
@pytest.mark.parametrize("run", ["to one", "to one of fsdp"])
def test_one_process_goes_on_from_a_checkpoint_of_two(
    folder: Path, alone: dict[str, Any], tmp_path: Path, run: str
) -> None:
    shutil.copytree(folder / run, tmp_path / run)
    shards = list((tmp_path / run / "step-00000002").glob("shard-*.safetensors"))
    assert len(shards) == 2
    found = summary(heal(tmp_path, {"run": run, "resume": True}))
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert found["words"] == alone["words"]


def test_the_samples_of_a_step_do_not_depend_on_the_number_of_processes() -> None:
    samples = Samples.of(tiny_text())
    chosen = samples.chosen(1, 8, seed=1).reshape(-1, 2)
    of_two = [chosen[rank::2] for rank in range(2)]
    assert torch.equal(torch.stack(of_two, 1).flatten(0, 1), chosen)


def test_a_batch_that_processes_cannot_share_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(World, "current", classmethod(lambda cls: cls(0, 3)))
    with pytest.raises(HealingError, match="multiple of micro times 3 processes"):
        heal(tmp_path, {"run": "three"})

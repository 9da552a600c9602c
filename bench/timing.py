"""Timing side by side: all rows of a benchmark take turns, so that disturbances hit all alike."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def medians(rows: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median wall-clock seconds of each row; the rows are run in turn ``repeats`` times."""
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(repeats + 1):
        for name, run in rows.items():
            start = time.perf_counter()
            run()
            if turn:  # the first turn warms caches and builds the kernels
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    flags: list[str] = []
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            if key.strip() == "flags":
                known = ("avx2", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8")
                flags = [name for name in known if name in value.split()]
    return {
        "processor": model,
        "extensions": flags,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
    }


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(scratch, path)

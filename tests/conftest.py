"""What every test module shares: slow tests and big builds are left out unless asked for."""

from __future__ import annotations

import gc
import os

import pytest

#: Markers that are also options, with the help of each.
LEFT_OUT = {
    "slow": "also run tests marked slow",
    "flow": "also run the big place-and-route builds",
}


#: Young collections between two of all objects; Python has 10.
OLD_COLLECTIONS = 50


def pytest_configure(config: pytest.Config) -> None:
    """Every process side by side computes with its share of the cores: threads that wait for a
    core spin, and a small training took six times as long.

    Half a million objects stay from imports and collected tests: nobody looks for garbage among
    them, neither while they are made nor in a test.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        share = max(1, len(os.sched_getaffinity(0)) // workers)
        os.environ.setdefault("OMP_NUM_THREADS", str(share))  # before torch is imported
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, OLD_COLLECTIONS)
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, meaning in LEFT_OUT.items():
        parser.addoption(f"--{name}", action="store_true", help=meaning)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, and so count, what was not asked for: a skip would look like a missing tool."""
    unwanted = {name for name in LEFT_OUT if not config.getoption(f"--{name}")}
    left_out = [item for item in items if unwanted.intersection(item.keywords)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not unwanted.intersection(item.keywords)]

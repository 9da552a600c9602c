"""What every test module shares: slow tests and big builds are left out unless asked for."""

from __future__ import annotations

import pytest

#: Markers that are also options, with the help of each.
LEFT_OUT = {
    "slow": "also run tests marked slow",
    "flow": "also run the big place-and-route builds",
}


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

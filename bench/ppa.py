"""The claim against binary32, by anyone: ``atreides ppa`` on osu018 for MACs and multipliers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from atreides.cli import main as atreides
from bench.arguments import Parser

OUTPUT: Final = Path("build/bench")
UNITS: Final = ("mac", "multiplier")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser("ppa", __doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR")
    output = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)
    for unit in UNITS:
        status = atreides(["ppa", unit, "--json", str(output / f"ppa-{unit}.json")])
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

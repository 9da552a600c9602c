"""The claim against binary32, by anyone: ``atreides ppa`` on osu018 for MACs and multipliers.

    python -m bench.ppa [--power]

With ``--power`` their power too, and a cell, an array of 4 x 4 and a machine of 2 x 2 of SF8 while
they compute a real layer: about half an hour. Results are kept, so that a second run goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from atreides.cli import main as atreides
from bench.arguments import Parser

OUTPUT: Final = Path("build/bench")
COMPARED: Final = ("mac", "multiplier")
#: What is measured with power only, and its sizes.
POWERED: Final = {
    "cell": ("--bits", "16,8,4"),
    "array": ("--bits", "8,4", "--rows", "4", "--columns", "4"),
    "core": (
        *("--rows", "2", "--columns", "2", "--slots", "512"),
        *("--parameters", "16", "--row-parameters", "16"),
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser("ppa", __doc__ or "")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR")
    parser.add_argument("--power", action="store_true", help="and power, the machine's too")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    units: dict[str, tuple[str, ...]] = dict.fromkeys(COMPARED, ())
    if options.power:
        units = {name: (*words, "--power") for name, words in (units | POWERED).items()}
    for unit, words in units.items():
        file = options.output / f"ppa-{unit}.json"
        status = atreides(["ppa", unit, *words, "--json", str(file)])
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

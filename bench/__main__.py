"""Every benchmark in turn: ``python -m bench [NAME ...]``, all of :data:`BENCHMARKS` if none.

Each prints its table and writes ``build/bench/NAME.json``. ``python -m bench.NAME --help`` tells
what one of them can be asked for.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

BENCHMARKS: Final = (
    "tensor",
    "matmul",
    "hardware",
    "machine",
    "utilisation",
    "simulators",
    "networks",
    "language",
    "wasq",
    "ppa",
    "sparsity",
)


def main(names: list[str]) -> int:
    """Run the benchmarks, each in a process of its own; the first failure ends the run."""
    if {"-h", "--help"} & set(names):
        print(__doc__)
        return 0
    for name in names:
        if name not in BENCHMARKS:
            choices = ", ".join(BENCHMARKS)
            print(f"bench: benchmark must be one of {choices}, not {name!r}", file=sys.stderr)
            return 2
    for name in names or BENCHMARKS:
        status = subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a machine takes in an FPGA, measured: ``python -m bench.fit`` writes hw/fit_table.json.

Arrays are synthesised alone, and boards' machines without theirs: the model learns from both. Then
machines that it has not seen are synthesised whole, as builds are, and the errors are printed.
Every synthesis is kept in build/bench/fit by what went into it, so a run that was broken off goes
on, and a change of the hardware is measured anew: about a minute of processor time per machine.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.arguments import Parser, count
from bench.fit_learn import learn
from bench.fit_synthesis import Measurement, Store
from hw.fit import MEASURED, TABLE_PATH, Need, need
from hw.multiplier import DSP
from hw.synthesis import SynthesisError
from sw.config import MachineConfig
from sw.format import MAX_BITS, MIN_BITS

OUTPUT: Final = Path("build/bench")
TARGETS: Final = ("ecp5", "ice40")
MULTIPLIERS: Final = ("array", "dadda", "chain", "operator", DSP)
#: Widths at which multipliers other than ``auto`` and words without unity are measured.
FEW: Final = (4, 8, 16)


def _machine(bits: int, rows: int, columns: int, slots: int, **more: Any) -> MachineConfig:
    return MachineConfig(bits=bits, rows=rows, columns=columns, slots=slots, **more)


#: Machines that the model learns from, and such that it is tried on.
LEARNED: Final = {
    "ecp5": (
        _machine(4, 2, 2, 256),
        _machine(8, 4, 4, 256),
        _machine(16, 2, 4, 256),
        _machine(4, 8, 8, 64),
        _machine(12, 8, 4, 128),
        _machine(4, 16, 16, 64),
    ),
    "ice40": (_machine(4, 2, 2, 64), _machine(8, 4, 4, 64), _machine(4, 4, 4, 64)),
}
HELD_OUT: Final = {
    "ecp5": (_machine(6, 4, 8, 128), _machine(8, 8, 8, 256)),
    "ice40": (_machine(6, 2, 4, 64),),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """A machine that the model has not learned from.

    Parameters
    ----------
    target : str
    config : MachineConfig
    told, found : Need
        What the model says, and what synthesis found.
    """

    target: str
    config: MachineConfig
    told: Need
    found: Need

    @property
    def error(self) -> float:
        """Of the LUTs, as a share of those found."""
        return self.told.luts / self.found.luts - 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser("fit", __doc__ or "")
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: all")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="syntheses at a time")
    parser.add_argument("--check", action="store_true", help="keep the table, print the errors")
    options = parser.parse_args(arguments)
    targets = options.target or list(TARGETS)
    store = Store(OUTPUT / "fit")
    console = Console()
    try:
        if not options.check:
            table = json.loads(TABLE_PATH.read_text()) if TABLE_PATH.exists() else {}
            for target in targets:
                table[target] = learn(target, measure(store, target, options.jobs, console))
            store.write(TABLE_PATH, json.dumps(table, indent=1, sort_keys=True) + "\n")
            console.print(f"written: {TABLE_PATH}")
        trials = [
            trial for target in targets for trial in try_out(store, target, options.jobs, console)
        ]
    except SynthesisError as error:
        print(f"bench.fit: {error}", file=sys.stderr)
        return 2
    show(console, trials)
    rows = [_row(trial) for trial in trials]
    store.write(OUTPUT / "fit.json", json.dumps(rows, indent=1) + "\n")
    return 0


def arrays(target: str) -> list[tuple[str, MachineConfig]]:
    """Small arrays whose cells are measured: each kind, and the machine of that kind's cells."""
    rows, columns = MEASURED
    found = [("array", _machine(b, rows, columns, 16)) for b in range(MIN_BITS, MAX_BITS + 1)]
    found += [("array", _machine(bits, rows, columns, 16, unity=False)) for bits in FEW]
    found += [
        (f"array{' dsp' * (name == DSP)}", _machine(bits, rows, columns, 16, multiplier=name))
        for name in MULTIPLIERS
        for bits in FEW
    ]
    return found


def measure(store: Store, target: str, jobs: int, console: Console) -> list[Measurement]:
    """Everything that the model of a target is learned from."""
    work = arrays(target) + [("rest", config) for config in LEARNED[target]]
    return _all(store, target, work, jobs, console)


def try_out(store: Store, target: str, jobs: int, console: Console) -> list[Trial]:
    """The model against machines that it has not seen."""
    work = [("whole", config) for config in HELD_OUT[target]]
    found = _all(store, target, work, jobs, console)
    return [
        Trial(target, one.config, need(one.config, target), Need.of(target, Counter(one.cells)))
        for one in found
    ]


def _all(
    store: Store,
    target: str,
    work: list[tuple[str, MachineConfig]],
    jobs: int,
    console: Console,
) -> list[Measurement]:
    with (
        Progress(console=console, transient=True) as progress,
        ThreadPoolExecutor(jobs) as pool,
    ):
        task = progress.add_task(f"{target}", total=len(work))

        def one(item: tuple[str, MachineConfig]) -> Measurement:
            found = store.measure(target, *item)
            progress.advance(task)
            return found

        return list(pool.map(one, work))


def _row(trial: Trial) -> dict[str, Any]:
    config = trial.config
    return {
        **{"target": trial.target, "bits": config.bits, "rows": config.rows},
        **{"columns": config.columns, "slots": config.slots},
        **{"luts_told": trial.told.luts, "luts": trial.found.luts, "error": trial.error},
        **{"block_rams_told": trial.told.block_rams, "block_rams": trial.found.block_rams},
    }


def show(console: Console, trials: list[Trial]) -> None:
    """Print what the model said of each machine that it had not seen, and what was found."""
    table = Table(title="machines that the model has not learned from: told, synthesised")
    for name in ("target", "machine", "LUTs told", "LUTs", "error", "RAM told", "RAM"):
        table.add_column(name, justify="left" if name in ("target", "machine") else "right")
    for trial in trials:
        config = trial.config
        table.add_row(
            trial.target,
            f"SF{config.bits} {config.rows} x {config.columns}, {config.slots} slots",
            *(f"{trial.told.luts:,}", f"{trial.found.luts:,}", f"{trial.error:+.1%}"),
            *(f"{trial.told.block_rams}", f"{trial.found.block_rams}"),
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

"""What a machine takes in an FPGA, measured: ``python -m bench.fit`` writes hw/fit_table.json.

Arrays are synthesised alone, and boards' machines without theirs: the model learns from both. Then
machines that it has not seen are synthesised whole, as builds are, and the errors are printed: exit
status 1 if one is above 10 %. Every synthesis is kept in build/bench/fit by what went into it, so a
run that was broken off goes on, and a change of the hardware is measured anew: half a minute of
processor time per machine, a few seconds per array.
"""

from __future__ import annotations

import json
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.arguments import Parser, count
from bench.fit_learn import estimate, learn
from bench.fit_synthesis import Measurement, Store
from hw import fit
from hw.fit import RESOURCES, TABLE_PATH, Need, need
from hw.multiplier import DSP
from hw.synthesis import SynthesisError
from sw.config import MachineConfig
from sw.format import MAX_BITS, MIN_BITS

OUTPUT: Final = Path("build/bench")
FAMILIES: Final = ("ecp5", "ice40", "gowin")
MULTIPLIERS: Final = ("array", "dadda", "chain", "operator")
#: Widths at which multipliers other than ``auto`` and words without unity are measured.
FEW: Final = (4, 8, 16)
#: The largest error on machines that were not learned from.
LIMIT: Final = 0.1
#: What an error is rounded up to in the table, and the least that is claimed of logic.
_STEP, _LEAST = 0.01, 0.03


def _machine(bits: int, rows: int, columns: int, slots: int, **more: Any) -> MachineConfig:
    return MachineConfig(bits=bits, rows=rows, columns=columns, slots=slots, **more)


_SMALL: Final = {"parameters": 4, "row_parameters": 4, "max_terms": 256}
#: As small as a machine can be made, and nearly.
_LEAN: Final = {"skipping": False, "wide": False, "counters": "none"}
_THIN: Final = {"skipping": False, "wide": False, "counters": "cycles"}
_SERIAL: Final = {**_LEAN, "control": "serial"}
#: Machines that the model learns from, and such that it is tried on; of both, those that families
#: with small devices are not asked for come first.
_LARGE_LEARNED: Final = (
    _machine(16, 8, 8, 32),
    _machine(4, 16, 16, 64),
    _machine(8, 16, 16, 16, **_THIN),
)
LEARNED: Final = (
    *_LARGE_LEARNED,
    _machine(8, 4, 4, 256),
    _machine(16, 2, 4, 256, table=True),
    _machine(4, 8, 8, 64),
    _machine(12, 8, 4, 128, blocks=True),
    _machine(4, 2, 2, 64),
    _machine(8, 4, 2, 16, blocks=True, table=True),
    _machine(3, 1, 1, 16, **_SMALL),
    _machine(4, 4, 4, 64, **_LEAN, **_SMALL),
    _machine(12, 2, 2, 32, wide=False),
    _machine(8, 2, 2, 16, **_THIN, **_SMALL),
    _machine(16, 4, 4, 64, **_LEAN),
    _machine(6, 8, 8, 32, skipping=False),
    _machine(4, 2, 2, 64, **_SERIAL, **_SMALL),
    _machine(6, 4, 2, 64, **_SERIAL),
)
_LARGE_HELD_OUT: Final = (_machine(8, 8, 8, 256), _machine(5, 12, 16, 32))
HELD_OUT: Final = (
    *_LARGE_HELD_OUT,
    _machine(6, 4, 8, 128),
    _machine(8, 4, 4, 64, table=True, multiplier=DSP),
    _machine(10, 3, 2, 64, blocks=True),
    _machine(4, 2, 2, 16, **_SMALL),
    _machine(8, 8, 8, 256, **_THIN),
    _machine(8, 4, 4, 32, **_LEAN, **_SMALL),
    _machine(14, 2, 2, 16, **_LEAN, **_SMALL),
    _machine(8, 4, 4, 256, **_SERIAL, multiplier=DSP),
)
TOO_LARGE: Final = (*_LARGE_LEARNED, *_LARGE_HELD_OUT)

Work = tuple[str, str, MachineConfig]


@dataclass(frozen=True, slots=True)
class Trial:
    """A machine that the model has not learned from.

    Parameters
    ----------
    family : str
    config : MachineConfig
    told, found : Need
        What the model says, and what synthesis found.
    """

    family: str
    config: MachineConfig
    told: Need
    found: Need

    def error(self, resource: str) -> float:
        """Of a resource, as a share of what was found; without any, 0 or infinite."""
        told, found = getattr(self.told, resource), getattr(self.found, resource)
        if not found:
            return math.inf if told else 0.0
        return float(told / found - 1)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser("fit", __doc__ or "")
    parser.add_argument("--target", action="append", choices=FAMILIES, help="default: all")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="syntheses at a time")
    parser.add_argument("--check", action="store_true", help="keep the table, print the errors")
    options = parser.parse_args(arguments)
    families = options.target or list(FAMILIES)
    store, console = Store(OUTPUT / "fit"), Console()
    work = [item for family in families for item in trial_work(family)]
    if not options.check:
        work += [item for family in families for item in learning_work(family)]
    try:
        found = measure(store, work, options.jobs, console)
    except SynthesisError as error:
        print(f"bench.fit: {error}", file=sys.stderr)
        return 2
    table = json.loads(TABLE_PATH.read_text()) if TABLE_PATH.exists() else {}
    trials: list[Trial] = []
    for family in families:
        if not options.check:
            table[family] = learn(family, [found[item] for item in learning_work(family)])
            table[family]["estimate"] = estimate(family, table[family]["rest"])
            fit.use(table)
        tried = [
            Trial(family, item[2], need(item[2], family), Need.of(family, found[item].cells))
            for item in trial_work(family)
        ]
        table[family]["errors"] = errors(tried)
        trials += tried
    if not options.check:
        store.write(TABLE_PATH, json.dumps(table, indent=1, sort_keys=True) + "\n")
        console.print(f"written: {TABLE_PATH}")
    show(console, trials)
    store.write(OUTPUT / "fit.json", json.dumps([_row(one) for one in trials], indent=1) + "\n")
    worst = max(abs(one.error(name)) for one in trials for name in RESOURCES)
    if worst > LIMIT:
        print(f"bench.fit: an error of {worst:.1%} is above {LIMIT:.0%}", file=sys.stderr)
    return int(worst > LIMIT)


def learning_work(family: str) -> list[Work]:
    """What the model of a family is learned from."""
    machines = [one for one in LEARNED if family == "ecp5" or one not in TOO_LARGE]
    found = [_machine(bits, 2, 2, 16) for bits in range(MIN_BITS, MAX_BITS + 1)]
    found += [_machine(bits, 2, 2, 16, unity=False) for bits in FEW]
    found += [_machine(bits, 2, 2, 16, multiplier=name) for name in MULTIPLIERS for bits in FEW]
    found += [_machine(bits, 4, 4, 16, multiplier=DSP) for bits in FEW]
    rest: list[Work] = [(family, "rest", one) for one in machines]
    return rest + [(family, "array", one) for one in found]


def trial_work(family: str) -> list[Work]:
    """What the model of a family is tried on."""
    machines = [one for one in HELD_OUT if family == "ecp5" or one not in TOO_LARGE]
    return [(family, "whole", one) for one in machines]


def measure(store: Store, work: list[Work], jobs: int, console: Console) -> dict[Work, Measurement]:
    """Everything, each in a process of its own; what is there is not measured again."""
    found = {}
    with (
        Progress(console=console, transient=True) as progress,
        ProcessPoolExecutor(jobs) as pool,
    ):
        task = progress.add_task("syntheses", total=len(work))
        waiting = [(item, pool.submit(store.measure, *item)) for item in work]
        try:
            for item, future in waiting:
                found[item] = future.result()
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def errors(trials: list[Trial]) -> dict[str, float]:
    """The largest error of each resource, rounded up; of logic not below 3 %."""
    found = {}
    for name in RESOURCES:
        worst = max(abs(one.error(name)) for one in trials)
        if name in ("luts", "registers"):
            worst = max(worst, _LEAST)
        found[name] = round(math.ceil(worst / _STEP - 1e-9) * _STEP, 2) if worst < 1 else 1.0
    return found


def _row(trial: Trial) -> dict[str, Any]:
    config = trial.config
    sizes = {"bits": config.bits, "rows": config.rows, "columns": config.columns}
    row = {"family": trial.family, **sizes, "slots": config.slots, "machine": label(config)}
    for name in RESOURCES:
        row |= {f"{name}_told": getattr(trial.told, name), name: getattr(trial.found, name)}
    return row


def label(config: MachineConfig) -> str:
    """A machine in a few characters."""
    more = [name for name in ("blocks", "table") if getattr(config, name)]
    more += [] if config.wide else ["narrow"]
    more += [] if config.skipping else ["no skipping"]
    more += [] if config.control == MachineConfig().control else [f"{config.control} control"]
    more += [] if config.counters == MachineConfig().counters else [f"counters {config.counters}"]
    more += [config.multiplier] if config.multiplier != "auto" else []
    more += ["few parameters"] if config.parameters < MachineConfig().parameters else []
    sizes = f"SF{config.bits} {config.rows} x {config.columns}, {config.slots} slots"
    return ", ".join([sizes, *more])


def show(console: Console, trials: list[Trial]) -> None:
    """Print what the model said of each machine that it had not seen, and what was found."""
    table = Table(title="machines that the model has not learned from: told, built, error")
    table.add_column("family")
    table.add_column("machine")
    for name in ("LUTs", "registers", "block RAM", "DSP"):
        table.add_column(name, justify="right")
    for one in trials:
        cells = []
        for name in RESOURCES:
            told, found, off = getattr(one.told, name), getattr(one.found, name), one.error(name)
            cells.append(f"{told:,} {found:,} {off:+.1%}" if off else f"{found:,}")
        table.add_row(one.family, label(one.config), *cells)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

"""Random programs on the model and on RTL: ``python -m sim.machine_random [options]``.

Words, rows, faults and counters must be the same, and cycles too unless streams are stalled.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from sim.machine_backends import RTL, execute
from sim.machine_coverage import Coverage
from sim.machine_job import Job, MachineFailed
from sim.machine_session import Stalls
from sim.machine_stimulus import LONGEST, Stimulus
from sim.runner import MissingSimulator, SimulationFailed
from sw.assembler import disassemble
from sw.config import CONTROLS, COUNTERS, MachineConfig
from sw.registers import Counter

#: What stalls of the host change.
STALLED: Final = (
    *(Counter.CYCLES, Counter.COMPUTE_CYCLES),
    *(Counter.STALL_A, Counter.STALL_B, Counter.STALL_DRAIN, Counter.STALL_RESULTS),
)
#: Instructions of one program, and programs of one simulation.
LENGTH: Final = 40
BATCH: Final = 50
#: Cycles after which a program, or what loads and reads memory, counts as stuck: some tens for each
#: slice of the longest program, for one of ragged lanes takes a cycle per lane, and hosts stall;
#: serial control takes a hundred times as long.
LIMIT: Final = 400_000 + 50 * LONGEST
SERIAL: Final = 100


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A job on which a back end differs from the model.

    Parameters
    ----------
    seed : int
        Of the job's stimulus.
    job : Job
    differences : list of str
    """

    seed: int
    job: Job
    differences: list[str]

    def __str__(self) -> str:
        told = "\n".join(f"  {d}" for d in self.differences)
        program = "".join(f"    {line}\n" for line in disassemble(self.job.words).splitlines())
        return f"job of seed {self.seed} on {self.job.config}:\n{told}\n  program:\n{program}"


def compare(
    jobs: Sequence[tuple[int, Job]], back_end: str, stalls: Stalls | None, coverage: Coverage
) -> list[Mismatch]:
    """Run jobs, each with the seed it came from, on the model and on a back end."""
    wanted = execute([job for _, job in jobs], "model")
    for (_, job), want in zip(jobs, wanted, strict=True):
        coverage.observe(job, want.report)
    limit = LIMIT * (SERIAL if jobs[0][1].config.control == "serial" else 1)
    results = execute([job for _, job in jobs], back_end, stalls=stalls, limit=limit)
    ignore = STALLED if stalls else ()
    found = []
    for (seed, job), got, want in zip(jobs, results, wanted, strict=True):
        if differences := got.differences(want, ignore):
            found.append(Mismatch(seed, job, differences))
    return found


def run(
    config: MachineConfig,
    instructions: int,
    seed: int,
    back_end: str = "verilator",
    *,
    stalls: bool = False,
) -> tuple[Coverage, list[Mismatch]]:
    """Run random programs until the model has executed enough instructions.

    Parameters
    ----------
    config : MachineConfig
    instructions : int
    seed : int
        The first job's; the next one has the next.
    back_end : str
        One of ``RTL``.
    stalls : bool
        Whether streams are stalled at random.

    Returns
    -------
    Coverage
        Of what the model executed.
    list of Mismatch
        Of the first batch that has any.
    """
    coverage = Coverage(config)
    for jobs in _batches(config, instructions, seed):
        chance = Stalls(jobs[0][0], *((30, 90), (90, 30), (60, 60))[jobs[0][0] % 3])
        found = compare(jobs, back_end, chance if stalls else None, coverage)
        if found:
            return coverage, found
        if coverage.instructions >= instructions:
            break
    return coverage, []


def shrink(mismatch: Mismatch, back_end: str, stalls: Stalls | None) -> Mismatch:
    """The shortest program, cut from behind, on which the difference stays."""
    low, high, found = 1, len(mismatch.job.words), mismatch
    while low < high:
        middle = (low + high) // 2
        job = replace(mismatch.job, words=mismatch.job.words[:middle])
        try:
            now = compare([(mismatch.seed, job)], back_end, stalls, Coverage(job.config))
        except MachineFailed as error:
            now = [Mismatch(mismatch.seed, job, [str(error)])]
        if now:
            found, high = now[0], middle
        else:
            low = middle + 1
    return found


def _batches(
    config: MachineConfig, instructions: int, seed: int
) -> Iterator[list[tuple[int, Job]]]:
    size = min(BATCH, max(1, instructions // LENGTH))
    while True:
        yield [(s, Stimulus(config, s).job(LENGTH)) for s in range(seed, seed + size)]
        seed += size


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        print(f"sim.machine_random: {message.removeprefix('argument ')}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sim.machine_random", description=__doc__)
    defaults = MachineConfig(bits=8, rows=4, columns=8, slots=64)
    for name in ("bits", "rows", "columns", "slots"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    parser.add_argument("--output-bits", type=int)
    parser.add_argument("--bias-bits", type=int)
    for name in ("blocks", "table", "stalls"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--no-unity", dest="unity", action="store_false")
    parser.add_argument("--no-skipping", dest="skipping", action="store_false")
    parser.add_argument("--narrow", dest="wide", action="store_false")
    parser.add_argument("--counters", choices=COUNTERS, default=defaults.counters)
    parser.add_argument("--control", choices=CONTROLS, default=defaults.control)
    parser.add_argument("--parameters", type=int, default=16)
    parser.add_argument("--row-parameters", type=int, default=64)
    parser.add_argument("--max-terms", type=int, default=defaults.max_terms)
    parser.add_argument("--instructions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", choices=RTL, default="verilator")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 if all is the same, 1 if not, 2 for a mistake in the arguments."""
    given = vars(_parser().parse_args(arguments))
    counts = {name: given.pop(name) for name in ("instructions", "seed", "backend", "stalls")}
    started = time.perf_counter()
    try:
        config = MachineConfig(**given)
    except (TypeError, ValueError) as error:
        print(f"sim.machine_random: {error}", file=sys.stderr)
        return 2
    try:
        coverage, mismatches = run(
            config,
            counts["instructions"],
            counts["seed"],
            counts["backend"],
            stalls=counts["stalls"],
        )
    except (MissingSimulator, SimulationFailed, MachineFailed) as error:
        print(f"sim.machine_random: {error}", file=sys.stderr)
        return 1
    print(coverage.report())
    print(f"{coverage.instructions} instructions in {time.perf_counter() - started:.1f} s")
    for mismatch in mismatches[:3]:
        print(mismatch)
    if mismatches:
        print(f"{len(mismatches)} programs differ; the first, cut as short as possible:")
        print(shrink(mismatches[0], counts["backend"], None))
    return int(bool(mismatches))


if __name__ == "__main__":
    sys.exit(main())

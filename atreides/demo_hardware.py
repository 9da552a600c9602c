"""Makes the demo's machine, its simulator and its Verilog, beside the training of the network."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Final

from sw.config import MachineConfig

#: Seconds that an interrupted compilation has to clean up.
_PATIENCE: Final = 5.0


class HardwareBuild:
    """A process that makes the hardware; the simulator lies in the cache of simulators then.

    Whether it went well is seen by who asks for the same then, who has all reasons at hand. As a
    context manager it ends the process if it is left before.

    Parameters
    ----------
    config : MachineConfig
    folder : Path
        For the Verilog.
    simulator : bool
        Whether the simulator is wanted.
    """

    def __init__(self, config: MachineConfig, folder: Path, simulator: bool) -> None:
        self.config, self.folder = config, folder
        arguments = [json.dumps(asdict(config)), str(folder), *(["simulator"] if simulator else [])]
        command = [sys.executable, "-m", "atreides.demo_hardware", *arguments]
        # A group of its own, so that all of it can be ended at once.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> HardwareBuild:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def wait(self) -> tuple[Path, ...]:
        """Wait for its end; the files of the machine's Verilog.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        files = tuple(self.folder / f"atreides.{suffix}" for suffix in ("v", "json"))
        if self._process.wait() or not all(file.exists() for file in files):
            return write_verilog(self.config, self.folder)
        return files

    def stop(self) -> None:
        """End it, with all that it started, if it goes on still."""
        for sent in (signal.SIGINT, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)


def write_verilog(config: MachineConfig, folder: Path) -> tuple[Path, ...]:
    """The machine's Verilog and its manifest."""
    from hw import build
    from hw.tops import MACHINE, Options

    options = Options(**{name: getattr(config, name) for name in MACHINE})
    return tuple(build.write([build.emission("atreides", options)], folder))


def main(machine: str, folder: str, *wanted: str) -> None:
    """Make the simulator, if wanted, and the Verilog of a machine that is given as JSON."""
    from sim import machine_design, machine_verilator

    config = MachineConfig(**json.loads(machine))
    write_verilog(config, Path(folder))
    if "simulator" in wanted:
        machine_verilator.build(machine_design.design(config))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)

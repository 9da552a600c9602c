"""A verilated model with its driver as a process that keeps running: bytes through pipes."""

from __future__ import annotations

import contextlib
import subprocess
import weakref
from collections.abc import Sequence
from typing import IO, Final

from sim.machine_job import MachineFailed
from sim.runner import SimulationFailed, end_group

#: The driver's exit status where the machine did wrong.
MACHINE_FAILED: Final = 3
#: Seconds in which a driver must have ended.
END: Final = 20.0


class VerilatedDriver:
    """The process, ended at the latest with this object.

    Parameters
    ----------
    command : sequence of str

    Attributes
    ----------
    process : subprocess.Popen
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.kill = weakref.finalize(self, end_group, self.process)

    def send(self, *parts: bytes) -> None:
        """Write bytes to the driver.

        Raises
        ------
        MachineFailed, SimulationFailed
            If it has ended: what it said.
        """
        stream = _pipe(self.process.stdin)
        try:
            for part in parts:
                stream.write(part)
            stream.flush()
        except OSError:
            self._died()

    def receive(self, count: int) -> bytes:
        """The next bytes from the driver; raises as :meth:`send`."""
        found = _pipe(self.process.stdout).read(count)
        if len(found) < count:
            self._died()
        return found

    def end(self) -> None:
        """Let the driver end, as it does at the end of its input."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            _pipe(self.process.stdin).close()
            self.process.wait(END)
        self.kill()

    def _died(self) -> None:
        """Tell why the driver has closed its streams."""
        status = self.process.wait(END)
        said = _pipe(self.process.stderr).read().decode(errors="replace").strip()
        if status == MACHINE_FAILED:
            raise MachineFailed(said)
        raise SimulationFailed(f"the verilated model died: {said or f'exit status {status}'}")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream

"""The machine model as a back end."""

from __future__ import annotations

import numpy as np

from sim.machine_job import Job, Result
from sw.machine import Machine


def machine_of(job: Job) -> Machine:
    """A machine with the job's words and parameters in its memories, and its program taken."""
    machine = Machine(job.config)
    machine.load(job.memory)
    machine.parameters = job.parameters
    machine.start(job.words)
    return machine


def result_of(machine: Machine) -> Result:
    """What a machine has done up to now."""
    return Result(machine.report(), machine.memory.words.astype(np.uint16))


def run_model(job: Job) -> Result:
    """Run a job on the model."""
    machine = machine_of(job)
    machine.resume()
    return result_of(machine)

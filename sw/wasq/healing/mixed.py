"""mixed: a width per layer under a budget of bits, from measured losses; healed if steps are given.

Options of its own (``HealOptions.extra``): as :mod:`sw.wasq.healing.annealed`, and ``search``, one
of its :data:`SEARCHES`, by default the integer program. Sensitivity by measurement instead of a
Hessian, allocation as in Z. Yao et al., "HAWQ-V3", arXiv:2011.10680.
"""

from __future__ import annotations

from dataclasses import replace

from sw.wasq.healing.annealed import restored, scouted_bench, search
from sw.wasq.healing.findings import Findings, refuse_sharded, resumed
from sw.wasq.healing.fpm import heal_fpm
from sw.wasq.healing.options import Healed
from sw.wasq.healing.task import Task
from sw.wasq.healing.teacher import frozen_copy
from sw.wasq.healing.training import origin_of


def heal_mixed(task: Task) -> Healed:
    """Choose widths, quantize by them, and train all weights for the steps of the options.

    The notes have the configuration with an override per layer, and the measured losses of it and
    of the uniform one.
    """
    refuse_sharded(task)
    original = frozen_copy(task.model)
    kept = Findings(task, "search.json", origin_of(task))
    bench, problem = scouted_bench(task, heals=False)
    if not kept.found:
        how = str(task.option("search", "integer program"))
        found = search(bench, problem, how, task)
        kept.keep(
            state=list(found.state),
            energy=found.energy,
            uniform=found.path[0],
            measurements=found.spent,
            bits=bench.effective_bits(found.state),
        )
    config = bench.config(tuple(kept.found["state"]))
    del bench
    model = restored(task.model, original)
    healed = heal_fpm(replace(task, model=model, config=config, hooks=resumed(task.hooks)))
    return replace(healed, notes={**kept.found, "config": config.to_json()})

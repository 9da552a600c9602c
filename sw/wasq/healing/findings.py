"""What a method has found out before it trains, kept in a file beside the checkpoints."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

from sw.wasq.healing.options import HealingError
from sw.wasq.healing.task import Hooks, Task


class Findings:
    """Findings by name, as plain data; those of an earlier run where it is gone on with.

    Parameters
    ----------
    task : Task
    name : str
        Of the file.
    origin : str
        Fingerprint of the float model.

    Raises
    ------
    HealingError
        If the file is of another model, configuration or options.
    """

    def __init__(self, task: Task, name: str, origin: str) -> None:
        folder = task.hooks.checkpoint
        self._path = None if folder is None else folder / name
        self._leads = task.world.leads
        identity = {"model": origin, "options": task.options.to_json()}
        identity["config"] = task.config.to_json()
        self._identity = json.loads(json.dumps(identity))
        self.found: dict[str, Any] = {}
        if task.hooks.resume is None or not (task.hooks.resume / name).is_file():
            return
        try:
            data = json.loads((task.hooks.resume / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            data = None
        if not isinstance(data, dict) or data.get("identity") != self._identity:
            path = task.hooks.resume / name
            raise HealingError(f"{path} must be of this model, configuration and options")
        self.found = dict(data["found"])

    def keep(self, **found: Any) -> None:
        """Add findings, and write all of them."""
        self.found |= found
        if self._path is None or not self._leads:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"identity": self._identity, "found": self.found}))
        os.replace(partial, self._path)


def resumed(hooks: Hooks) -> Hooks:
    """The hooks, without a checkpoint to go on from where training had not begun."""
    if hooks.resume is not None and not (hooks.resume / "latest.json").is_file():
        return replace(hooks, resume=None)
    return hooks


def refuse_sharded(task: Task) -> None:
    """Refuse a sharded model for methods that train more than once."""
    if task.options.sharding == "sharded" and task.world.size > 1:
        raise HealingError(f"sharding must be replicated for {task.method}, not sharded")

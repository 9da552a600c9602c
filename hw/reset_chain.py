"""A reset that reaches a large machine register by register, not in one cycle."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, ResetInserter, Signal

#: Cycles that such a reset must last: longer than any chain, and than anything stays on its way
#: through units that are not reset, an array of 32 x 32 cells and its columns included.
RESET_CYCLES: Final = 127


class ResetChain:
    """Resets units one after the other, each a cycle later than the one before.

    Parameters
    ----------
    reset : Signal, optional
        A register that is 1 for :data:`RESET_CYCLES` or more at a time. None: units are only reset
        with their clock domain.
    """

    def __init__(self, reset: Signal | None) -> None:
        self._last = reset

    def place(self, m: Module, name: str, unit: object) -> None:
        """Make a unit the submodule of that name, with a reset of its own."""
        if self._last is None:
            m.submodules[name] = unit
            return
        own = Signal(name=f"{name}_reset")
        m.d.sync += own.eq(self._last)
        m.submodules[name] = ResetInserter(own)(unit)
        self._last = own

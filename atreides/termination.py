"""SIGTERM as an exception, so that what a command has begun is taken back as Ctrl-C takes it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

#: Signals that ask a process to end: of `kill` and batch systems, and of a terminal that closes.
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack while the context lasts: every ``finally`` is run.

    A signal that is ignored, as ``nohup`` has it, stays so. Elsewhere than in the main thread,
    where Python takes no signals, nothing changes.

    Raises
    ------
    SystemExit
        With 128 and the signal's number, at the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    caught = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one does not interrupt the tidying
    raise SystemExit(128 + number)

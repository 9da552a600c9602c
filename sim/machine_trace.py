"""Waveforms of a window of cycles, and the view files that open them with what matters in sight."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from sim.layout import Layout

#: Formats of waveforms by suffix.
SUFFIXES: Final = (".vcd", ".fst")
#: Signals of the top in the order that a person wants to see them.
_SIGNALS: Final = (
    *("clk", "rst", "busy"),
    *(
        f"{stream}_{part}"
        for stream in ("instructions", "host", "results", "status")
        for part in ("valid", "ready", "payload")
    ),
)
_TIME: Final = re.compile(r"#(\d+)\s*$")
_CHANGE: Final = re.compile(r"([01xzXZ])(\S+)$|([bBrR]\S+) (\S+)$")


@dataclass(frozen=True, slots=True)
class Trace:
    """A waveform file to write.

    Parameters
    ----------
    path : Path
        Ends in ``.vcd`` or ``.fst``.
    first, end : int
        The first cycle, and the one after the last; cycles count from the start of the simulation,
        reset included.

    Raises
    ------
    ValueError
        For another suffix or an empty window.
    """

    path: Path
    first: int = 0
    end: int = 1 << 62

    def __post_init__(self) -> None:
        if self.path.suffix not in SUFFIXES:
            raise ValueError(f"trace must end in .vcd or .fst, not {str(self.path)!r}")
        if not 0 <= self.first < self.end:
            raise ValueError(f"trace-from must be 0 to {self.end - 1}, not {self.first}")


class Window(io.TextIOBase):
    """A VCD file of which only a window of time is kept.

    Parameters
    ----------
    file : TextIO
        Takes the header, the values as the window begins, and the changes within it.
    first, end : int
        Times, in the file's unit.
    """

    def __init__(self, file: TextIO, first: int, end: int) -> None:
        self._file, self._first, self._end = file, first, end
        self._header = True
        self._time = 0
        self._begun = False
        self._values: dict[str, str] = {}
        self._partial = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._line(line)
        return len(text)

    def close(self) -> None:
        if not self.closed:
            if self._partial:
                self._line(self._partial)
            self._begin()
            self._file.close()
        super().close()

    def _line(self, line: str) -> None:
        if self._header:
            self._file.write(f"{line}\n")
            self._header = "$enddefinitions" not in line
            return
        if time := _TIME.match(line):
            self._time = int(time[1])
            if self._time >= self._first:
                self._begin()
            if self._first < self._time < self._end:
                self._file.write(f"{line}\n")
            return
        change = _CHANGE.match(line)
        if change is None:  # $dumpvars and the like
            return
        self._values[change[2] or change[4]] = line
        if self._begun and self._time < self._end:
            self._file.write(f"{line}\n")

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            values = "".join(f"{line}\n" for line in self._values.values())
            self._file.write(f"#{self._first}\n$dumpvars\n{values}$end\n")


def cut(source: Path, target: Path, first: int, end: int) -> None:
    """Copy a window of time of a VCD file, whole or not at all."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    with source.open(encoding="utf-8") as lines:
        window = Window(scratch.open("w", encoding="utf-8"), first, end)
        for line in lines:
            window.write(line)
        window.close()
    os.replace(scratch, target)


def write_views(trace: Path, scope: str, layout: Layout, separator: str = "_") -> None:
    """Write ``TRACE.gtkw`` for GTKWave and ``TRACE.sucl`` for Surfer beside a waveform.

    ``gtkwave TRACE.gtkw`` and ``surfer TRACE -c TRACE.sucl`` show the machine's ports.

    Parameters
    ----------
    trace : Path
    scope : str
        Of the machine's ports in the waveform, joined by dots.
    layout : Layout
        Of the machine's ports.
    separator : str
        Between the names of a stream and of its member.
    """
    widths = {f.name: f.width for f in (*layout.inputs, *layout.outputs)}
    lines = [f'[dumpfile] "{trace.resolve()}"', "[timestart] 0", "[pattern_trace] 1"]
    commands = []
    for port in _SIGNALS:
        width = widths.get(port, 1)
        name = f"{scope}.{port.replace('_', separator)}"
        lines += ["@28", name] if width == 1 else ["@22", f"{name}[{width - 1}:0]"]
        commands.append(f"variable_add {name}")
    for suffix, content in (("gtkw", lines), ("sucl", [*commands, "zoom_fit"])):
        path = trace.with_name(f"{trace.name}.{suffix}")
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        scratch.write_text("\n".join([*content, ""]), encoding="utf-8")
        os.replace(scratch, path)

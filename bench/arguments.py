"""Command lines of the benchmarks: a mistake is one sentence and exit status 2."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser of ``python -m bench.NAME`` whose complaints are one sentence.

    Parameters
    ----------
    name : str
        Of the benchmark.
    description : str
        What ``--help`` says; of several paragraphs the first.
    """

    def __init__(self, name: str, description: str) -> None:
        super().__init__(
            prog=f"python -m bench.{name}",
            description=description.split("\n\n")[0],
            allow_abbrev=False,
        )
        self.name = name

    def error(self, message: str) -> NoReturn:
        sentence = " ".join(message.removeprefix("argument ").split()).rstrip(".")
        if sentence.startswith("unrecognized"):
            options = sorted(o for a in self._actions for o in a.option_strings if o[:2] == "--")
            sentence += f"; options are {', '.join(options)}"
        print(f"bench.{self.name}: {sentence}", file=sys.stderr)
        sys.exit(2)


def count(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def writable(text: str) -> Path:
    """A file that can be written; its folder is made if it is missing."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            writes = not path.is_dir()
    except OSError:
        writes = False
    if not writes:
        raise argparse.ArgumentTypeError(f"must be a file in a writable directory, not {text!r}")
    return path

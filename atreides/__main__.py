"""``python -m atreides``."""

import sys

from atreides.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""The tables of logs of results, as Markdown for documents.

    python -m bench.wasq_tables LOG.jsonl...

Every figure comes from a row of a log: what ``atreides evaluate``, ``quantize``, ``heal`` and
``study`` append. ``atreides report`` shows the same rows as a page.
"""

from __future__ import annotations

import sys
from pathlib import Path

from atreides.report import HtmlTable
from atreides.results_page import sections_of
from bench.arguments import Parser
from sw.wasq.studies.log import read_log


def main(arguments: list[str]) -> int:
    """Print the tables of logs."""
    parser = Parser("wasq_tables", __doc__ or "")
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG.jsonl")
    options = parser.parse_args(arguments)
    rows, mistakes = [], list[str]()
    for log in options.logs:
        if not log.is_file():
            parser.error(f"{log} must be a log that exists")
        rows += read_log(log, mistakes)
    for section in sections_of(rows, mistakes):
        print(f"## {section['title']}\n")
        for line in section["text"]:
            print(f"{line}\n")
        for title, table in section["tables"]:
            print(f"### {title}\n" if title else "", end="\n" if title else "")
            print(markdown(table), end="\n\n")
    for mistake in mistakes:
        print(f"left out: {mistake}", file=sys.stderr)
    return 0


def markdown(table: HtmlTable) -> str:
    """A table as Markdown; numbers to the right, columns without any entry left out."""
    kept = [i for i in range(len(table.heads)) if any(row[i] for row in table.rows)]
    left = {0, *table.text}
    lines = [
        [table.heads[i] for i in kept],
        [":--" if i in left else "--:" for i in kept],
        *([row[i].replace("|", "\\|") for i in kept] for row in table.rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

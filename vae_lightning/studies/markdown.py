"""Tables in Markdown."""

from __future__ import annotations


def markdown_table(rows: list[list[str]]) -> list[str]:
    """The lines of a table whose first row is its head; bars within cells are escaped, columns aligned."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]

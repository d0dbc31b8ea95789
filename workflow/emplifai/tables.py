"""A table of the report: what the page shows, and the same numbers as CSV."""

import base64
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from emplifai.statistics.bootstrap import Interval

DASH = "–"


@dataclass
class Table:
    """Rows of cells under columns. A cell is a text, a whole number, a number, an Interval or None (not there).

    marks: rows, by their first cell, that are set apart: {"reference": "anchor"}.
    """

    name: str  # of the CSV file
    caption: str
    columns: list[str]
    rows: list[list[Any]]
    digits: int = 3
    marks: dict[str, str] = field(default_factory=dict)
    signed: bool = False  # differences: with their sign
    places: dict[str, int] = field(default_factory=dict)  # columns with another number of digits
    folded: bool = False  # long: the page opens it on demand

    def shown(self) -> list[list[str]]:
        """The rows as texts."""
        digits = [self.places.get(column, self.digits) for column in self.columns]
        return [[show(cell, d, self.signed) for cell, d in zip(row, digits, strict=True)] for row in self.rows]

    def numeric(self, column: int) -> bool:
        """Whether a column is set right-aligned: nothing but numbers stands in it."""
        return column > 0 and all(not isinstance(row[column], str) for row in self.rows)

    def csv(self) -> str:
        """CSV text; an interval becomes three columns: estimate, low and high."""
        wide = {k for row in self.rows for k, cell in enumerate(row) if isinstance(cell, Interval)}
        head = [n for k, c in enumerate(self.columns) for n in ([c, f"{c} low", f"{c} high"] if k in wide else [c])]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(head)
        writer.writerows([c for k, cell in enumerate(row) for c in _spread(cell, k in wide)] for row in self.rows)
        return text.getvalue()

    @property
    def link(self) -> str:
        """The CSV as a data link, with a byte order mark: spreadsheets then read Japanese."""
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(self.csv().encode("utf-8-sig")).decode()


def show(cell: Any, digits: int = 3, signed: bool = False) -> str:
    """A cell as text: an interval as `estimate [low, high]`."""
    if cell is None:
        return DASH
    if isinstance(cell, Interval):
        if cell.estimate is None:
            return DASH
        text = _number(cell.estimate, digits, signed)
        return text if cell.low is None else f"{text} [{_number(cell.low, digits, signed)}, {_number(cell.high, digits, signed)}]"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return _number(cell, digits, signed) if isinstance(cell, float) else str(cell)


def _number(value: float, digits: int, signed: bool) -> str:
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "−")


def _spread(cell: Any, wide: bool) -> Iterable[Any]:
    if isinstance(cell, Interval):
        return [cell.estimate, cell.low, cell.high]
    return [_plain(cell), None, None] if wide else [_plain(cell)]


def _plain(cell: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets a quote before it."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "@", "\t") else cell

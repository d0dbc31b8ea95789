"""Ratings and judgements in: tables of anyone's making, checked, all faults of a file at once."""

import csv
import difflib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emplifai.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

HUGE = 1e15
SHOWN = 20  # faults of a file that are printed one by one
KEYS = ("dialogue_id", "model", "criterion")
SAMPLE = "sample"  # a judge may answer more than once


def read_scores(path: Path, who: str, scale: tuple[float, float], strict: bool) -> "pd.DataFrame":
    """Read a CSV of `who` (rater_id or judge), dialogue_id, model (optional), criterion, score and any other columns.

    An empty score is a missing cell: the row is left out, and their number said. strict: every score must be on the scale
    (ratings); else a judge may have a scale of its own (`own_scale`). Raises UserError with every fault of the file.
    """
    table = read_text(path)
    check_columns(path, table, [who, "dialogue_id", "criterion", "score"])
    faults = _empty_cells(table, [who, "dialogue_id", "criterion", *(["model"] if "model" in table else [])])
    keep, numbers, wrong = _numbers(table["score"])
    faults += wrong
    table = table.assign(score=numbers)[keep]
    if strict:
        faults += _outside(table, scale)
    faults += _duplicates(table, who)
    if faults:
        raise _faulty(path, faults)
    if (~keep).any():
        print(f"{path}: {int((~keep).sum())} rows without a score are missing cells", file=sys.stderr)
    if table.empty:
        raise UserError(f"{path}: no row has a score")
    return table.reset_index(drop=True)


def own_scale(path: Path, judgements: "pd.DataFrame", scale: tuple[float, float]) -> set[str]:
    """Judges whose scores lie mostly outside the scale, as those of BERTScore do: they measure on a scale of their own.

    A judge with some scores outside is at fault: UserError.
    """
    outside = (judgements["score"] < scale[0]) | (judgements["score"] > scale[1])
    share = outside.groupby(judgements["judge"]).mean()
    own = set(share.index[share > 0.5])
    if faults := _outside(judgements[~judgements["judge"].isin(own)], scale):
        raise _faulty(path, faults)
    return own


def read_text(path: Path) -> "pd.DataFrame":
    """All cells as text, spaces at their ends removed; UTF-8 with or without a mark, else Shift_JIS."""

    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: UTF-16; save it as CSV in UTF-8")
    for encoding in ("utf-8-sig", "cp932"):
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise UserError(f"{path}: neither UTF-8 nor Shift_JIS; save it as CSV in UTF-8")
    if not text.strip() or "\0" in text:
        raise UserError(f"{path}: {'empty' if not text.strip() else 'not a text file'}; a CSV with a header line is needed")
    return _cells(path, text)


def _cells(path: Path, text: str) -> "pd.DataFrame":
    """The cells of a CSV text; a cell that a row lacks is empty, one too many is a fault."""
    import pandas as pd

    header = [name.strip() for name in next(csv.reader(io.StringIO(text)), [])]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(*(f"{path}: two columns {name!r}" for name in twice))
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise UserError(f"{path}: not CSV: {' '.join(str(error).split())}") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"{path}: rows have more cells than the header names ({len(table.columns)}): {', '.join(table.columns)}")
    table.columns = table.columns.str.strip()
    return table.apply(lambda column: column.str.strip())


def check_columns(path: Path, table: "pd.DataFrame", needed: Sequence[str]) -> None:
    if len(table.columns) == 1 and (other := next((c for c in ";\t" if c in table.columns[0]), "")):
        raise UserError(f"{path}: cells are separated by {'semicolons' if other == ';' else 'tabs'}; save it with commas")
    faults = []
    for name in needed:
        if name not in table:
            near = difflib.get_close_matches(name, table.columns, 1, 0.5)
            hint = f"; is {near[0]!r} meant?" if near else "."
            faults.append(f"no column {name!r}{hint} There are: {', '.join(table.columns)}")
    if not faults and table.empty:
        faults.append("no rows")
    if faults:
        raise UserError(*(f"{path}: {fault}" for fault in faults))


def _row(index: int) -> str:
    return f"row {index + 2}"  # the header is row 1


def _empty_cells(table: "pd.DataFrame", columns: Sequence[str]) -> list[str]:
    return [f"{_row(i)}: {name} is empty" for name in columns for i in table.index[table[name].fillna("") == ""]]


def _numbers(text: "pd.Series") -> tuple["pd.Series", "pd.Series", list[str]]:
    """Which rows have a score, the scores, and what is no number."""
    import numpy as np
    import pandas as pd

    keep = text.fillna("") != ""
    numbers = pd.to_numeric(text.where(keep), errors="coerce")
    wrong = keep & ~np.isfinite(numbers)
    message = "is not a number (leave the cell empty where there is no score)"
    faults = [f"{_row(i)}: score {text[i]!r} {message}" for i in text.index[wrong]]
    beyond = f"is beyond {HUGE:g}: no sum of such numbers is exact"
    return keep, numbers, faults + [f"{_row(i)}: score {text[i]!r} {beyond}" for i in text.index[~wrong & (numbers.abs() > HUGE)]]


def _outside(table: "pd.DataFrame", scale: tuple[float, float]) -> list[str]:
    outside = table[(table["score"] < scale[0]) | (table["score"] > scale[1])]
    allowed = f"is outside the scale {scale[0]:g} to {scale[1]:g}"
    return [f"{_row(i)}: score {score:g} {allowed}" for i, score in outside["score"].items()]


def _duplicates(table: "pd.DataFrame", who: str) -> list[str]:
    key = [name for name in (who, *KEYS, SAMPLE) if name in table and (name != SAMPLE or who == "judge")]
    again = table[table.duplicated(key, keep="first")]
    return [
        f"{_row(i)}: a second score of {', '.join(f'{name} {row[name]}' for name in key)}"
        for i, row in again.head(SHOWN + 1).iterrows()
    ] + [""] * max(0, len(again) - SHOWN - 1)


def _faulty(path: Path, faults: list[str]) -> UserError:
    shown = [f"{path}: {fault}" for fault in faults[:SHOWN] if fault]
    left = len(faults) - len(shown)
    return UserError(*shown, *([f"{path}: and {left} more faults"] if left else []))

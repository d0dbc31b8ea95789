"""Rows of anybody's data: a corpus folder, JSONL, CSV or Parquet become flat rows with file and line.

Memory does not grow with a file: JSONL and CSV are read line by line, Parquet in batches.
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from emplifai.errors import UserError
from emplifai.params import Data
from emplifai.paths import KINDS, data_files
from emplifai.progress import Progress

FIELDS = ("dialogue_id", "situation_id", "emotion", "condition", "situation", "turns", "patient", "supporter", "extra")
NEEDED = ("dialogue_id", "situation_id", "emotion", "situation")


class Row(NamedTuple):
    """One dialogue as it stands in the data, under our names; `fault` says why there are no fields."""

    file: str
    line: int  # of the file, from 1; in Parquet the row
    fields: dict[str, Any] | None
    fault: str = ""
    raw: Any = None  # what was there instead of fields


def files_of(path: Path) -> list[Path]:
    """The files of data.path. Raises UserError when there are none or of a kind that is not read."""
    files = data_files(path)
    if not path.exists() or not files:
        why = f"no file of a kind that is read in this folder: {', '.join(KINDS)}" if path.exists() else "no such file or folder"
        raise UserError(f"{path}: {why} (data.path)")
    strange = [f for f in files if f.suffix.lower() not in KINDS]
    if strange:
        raise UserError(*(f"{f}: not a kind of file that is read; allowed: {', '.join(KINDS)}" for f in strange))
    return files


def rows(data: Data) -> Iterator[Row]:
    """All rows of data.path, in the order of the files. Shows progress in bytes."""
    files = files_of(data.path)
    names = _names(data.columns)
    total = sum(f.stat().st_size for f in files)
    with Progress("validate", total, "bytes") as progress:
        for path in files:
            read = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet}.get(path.suffix.lower(), _jsonl)
            for row in read(path, names, data.encoding, progress.add):
                yield from _expand(row)


def _names(columns: dict[str, str]) -> dict[str, str]:
    """{column of the data: our field}."""
    strange = [ours for ours in columns if ours not in FIELDS]
    if strange:
        raise UserError(*(f"data.columns: no field {ours!r}; allowed: {', '.join(FIELDS)}" for ours in strange))
    if twice := sorted({theirs for theirs in columns.values() if list(columns.values()).count(theirs) > 1}):
        raise UserError(*(f"data.columns: {theirs!r} is given for two fields; a column goes to one" for theirs in twice))
    return {theirs: ours for ours, theirs in columns.items()}


def _renamed(fields: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Our names; `id` is taken for `dialogue_id`."""
    if names:
        taken = set(names.values()) & {names.get(k, k) for k in fields if k in names}
        fields = {names.get(k, f"{k} (column)" if k in taken else k): v for k, v in fields.items()}
    if "id" in fields and "dialogue_id" not in fields:
        fields["dialogue_id"] = fields.pop("id")
    return fields


def _jsonl(path: Path, names: dict, _: str, add: Callable[[int], None]) -> Iterator[Row]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            add(len(line))
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
                if line.lstrip().startswith(b"["):
                    raise UserError(f"{path}: a JSON array; JSON lines are wanted, one object a line (jq -c '.[]' makes them)")
            if not line.strip():
                continue
            try:
                fields = json.loads(line.decode("utf-8"), parse_constant=_no_number)
            except UnicodeDecodeError as error:
                yield Row(
                    str(path), number, None, f"not UTF-8 (byte {error.start + 1} of the line)", line.decode("utf-8", "replace")
                )
            except (ValueError, RecursionError) as error:
                yield Row(str(path), number, None, f"not JSON: {error}", line.decode("utf-8", "replace").rstrip())
            else:
                if isinstance(fields, dict):
                    yield Row(str(path), number, _renamed(fields, names))
                else:
                    yield Row(str(path), number, None, f"a JSON object is wanted, found {type(fields).__name__}", fields)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _csv(path: Path, names: dict, encoding: str, add: Callable[[int], None]) -> Iterator[Row]:
    encoding = guess_encoding(path) if encoding == "auto" else encoding
    with open(path, "rb") as file, io.TextIOWrapper(file, encoding, newline="") as text:
        reader = csv.reader(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            header = [cell.strip() for cell in next((row for row in reader if row), [])]
            _check_columns(path, header, names)
            done = 0
            while True:
                line = reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return add(file.tell() - done)
                except csv.Error as error:
                    yield Row(str(path), line, None, _csv_fault(error))
                    continue
                if line % 1000 == 0:
                    add(file.tell() - done)
                    done = file.tell()
                if not any(cells):  # a blank line, or one of nothing but commas, as spreadsheets leave them at the end
                    continue
                if len(cells) != len(header):
                    yield Row(str(path), line, None, f"{len(cells)} cells, but {len(header)} columns", cells)
                else:
                    yield Row(str(path), line, _renamed(dict(zip(header, cells, strict=True)), names))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not {encoding}: {error.reason}; set data.encoding, or save the file as UTF-8") from None


def _csv_fault(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell of more than {csv.field_size_limit()} characters; is a quotation mark not closed?"
    return "a quotation mark is not closed" if "unexpected end" in str(error) else f"not CSV: {error}"


def guess_encoding(path: Path) -> str:
    """utf-8-sig if all of the file is UTF-8, else cp932 (Shift_JIS as Windows writes it). Raises UserError."""
    with open(path, "rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UserError(f"{path}: UTF-16; save the file as UTF-8")
    for encoding in ("utf-8-sig", "cp932"):
        try:
            with open(path, encoding=encoding, newline="") as file:
                while file.read(1 << 20):
                    pass
            return encoding
        except UnicodeDecodeError:
            continue
    raise UserError(f"{path}: neither UTF-8 nor Shift_JIS; save the file as UTF-8")


def _check_columns(path: Path, header: list[str], names: dict[str, str]) -> None:
    """One fault a file, not one a row, when a table lacks a column."""
    twice = sorted({c for c in header if header.count(c) > 1})
    lost = [f"{path}: no column {theirs!r} (data.columns: {ours})" for theirs, ours in names.items() if theirs not in header]
    have = {names.get(c, c) for c in header} | ({"dialogue_id"} if "id" in header else set())
    missing = [f for f in NEEDED if f not in have and f not in names.values()]
    if "turns" not in have and not {"turns", "patient", "supporter"} & set(names.values()):
        missing += [f for f in ("patient", "supporter") if f not in have]
    faults = lost + [f"{path}: two columns {c!r}" for c in twice]
    if missing and "dialogues" not in have:
        if not header:
            raise UserError(f"{path}: empty; the first line names the columns: {', '.join(missing)}")
        columns = ", ".join(header)
        faults.append(f"{path}: no column {', '.join(missing)}; it has: {columns}. Name yours under data.columns in params.yaml")
    if faults:
        raise UserError(*faults)


def _parquet(path: Path, names: dict, _: str, add: Callable[[int], None]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path, memory_map=True)
        _check_columns(path, file.schema_arrow.names, names)
        share = path.stat().st_size / max(file.metadata.num_rows, 1)
        number = 0
        for batch in file.iter_batches(batch_size=1000):
            for fields in batch.to_pylist():
                number += 1
                yield Row(str(path), number, _renamed({k: _plain(v) for k, v in fields.items()}, names))
            add(round(share * batch.num_rows))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not Parquet: {' '.join(str(error).split())}") from None


def _plain(value: Any) -> Any:
    """A JSON value of what Parquet holds: dates and numbers that JSON lacks become text."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _expand(row: Row) -> Iterable[Row]:
    """The dialogues of a line of the corpus form (data/corpus/SPEC.md); any other row as it is."""
    if row.fields is None or not isinstance(row.fields.get("dialogues"), list):
        return (row,)
    shared = {k: v for k, v in row.fields.items() if k not in ("dialogues", "contrast")}
    made = []
    for number, turns in enumerate(row.fields["dialogues"], 1):
        fields = {"dialogue_id": f"{row.fields.get('situation_id')}-{number}", **shared}
        if number == 1 and "contrast" in row.fields:
            fields["contrast"] = row.fields["contrast"]
        made.append(row._replace(fields=fields | {"turns": _pair(turns)}))
    return made or (
        row._replace(fields=None, fault="dialogues: empty; a list of [patient, supporter] is wanted", raw=row.fields),
    )


def _pair(turns: Any) -> Any:
    """Turns of a list of texts, patient first; anything else as it is, for the checks to complain of."""
    if not isinstance(turns, list) or any(isinstance(t, dict) for t in turns):
        return turns
    return [{"role": ("patient", "supporter")[i % 2], "text": text} for i, text in enumerate(turns)]

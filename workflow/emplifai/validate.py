"""Check the dialogues: the good ones in one form, the others with all that is wrong with them.

Two passes, so that memory does not grow with the data: the first checks row by row and writes to a temporary file
(of the data's size, in $TMPDIR), the second sets aside what is at odds with other rows.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from emplifai import labels, personal, provenance, reading
from emplifai.checks import Checker
from emplifai.duplicates import NearDuplicates
from emplifai.errors import UserError
from emplifai.japanese import fold
from emplifai.overlaps import Columns, Overlaps, words
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import atomic, write_json, write_jsonl

SHOWN = 20  # faults and warnings on the terminal
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


def run(params: Params, paths: Paths) -> None:
    """Write dialogues.jsonl, rejects.jsonl, overlaps.jsonl and metrics.json; raise UserError when too much is rejected."""
    known = labels.load(params.data.labels)
    files = reading.files_of(params.data.path)
    section = {"data": params.section("data"), "validate": params.section("validate")}
    with ExitStack() as stack:
        record = stack.enter_context(
            provenance.record(paths.record("validate"), "validate", section, [*files, params.data.labels])
        )
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emplifai-validate-")))
        work = stack.enter_context(closing(Validation(params, known, folder)))
        work.read()
        work.compare()
        work.write(paths)
        record["counts"] = {k: work.metrics[k] for k in ("rows", "dialogues", "rejected")}
    _conclude(work, params, paths)


class Validation:
    """One run's state: the temporary files, a few numbers a row, and the counts."""

    def __init__(self, params: Params, known: dict[str, labels.Label], folder: Path):
        self.settings, self.data, self.labels = params.validate_, params.data, known
        self.checker = Checker(self.settings, known)
        self.spool = open(folder / "rows.jsonl", "w+b")
        self.columns = Columns(folder, good="B", file="L", line="L", offset="Q", emotion="h", turns="L", characters="L")
        self.overlaps = Overlaps(folder)
        self.near = NearDuplicates(self.settings.near_duplicate, folder)
        self.files: list[str] = []
        self.grid: dict[str, Counter[str]] = {name: Counter() for name in known}
        self.reasons: Counter[str] = Counter()
        self.faults: list[str] = []  # the first ones, for the terminal
        self.notes: list[str] = []
        self.metrics: dict[str, Any] = {}

    # first pass
    def read(self) -> None:
        """Check each row by itself; put the outcome into the temporary file."""
        numbers = {name: i for i, name in enumerate(self.labels)}
        expected = self.settings.situations_per_emotion is not None or self.settings.dialogues_per_situation is not None
        for row in reading.rows(self.data):
            record, faults = self.checker.check(row.fields) if row.fields is not None else ({}, [row.fault])
            if expected and record.get("emotion") and record.get("situation_id"):
                self.grid[record["emotion"]][record["situation_id"]] += 1
            if not self.files or self.files[-1] != row.file:
                self.files.append(row.file)
            if not faults:
                said = [fold(turn["text"]) for turn in record["turns"]]
                self.overlaps.add(record, said)
                self.near.add("".join(said))
            line = record if not faults else self._reject(row.file, row.line, row.fields or row.raw, faults)
            self.columns.append(
                good=not faults,
                file=len(self.files) - 1,
                line=row.line,
                offset=self.spool.tell(),
                emotion=-1 if faults else numbers[record["emotion"]],
                turns=0 if faults else len(record["turns"]),
                characters=0 if faults else sum(len(t["text"]) for t in record["turns"]),
            )
            self.spool.write(_encode(line).encode("utf-8", "replace") + b"\n")

    def _reject(self, file: str, line: int, row: Any, faults: list[str]) -> dict[str, Any]:
        """A line of rejects.jsonl. What personal data it holds is masked: the file is there to be looked at."""
        name = row.get("dialogue_id") if isinstance(row, dict) else None
        self.reasons.update(_reason(fault) for fault in faults)
        return {
            "file": file,
            "line": line,
            "dialogue_id": name,
            "reasons": faults,
            "row": row if self.settings.personal_data == "allow" else _masked(row, self.settings.language),
        }

    # between rows
    def compare(self) -> None:
        """Find what is at odds with other rows, near duplicates, and texts that situations share."""
        import numpy as np

        self.good = np.flatnonzero(self.columns.load("good"))  # rows of the good dialogues, in order
        self._offset, self._file, self._line = (self.columns.load(c) for c in ("offset", "file", "line"))
        self.earlier = self.overlaps.find()
        self.alive = np.logical_and.reduce([leader < 0 for leader in self.earlier.values()])
        pairs = self.near.pairs(lambda i: words(self._record(i)), alive=self.alive)
        self.pairs = sorted((max(i, j), min(i, j), alike) for i, j, alike in pairs)
        self.shared = self.overlaps.shared(self.alive)

    def _record(self, number: int) -> dict[str, Any]:
        """A good dialogue by its number, from the temporary file."""
        self.spool.seek(int(self._offset[self.good[number]]))
        return json.loads(self.spool.readline())

    def _place(self, number: int) -> str:
        row = self.good[number]
        return f"{self.files[self._file[row]]}:{self._line[row]}"

    def _against(self, number: int, record: dict[str, Any]) -> list[str]:
        """What is wrong with a good dialogue in view of earlier ones."""
        texts = {
            "dialogue_id": "{id!r} stands at {place} too",
            "situation_id": "{situation!r} has another emotion or situation text at {place}",
            "words": "duplicate of the dialogue at {place}",
        }
        fill = {"id": record["dialogue_id"], "situation": record["situation_id"]}
        found = [(name, int(leader[number])) for name, leader in self.earlier.items() if leader[number] >= 0]
        return [f"{name}: {texts[name].format(place=self._place(leader), **fill)}" for name, leader in found]

    # second pass
    def write(self, paths: Paths) -> None:
        with atomic(paths.dialogues, "wb") as good, atomic(paths.rejects, "wb") as bad:
            for line, is_good in self._outcomes():
                (good if is_good else bad).write(line)
        write_jsonl(paths.overlaps, self._overlaps())
        self._count()
        write_json(paths.metrics("validate"), self.metrics)

    def _outcomes(self) -> Iterator[tuple[bytes, bool]]:
        """Each row's line for dialogues.jsonl (true) or rejects.jsonl (false)."""
        goods, number = self.columns.load("good"), 0
        self.spool.seek(0)
        for row, line in enumerate(self.spool):
            if not goods[row]:
                self._tell(json.loads(line))
                yield line, False
            elif self.alive[number]:
                number += 1
                yield line, True
            else:
                record = json.loads(line)
                reject = self._reject(self.files[self._file[row]], int(self._line[row]), record, self._against(number, record))
                number += 1
                self._tell(reject)
                yield _encode(reject).encode() + b"\n", False

    def _tell(self, reject: dict[str, Any]) -> None:
        name = "" if reject["dialogue_id"] in (None, "") else f"{reject['dialogue_id']}: "
        name = name if name.isprintable() else f"{reject['dialogue_id']!a}: "  # no escape sequence reaches the terminal
        room = SHOWN - len(self.faults)
        self.faults += [f"{reject['file']}:{reject['line']}: {name}{reason}" for reason in reject["reasons"][: max(room, 0)]]

    def _overlaps(self) -> Iterator[dict[str, Any]]:
        for later, earlier, alike in self.pairs:
            places = [self._where(earlier), self._where(later)]
            self._note(f"{places[1]['dialogue_id']}: near duplicate of {places[0]['dialogue_id']}, similarity {alike:.2f}", later)
            yield {"kind": "near_duplicate", "similarity": round(alike, 4), "dialogues": places}
        for numbers in self.shared:
            places = [self._where(n) for n in numbers]
            names = ", ".join(p["situation_id"] for p in places[:3]) + (" ..." if len(places) > 3 else "")
            self._note(f"{places[0]['dialogue_id']}: a text of it stands in {len(places)} situations: {names}", numbers[0])
            yield {"kind": "shared_text", "dialogues": places}

    def _note(self, text: str, number: int) -> None:
        if len(self.notes) < SHOWN:
            self.notes.append(f"{self._place(number)}: {text}")

    def _where(self, number: int) -> dict[str, Any]:
        file, _, line = self._place(number).rpartition(":")
        record = self._record(number)
        return {"file": file, "line": int(line)} | {k: record[k] for k in ("dialogue_id", "situation_id")}

    def _count(self) -> None:
        import numpy as np

        rows, dialogues = len(self._offset), int(self.alive.sum())
        chosen = self.good[self.alive]
        counts = np.bincount(self.columns.load("emotion")[chosen], minlength=len(self.labels)).tolist()
        turns, characters = (int(self.columns.load(c)[chosen].sum()) for c in ("turns", "characters"))
        self.metrics = {
            "rows": rows,
            "dialogues": dialogues,
            "rejected": rows - dialogues,
            "reject_share": round((rows - dialogues) / rows, 6) if rows else 0.0,
            "situations": self.overlaps.situations(self.alive),
            "emotions": sum(c > 0 for c in counts),
            "turns": turns,
            "characters_per_turn": round(characters / turns, 2) if turns else 0.0,
            "normalized_texts": self.checker.normalized,
            "near_duplicates": len(self.pairs),
            "shared_texts": len(self.shared),
            **{f"personal.{kind.replace(' ', '_')}": self.checker.personal[kind] for kind in personal.MASKS},
            **{f"rejected.{reason}": n for reason, n in sorted(self.reasons.items())},
            **{f"dialogues.{name}": n for name, n in zip(self.labels, counts, strict=True)},
        }

    def off_grid(self) -> list[str]:
        """Where the rows, good and bad, differ from the grid of the params."""
        want, each, faults = self.settings.situations_per_emotion, self.settings.dialogues_per_situation, []
        for emotion, situations in self.grid.items():
            if want is not None and len(situations) != want:
                faults.append(f"{emotion}: {len(situations)} situations, not {want} (validate.situations_per_emotion)")
            if each is not None:
                odd = sorted((s, n) for s, n in situations.items() if n != each)
                faults += [f"{s}: {n} dialogues, not {each} (validate.dialogues_per_situation)" for s, n in odd]
        return faults

    def close(self) -> None:
        self.spool.close()
        self.columns.close()
        self.overlaps.close()
        self.near.close()


def _reason(fault: str) -> str:
    """A fault's field without its number, to count by: turns[3].text: empty -> turns.text."""
    head = fault.split(":", 1)[0]
    field = "".join(c for c in head.split("[", 1)[0] + head.partition("]")[2] if c.isascii() and (c.isalnum() or c in "._"))
    return field if fault.partition(":")[0] and " " not in head else "unreadable"


def _masked(value: Any, language: str) -> Any:
    if isinstance(value, dict):
        return {k: _masked_under(str(k), v, language) for k, v in value.items()}
    if isinstance(value, list):
        return [_masked(v, language) for v in value]
    return personal.mask(value, language) if isinstance(value, str) else value


def _masked_under(name: str, value: Any, language: str) -> Any:
    if isinstance(value, str | int) and not isinstance(value, bool) and personal.find(f"{name}: {value}"):
        return personal.mask(f"{name}: {value}", language).split(": ", 1)[-1]
    return _masked(value, language)


def _conclude(work: Validation, params: Params, paths: Paths) -> None:
    """The summary on stdout, warnings on stderr, and the end: well, or all that is wrong."""
    m, limit = work.metrics, params.validate_.max_reject_share
    print(f"{m['rows']} rows: {m['dialogues']} dialogues in {m['situations']} situations and {m['emotions']} of "
          f"{len(work.labels)} emotions, {m['rejected']} rejected")  # fmt: skip
    if m["normalized_texts"]:
        print(f"{m['normalized_texts']} texts changed by Unicode normalization ({params.validate_.normalization})")
    if sum(work.checker.personal.values()):
        found = ", ".join(f"{n} x {kind}" for kind, n in sorted(work.checker.personal.items()))
        print(f"personal data ({params.validate_.personal_data}): {found}")
    hidden = len(work.pairs) + len(work.shared) - len(work.notes)
    for note in work.notes + ([f"and {hidden} more in {paths.overlaps}"] if hidden > 0 else []):
        print(f"warning: {note}", file=sys.stderr)
    faults = work.off_grid()
    if m["reject_share"] > limit or not m["dialogues"]:
        faults = [*work.faults, *_more(work, paths), *faults]
        faults.append(
            f"{m['rejected']} of {m['rows']} dialogues rejected, more than validate.max_reject_share ({limit:g}) allows"
            if m["rows"] and m["reject_share"] > limit
            else f"{params.data.path}: no dialogue {'is left' if m['rows'] else 'in it'}"
        )
    if faults:
        raise UserError(*faults)


def _more(work: Validation, paths: Paths) -> list[str]:
    hidden = sum(work.reasons.values()) - len(work.faults)
    again = "" if "validate" in paths.folders else "; under Snakemake, `emplifai validate --out DIR` writes them to keep"
    return [f"and {hidden} more in {paths.rejects}{again}"] if hidden > 0 else []

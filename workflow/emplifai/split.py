"""Split the dialogues into train, dev and test by situation.

A situation's place hangs on the seed, its emotion and its own id only: it does not move when rows are shuffled or
situations are added. Situations that hold near duplicates of each other's dialogues go to one side together.
"""

import re
import sys
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from emplifai import provenance
from emplifai.errors import UserError
from emplifai.japanese import fold
from emplifai.params import Params, Split
from emplifai.paths import Paths
from emplifai.records import Dialogue, atomic, file_sha256, read_jsonl, write_json

PARTS = ("train", "dev", "test")
BLOCK = 10  # running numbers that share a permutation: 10 situations an emotion split exactly at shares in tenths


def run(params: Params, paths: Paths) -> None:
    """Write train, dev and test.jsonl, manifest.json and metrics.json."""
    used = params.section("split") | {"near_duplicate": params.validate_.near_duplicate}
    with provenance.record(paths.record("split"), "split", used, [paths.dialogues]):
        table = Table.read(paths.dialogues)
        groups = joined(table, params.validate_.near_duplicate)
        sides = assign(table.emotions, groups, params.split)
        parts, left_out = divide(table, sides, params.split)
        if not parts["test"]:
            raise UserError(
                f"{paths.dialogues}: none of its {len(sides)} situations falls to test (split.test {params.split.test:g}): "
                "there is nothing to evaluate; raise split.test, draw with another split.seed, or bring more situations"
            )
        for part, numbers in parts.items():
            table.copy(numbers, paths.part(part))
        manifest = describe(table, parts, groups, left_out, params.split, paths)
        write_json(paths.manifest, manifest)
        metrics = measure(table, manifest)
        write_json(paths.metrics("split"), metrics)
    _warn(table, manifest, groups, metrics)


def fraction(seed: int, *words: Any) -> float:
    """A number in [0, 1) drawn by SHA-256 from the seed and words, the same on every machine."""
    text = "\0".join(map(str, (seed, *words)))
    return int.from_bytes(sha256(text.encode()).digest()[:6], "big") / 2**48


def position(seed: int, emotion: str, situation: str) -> float:
    """Where a situation stands in [0, 1), in which test comes first, then dev, then train.

    Permuted-block randomisation: ids with a running number (joy-07) fall into blocks of ten, in which a permutation
    drawn for the block gives each its tenth. Other ids fall anywhere.
    """
    numbered = re.fullmatch(r"(.*?)(\d{1,18})", situation, re.ASCII | re.DOTALL)
    if not numbered:
        return fraction(seed, situation)
    prefix, number = numbered[1], int(numbered[2]) - 1
    block = (seed, "block", emotion, prefix, number // BLOCK)
    tenths = sorted(range(BLOCK), key=lambda n: fraction(*block, n))
    return (tenths[number % BLOCK] + fraction(seed, situation)) / BLOCK


def natural(text: str) -> str:
    """A sort key that has joy-2 before joy-10."""
    return re.sub(r"\d+", lambda m: m[0].zfill(20), text) + "\0" + text


@dataclass
class Table:
    """The dialogues' ids in memory, in natural order of the dialogue ids; their texts stay in the file."""

    path: Path
    ids: list[str] = field(default_factory=list)
    situations: list[str] = field(default_factory=list)  # of each dialogue
    emotions: dict[str, str] = field(default_factory=dict)  # of each situation
    offsets: array = field(default_factory=lambda: array("Q"))

    @classmethod
    def read(cls, path: Path) -> "Table":
        """Raises UserError with each id that comes twice and each situation with two emotions."""
        table, faults, known = cls(path), [], {}
        for number, dialogue in enumerate(read_jsonl(path, Dialogue), 1):
            situation = known.setdefault(dialogue.situation_id, dialogue.situation_id)  # one string for all its dialogues
            if table.emotions.setdefault(situation, sys.intern(dialogue.emotion)) != dialogue.emotion:
                faults.append(f"{path}:{number}: situation {situation!r} has two emotions; run validate first")
            table.ids.append(dialogue.dialogue_id)
            table.situations.append(situation)
        if not table.ids:
            faults.append(f"{path}: no dialogues")
        table.offsets.extend(_offsets(path))
        table._sort()
        twice = [a for a, b in zip(table.ids, table.ids[1:], strict=False) if a == b]
        faults += [f"{path}: dialogue_id {name!r} comes twice; run validate first" for name in twice]
        if faults:
            raise UserError(*faults)
        return table

    def _sort(self) -> None:
        order = sorted(range(len(self.ids)), key=lambda i: natural(self.ids[i]))
        self.ids = [self.ids[i] for i in order]
        self.situations = [self.situations[i] for i in order]
        self.offsets = array("Q", (self.offsets[i] for i in order))
        self.emotions = {s: self.emotions[s] for s in sorted(self.emotions, key=natural)}

    def dialogues(self, numbers: Any) -> Iterator[Dialogue]:
        """The dialogues of these numbers, from the file."""
        import json

        return (Dialogue(**json.loads(line)) for line in self.lines(numbers))

    def lines(self, numbers: Any) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            for number in numbers:
                file.seek(self.offsets[number])
                yield file.readline().rstrip(b"\r\n") + b"\n"

    def copy(self, numbers: Any, path: Path) -> None:
        """Write these dialogues' lines as they are: `read` has found each to be a record."""
        with atomic(path, "wb") as file:
            file.writelines(self.lines(numbers))


def _offsets(path: Path) -> Iterator[int]:
    with open(path, "rb") as file:
        offset = 0
        for line in file:
            yield offset
            offset += len(line)


def joined(table: Table, threshold: float) -> dict[str, str]:
    """{situation: a name of its group}, where near duplicates join situations."""
    from emplifai.duplicates import NearDuplicates

    names = {situation: situation for situation in table.emotions}

    def root(name: str) -> str:
        while names[name] != name:
            names[name] = names[names[name]]
            name = names[name]
        return name

    def words(number: int) -> str:
        return "\n".join(t.text for t in next(table.dialogues([number])).turns)

    with (
        tempfile.TemporaryDirectory(prefix="emplifai-split-") as folder,
        closing(NearDuplicates(threshold, Path(folder))) as near,
    ):
        for dialogue in table.dialogues(range(len(table.ids))):
            near.add(fold("\n".join(t.text for t in dialogue.turns)))
        for one, other, _ in near.pairs(words):
            first, second = sorted((root(table.situations[one]), root(table.situations[other])))
            names[second] = first
    return {situation: root(situation) for situation in names}


def assign(emotions: dict[str, str], groups: dict[str, str], settings: Split) -> dict[str, str]:
    """{situation: part}. A group of several goes where its member with the smallest hash goes."""
    members = defaultdict(list)
    for situation, group in groups.items():
        members[group].append(situation)
    sides = {}
    for group in members.values():
        leader = min(group, key=lambda s: (fraction(settings.seed, s), s))
        place = position(settings.seed, emotions[leader], leader)
        part = "test" if place < settings.test else "dev" if place < settings.test + settings.dev else "train"
        sides |= dict.fromkeys(group, part)
    return sides


def divide(table: Table, sides: dict[str, str], settings: Split) -> tuple[dict[str, list[int]], list[int]]:
    """Numbers of the dialogues of each part, and those that the cap leaves out of test."""
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for number, situation in enumerate(table.situations):
        parts[sides[situation]].append(number)
    kept = _capped(table, parts["test"], settings)
    left_out = sorted(set(parts["test"]) - set(kept))
    return parts | {"test": kept}, left_out


def _capped(table: Table, numbers: list[int], settings: Split) -> list[int]:
    """At most so many dialogues of each situation, chosen by hash."""
    cap = settings.test_dialogues_per_situation
    if cap is None:
        return numbers
    by_situation = defaultdict(list)
    for number in numbers:
        by_situation[table.situations[number]].append(number)
    chosen = [sorted(n, key=lambda i: fraction(settings.seed, table.ids[i]))[:cap] for n in by_situation.values()]
    return sorted(n for some in chosen for n in some)


def describe(
    table: Table, parts: dict[str, list[int]], groups: dict[str, str], left_out: list[int], settings: Split, paths: Paths
) -> dict[str, Any]:
    """manifest.json: what lies where, by id and by hash."""
    several = {g: n for g, n in Counter(groups.values()).items() if n > 1}
    return {
        "seed": settings.seed,
        "shares": {"train": round(1 - settings.dev - settings.test, 6), "dev": settings.dev, "test": settings.test},
        "parts": {part: _part(table, numbers, paths.part(part)) for part, numbers in parts.items()},
        "left_out": [table.ids[n] for n in left_out],
        "joined_situations": [[s for s, g in groups.items() if g == group] for group in several],
    }


def _part(table: Table, numbers: list[int], path: Path) -> dict[str, Any]:
    situations = dict.fromkeys(table.situations[n] for n in numbers)
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        "dialogues_by_emotion": _tally(table.emotions[table.situations[n]] for n in numbers),
        "situations_by_emotion": _tally(table.emotions[s] for s in situations),
        "situations": list(situations),
        "dialogues": [table.ids[n] for n in numbers],
    }


def _tally(emotions: Any) -> dict[str, int]:
    return dict(sorted(Counter(emotions).items()))


def measure(table: Table, manifest: dict[str, Any]) -> dict[str, float]:
    """metrics.json: counts and shares of each part."""
    parts, total = manifest["parts"], len(table.emotions)
    emotions = set(table.emotions.values())
    return {
        **{f"{part}.dialogues": len(p["dialogues"]) for part, p in parts.items()},
        **{f"{part}.situations": len(p["situations"]) for part, p in parts.items()},
        **{f"{part}.situation_share": round(len(p["situations"]) / total, 6) for part, p in parts.items()},
        **{f"{part}.emotions": len(p["situations_by_emotion"]) for part, p in parts.items()},
        "emotions_without_test": len(emotions - parts["test"]["situations_by_emotion"].keys()),
        "joined_situations": sum(map(len, manifest["joined_situations"])),
        "test_left_out": len(manifest["left_out"]),
    }


def _warn(table: Table, manifest: dict[str, Any], groups: dict[str, str], metrics: dict[str, float]) -> None:
    """What a user should know, on stderr; the counts on stdout."""
    print(
        ", ".join(
            f"{part}: {metrics[f'{part}.dialogues']} dialogues in {metrics[f'{part}.situations']} situations" for part in PARTS
        )
    )
    without = sorted(set(table.emotions.values()) - manifest["parts"]["test"]["situations_by_emotion"].keys())
    if without:
        print(f"warning: no test situation for: {', '.join(without)}", file=sys.stderr)
    for part in PARTS:
        if not metrics[f"{part}.dialogues"] and manifest["shares"][part]:
            print(f"warning: {part} is empty; there are too few situations for these shares", file=sys.stderr)
    largest = max(Counter(groups.values()).values())
    if largest > max(1, len(groups) // 10):
        print(
            f"warning: near duplicates join {largest} of {len(groups)} situations: they lie on one side together", file=sys.stderr
        )

"""The emotions: names, synonyms and definitions, and how free text is read as one of them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from emplifai import yaml_file
from emplifai.errors import UserError
from emplifai.records import Dialogue

TEXTS = ("definition_ja", "definition_en", "polarity")


@dataclass(frozen=True, slots=True)
class Label:
    name: str  # as in Dialogue.emotion, e.g. "joy"
    word: str  # as models read and write it, e.g. "喜び"
    synonyms: tuple[str, ...]
    definition_ja: str
    definition_en: str
    polarity: str

    def definition(self, language: str) -> str:
        """In that language, or else in the other; empty where there is none."""
        here, there = (self.definition_ja, self.definition_en)[:: 1 if language == "ja" else -1]
        return here or there


def load(path: Path) -> dict[str, Label]:
    """Labels by name, in the file's order. Raises UserError naming every fault.

    A label without `word` (`ja` in the embedded corpus) is called by its name.
    """
    _, rows = yaml_file.read(path, " (data.labels in params.yaml)")
    if not isinstance(rows, dict) or not rows:
        raise UserError(f"{path}: no labels; want NAME: {{word: ..., synonyms: [...], definition_en: ...}}")
    faults = [fault for name, row in rows.items() for fault in _faults(name, row)]
    if faults:
        raise UserError(*(f"{path}: {fault}" for fault in faults))
    labels, words = {}, {}
    for name, row in rows.items():
        row, word = row or {}, name.replace("_", " ")
        label = Label(name, row.get("word") or row.get("ja") or word, tuple(row.get("synonyms") or ()), *_texts(row))
        for word in (name, label.word, *label.synonyms):
            if (other := words.setdefault(word.casefold(), name)) != name:
                faults.append(f"{path}: {name}: {word!r} stands under {other} too")
        labels[name] = label
    if faults:
        raise UserError(*faults)
    return labels


def covering(path: Path, dialogues: Iterable[Dialogue]) -> dict[str, Label]:
    """Labels by name. Raises UserError naming each emotion of the dialogues that is none of them."""
    labels = load(path)
    strange = {d.emotion: d.dialogue_id for d in dialogues if d.emotion not in labels}
    if strange:
        raise UserError(
            *(f"{path}: no label {e!r}, which dialogue {d} has; run validate with these labels" for e, d in strange.items())
        )
    return labels


def _faults(name: Any, row: Any) -> list[str]:
    """What is wrong with an entry of the file by itself."""
    if not _is_text(name) or name == "none":
        return [f'{name!r}: no name of a label: it is text, in quotes where YAML takes it for more ("no", "1"), and not "none"']
    if not isinstance(row or {}, dict):
        return [f"{name}: fields are wanted, {{word: ..., synonyms: [...]}}, or none, found {row!r}"]
    row, allowed = row or {}, ("word", "ja", "synonyms", *TEXTS)
    faults = [f"{name}: unknown field {key!r}; allowed: {', '.join(allowed)}" for key in row if key not in allowed]
    synonyms = row.get("synonyms") or []
    if not isinstance(synonyms, list) or not all(map(_is_text, synonyms)):
        faults.append(f"{name}: synonyms: a list of words is wanted, [...], found {synonyms!r}")
    return faults + [
        f"{name}: {key}: text is wanted, found {row[key]!r}"
        for key in ("word", "ja", *TEXTS)
        if key in row and not (_is_text(row[key]) if key in ("word", "ja") else isinstance(row[key] or "", str))
    ]


@cache
def _whole(word: str) -> str:
    """A pattern of the word; one of Latin letters stands by itself ("joy" is not in "enjoy")."""
    letter = "[a-z0-9]"
    begin, end = (rf"(?<!{letter})", rf"(?!{letter})")
    return (begin if re.match(letter, word) else "") + re.escape(word) + (end if re.search(f"{letter}$", word) else "")


def _texts(row: dict[str, Any]) -> list[str]:
    return [row.get(field) or "" for field in TEXTS]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def read(text: str, labels: dict[str, Label]) -> str:
    """The label that a model's free text names, or "none".

    An exact name first, then a synonym, then the longest of all names and synonyms that lies in the text (some lie
    inside others: 賛成 in 不賛成). Two different labels named side by side are no answer.
    """
    text = text.strip().strip("。．.「」『』\"'*_ \n").casefold()
    words = {label.name: label.name for label in labels.values()}
    words |= {word: label.name for label in labels.values() for word in label.synonyms}
    words |= {label.word: label.name for label in labels.values()}
    words = {word.casefold(): name for word, name in words.items()}
    if text in words:
        return words[text]
    found, rest = set(), text
    for word in sorted(words, key=len, reverse=True):
        pattern = _whole(word)
        if re.search(pattern, rest):
            found.add(words[word])
            rest = re.sub(pattern, "\0", rest)
    return found.pop() if len(found) == 1 else "none"

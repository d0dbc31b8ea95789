"""The emotions: names, synonyms and definitions, and how free text is read as one of them."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from emplifai.errors import UserError


@dataclass(frozen=True, slots=True)
class Label:
    name: str  # as in Dialogue.emotion, e.g. "joy"
    ja: str
    synonyms: tuple[str, ...]
    definition_ja: str
    definition_en: str
    polarity: str


def load(path: Path) -> dict[str, Label]:
    """Labels by name, in the file's order. Raises UserError naming every fault."""
    try:
        rows = yaml.safe_load(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (data.labels in params.yaml)") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(rows, dict) or not rows:
        raise UserError(f"{path}: no labels; want NAME: {{ja: ..., synonyms: [...], definition_ja: ...}}")
    faults, words, labels = [], {}, {}
    for name, row in rows.items():
        if not isinstance(row, dict) or not isinstance(row.get("ja"), str):
            faults.append(f"{path}: {name}: wants a field 'ja', the label's name as models write it")
            continue
        label = Label(
            str(name),
            row["ja"],
            tuple(row.get("synonyms") or ()),
            row.get("definition_ja", ""),
            row.get("definition_en", ""),
            row.get("polarity", ""),
        )
        for word in (label.ja, *label.synonyms):
            if words.setdefault(word, name) != name:
                faults.append(f"{path}: {name}: {word!r} stands under {words[word]} too")
        labels[label.name] = label
    if faults:
        raise UserError(*faults)
    return labels


def read(text: str, labels: dict[str, Label]) -> str:
    """The label that a model's free text names, or "none".

    An exact name first, then a synonym, then the longest of all names and synonyms that lies in the text (some lie
    inside others: 賛成 in 不賛成). Two different labels named side by side are no answer.
    """
    text = text.strip().strip("。．.「」『』\"' \n")
    words = {label.name: label.name for label in labels.values()}
    words |= {word: label.name for label in labels.values() for word in label.synonyms}
    words |= {label.ja: label.name for label in labels.values()}
    if text in words:
        return words[text]
    found, rest = set(), text
    for word in sorted(words, key=len, reverse=True):
        if word in rest:
            found.add(words[word])
            rest = rest.replace(word, "\0")
    return found.pop() if len(found) == 1 else "none"

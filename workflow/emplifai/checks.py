"""The checks of one dialogue: a row of the data becomes a record of the contract, or a list of all its faults.

No fault quotes what a person said or wrote: messages end up in logs.
"""

import difflib
from collections import Counter
from typing import Any

from emplifai import japanese, personal
from emplifai.labels import Label
from emplifai.params import Validate

ROLES = ("patient", "supporter")
LONGEST_ID = 200
_KNOWN = {
    "dialogue_id",
    "situation_id",
    "emotion",
    "condition",
    "situation",
    "turns",
    "patient",
    "supporter",
    "contrast",
    "extra",
}


class Checker:
    """Checks rows one by one; counts what it changed in `normalized` (texts) and `personal` (findings by kind)."""

    def __init__(self, settings: Validate, labels: dict[str, Label]):
        self.settings = settings
        self.labels = labels
        self.normalized = 0
        self.personal: Counter[str] = Counter()
        self._emotions = {word.casefold(): label.name for label in labels.values() for word in (*label.synonyms, label.word)}
        self._emotions |= {name.casefold(): name for name in labels}
        self._faults: list[str] = []

    def check(self, fields: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The record, keys as in records.Dialogue, and its faults; with faults the record is not to be used."""
        self._faults = []
        record = {
            "dialogue_id": self._id(fields, "dialogue_id"),
            "situation_id": self._id(fields, "situation_id"),
            "emotion": self._emotion(fields),
            "condition": self._text(fields["condition"], "condition") if fields.get("condition") not in (None, "") else None,
            "situation": self._text(fields["situation"], "situation") if self._has(fields, "situation") else "",
        }
        extra: dict[str, Any] = {}
        record["turns"] = self._turns(fields, extra)
        record["extra"] = self._extra(fields, extra)
        return record, self._faults

    def _has(self, fields: dict[str, Any], name: str) -> bool:
        if fields.get(name) is None:
            self._faults.append(f"{name}: missing")
        return fields.get(name) is not None

    def _id(self, fields: dict[str, Any], name: str) -> str:
        if not self._has(fields, name):
            return ""
        value = fields[name]
        if isinstance(value, bool) or not isinstance(value, str | int):
            self._faults.append(f"{name}: text is wanted, found {_kind(value)}")
            return ""
        value = str(value).strip()
        if not value or len(value) > LONGEST_ID or not value.isprintable():
            self._faults.append(f"{name}: an id has 1 to {LONGEST_ID} printable characters")
        return value

    def _emotion(self, fields: dict[str, Any]) -> str:
        if not self._has(fields, "emotion"):
            return ""
        value = fields["emotion"]
        if not isinstance(value, str):
            self._faults.append(f"emotion: text is wanted, found {_kind(value)}")
            return ""
        word = japanese.normalize(value, "nfkc").casefold()
        if word not in self._emotions:
            near = difflib.get_close_matches(word, self._emotions, 1)
            hint = f"; did you mean {self._emotions[near[0]]!r}?" if near else ""
            self._faults.append(f"emotion: {value[:40]!r} is none of the {len(self.labels)} labels{hint}")
        return self._emotions.get(word, "")

    def _text(self, value: Any, where: str, prose: bool = True) -> str:
        """A text in its normal form, with its personal data masked if so set."""
        if not isinstance(value, str):
            self._faults.append(f"{where}: text is wanted, found {_kind(value)}")
            return ""
        if bad := japanese.broken(value):
            self._faults.append(f"{where}: holds {bad}; was the file read in the right encoding? (data.encoding)")
            return ""
        text = japanese.normalize(value, self.settings.normalization)
        self.normalized += text != value
        if not any(c.isprintable() and not c.isspace() for c in text):  # zero-width spaces alone are nothing to read either
            self._faults.append(f"{where}: empty")
        if len(text) > self.settings.max_characters:
            self._faults.append(
                f"{where}: {len(text)} characters, more than validate.max_characters ({self.settings.max_characters})"
            )
        if prose and where != "condition" and self.settings.language == "ja" and not japanese.is_japanese(text):
            self._faults.append(f"{where}: not in Japanese (validate.language; for other languages 'any', and see data.prompt)")
        return self._private(text, where)

    def _private(self, text: str, where: str, key: str = "") -> str:
        """The text as the policy for personal data wants it; `key` names a field that a text stands in ("患者ID")."""
        found = personal.find(f"{key}: {text}" if key else text)
        if not found:
            return text
        kinds = [kind for *_, kind in found]
        self.personal.update(kinds)
        if self.settings.personal_data == "reject":
            self._faults.extend(f"{where}: {kind} (validate.personal_data: reject)" for kind in dict.fromkeys(kinds))
        if self.settings.personal_data != "mask":
            return text
        masked = personal.mask(f"{key}: {text}" if key else text, self.settings.language)
        return masked.split(": ", 1)[1] if key else masked

    def _turns(self, fields: dict[str, Any], extra: dict[str, Any]) -> list[dict[str, str]]:
        turns = fields.get("turns")
        if isinstance(turns, str) and turns.lstrip().startswith("["):
            turns = _parsed(turns)  # a cell of a CSV
        if turns in (None, ""):
            if not self._has(fields, "patient") or not self._has(fields, "supporter"):
                return []
            turns = [{"role": role, "text": fields[role]} for role in ROLES]
        if not isinstance(turns, list):
            self._faults.append(f"turns: a list of {{role, text}} is wanted, found {_kind(turns)}")
            return []
        made = [self._turn(turn, f"turns[{i}]", extra) for i, turn in enumerate(turns)]
        self._order([turn["role"] for turn in made])
        return made

    def _turn(self, turn: Any, where: str, extra: dict[str, Any]) -> dict[str, str]:
        if not isinstance(turn, dict) or not {"role", "text"} <= turn.keys():
            self._faults.append(f"{where}: {{role, text}} is wanted, found {_kind(turn)}{_keys(turn)}")
            return {"role": "", "text": ""}
        if turn["role"] not in ROLES:
            self._faults.append(f"{where}.role: {str(turn['role'])[:40]!r} is not allowed; allowed: {', '.join(ROLES)}")
        if strange := {k: v for k, v in turn.items() if k not in ("role", "text")}:
            extra[where] = strange
        return {"role": turn["role"], "text": self._text(turn["text"], f"{where}.text")}

    def _order(self, roles: list[Any]) -> None:
        """Patient first, in turns, supporter last. A role that is none has its own fault."""
        if len(roles) < 2 or len(roles) > self.settings.max_turns:
            self._faults.append(f"turns: {len(roles)}; allowed: 2 to {self.settings.max_turns} (validate.max_turns)")
        if all(role in ROLES for role in roles):
            if wrong := [i for i, role in enumerate(roles) if role != ROLES[i % 2]]:
                self._faults.append(
                    f"turns[{wrong[0]}].role: {roles[wrong[0]]}, but patient and supporter take turns, patient first"
                )
            elif len(roles) % 2:
                self._faults.append(f"turns[{len(roles) - 1}].role: patient, but the supporter has the last word")

    def _extra(self, fields: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        """What the contract does not know, carried along; `contrast` is known to the judge stage, so it is normalized too."""
        given = fields.get("extra") or {}
        if isinstance(given, str) and given.lstrip().startswith("{"):
            given = _parsed(given)  # a cell of a CSV
        if not isinstance(given, dict):
            self._faults.append(f"extra: an object is wanted, found {_kind(given)}")
            given = {}
        extra = {**given, **{k: v for k, v in fields.items() if k not in _KNOWN}, **extra}
        if fields.get("turns") not in (None, ""):
            extra |= {k: fields[k] for k in ROLES if k in fields}
        contrast = fields.get("contrast", extra.pop("contrast", None))
        made = {k: self._carried(v, k, k) for k, v in extra.items()}
        if contrast is not None:
            made["contrast"] = self._contrast(contrast)
        return made

    def _contrast(self, contrast: Any) -> Any:
        if not isinstance(contrast, dict):
            self._faults.append(f"contrast: an object {{kind: reply}} is wanted, found {_kind(contrast)}")
            return {}
        return {kind: self._text(text, f"contrast.{kind}") for kind, text in contrast.items()}

    def _carried(self, value: Any, where: str, key: str) -> Any:
        """A value of `extra`: any JSON, its texts free of what cannot be written and looked through for personal data."""
        if isinstance(value, dict):
            return {k: self._carried(v, f"{where}.{k}", str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [self._carried(v, where, key) for v in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = self._private(str(value), where, key)
            return value if text == str(value) else text
        if not isinstance(value, str):
            return value
        if bad := japanese.broken(value):
            self._faults.append(f"{where}: holds {bad}")
            return ""
        return self._private(value, where, key)


def _parsed(text: str) -> Any:
    """The JSON in a cell, or the text itself if it is none."""
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _keys(value: Any) -> str:
    return f" with {', '.join(ascii(k)[:40] for k in value) or 'no keys'}" if isinstance(value, dict) else ""


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "nothing" if value is None else type(value).__name__)

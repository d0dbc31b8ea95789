"""What hides the model: opaque ids of items, and attention checks that look like any other item."""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emplifai.records import Dialogue, Question, digest, sha256
from emplifai.study.sampling import Entry


@dataclass(frozen=True)
class Check:
    dialogue: Dialogue
    text: str
    score: int


class Key:
    """Opaque ids: an HMAC of what is shown, under a secret of this study. Known to key.json alone."""

    def __init__(self, drawn: Sequence[Question], checks: Sequence[Check]):
        self.secret = secrets.token_hex(32)
        self.drawn, self.checks = drawn, checks

    def id(self, entry: Entry) -> str:
        if entry.kind == "check":
            what = f"check\0{entry.number}"
        else:
            question = self.drawn[entry.number]
            what = f"{entry.kind}\0{question.dialogue.dialogue_id}\0{question.model}"
        return hmac.new(bytes.fromhex(self.secret), what.encode(), "sha256").hexdigest()[:16]

    def shown(self, entry: Entry) -> tuple[Dialogue, str]:
        part = (self.checks if entry.kind == "check" else self.drawn)[entry.number]
        return part.dialogue, part.text

    def row(self, entry: Entry) -> dict[str, Any]:
        if entry.kind == "check":
            return {"kind": "check", "expected": self.checks[entry.number].score}
        question = self.drawn[entry.number]
        named = {"dialogue_id": question.dialogue.dialogue_id, "model": question.model}
        return {"kind": entry.kind, **named, "text_sha256": sha256(question.text)}


def checks(candidates, drawn, orders: dict[str, list[Entry]], text: str, scale: tuple[int, int], seed: int) -> list[Check]:
    """Attention checks: a dialogue that is not rated, where there is one, and a reply that says what to choose."""
    count = max((e.number + 1 for order in orders.values() for e in order if e.kind == "check"), default=0)
    taken = {q.dialogue.dialogue_id for q in drawn}
    dialogues = {q.dialogue.dialogue_id: q.dialogue for q in candidates}
    names = sorted(dialogues, key=lambda name: (name in taken, digest([seed, "check", name])))
    ends = [p for p in range(scale[0], scale[1] + 1) if p != (scale[0] + scale[1]) // 2]
    chosen = [ends[int(digest([seed, "check score", k])[:8], 16) % len(ends)] for k in range(count)]
    return [Check(dialogues[names[k % len(names)]], text.format(score=p), p) for k, p in enumerate(chosen)]

"""Texts of known faults beside each reference: what any judge is shown before its scores are believed."""

import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence

from emplifai.records import Dialogue, Question, sha256

WRITTEN = ("generic", "advice_only", "dismissive")  # by hand, in the data: extra["contrast"]
MADE = ("shuffled", "truncated", "parrot", "garbled")  # made here from any data

ENDS = tuple("。．.！!？?…‥」』）)】”\"’'〟〜～~♪☆★")


def leading(dialogues: Iterable[Dialogue]) -> list[Dialogue]:
    """One dialogue a situation, by id: the one that contrasts were written for, else the first."""
    groups: dict[str, list[Dialogue]] = defaultdict(list)
    for dialogue in dialogues:
        groups[dialogue.situation_id].append(dialogue)
    return [min(g, key=lambda d: (not written(d), d.dialogue_id)) for _, g in sorted(groups.items())]


def written(dialogue: Dialogue) -> dict[str, str]:
    """The worse replies that the data has for a dialogue, by kind."""
    found = dialogue.extra.get("contrast")
    return {k: t for k, t in found.items() if isinstance(t, str) and t.strip()} if isinstance(found, dict) else {}


def chosen(dialogues: Iterable[Dialogue], count: int) -> list[Dialogue]:
    """Leading dialogues of `count` situations by hash, as many of each emotion; with written contrasts where any have them."""
    leaders = leading(dialogues)
    leaders = [d for d in leaders if written(d)] or leaders
    rounds: dict[str, int] = defaultdict(int)
    order = []
    for dialogue in sorted(leaders, key=lambda d: sha256(d.situation_id)):
        order.append((rounds[dialogue.emotion], sha256(dialogue.situation_id), dialogue))
        rounds[dialogue.emotion] += 1
    return [d for _, _, d in sorted(order, key=lambda row: row[:2])[:count]]


def questions(groups: Sequence[Dialogue], others: Sequence[Dialogue], kinds: Iterable[str] = MADE) -> list[Question]:
    """For each dialogue its reference, its written contrasts and the made ones of `kinds`.

    others: dialogues to take the shuffled replies from; a reply of another situation that leads no group is preferred,
    so that no text is both a good and a shuffled one. The order of `others` does not matter.
    """
    rows, donors = [], Donors(groups, others)
    for dialogue in groups:
        texts = {"reference": dialogue.reference, **written(dialogue)}
        made = {kind: make(kind, dialogue, donors) for kind in kinds}
        rows += [Question(dialogue, kind, text) for kind, text in {**texts, **made}.items() if text]
    return rows


def make(kind: str, dialogue: Dialogue, donors: "Donors") -> str:
    """A worse reply made from the reference, the patient's words or another dialogue's reply; "" where there is none."""
    if kind == "shuffled":
        return donors.reply(dialogue)
    if kind == "truncated":
        return truncated(dialogue.reference)
    if kind == "parrot":
        return dialogue.patient
    assert kind == "garbled", kind
    letters = list(dialogue.reference)
    random.Random(sha256(dialogue.dialogue_id)).shuffle(letters)
    return "".join(letters)


def truncated(text: str) -> str:
    """The first half of a text, without a sentence mark at its end."""
    half = text[: len(text) // 2]
    while half.endswith((*ENDS, "、", "，", " ", "　", "\n")):
        half = half[:-1]
    return half


def ends(text: str) -> bool:
    """Whether a text ends in a sentence mark, as one that was not cut off does. Japanese emoticons and emoji count."""
    return text.rstrip().endswith(ENDS) or (bool(text.strip()) and ord(text.rstrip()[-1]) > 0x1F000)


class Donors:
    """Whose reply stands in for another's: dialogues in the order of their hash, as on a ring; those that lead a group last."""

    def __init__(self, groups: Sequence[Dialogue], others: Sequence[Dialogue]):
        leaders = {d.dialogue_id for d in groups}
        rings = [[d for d in others if (d.dialogue_id in leaders) == leads] for leads in (False, True)]
        self._rings = [sorted((sha256(d.dialogue_id), n, d) for n, d in enumerate(ring)) for ring in rings]

    def reply(self, dialogue: Dialogue) -> str:
        """The first on the ring, from the dialogue's own place on, of another situation and with another reply; "" if none."""
        for ring in self._rings:
            start = bisect(ring, (sha256(f"shuffled {dialogue.dialogue_id}"),))
            for k in range(len(ring)):
                donor = ring[(start + k) % len(ring)][-1]
                if donor.situation_id != dialogue.situation_id and donor.reference != dialogue.reference:
                    return donor.reference
        return ""

"""Texts of known faults beside each reference: what any judge is shown before its scores are believed."""

import random
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
    so that no text is both a good and a shuffled one. The same dialogue gets the same texts in any company of `others`
    that holds its donor.
    """
    rows = []
    for dialogue in groups:
        texts = {"reference": dialogue.reference, **written(dialogue)}
        made = {kind: make(kind, dialogue, groups, others) for kind in kinds}
        rows += [Question(dialogue, kind, text) for kind, text in {**texts, **made}.items() if text]
    return rows


def make(kind: str, dialogue: Dialogue, groups: Sequence[Dialogue], others: Sequence[Dialogue]) -> str:
    """A worse reply made from the reference, the patient's words or another dialogue's reply; "" where there is none."""
    if kind == "shuffled":
        return _shuffled(dialogue, groups, others)
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


def _shuffled(dialogue: Dialogue, groups: Sequence[Dialogue], others: Sequence[Dialogue]) -> str:
    leaders = {d.dialogue_id for d in groups}
    donors = [d for d in others if d.situation_id != dialogue.situation_id and d.reference != dialogue.reference]
    chosen = min(
        donors,
        key=lambda d: (d.dialogue_id in leaders, sha256(f"{dialogue.dialogue_id} {d.dialogue_id}")),
        default=None,
    )
    return chosen.reference if chosen else ""

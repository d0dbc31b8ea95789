"""Partners for a shuffled null: each dialogue meets one of another situation."""

from collections import defaultdict
from collections.abc import Iterable

from emplifai.records import Dialogue, sha256


def partners(dialogues: Iterable[Dialogue], seed: int) -> dict[str, list[Dialogue]]:
    """{dialogue_id: dialogues of another situation, the first one preferred}; empty with fewer than two situations.

    Situations stand in a circle by the hash of seed and name, each meets the next: the order of rows changes nothing.
    """
    groups = defaultdict(list)
    for dialogue in dialogues:
        groups[dialogue.situation_id].append(dialogue)
    circle = sorted(groups, key=lambda name: sha256(f"{seed}:{name}"))
    if len(circle) < 2:
        return {}
    found = {}
    for here, there in zip(circle, circle[1:] + circle[:1], strict=True):
        mine, others = (sorted(groups[s], key=lambda d: d.dialogue_id) for s in (here, there))
        found |= {d.dialogue_id: others[k % len(others) :] + others[: k % len(others)] for k, d in enumerate(mine)}
    return found

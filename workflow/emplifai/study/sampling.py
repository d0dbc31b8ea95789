"""Which replies are rated, by whom, and in which order. All of it follows from a seed; order of the data never matters."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import lcm
from typing import NamedTuple

from emplifai.errors import UserError
from emplifai.records import Question, digest

CHECK_EVERY = 20  # replies a attention check


class Entry(NamedTuple):
    """What a rater sees at one position: a reply, its second copy, or an attention check."""

    kind: str  # item | repeat | check
    number: int  # of the reply or of the check, from 0


def draw(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """`count` replies, balanced over emotions and over models: each occurs as often as any other, give or take one.

    Emotions and models are walked along diagonals, so that every stretch of the walk is balanced in both and no pair comes
    twice before all have come once. Within a pair: the dialogue drawn least often so far, by hash. A pair without a reply
    left is passed over. Raises UserError when there are fewer replies than asked for.
    """
    if count > len(questions):
        raise UserError(f"--items {count}: there are {len(questions)} replies to draw from; allowed: 1 to {len(questions)}")
    cells: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in sorted(questions, key=lambda q: digest([seed, q.dialogue.dialogue_id])):
        cells[question.dialogue.emotion, question.model].append(question)
    emotions, models = _shuffled({e for e, _ in cells}, seed), _shuffled({m for _, m in cells}, seed)
    chosen: list[Question] = []
    drawn: Counter[str] = Counter()
    while True:
        for cell in _diagonals(emotions, models):
            if len(chosen) == count:
                return chosen
            if rest := cells[cell]:
                chosen.append(min(rest, key=lambda q: drawn[q.dialogue.dialogue_id]))
                rest.remove(chosen[-1])
                drawn[chosen[-1].dialogue.dialogue_id] += 1


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: digest([seed, name]))


def _diagonals(rows: Sequence[str], columns: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Every pair once; each stretch from the start has all rows, and all columns, equally often, give or take one."""
    period = lcm(len(rows), len(columns))
    for k in range(len(rows) * len(columns)):
        yield rows[k % len(rows)], columns[(k + k // period) % len(columns)]


def assign(models: Sequence[str], raters: Sequence[str], per_item: int, seed: int) -> dict[str, list[int]]:
    """Numbers of the replies for each rater: every reply has `per_item` raters, every rater the same load, give or take one.

    models: of each reply. Among raters of equal load the one who has fewest replies of that model takes it, then by hash.
    """
    load: Counter[str] = Counter()
    of_model: Counter[tuple[str, str]] = Counter()
    given: dict[str, list[int]] = {rater: [] for rater in raters}
    for number, model in enumerate(models):
        wanted = sorted(raters, key=lambda r: (load[r], of_model[r, model], digest([seed, r, number])))
        for rater in wanted[:per_item]:
            given[rater].append(number)
            load[rater] += 1
            of_model[rater, model] += 1
    return given


def order(numbers: Sequence[int], rater: str, repeat: float, seed: int) -> list[Entry]:
    """A rater's replies in random order of their own, with second copies and attention checks among them.

    Copies are of replies of the first third and stand in the last third; a check stands in each stretch of CHECK_EVERY.
    """
    items = [Entry("item", n) for n in sorted(numbers, key=lambda n: digest([seed, rater, n]))]
    third = len(items) // 3
    copies = sorted(items[:third], key=lambda e: digest([seed, rater, "repeat", e.number]))[: round(repeat * len(items))]
    last = [*items[len(items) - third :], *(Entry("repeat", e.number) for e in copies)]
    shown = items[: len(items) - third] + sorted(last, key=lambda e: digest([seed, rater, "last", *e]))
    for k in reversed(range(checks_for(len(items)))):
        start, end = k * CHECK_EVERY, min((k + 1) * CHECK_EVERY, len(shown))
        place = start + 1 + int(digest([seed, rater, "check", k])[:8], 16) % max(end - start - 1, 1)
        shown.insert(place, Entry("check", k))
    return shown


def checks_for(items: int) -> int:
    """How many attention checks go with so many replies; none with fewer than five."""
    return -(-items // CHECK_EVERY) if items >= 5 else 0

"""Texts that show what a judge reacts to: attacks, a wrong emotion, padding, politeness, a stock phrase."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from emplifai import contrast, prompts
from emplifai.labels import Label
from emplifai.prompt import Talk, Wording
from emplifai.records import CRITERIA, Dialogue, Question, sha256

FEELING = {"empathy": "lower", "emotion_empathy": "lower"}
WANTED = {  # of contrasts by kind; all others are fluent replies that miss the feeling
    "truncated": {"fluency": "lower"},
    "garbled": {"fluency": "lower", **FEELING},
}
NOT_HIGHER = dict.fromkeys(CRITERIA, "not_higher")
KINDS = ("shuffled", "truncated", "parrot", "garbled")


class Probe(NamedTuple):
    """A changed text beside the one it was made from, and how a good judge's score moves."""

    name: str  # kind:NAME, e.g. attack:json
    base: str  # name of the probe that it is compared with
    wanted: dict[str, str]  # by criterion: lower | not_higher | same; a criterion that is not named may do anything
    question: Question


def attacks(language: str, kind: str = "attacks") -> dict[str, str]:
    """Forms of hostile replies, by name; English ones where a language has none. kind "hostile": what a proxy is shown."""
    wanted = f"{language}-v1"
    return prompts.load(kind, wanted if wanted in prompts.names(kind) else "en-v1")


def probes(test: Sequence[Dialogue], talk: Talk) -> list[Probe]:
    """All probes for one dialogue of each situation; `question.model` is the probe's name."""
    leaders = contrast.leading(test)
    donors, rows = contrast.Donors(leaders, test), []
    for question in contrast.questions(leaders, test, KINDS):
        name = "reference" if question.model == "reference" else f"contrast:{question.model}"
        rows.append(Probe(name, "reference", WANTED.get(question.model, FEELING), question._replace(model=name)))
    for dialogue in leaders:
        rows += [*_changed(dialogue, talk.wording), *_swapped(dialogue, talk.labels)]
        rows += _attacked(dialogue, donors, talk.wording.language)
    return rows


def _changed(dialogue: Dialogue, words: Wording) -> list[Probe]:
    """The reference with words that add nothing; and a phrase that anybody could get in its place."""
    texts = {
        "change:padding": (dialogue.reference + words.padding, NOT_HIGHER),
        "change:polite_closing": (dialogue.reference + words.closing, NOT_HIGHER),
        "change:stock_phrase": (words.stock.strip(), FEELING),
    }
    return [Probe(name, "reference", wanted, Question(dialogue, name, text)) for name, (text, wanted) in texts.items()]


def _swapped(dialogue: Dialogue, labels: dict[str, Label]) -> list[Probe]:
    """The same reply under an emotion of another polarity (any other where labels have none): only emotion_empathy must fall."""
    known = labels[dialogue.emotion]
    others = [label.name for label in labels.values() if label.polarity != known.polarity]
    others = others or [label.name for label in labels.values() if label.name != known.name]
    if not others:
        return []
    wrong = min(others, key=lambda name: sha256(f"{dialogue.dialogue_id} {name}"))
    question = Question(replace(dialogue, emotion=wrong), "swap:emotion", dialogue.reference)
    wanted = {"fluency": "same", "empathy": "same", "emotion_empathy": "lower"}
    return [Probe("swap:emotion", "reference", wanted, question)]


def _attacked(dialogue: Dialogue, donors: contrast.Donors, language: str) -> list[Probe]:
    """A poor reply with each attack: none may raise its score."""
    kind = "generic" if contrast.written(dialogue).get("generic") else "shuffled"
    poor = contrast.written(dialogue).get("generic") or donors.reply(dialogue)
    if not poor:
        return []
    forms = {f"attack:{name}": form.format(reply=poor) for name, form in attacks(language).items()}
    base = f"contrast:{kind}"
    return [Probe(name, base, NOT_HIGHER, Question(dialogue, name, text)) for name, text in forms.items()]

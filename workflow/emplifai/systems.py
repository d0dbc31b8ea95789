"""The anchors beside the models: systems that need no model. An evaluation without them says nothing."""

from collections.abc import Sequence

from emplifai.labels import Label
from emplifai.records import Dialogue, Reply, digest, sha256

Answer = tuple[str, str | None]  # the reply, and the emotion that goes with it (None: the system names none)


def reference(test: Sequence[Dialogue], train: Sequence[Dialogue], seed: int) -> list[Answer]:
    """What a person answered, and the emotion that the dialogue was written for."""
    return [(d.reference, d.emotion) for d in test]


def parrot(test: Sequence[Dialogue], train: Sequence[Dialogue], seed: int) -> list[Answer]:
    """The patient's own words; no emotion."""
    return [(d.patient, None) for d in test]


def retrieval(test: Sequence[Dialogue], train: Sequence[Dialogue], seed: int) -> list[Answer]:
    """Reply and emotion of the train dialogue with the most similar situation and patient's words.

    Similarity: cosine of TF-IDF over character 2- to 4-grams, fitted on train. Ties go to the smaller dialogue_id.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = sorted(train, key=lambda d: d.dialogue_id)
    if not known or not test:
        return [("", None) for _ in test]
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), sublinear_tf=True)
    index = vectors.fit_transform([d.situation + "\n" + d.patient for d in known])
    similar = (vectors.transform([d.situation + "\n" + d.patient for d in test]) @ index.T).toarray().round(12)
    nearest = [known[int(row.argmax())] for row in similar]
    return [(d.reference, d.emotion) for d in nearest]


def shuffled(test: Sequence[Dialogue], train: Sequence[Dialogue], seed: int) -> list[Answer]:
    """Reply and emotion of another test dialogue of another situation: what a text scores that fits nobody in particular.

    The other one is chosen by hash, so that order does not matter and added dialogues move few choices.
    """
    answers: list[Answer] = []
    for d in test:
        others = (o for o in test if o.situation_id != d.situation_id)
        other = min(others, key=lambda o: sha256(f"{seed}:{d.dialogue_id}:{o.dialogue_id}"), default=None)
        answers.append((other.reference, other.emotion) if other else ("", None))
    return answers


SYSTEMS = {"reference": reference, "parrot": parrot, "retrieval": retrieval, "shuffled": shuffled}


def replies(name: str, backend: str, test: Sequence[Dialogue], answers: Sequence[Answer]) -> list[Reply]:
    """The reply task, as records."""
    return [_record(name, backend, "reply", d, text, None) for d, (text, _) in zip(test, answers, strict=True)]


def emotions(
    name: str, backend: str, test: Sequence[Dialogue], answers: Sequence[Answer], labels: dict[str, Label]
) -> list[Reply]:
    """The emotion task, as records; none where the system names no emotion."""
    named = [(d, emotion) for d, (_, emotion) in zip(test, answers, strict=True) if emotion]
    return [_record(name, backend, "emotion", d, labels[emotion].word, emotion) for d, emotion in named]


def _record(name: str, backend: str, task: str, dialogue: Dialogue, text: str, label: str | None) -> Reply:
    text = text.strip()
    return Reply(
        dialogue_id=dialogue.dialogue_id,
        model=name,
        task=task,
        sample=0,
        text=text,
        finish_reason="stop" if text else "empty",
        prompt_sha256=sha256(f"{dialogue.situation}\n{dialogue.patient}"),
        settings_sha256=digest({"backend": backend}),
        text_sha256=sha256(text),
        label=label,
    )

"""What needs no judge: how far length and character n-grams of a reply alone tell the contrast set's faults."""

from collections.abc import Sequence

from emplifai.judge_audit import Surface
from emplifai.records import Dialogue, Question


def aucs(contrasts: Sequence[Question], train: Sequence[Dialogue]) -> dict[str, float | None]:
    """contrast.KIND.length.auc, .surface.auc and .surface_unseen.auc: the rows to read beside a judge's AUC.

    surface: TF-IDF of the reply, learnt on the train situations' own contrasts; surface_unseen: on all kinds but this one.
    A judge that is no better on a kind has not shown that it read the dialogue.
    """
    references = {q.dialogue.dialogue_id: q.text for q in contrasts if q.model == "reference"}
    surface, numbers = Surface(train), {}
    for kind in sorted({q.model for q in contrasts} - {"reference"}):
        pairs = [(references[q.dialogue.dialogue_id], q.text) for q in contrasts if q.model == kind]
        for name, value in surface.aucs(f"contrast:{kind}", pairs).items():
            numbers[f"contrast.{kind}.{name.removesuffix('_auc')}.auc"] = value
    return numbers

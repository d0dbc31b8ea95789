"""The likelihood judge's reading of replies, against one forward pass a criterion and reply.

python benchmarks/likelihood.py [--replies 200] [--systems 6] [--peer-replies 16] [--rounds 1] [--model pip:...]

Three criteria: fluency wants log p(reply) without its context, empathy the hidden states of two layers, emotion_empathy log
p(reply) with its context. Peer: model(ids, output_hidden_states=True) for each, one reply at a time, as its documentation has
it. Both in the dtype that the judge takes here (auto). Replies: those of other dialogues of the corpus, a character more for
each system. The numbers must agree: log p to 0.05 nats in bfloat16, features to 2 %. Times are of one reply.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import corpus
import measure

from emplifai.params import EMBEDDED, Data, JudgeModel
from emplifai.records import Question

CRITERIA = ("fluency", "empathy", "emotion_empathy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--replies", type=int, default=200)
    parser.add_argument("--systems", type=int, default=6)
    parser.add_argument("--peer-replies", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default=EMBEDDED)
    args = parser.parse_args()
    few = args.peer_replies
    sides = {"emplifai": (ours, args.model, args.replies, args.systems), "a pass a criterion": (passes, args.model, few)}
    found = measure.rounds(args.rounds, sides)
    apart = difference(found["emplifai"][-1].value, found["a pass a criterion"][-1].value)
    items = {"emplifai": args.replies * args.systems, "a pass a criterion": few}
    each = {
        name: [s._replace(seconds=1e3 * s.seconds / items[name], processor=1e3 * s.processor / items[name]) for s in sides]
        for name, sides in found.items()
    }
    measure.table(f"milliseconds a reply, {args.systems} systems x {args.replies} replies x 3 criteria (peer {few})", each)
    print(f"largest difference: log p {apart[0]:.1e} nats a token, features {apart[1]:.1e} of their size")


def difference(ours: list, theirs: list) -> tuple[float, float]:
    import numpy as np

    log_p, features = 0.0, 0.0
    for (blank, given, states), (blank2, given2, states2) in zip(ours, theirs, strict=False):
        log_p = max(log_p, abs(blank - blank2), abs(given - given2))
        features = max(features, float(np.linalg.norm(states - states2) / np.linalg.norm(states2)))
    assert log_p < 0.05 and features < 0.02, (log_p, features)
    return log_p, features


def questions(replies: int, systems: int) -> list[Question]:
    """All systems of the first reply, then of the second, ...; the first `systems` are what the peer starts with too."""
    rows = corpus.dialogues(1120)
    return [
        Question(rows[k], f"system-{s}", rows[(k + 7 * s + 1) % len(rows)].reference + "。" * s)
        for s in range(systems)
        for k in range(replies)
    ]


def texts(model: str, folder: str) -> Any:
    from emplifai import prompt
    from emplifai.backends.likelihood import Texts
    from emplifai.cache import Cache

    return Texts(JudgeModel(backend="likelihood", model=model), prompt.talk_of(Data()), Cache(Path(folder)))


def ours(model: str, replies: int, systems: int) -> measure.Timed:
    with tempfile.TemporaryDirectory() as folder:
        made = texts(model, folder)
        asked = questions(replies, systems)
        watch = measure.Watch()
        made.read(p for q in asked for p in made.asked(q, CRITERIA))
        times = watch.read()
        read = made.readings
        rows = [(read[made.blank(q)].log_p, read[made.given(q)].log_p, read[made.given(q)].features) for q in asked]
    return measure.Timed(rows, times)


def passes(model: str, replies: int) -> measure.Timed:
    import numpy as np
    import torch

    with tempfile.TemporaryDirectory() as folder:
        made = texts(model, folder)
        asked = questions(replies, 1)
        watch = measure.Watch()
        found = []
        for q in asked:
            blank, given = (made.reader.encode(p) for p in (made.blank(q), made.given(q)))
            with torch.inference_mode():
                log_p = [_log_p(made.reader.model, row) for row in (blank, given)]
                out = made.reader.model(torch.tensor([given.ids]), output_hidden_states=True)
                states = [out.hidden_states[layer][0, given.start : given.end].float().numpy() for layer in made.reader.layers]
            found.append((*log_p, np.concatenate([s.mean(0) for s in states])))
        return measure.Timed(found, watch.read())


def _log_p(model: Any, row: Any) -> float:
    import torch

    ids = torch.tensor([row.ids])
    values = model(ids).logits[0, row.start - 1 : -1].float().log_softmax(-1)
    return float(values.gather(1, ids[0, row.start :, None]).mean())


if __name__ == "__main__":
    main()

"""The emotion of a dialogue out of 28 labels: one pass with all labels as a trie, against what one would write.

python benchmarks/emotion.py [--items 500] [--peer-items 16] [--dtype float32] [--rounds 1] [--model pip:...]

Peers: 28 forward passes an item (prompt and label, log-probabilities summed), whose scores must equal ours to 1e-3 in float32;
and one model.generate call an item (greedy, as many tokens as the longest label), which gives a text and no scores. The peers are
timed over --peer-items items, ours over all of them; times are of one item. Timed without loading.
"""

import argparse
from typing import Any

import corpus
import measure

from emplifai.params import EMBEDDED, Model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--peer-items", type=int, default=16)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default=EMBEDDED)
    args = parser.parse_args()
    given = (args.model, args.dtype)
    sides = {
        "emplifai": (ours, *given, args.items),
        "28 forward passes an item": (passes, *given, args.peer_items),
        "one generate call an item": (calls, *given, args.peer_items),
    }
    found = measure.rounds(args.rounds, sides)
    apart = difference(found["emplifai"][-1].value, found["28 forward passes an item"][-1].value)
    assert args.dtype != "float32" or apart < 1e-3, apart
    each = {name: [per(side, args.items if name == "emplifai" else args.peer_items) for side in s] for name, s in found.items()}
    measure.table(f"milliseconds an item, {args.dtype}, 28 labels, {args.items} items (peers {args.peer_items})", each)
    print(f"largest difference of a label's log-probability: {apart:.1e}")


def per(side: measure.Side, items: int) -> measure.Side:
    return side._replace(seconds=1000 * side.seconds / items, processor=1000 * side.processor / items)


def difference(ours: list, theirs: list) -> float:
    return max(abs(a - b) for row, other in zip(ours, theirs, strict=False) for a, b in zip(row, other, strict=True))


def prepared(name: str, dtype: str, count: int) -> tuple[Any, Any, list[list[int]], list[list[int]]]:
    """Model, tokenizer, prompts and the labels' ids."""
    from emplifai import prompt
    from emplifai.backends import weights
    from emplifai.params import Data

    model, tokenizer = weights.load(Model(backend="transformers", model=name, dtype=dtype))
    talk = prompt.talk_of(Data())
    told = [prompt.split_at(prompt.segments(d, talk, tokenizer), "emotion")[0] for d in corpus.dialogues(count)]
    answers = [prompt.encode_piece(label.word + "\n", tokenizer) for label in talk.labels.values()]
    return model, tokenizer, [prompt.encode(given, tokenizer)[0] for given in told], answers


def ours(name: str, dtype: str, count: int) -> measure.Timed:
    from emplifai.backends import batches, likelihoods
    from emplifai.params import Generate

    model, _, prompts, answers = prepared(name, dtype, count)
    scores: list[Any] = [None] * count
    watch = measure.Watch()
    choices, reader = likelihoods.Choices(answers), batches.Reader(model)
    reader.share(prompts)
    for batch in choices.batches(prompts, Generate().batch_tokens):
        for i, row in zip(batch, choices.score(reader, [prompts[i] for i in batch]), strict=True):
            scores[i] = row
    return measure.Timed(scores, watch.read())


def passes(name: str, dtype: str, count: int) -> measure.Timed:
    import torch

    model, _, prompts, answers = prepared(name, dtype, count)
    watch = measure.Watch()
    with torch.inference_mode():
        scores = [[_log_p(model, p, a) for a in answers] for p in prompts]
    return measure.Timed(scores, watch.read())


def _log_p(model: Any, prompt: list[int], answer: list[int]) -> float:
    import torch

    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return float(logits.gather(1, torch.tensor(answer)[:, None]).sum())


def calls(name: str, dtype: str, count: int) -> measure.Timed:
    import torch

    model, tokenizer, prompts, answers = prepared(name, dtype, count)
    watch = measure.Watch()
    texts = []
    for p in prompts:
        ids = torch.tensor([p])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max(map(len, answers)))
        texts.append(tokenizer.decode(out[0, len(p) :]))
    return measure.Timed(texts, watch.read())


if __name__ == "__main__":
    main()

"""BERTScore of six systems against bert-score: the first run, and a second run after one system changed.

python benchmarks/bertscore.py [--references 500] [--systems 6] [--rounds 1]

Peer: bert_score.score once a system, as its README says. Texts: dialogues of the embedded corpus; "systems" are replies of
other dialogues, each a different permutation with an ending of its own, so that no two systems share a text. Both sides
load the model anew in every round, the rounds alternate, and the scores must agree to 1e-5.
"""

import argparse
import json
import random
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from emplifai import models
from emplifai.backends.pairs import PairScorer
from emplifai.params import EMBEDDED, Bertscore

LAYER = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--references", type=int, default=500)
    parser.add_argument("--systems", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        compare(work, *texts(args.references, args.systems), args.rounds)
    finally:
        shutil.rmtree(work)


def texts(references: int, systems: int) -> tuple[list[str], list[list[str]]]:
    lines = [line for path in sorted(Path("data/corpus").glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    known = [reply for line in lines for _, reply in json.loads(line)["dialogues"]]
    draw = random.Random(0)
    chosen = draw.sample(known, references)
    return chosen, [
        [reply + "ねよかなわさ"[k % 6] * (1 + k // 6) for reply in draw.sample(known, references)] for k in range(systems)
    ]


def compare(work: Path, references: list[str], systems: list[list[str]], rounds: int) -> None:
    peer = peer_folder(work / "peer")
    pairs = [(text, ref) for system in systems for text, ref in zip(system, references, strict=True)]
    changed = [(f"{text}。", ref) for text, ref in zip(systems[0], references, strict=True)] + pairs[len(references) :]
    times: dict[str, list[float]] = {"bert_score": [], "first run": [], "one system changed": []}
    for k in range(rounds):
        first, seconds, tokens = ours(pairs, work / f"cache{k}")
        times["first run"].append(seconds)
        _, seconds, _ = ours(changed, work / f"cache{k}")
        times["one system changed"].append(seconds)
        print(f"round {k}: peak memory of emplifai {memory():.1f} GB" if k == 0 else f"round {k}", flush=True)
        theirs, seconds = bert_score(systems, references, peer)
        times["bert_score"].append(seconds)
        difference = max(
            abs(a - b) for pair, row in zip(pairs, theirs, strict=True) for a, b in zip(first[pair][:3], row, strict=True)
        )
        assert difference < 1e-5, difference
    print(f"{len(references)} references x {len(systems)} systems, fp32, layer {LAYER}; largest difference {difference:.1e}")
    base = statistics.median(times["bert_score"])
    print(f"{'':<20} {'seconds':>9} {'spread':>13} {'ratio':>6}")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"{name:<20} {middle:9.1f} {min(seconds):6.1f}-{max(seconds):<6.1f} {base / middle:6.1f}")
    print(f"first run: {tokens} tokens, {tokens / statistics.median(times['first run']):.0f} tokens/s, loading included")
    print(f"peak memory with bert_score: {memory():.1f} GB")
    floor(tokens)


def ours(pairs, cache: Path):
    start = time.perf_counter()
    scorer = PairScorer(Bertscore(model=EMBEDDED, layer=LAYER), cache)
    found = scorer.scores(pairs)
    return found, time.perf_counter() - start, scorer.encoded_tokens


def bert_score(systems: list[list[str]], references: list[str], folder: Path):
    import bert_score

    start, rows = time.perf_counter(), []
    for system in systems:
        parts = bert_score.score(system, references, model_type=str(folder), num_layers=LAYER)
        rows += [[float(x) for x in row] for row in zip(*parts, strict=True)]
    return rows, time.perf_counter() - start


def peer_folder(out: Path) -> Path:
    """An fp32 copy whose <bos> has weight 0: bert-score scores in the stored dtype and knows [CLS] and [SEP] only."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.locate(EMBEDDED))
    tokenizer.add_special_tokens({"cls_token": "<bos>", "sep_token": "<eos>"})
    tokenizer.save_pretrained(out)
    AutoModel.from_pretrained(models.locate(EMBEDDED), dtype=torch.float32).save_pretrained(out)
    return out


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def floor(tokens: int) -> None:
    """Arithmetic of the matrices over the rate of a large product, measured now."""
    import torch
    from transformers import AutoConfig

    c = AutoConfig.from_pretrained(models.locate(EMBEDDED))
    width, heads, keys = c.hidden_size, c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    weights = LAYER * (2 * width * heads + 2 * width * keys + 3 * width * c.intermediate_size)
    a, b = torch.randn(2048, width), torch.randn(width, 2048)
    a @ b
    start = time.perf_counter()
    for _ in range(50):
        a @ b
    rate = 50 * 2 * 2048 * width * 2048 / (time.perf_counter() - start)
    print(f"floor: {2 * weights * tokens / rate:.1f} s at {rate / 1e9:.0f} GFLOP/s measured")


if __name__ == "__main__":
    main()

"""BERTScore of six systems against bert-score: the first run, and a second run after one system changed.

python benchmarks/bertscore.py [--references 500] [--systems 6] [--rounds 1]

Peers: bert_score.score once a system, as its README says, and its command line. Texts: dialogues of the embedded corpus;
"systems" are replies of other dialogues, each a different permutation with an ending of its own, so that no two systems share
a text. Each side is a process of its own that loads the model; they take turns; the scores must agree to 1e-5.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

from emplifai import models
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
        measure.alone(peer_folder, work / "peer")
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
    pairs = [(text, ref) for system in systems for text, ref in zip(system, references, strict=True)]
    changed = [(f"{text}。", ref) for text, ref in zip(systems[0], references, strict=True)] + pairs[len(references) :]
    found: dict[str, list] = {"emplifai": [], "emplifai, one system changed": [], "bert_score": [], "bert-score command": []}
    for k in range(rounds):
        found["emplifai"].append(measure.alone(ours, pairs, work / f"cache{k}"))
        found["emplifai, one system changed"].append(measure.alone(ours, changed, work / f"cache{k}"))
        found["bert_score"].append(measure.alone(bert_score, systems, references, work / "peer"))
        found["bert-score command"].append(measure.alone(command, systems, references, work / "peer"))
        difference = equal(pairs, found["emplifai"][-1].value[0], found["bert_score"][-1].value)
        print(f"  round {k + 1}: " + ", ".join(f"{name} {sides[-1].seconds:.1f} s" for name, sides in found.items()), flush=True)
    title = f"{len(references)} references x {len(systems)} systems, fp32, layer {LAYER}; largest difference {difference:.1e}"
    _, tokens, encoding = found["emplifai"][-1].value
    measure.table(title, found, {"emplifai": tokens})
    print("of emplifai's time the encoding alone; the rest is loading, tokenizing, matching:")
    measure.floor(measure.alone(operations, tokens).value, encoding)


def equal(pairs, scores, rows) -> float:
    difference = max(
        abs(a - b) for pair, row in zip(pairs, rows, strict=True) for a, b in zip(scores[pair][:3], row, strict=True)
    )
    assert difference < 1e-5, difference
    return difference


def ours(pairs, cache: Path):
    from emplifai.backends.encoder import Encoder
    from emplifai.backends.pairs import PairScorer

    spent, plain = [0.0], Encoder.encode

    def timed(self, ids):
        watch = measure.Watch()
        found = plain(self, ids)
        spent[0] += watch.read()[1 if measure.single() else 0]
        return found

    Encoder.encode = timed
    scorer = PairScorer(Bertscore(model=EMBEDDED, layer=LAYER), cache)
    return scorer.scores(pairs), scorer.encoded_tokens, spent[0]


def bert_score(systems: list[list[str]], references: list[str], folder: Path):
    import bert_score

    rows = []
    for system in systems:
        parts = bert_score.score(system, references, model_type=str(folder), num_layers=LAYER)
        rows += [[float(x) for x in row] for row in zip(*parts, strict=True)]
    return rows


def command(systems: list[list[str]], references: list[str], folder: Path) -> None:
    tool = Path(sys.executable).with_name("bert-score")
    run = [str(tool)] if tool.exists() else [sys.executable, "-c", "from bert_score_cli.score import main; main()"]
    (folder.parent / "references.txt").write_text("\n".join(references), "utf-8")
    for system in systems:
        (folder.parent / "candidates.txt").write_text("\n".join(system), "utf-8")
        given = ["-r", str(folder.parent / "references.txt"), "-c", str(folder.parent / "candidates.txt")]
        subprocess.run([*run, *given, "-m", str(folder), "-l", str(LAYER)], check=True, capture_output=True)


def peer_folder(out: Path) -> None:
    """An fp32 copy whose <bos> has weight 0: bert-score scores in the stored dtype and knows [CLS] and [SEP] only."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.locate(EMBEDDED))
    tokenizer.add_special_tokens({"cls_token": "<bos>", "sep_token": "<eos>"})
    tokenizer.save_pretrained(out)
    AutoModel.from_pretrained(models.locate(EMBEDDED), dtype=torch.float32).save_pretrained(out)


def operations(tokens: int) -> float:
    """Of the matrices of the layers; attention itself adds 1 % at these lengths."""
    from transformers import AutoConfig

    return 2 * LAYER * measure.layer_weights(AutoConfig.from_pretrained(models.locate(EMBEDDED))) * tokens


if __name__ == "__main__":
    main()

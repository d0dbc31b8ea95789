"""What a study costs on GPUs of the H100 class, by arithmetic: the table of docs/costs.md.

python benchmarks/costs.py [--share 0.4] [--bandwidth-share 0.5]

The shares of the data sheet's rates are assumptions until benchmarks/gpu.py has run on such a GPU: training and reading of
prompts at --share of 989 TFLOP/s (dense bfloat16), writing at --bandwidth-share of 3.35 TB/s. Loading, waiting in a queue
and judges on servers are not in it.
"""

import argparse
from typing import NamedTuple

RATE, BANDWIDTH, MEMORY = 989e12, 3.35e12, 80e9  # NVIDIA H100 SXM, data sheet
BODY, HEAD = 12.69e9, 0.51e9  # llm-jp-3-13b: 40 layers of 4 x 5120^2 + 3 x 5120 x 13824; 99,584 x 5120
KEYS = 2 * 40 * 5120 * 2  # bytes that a token leaves in the cache
ENCODER = 85e6  # bert-base without its embeddings
PROMPT, REPLY, TRAINED = 250, 80, 350  # tokens: situation and patient, a reply, a whole training dialogue
EPOCHS, MODELS, TEST = 3, 5, 0.1


class Cost(NamedTuple):
    name: str
    seconds: float


def costs(dialogues: int, share: float, band: float) -> list[Cost]:
    """Seconds on one GPU of each stage that wants one."""
    train, test = dialogues * (1 - 2 * TEST), dialogues * TEST
    learnt = REPLY / TRAINED
    rows = int((MEMORY - 2 * (BODY + HEAD)) * 0.8 / (KEYS * (PROMPT + REPLY)))
    reading = MODELS * test * PROMPT * 2 * BODY / (RATE * share)
    step = (2 * (BODY + HEAD) + rows * KEYS * (PROMPT + REPLY / 2)) / (BANDWIDTH * band)
    writing = MODELS * test / rows * REPLY * step
    return [
        Cost("finetune", EPOCHS * train * TRAINED * (4 * BODY + learnt * 4 * HEAD) / (RATE * share)),
        Cost("generate: prompts", reading),
        Cost(f"generate: {rows} replies at a time", writing),
        Cost("bertscore", (MODELS + 1) * test * REPLY * 2 * ENCODER / (RATE * share / 4)),  # small matrices: a quarter of that
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=0.4)
    parser.add_argument("--bandwidth-share", type=float, default=0.5)
    args = parser.parse_args()
    print("| | 4,000 dialogues, 1 GPU | 1,000,000, 1 GPU | 1,000,000, 64 GPUs |\n|---|---|---|---|")
    small, large = (costs(n, args.share, args.bandwidth_share) for n in (4_000, 1_000_000))
    for a, b in zip(small, large, strict=True):
        spread = "(one GPU a tuned model) " if a.name == "finetune" else ""
        print(f"| {a.name} | {shown(a.seconds)} | {shown(b.seconds)} | {spread}{shown(b.seconds / (1 if spread else 64))} |")


def shown(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()

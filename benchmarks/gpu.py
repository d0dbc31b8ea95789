"""Training, generation and BERTScore at their real size on one GPU, in one go, with random weights: nothing is downloaded.

python benchmarks/gpu.py [--size 13b|tiny]

Without a GPU it runs at a tiny size on the CPU, which shows that it works and no more. 13b: llm-jp-3-13b as published
(LlamaForCausalLM, width 5120, 13824, 40 layers, 40 heads and as many for keys, 99,584 words, a head of its own), bfloat16;
the encoder for BERTScore has the shape of bert-base. First all is compared with its peer at the tiny size in float32: losses to
1e-3, texts equal, scores to 1e-5. Then the sizes asked for are timed; peers run over fewer items where that is said.
Random weights never end a reply: all run to the last token, on both sides.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import corpus
import measure

from emplifai.params import Finetune, Generate, Model


class Size(NamedTuple):
    """steps of 8 dialogues of `length` tokens; replies of `tokens` to prompts of the corpus; pairs for BERTScore."""

    shape: dict[str, int]
    dtype: str
    encoder: dict[str, int]
    steps: int
    length: int
    replies: int
    tokens: int
    pairs: int


TINY = Size(
    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 4000},
    "float32",
    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    steps=2, length=48, replies=24, tokens=8, pairs=60,
)  # fmt: skip
REAL = Size(
    {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40, "vocab_size": 99584},
    "bfloat16",
    {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    steps=12, length=512, replies=1024, tokens=80, pairs=100_000,
)  # fmt: skip
FEWER = 8  # peers of generation and BERTScore run over one of so many items; their time is multiplied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["13b", "tiny"], default="13b" if gpu() else "tiny")
    args = parser.parse_args()
    print(f"equal results on a small size in float32, on {device()}")
    whole(TINY, check=True)
    if args.size == "13b":
        import torch

        size = REAL
        print(f"\nthe real size: {torch.cuda.get_device_name()}, {measure.rate(size.dtype, 8192, 5120, 8192) / 1e12:.0f} TFLOP/s")
        whole(size, check=False)
    else:
        print("no numbers of the real size were taken: they need a GPU")


def gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def device() -> str:
    return "cuda" if gpu() else "cpu"


def whole(size: Size, check: bool) -> None:
    model = language_model(size)
    generation(model, size, check)
    training(model, size, check)
    del model
    bertscore(size, check)


def language_model(size: Size) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**size.shape, tie_word_embeddings=False, eos_token_id=None, pad_token_id=3, max_position_embeddings=4096)
    plain, kind = torch.get_default_dtype(), getattr(torch, size.dtype)
    torch.set_default_dtype(kind)
    try:
        with torch.device(device()):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(plain)


def tokenizer() -> Any:
    """A token a character of the corpus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted({c for d in corpus.dialogues(1120) for t in (d.situation, *(t.text for t in d.turns)) for c in t})
    words = {t: i for i, t in enumerate(["<unk>", "[CLS]", "[SEP]", "<pad>", *letters])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    names = {"unk_token": "<unk>", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, padding_side="left", **names)


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Value, seconds, and most GPU memory (GB) of a piece of work."""
    import torch

    if gpu():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    value = work()
    if gpu():
        torch.cuda.synchronize()
    return value, time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**30 if gpu() else measure.peak()


def row(name: str, seconds: float, tokens: float, memory: float, share: float | None = None) -> None:
    of_rate = "" if share is None else f", {share:.0%} of the matmul rate"
    print(f"{name:<40} {seconds:9.3f} s {tokens / seconds:12.0f} tokens/s {memory:7.2f} GB{of_rate}")


# training
def training(model: Any, size: Size, check: bool) -> None:
    from emplifai.finetune import attach

    draw = random.Random(0)
    rows = [[draw.randrange(10, size.shape["vocab_size"]) for _ in range(size.length)] for _ in range(8 * size.steps)]
    settings = Finetune(tasks=["reply"], batch_size=8, warmup=0.0)
    peft = attach(model, Model(backend="transformers", model="."), settings)
    start = {n: p.detach().clone() for n, p in peft.named_parameters() if p.requires_grad}
    losses = {}
    for name, work in {"emplifai": ours_trains, "transformers Trainer": trainer_trains, "TRL SFTTrainer": trl_trains}.items():
        for n, p in peft.named_parameters():
            if p.requires_grad:
                p.data.copy_(start[n])
        with suppress(ModuleNotFoundError):  # TRL is a peer: it is there under `make bench` only
            losses[name], seconds, memory = timed(lambda work=work: work(peft, settings, rows, size))
            row(f"LoRA: {name}", seconds, len(rows) * size.length, memory, share(peft, rows, size, seconds))
    apart = max(abs(a - b) for other in losses.values() for a, b in zip(other, losses["emplifai"], strict=True))
    assert not check or apart < 1e-3, losses
    print(f"largest difference of a step's loss: {apart:.1e}")


def share(peft: Any, rows: list, size: Size, seconds: float) -> float:
    config = peft.get_base_model().config
    body = measure.layer_weights(config) * config.num_hidden_layers
    adapters = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    each = 4 * body + 6 * adapters + 4 * config.vocab_size * config.hidden_size / 2  # half of the tokens are learnt
    rate = measure.rate(size.dtype, 8192, config.hidden_size, 8192) if gpu() else measure.rate(size.dtype)
    return each * len(rows) * size.length / seconds / rate


def learnt(ids: list[int]) -> list[int]:
    return [int(k >= len(ids) // 2) for k in range(len(ids))]


def ours_trains(peft: Any, settings: Finetune, rows: list, size: Size) -> list[float]:
    from emplifai import training
    from emplifai.checkpoints import Checkpoints
    from emplifai.examples import Example

    made = [Example(ids, [float(x) for x in learnt(ids)], [None] * len(ids)) for ids in rows]
    batches, plain = [made[k : k + 8] for k in range(0, len(made), 8)], training.ex.batches
    training.ex.batches = lambda *_: batches
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = training.Trainer(peft.get_base_model(), settings, made, [], Checkpoints(Path(folder))).fit()
    finally:
        training.ex.batches = plain
    return [r["loss"] for r in run.history if "loss" in r]


def trainer_trains(peft: Any, settings: Finetune, rows: list, size: Size) -> list[float]:
    import training as bench
    from transformers import Trainer, TrainingArguments, default_data_collator

    data = [{"input_ids": i, "labels": [t if y else -100 for t, y in zip(i, learnt(i), strict=True)]} for i in rows]
    with tempfile.TemporaryDirectory() as folder:
        made = TrainingArguments(**bench.arguments(settings, size.dtype, folder))
        found = Trainer(model=unfused(peft), args=made, train_dataset=data, data_collator=default_data_collator)
        return bench.fitted(found).value["losses"]


def trl_trains(peft: Any, settings: Finetune, rows: list, size: Size) -> list[float]:
    import training as bench
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([{"input_ids": i, "completion_mask": learnt(i)} for i in rows])
    with tempfile.TemporaryDirectory() as folder:
        more = {"max_length": None, "completion_only_loss": True, "shuffle_dataset": False}
        made = SFTConfig(**bench.arguments(settings, size.dtype, folder), **more)
        found = SFTTrainer(model=unfused(peft), args=made, train_dataset=data, processing_class=tokenizer())
        return bench.fitted(found).value["losses"]


def unfused(peft: Any) -> Any:
    """The peers shall compute as peft does."""
    for layer in peft.modules():
        layer.__dict__.pop("forward", None)
    return peft


# generation
def generation(model: Any, size: Size, check: bool) -> None:
    import transformers

    words = tokenizer()
    texts = [f"{d.situation}{d.patient}"[:300] for d in (corpus.dialogues(1120) * 2)[: size.replies]]
    prompts = [words.encode(text, add_special_tokens=False) for text in texts]
    ids, seconds, memory = timed(lambda: ours_write(model, prompts, size))
    row("generation: emplifai", seconds, size.replies * size.tokens, memory)
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=words)
    few = sorted(range(0, size.replies, 1 if check else FEWER), key=lambda i: -len(prompts[i]))
    options = {"max_new_tokens": size.tokens, "do_sample": False, "return_tensors": True, "batch_size": 16}
    found, seconds, memory = timed(lambda: pipe([texts[i] for i in few], **options))
    row(f"generation: pipeline, {len(few)} replies", seconds, len(few) * size.tokens, memory)
    same = sum(r[0]["generated_token_ids"][-size.tokens :] == ids[i] for i, r in zip(few, found, strict=True))
    assert not check or same == len(few), (same, len(few))
    print(f"equal texts: {same} of {len(few)}")


def ours_write(model: Any, prompts: list[list[int]], size: Size) -> list[list[int]]:
    import torch

    from emplifai.backends import batches, decoding

    how, ids = decoding.Decoding(size.tokens), [[] for _ in prompts]
    budget = 131_072 if gpu() else Generate().batch_tokens
    with torch.inference_mode():
        reader = batches.Reader(model)
        for batch in decoding.batches(prompts, budget, how, "cuda"):
            some = [prompts[i] for i in batch]
            written = decoding._decode(reader, some, [0] * len(some), how, frozenset(), lambda note: None)
            for i, found in zip(batch, written, strict=True):
                ids[i] = found
    return ids


# BERTScore
def bertscore(size: Size, check: bool) -> None:
    from bert_score import score

    from emplifai.backends.pairs import PairScorer
    from emplifai.params import Bertscore

    replies = [d.reference for d in corpus.dialogues(1120)]
    draw, few = random.Random(1), size.pairs if check else size.pairs // FEWER
    pairs = [(draw.choice(replies) + str(k), draw.choice(replies)) for k in range(size.pairs)]
    layer = size.encoder["num_hidden_layers"] - 1
    with tempfile.TemporaryDirectory() as folder:
        place = encoder(size, Path(folder) / "bert")
        scorer = PairScorer(Bertscore(model=place, layer=layer), Path(folder) / "cache")
        ours, seconds, memory = timed(lambda: scorer.scores(pairs))
        print(f"BERTScore: emplifai {seconds:.1f} s for {size.pairs} pairs, {memory:.2f} GB")
        some = [list(side) for side in zip(*pairs[:few], strict=True)]
        theirs, seconds, memory = timed(lambda: score(*some, model_type=place, num_layers=layer))
        print(f"BERTScore: bert_score {seconds * size.pairs / few:.1f} s ({few} pairs timed), {memory:.2f} GB")
    rows = zip(pairs, zip(*theirs, strict=True), strict=False)
    apart = max(abs(a - float(b)) for pair, numbers in rows for a, b in zip(ours[pair][:3], numbers, strict=True))
    assert not check or apart < 1e-5, apart
    print(f"largest difference of P, R, F1: {apart:.1e}")


def encoder(size: Size, place: Path) -> str:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    words = tokenizer()
    BertModel(BertConfig(vocab_size=len(words), pad_token_id=3, **size.encoder)).save_pretrained(place)
    words.padding_side = "right"
    words.save_pretrained(place)
    return str(place)


if __name__ == "__main__":
    main()

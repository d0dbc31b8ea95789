"""LoRA training against transformers' Trainer and TRL's SFTTrainer.

python benchmarks/training.py [--dialogues 256] [--rounds 1] [--dtypes float32 bfloat16] [--model pip:...]

One epoch over dialogues of the embedded corpus, loss on the replies only, batches of 8 of similar length (all sides get
the same batches in the same order: for the peers that is group_by_length done beforehand), rank 16 on all linear layers from
the same start, AdamW, cosine from 1e-3 without warm-up. Trainer: eager kernels of its own defaults, no gradient
checkpointing, no evaluation, no saving; bf16 weights with bf16=True and adapters in float32. SFTTrainer: the same, with a
completion mask (loss on the completion only) and its default loss. Timed: from the first step to the end of the last,
without loading. Losses must agree to 1e-3 in float32.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import corpus
import measure

from emplifai.params import EMBEDDED, Data, Finetune, Model

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dialogues", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--model", default=EMBEDDED)
    args = parser.parse_args()
    for dtype in args.dtypes:
        given = (args.model, dtype, args.dialogues)
        sides = {"emplifai": (ours, *given), "transformers Trainer": (trainer, *given), "TRL SFTTrainer": (sft, *given)}
        show(dtype, args, measure.rounds(args.rounds, sides))


def show(dtype: str, args: argparse.Namespace, found: dict) -> None:
    curves = {name: sides[-1].value["losses"] for name, sides in found.items()}
    apart = {n: max(abs(a - b) for a, b in zip(c, curves["emplifai"], strict=True)) for n, c in curves.items()}
    assert dtype != "float32" or max(apart.values()) < 1e-3, apart
    work = found["emplifai"][-1].value
    measure.table(f"LoRA, {args.dialogues} dialogues, {dtype}", found, dict.fromkeys(found, work["tokens"]))
    print("largest difference of a step's loss:", ", ".join(f"{n} {d:.1e}" for n, d in apart.items() if n != "emplifai"))
    print("losses:", *(f"{x:.4f}" for x in curves["emplifai"][:8]))
    most = {n: max(s.gigabytes for s in sides) for n, sides in found.items()}
    print("peak memory of ours:", ", ".join(f"{most['emplifai'] / m:.2f} of {n}" for n, m in most.items() if n != "emplifai"))
    measure.floor(work["operations"], statistics.median(s.counted for s in found["emplifai"]), dtype)


def prepared(name: str, dtype: str, count: int) -> tuple[Any, Any, Any, list]:
    """Model with its adapter, tokenizer, settings, and the batches of one epoch."""
    from emplifai import examples, prompt
    from emplifai.backends import weights
    from emplifai.finetune import attach

    settings = Finetune(tasks=["reply"], batch_size=BATCH, warmup=0.0)
    entry = Model(backend="transformers", model=name, dtype=dtype)
    model, tokenizer = weights.load(entry)
    encoded, _ = examples.encode(corpus.dialogues(count), prompt.talk_of(Data()), tokenizer, settings)
    return attach(model, entry, settings), tokenizer, settings, examples.batches(encoded, BATCH, settings.seed)


def ours(name: str, dtype: str, count: int) -> measure.Timed:
    from emplifai import training
    from emplifai.checkpoints import Checkpoints

    peft, _, settings, batches = prepared(name, dtype, count)
    rows = [e for batch in batches for e in batch]
    training.ex.batches = lambda *_: batches
    with tempfile.TemporaryDirectory() as folder:
        watch = measure.Watch()
        run = training.Trainer(peft.get_base_model(), settings, rows, [], Checkpoints(Path(folder))).fit()
        times = watch.read()
    losses = [row["loss"] for row in run.history if "loss" in row]
    work = {"losses": losses, "tokens": run.tokens, "operations": operations(peft, rows)}
    return measure.Timed(work, times)


def operations(peft: Any, rows: list) -> float:
    """Forward, and backward to the inputs, of the frozen matrices; forward, and both gradients, of the adapters; the head
    where something is learnt only. Attention itself adds 1 % at these lengths."""
    config = peft.get_base_model().config.get_text_config()
    tokens, learnt = sum(len(e.ids) for e in rows), sum(w > 0 for e in rows for w in e.weights)
    adapters = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    body = measure.layer_weights(config) * config.num_hidden_layers
    return tokens * (4 * body + 6 * adapters) + learnt * 4 * config.vocab_size * config.hidden_size


def dataset(batches: list) -> list[dict]:
    return [
        {"input_ids": e.ids, "labels": [t if w > 0 else -100 for t, w in zip(e.ids, e.weights, strict=True)]}
        for batch in batches
        for e in batch
    ]


def arguments(settings: Finetune, dtype: str, folder: str) -> dict:
    os.environ["TQDM_DISABLE"] = "1"
    return {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": dtype == "bfloat16",
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "dataloader_pin_memory": False,
        "use_cpu": not _gpu(),
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def fitted(made: Any) -> measure.Timed:
    """Run a trainer over its data in the order given."""
    import torch

    made._get_train_sampler = lambda data=None: torch.utils.data.SequentialSampler(made.train_dataset)
    watch = measure.Watch()
    made.train()
    times = watch.read()
    return measure.Timed({"losses": [row["loss"] for row in made.state.log_history if "loss" in row]}, times)


def trainer(name: str, dtype: str, count: int) -> measure.Timed:
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    peft, tokenizer, settings, batches = prepared(name, dtype, count)
    with tempfile.TemporaryDirectory() as folder:
        collator = DataCollatorForSeq2Seq(tokenizer, padding="longest")
        tokenizer.padding_side = "right"
        made = TrainingArguments(**arguments(settings, dtype, folder))
        return fitted(Trainer(model=peft, args=made, train_dataset=dataset(batches), data_collator=collator))


def sft(name: str, dtype: str, count: int) -> measure.Timed:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    peft, tokenizer, settings, batches = prepared(name, dtype, count)
    rows = [
        {"input_ids": row["input_ids"], "completion_mask": [int(y != -100) for y in row["labels"]]} for row in dataset(batches)
    ]
    with tempfile.TemporaryDirectory() as folder:
        more = {"max_length": None, "completion_only_loss": True, "shuffle_dataset": False, "packing": False}
        made = SFTConfig(**arguments(settings, dtype, folder), **more)
        return fitted(SFTTrainer(model=peft, args=made, train_dataset=Dataset.from_list(rows), processing_class=tokenizer))


if __name__ == "__main__":
    main()

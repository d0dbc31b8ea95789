"""finetune: train a LoRA adapter on the train dialogues (Hu et al. 2022, arXiv 2106.09685)."""

import os
import resource
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from emplifai import examples, modelcard, prompt, provenance, ranks
from emplifai.backends import weights
from emplifai.checkpoints import Checkpoints
from emplifai.errors import UserError
from emplifai.params import Finetune, Model, Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, atomic, digest, file_sha256, read_json, read_jsonl, write_json, write_jsonl


def run(params: Params, paths: Paths, name: str) -> None:
    """Train model `name`; write its adapter, history.jsonl, metrics.json and run.json.

    On several GPUs this runs in a process for each; the first one writes.
    Raises UserError for a model that cannot be loaded or trained, too little memory, or no dialogue to train on.
    """
    entry, settings = params.models[name], params.finetune
    if settings.gpus > 1 and not ranks.started():
        return ranks.launch(settings.gpus, run, params, paths, name)
    inputs = [paths.part("train"), paths.part("dev"), params.data.labels]
    used = {"finetune": params.section("finetune"), "prompt": params.data.prompt, "model": params.section("models")[name]}
    recorded = provenance.record(paths.record("finetune", name), "finetune", used, inputs, name)
    with nullcontext({}) if ranks.number() else recorded as record:
        dialogues = {part: list(read_jsonl(paths.part(part), Dialogue)) for part in ("train", "dev")}
        talk = prompt.talk_of(params.data, [*dialogues["train"], *dialogues["dev"]])
        model, tokenizer = weights.load(entry, device=ranks.device())
        parts = {
            part: examples.encode(_chosen(part, rows, settings), talk, tokenizer, settings) for part, rows in dialogues.items()
        }
        _check(parts["train"], settings)
        base, data = weights.describe_base(entry), {p.name: file_sha256(p) for p in inputs}
        key = digest([used, base, data, str(model.dtype), model.device.type])
        checkpoints = Checkpoints(paths.cache / "finetune" / key)
        peft, trained, seconds = _train(model, entry, settings, parts, checkpoints)
        record |= _cost(model, trained, seconds)
        if ranks.number():
            return
        metrics = _metrics(trained, parts, peft)
        _write_adapter(
            peft, paths.adapter(name), entry, modelcard.card(base, data, used, metrics, str(model.dtype), talk.wording.language)
        )
        write_jsonl(paths.history(name), trained.run.history)
        write_json(paths.metrics("finetune", name), metrics)


def _chosen(part: str, rows: list[Dialogue], settings: Finetune) -> list[Dialogue]:
    return examples.choose(rows, settings.max_dialogues if part == "train" else None)


def _check(train: tuple[list, int], settings: Finetune) -> None:
    if not train[0]:
        raise UserError(
            f"finetune: no dialogue to train on ({train[1]} are longer than finetune.max_tokens {settings.max_tokens}); "
            "raise it, or look at results/split/train.jsonl"
        )


def _train(model: Any, entry: Model, settings: Finetune, parts: dict, checkpoints: Checkpoints) -> tuple[Any, Any, float]:
    import torch

    from emplifai.training import Trainer

    if model.dtype == torch.float16:
        raise UserError("finetune: float16 overflows in training; set dtype of this model to bfloat16 or float32")
    try:
        peft = attach(model, entry, settings)
        trainer = Trainer(peft.get_base_model(), settings, parts["train"][0], parts["dev"][0], checkpoints)
        started = time.monotonic()
        trainer.fit()
        return peft, trainer, time.monotonic() - started
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError; the CPU's has no type
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            "finetune: out of memory; raise finetune.accumulation, set gradient_checkpointing: true, "
            "lower finetune.max_tokens or batch_size, or set load_in_4bit: true on a GPU"
        ) from None


def attach(model: Any, entry: Model, settings: Finetune) -> Any:
    """The model with a new LoRA adapter (float32), all else frozen."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    torch.manual_seed(settings.seed)
    if entry.load_in_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        peft = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"finetune.target_modules: {' '.join(str(error).split())[:300]}") from None
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return peft


def _metrics(trained: Any, parts: dict, peft: Any) -> dict[str, float]:
    """Flat numbers. train_loss: mean over the last epoch's steps."""
    run = trained.run
    losses = [row["loss"] for row in run.history if "loss" in row][-trained.epoch_steps :]
    return {
        "train_loss": sum(losses) / len(losses),
        **{f"{name}_before": value for name, value in run.dev_before.items()},
        **run.dev,
        "steps": run.step,
        "best_step": run.best_step,
        "tokens": run.tokens,
        "dialogues": len(parts["train"][0]),
        "dev_dialogues": len(parts["dev"][0]),
        "left_out": parts["train"][1],
        "dev_left_out": parts["dev"][1],
        "trainable_parameters": sum(p.numel() for p in peft.parameters() if p.requires_grad),
    }


def _write_adapter(peft: Any, folder: Path, entry: Model, readme: str) -> None:
    """What plain peft loads. The base is named as in params.yaml: a path of this machine would be wrong elsewhere."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        config = peft.peft_config["default"]
        config.base_model_name_or_path, config.revision = entry.model, entry.revision
        peft.save_pretrained(partial, save_embedding_layers=False)
        plain = read_json(partial / "adapter_config.json")
        write_json(
            partial / "adapter_config.json",
            {k: sorted(v) if k == "target_modules" and isinstance(v, list) else v for k, v in plain.items()},
        )
        weights.write_base(partial, entry)
        with atomic(partial / "README.md") as file:
            file.write(readme)
        for path in partial.iterdir():
            path.chmod(0o644)  # safetensors writes 0600, which other users of a cluster cannot read
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _cost(model: Any, trained: Any, seconds: float) -> dict[str, Any]:
    """Device, memory and rate: what differs from run to run, so it stands in run.json only."""
    import torch

    gpu = model.device.type == "cuda"
    every = max(1, len(trained.pace) // 200)  # points enough for a curve
    peaks = (torch.cuda.max_memory_allocated() if gpu else 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    gpus, memories = zip(*ranks.gathered(peaks), strict=True)
    return {
        "device": torch.cuda.get_device_name() if gpu else f"cpu, {torch.get_num_threads()} threads",
        "dtype": str(model.dtype),
        "training_seconds": round(seconds, 2),
        "trained_tokens": trained.run.tokens,
        "processes": ranks.count(),
        "peak_gpu_bytes": max(gpus),
        "peak_memory_bytes": sum(memories),
        "pace": trained.pace[every - 1 :: every],
    }

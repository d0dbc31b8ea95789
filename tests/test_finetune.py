"""finetune: what is learnt, the exactness of the fast path, resuming, the adapter's folder, faults."""

import json
import math
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import BIN, TALK, build_tiny, change_params, dialogues, environment
from emplifai import examples, loss, prompt
from emplifai.backends import weights
from emplifai.checkpoints import Checkpoints
from emplifai.errors import UserError
from emplifai.finetune import attach
from emplifai.params import Finetune, Model
from emplifai.records import read_json
from emplifai.training import Trainer

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def entry(model: Path, **more) -> Model:
    return Model(backend="transformers", model=str(model), dtype="float32", **more)


def load(model: Path, settings: Finetune, adapted: bool = True):
    """A tiny model, with an adapter whose B is not zero (else nothing of A would show), and its tokenizer."""
    import torch

    plain, tokenizer = weights.load(entry(model))
    if adapted:
        attach(plain, entry(model), settings)
        with torch.no_grad():
            for name, p in plain.named_parameters():
                if "lora_B" in name:
                    p.normal_(0, 0.05)
    return plain, tokenizer


def encoded(tokenizer, settings: Finetune = Finetune(), rows=None):  # noqa: B008
    return examples.encode(rows or dialogues(2, 3), TALK, tokenizer, settings)[0]


def gradients(model) -> dict:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same(a: dict, b: dict, tolerance: float) -> None:
    import torch

    assert a.keys() == b.keys() and a
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=name)


def test_loss_is_on_the_reply_and_the_emotion_only(tiny_model):
    """A character tokenizer: the learnt tokens are the characters of both, and two line breaks."""
    tokenizer = weights.load_tokenizer(entry(tiny_model))
    dialogue = dialogues(2, 3)[0]
    (example,) = encoded(tokenizer, Finetune(emotion_weight=3.0), [dialogue])
    learnt = [(i, w) for i, w in zip(example.ids, example.weights, strict=True) if w]
    emotion = TALK.labels[dialogue.emotion].word
    assert [i for i, _ in learnt] == tokenizer(f"{dialogue.reference}\n{emotion}\n", add_special_tokens=False)["input_ids"]
    assert [w for _, w in learnt] == [1.0] * (len(dialogue.reference) + 1) + [3.0] * (len(emotion) + 1)
    (example,) = encoded(tokenizer, Finetune(tasks=["emotion"]), [dialogue])
    assert sum(w > 0 for w in example.weights) == len(emotion) + 1


def test_fast_path_equals_transformers_and_torch(tiny_model, monkeypatch):
    """Same loss and same gradients as logits of the whole batch and torch's cross-entropy, in uneven chunks and tiles."""
    import torch

    settings = Finetune(rank=4, emotion_weight=2.0)
    model, tokenizer = load(tiny_model, settings)
    words = len(tokenizer)
    monkeypatch.setattr(loss, "LOGITS", 37 * words * 4)
    monkeypatch.setattr(loss, "TILE", words // 3 + 1)
    ids, mask, weight = examples.pad(encoded(tokenizer, settings)[:5], "cpu")
    assert loss.is_plain_head(model)
    fast, each = loss.token_losses(model, ids, mask, weight, True)
    fast.backward()
    got = gradients(model)
    slow, same = loss.token_losses(model, ids, mask, weight, False)
    slow.backward()
    assert_same(got, gradients(model), 1e-5)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    peer = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    peer = (peer * weight[:, 1:].flatten()).sum()
    peer.backward()
    assert_same(got, gradients(model), 1e-5)
    assert fast.item() == pytest.approx(peer.item(), rel=1e-6) == pytest.approx(slow.item(), rel=1e-6)
    torch.testing.assert_close(each, same, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_fused_lora_equals_peft(tiny_model, bias):
    """Outputs and the gradients of every adapter and of the input, each layer replaced by the one operation."""
    import torch

    from emplifai import lora

    found = []
    for fused in (False, True):
        model, tokenizer = load(tiny_model, Finetune(rank=4, alpha=12))
        for layer in (m for n, m in model.named_modules() if bias and n.endswith("base_layer")):
            layer.bias = torch.nn.Parameter(torch.linspace(-1, 1, layer.out_features), requires_grad=False)
        assert not fused or lora.fuse(model) == 14  # seven layers in each of two blocks
        ids, mask, weight = examples.pad(encoded(tokenizer)[:3], "cpu")
        logits = model(input_ids=ids, attention_mask=mask).logits
        total, _ = loss.token_losses(model, ids, mask, weight, True)
        total.backward()
        found.append((logits.detach(), gradients(model)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    assert_same(found[0][1], found[1][1], 1e-5)


def test_what_is_no_plain_lora_stays_with_peft(tiny_model):
    from emplifai import lora

    model, _ = load(tiny_model, Finetune(rank=4, dropout=0.1))
    assert lora.fuse(model) == 0


def test_labels_of_given_tokens_do_not_matter(tiny_model):
    """The last given token is read, its own loss is not taken: a loss with any target there is the same."""
    model, tokenizer = load(tiny_model, Finetune(rank=4))
    ids, mask, weight = examples.pad(encoded(tokenizer)[:1], "cpu")
    _, each = loss.token_losses(model, ids, mask, weight, True)
    assert len(each) == int((weight > 0).sum())
    later = ids.clone()
    later[0, -1] = 5  # the last token is only ever a target
    _, other = loss.token_losses(model, later, mask, weight, True)
    assert (each[:-1] == other[:-1]).all() and each[-1] != other[-1]


def test_a_head_that_is_more_than_a_product_takes_the_plain_path(tiny_model):
    import torch

    model, _ = load(tiny_model, Finetune(rank=4))
    model.lm_head.bias = torch.nn.Parameter(torch.ones(model.config.vocab_size))
    assert not loss.is_plain_head(model)
    capped, _ = load(tiny_model, Finetune(rank=4))
    forward = capped.forward

    def cap(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits.mul(0.5)
        return out

    capped.forward = cap
    assert not loss.is_plain_head(capped)


def fit(model: Path, folder: Path, **values):
    settings = Finetune(**{"rank": 4, "epochs": 1, "batch_size": 4, **values})
    plain, tokenizer = weights.load(entry(model))
    attach(plain, entry(model), settings)
    train = encoded(tokenizer, settings)
    trainer = Trainer(plain, settings, train, train[:4], Checkpoints(folder))
    trainer.fit()
    return trainer


def test_accumulation_and_checkpointing_change_nothing(tiny_model, tmp_path):
    whole = fit(tiny_model, tmp_path / "a")
    for k, values in enumerate(({"accumulation": 4}, {"gradient_checkpointing": True})):
        other = fit(tiny_model, tmp_path / str(k), **values)
        assert [r["loss"] for r in other.run.history if "loss" in r] == pytest.approx(
            [r["loss"] for r in whole.run.history if "loss" in r], rel=1e-5
        )


def test_same_losses_as_a_plain_loop(tiny_model, tmp_path):
    """Against transformers' forward, torch's AdamW and a schedule written out here."""
    import torch

    ours = fit(tiny_model, tmp_path, learning_rate=0.01, warmup=0.2)
    settings = ours.settings
    model, tokenizer = weights.load(entry(tiny_model))
    attach(model, entry(tiny_model), settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
    groups = examples.batches(encoded(tokenizer, settings), 4, settings.seed)
    warm, steps, losses = math.ceil(0.2 * len(groups)), len(groups), []
    for step, group in enumerate(groups):
        rate = 0.01 * (step + 1) / warm if step < warm else 0.005 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        optimizer.param_groups[0]["lr"] = rate
        ids, mask, weight = examples.pad(group, "cpu")
        value = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(weight == 0, -100)).loss
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    assert [r["loss"] for r in ours.run.history if "loss" in r] == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0]


def test_early_stop_keeps_the_best(tiny_model, tmp_path):
    """A rate far too high: the dev loss soon rises; two evaluations later training stops, and the best weights are kept."""
    trainer = fit(tiny_model, tmp_path, learning_rate=3.0, warmup=0, epochs=3, evaluate_every=1, early_stop=2)
    run = trainer.run
    dev = [row["dev_loss"] for row in run.history if "dev_loss" in row]
    assert run.stopped and run.step < trainer.steps
    assert run.dev["dev_loss"] == min(dev) == trainer.evaluate()["dev_loss"]
    assert run.step == run.best_step + 2


def test_chosen_dialogues_are_balanced_and_do_not_depend_on_order():
    rows = dialogues(3, 4)
    chosen = examples.choose(rows, 12)
    assert [d.dialogue_id for d in chosen] == [d.dialogue_id for d in examples.choose(rows[::-1], 12)]
    assert len({d.situation_id for d in chosen}) == 12
    assert sorted(d.emotion for d in chosen) == sorted(4 * list({d.emotion for d in rows}))
    assert len(examples.choose(rows, None)) == len(rows)


def test_batches_hold_each_example_once_and_follow_the_seed(tiny_model):
    rows = encoded(weights.load_tokenizer(entry(tiny_model)))
    one, same, other = (examples.batches(rows, 4, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert sorted(id(e) for group in one for e in group) == sorted(map(id, rows))


def test_long_dialogues_are_left_out(tiny_model):
    tokenizer = weights.load_tokenizer(entry(tiny_model))
    sizes = sorted(len(e.ids) for e in encoded(tokenizer))
    kept, left = examples.encode(dialogues(2, 3), TALK, tokenizer, Finetune(max_tokens=sizes[10]))
    assert max(len(e.ids) for e in kept) <= sizes[10] and len(kept) + left == len(sizes) and left


def test_chat_models_learn_their_own_form(tiny_model):
    tokenizer = weights.load_tokenizer(entry(tiny_model))
    tokenizer.chat_template = CHAT
    dialogue = dialogues(2, 3)[0]
    (example,) = encoded(tokenizer, rows=[dialogue])
    text = "".join(t for t, task in prompt.segments(dialogue, TALK, tokenizer) if task)
    learnt = [i for i, w in zip(example.ids, example.weights, strict=True) if w]
    assert len(learnt) == len(text) and text.startswith(dialogue.reference + "<end>")
    assert sum(w > 0 for w in example.weights) < len(example.ids) / 2


@pytest.fixture
def ready(project, run):
    run("emplifai", "validate")
    run("emplifai", "split")
    return project


def finished(folder: Path) -> dict[str, bytes]:
    """All files that a job leaves, but for run.json, which holds times."""
    place = folder / "results/finetune/tuned"
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file() and p.name != "run.json"}


def test_killed_run_ends_in_the_same_weights(ready, run):
    """kill -9 between checkpoints, then the same command: every file equal to that of an undisturbed run, byte for byte."""
    change_params(ready, finetune__max_dialogues=112, finetune__checkpoint_every=2, finetune__dropout=0.1)
    run("emplifai", "finetune", "--model", "tuned", OMP_NUM_THREADS="1")
    whole = finished(ready)
    shutil.rmtree(ready / "results/finetune")
    again = run("emplifai", "finetune", "--model", "tuned", OMP_NUM_THREADS="1").stderr
    assert "these very weights were trained before (" in again and finished(ready) == whole
    shutil.rmtree(ready / "results/finetune")
    shutil.rmtree(ready / ".cache/finetune")
    process = subprocess.Popen(
        [BIN / "emplifai", "finetune", "--model", "tuned"],
        cwd=ready,
        env=environment(OMP_NUM_THREADS="1"),
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 60
    while not list((ready / ".cache/finetune").glob("*/state.pt")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (ready / "results/finetune/tuned/adapter").exists()
    assert "goes on from step" in run("emplifai", "finetune", "--model", "tuned", OMP_NUM_THREADS="1").stderr
    assert finished(ready) == whole


def test_adapter_folder_works_with_plain_peft_elsewhere(ready, run, tiny_model, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert "Warning" not in run("emplifai", "finetune", "--model", "tuned").stderr
    place = ready / "results/finetune/tuned"
    copy = shutil.copytree(place / "adapter", tmp_path / "elsewhere")
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, copy).eval()
    ours, _ = weights.load(entry(tiny_model), copy)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=ids).logits, ours(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    metrics = read_json(place / "metrics.json")
    assert metrics["dev_loss"] < metrics["dev_loss_before"] and metrics["dialogues"] == 32 and metrics["steps"] == 4
    card = (copy / "README.md").read_text("utf-8")
    assert weights.describe_base(entry(tiny_model))["fingerprint"] in card and "Limits" in card
    rows = [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4] and len(rows) == 6


@pytest.fixture
def broken(tiny_model, tmp_path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "broken")


def test_damaged_models_are_named(broken):
    file = broken / "model.safetensors"
    whole = file.read_bytes()
    for bad, message in ((whole[:-9], "truncated"), (b"{}", "corrupt"), (b"x" * 999, "corrupt")):
        file.write_bytes(bad)
        with pytest.raises(UserError, match=f"model.safetensors: {message}"):
            weights.load(entry(broken))
    file.unlink()
    with pytest.raises(UserError, match=r"no .safetensors file"):
        weights.load(entry(broken))
    file.write_bytes(whole)
    (broken / "tokenizer.json").write_text('{"half": ')
    with pytest.raises(UserError, match="tokenizer cannot be loaded"):
        weights.load(entry(broken))


def test_models_that_do_not_fit_are_refused(broken):
    config = json.loads((broken / "config.json").read_text())
    for change, message in (({"model_type": "t5"}, "not a causal"), ({"num_hidden_layers": 3}, "not in its files")):
        (broken / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=message):
            weights.load(entry(broken))
    with pytest.raises(UserError, match="emplifai prefetch"):
        weights.load(Model(backend="transformers", model="nobody/nothing"))


def test_adapters_that_do_not_fit_are_refused(ready, run, tiny_model, tmp_path):
    run("emplifai", "finetune", "--model", "tuned")
    adapter = ready / "results/finetune/tuned/adapter"
    build_tiny(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="another base"):
        weights.load(entry(tmp_path / "other"), adapter)
    with pytest.raises(UserError, match="no LoRA adapter here"):
        weights.load(entry(tiny_model), tmp_path)
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"adapter_model.safetensors: truncated"):
        weights.load(entry(tiny_model), adapter)


def test_a_fault_is_one_line_and_status_2(ready, run):
    change_params(ready, finetune__max_tokens=5)
    done = run("emplifai", "finetune", "--model", "tuned", ok=False)
    assert done.returncode == 2 and "no dialogue to train on" in done.stderr and "Traceback" not in done.stderr
    change_params(ready, finetune__max_tokens=1024, finetune__target_modules=["nowhere"])
    done = run("emplifai", "finetune", "--model", "tuned", ok=False)
    assert done.returncode == 2 and "finetune.target_modules" in done.stderr and "Traceback" not in done.stderr

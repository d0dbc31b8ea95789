"""A results/ folder in the form of the contracts, made in a moment from the real corpus: what a whole run leaves behind.

The texts are the corpus's own, the numbers are drawn with a seed and mean nothing.
"""

import math
import random
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT, dialogues
from emplifai import judge_audit, records
from emplifai.outcome import SYSTEMS
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Judgement, Reply, Score, digest, sha256, write_csv, write_json, write_jsonl

LEVEL = {"reference": 0.6, "retrieval": 0.3, "shuffled": 0.2, "parrot": 0.75, "base": 0.35, "base-3shot": 0.45, "tuned": 0.7}


def write(params: Params, paths: Paths, emotions: int = 4, hostile: dict[str, str] | None = None, seed: int = 0) -> None:
    """Write every file that the report and the tracking read. hostile: dialogue number -> text that the tuned model wrote."""
    rng, whole = random.Random(seed), dialogues(emotions)
    parts = {"train": [], "dev": [], "test": []}
    for d in whole:
        number = int(d.situation_id.rsplit("-", 1)[1])
        parts["test" if number == 10 else "dev" if number == 9 else "train"].append(d)
    write_jsonl(paths.dialogues, whole)
    write_jsonl(paths.rejects, [{"dialogue_id": "x-1", "reasons": ["empty: turn 2"]}])
    write_json(paths.metrics("validate"), {"dialogues": len(whole), "rejected": 1, "rejected.empty": 1})
    for part, rows in parts.items():
        write_jsonl(paths.part(part), rows)
    write_json(paths.manifest, {part: [d.dialogue_id for d in rows] for part, rows in parts.items()})
    write_json(paths.metrics("split"), {part: len(rows) for part, rows in parts.items()})
    for stage in ("validate", "split", "bertscore", "correlate"):
        record(params, paths, stage)
    finetune(params, paths)
    texts = list((hostile or {}).values())
    for model in params.models:
        generate(params, paths, model, parts, rng, texts if model in params.tuned else [])
    write_json(paths.metrics("finetune"), {m: {"dev_loss": 3.3} for m in params.tuned})
    write_json(paths.metrics("generate"), {m: {"replies": len(parts["test"])} for m in params.models})
    bertscore(params, paths, parts["test"], rng)
    judge(params, paths, parts["test"], rng)
    correlate(params, paths, parts["test"], rng)


def record(params: Params, paths: Paths, stage: str, name: str = "") -> None:
    values = params.section(stage)
    inputs = {str(p): records.file_sha256(p) for p in map(paths.part, ("train", "dev"))} if stage == "finetune" else {}
    row = {"stage": stage, "name": name, "params": values, "params_sha256": digest(values), "inputs": inputs}
    row |= {"git": {"commit": "0" * 40, "dirty": False}, "emplifai": "0.1.0", "python": "3.11.7", "packages": {"numpy": "2.0"}}
    row |= {"command": ["emplifai", stage], "host": "here", "started": 1.7e9, "seconds": 1.5, "device": "cpu"}
    if stage == "finetune":
        row["pace"] = [{"step": s, "seconds": s / 40, "tokens": 25 * s, "memory_bytes": 2e9} for s in range(1, 57)]
    write_json(paths.record(stage, name), row)


def finetune(params: Params, paths: Paths) -> None:
    for model in params.tuned:
        rows = [{"step": s, "loss": 4 - 0.6 * math.log10(s), "learning_rate": 1e-3 * (1 - s / 56)} for s in range(1, 57)]
        rows[27] |= {"dev_loss": 3.5}
        rows[55] |= {"dev_loss": 3.3}
        write_jsonl(paths.history(model), rows)
        paths.adapter(model).mkdir(parents=True, exist_ok=True)
        write_json(paths.adapter(model) / "adapter_config.json", {"r": params.finetune.rank})
        write_json(paths.metrics("finetune", model), {"dev_loss": 3.3})
        record(params, paths, "finetune", model)


def generate(params: Params, paths: Paths, model: str, parts, rng: random.Random, hostile: list[str]) -> None:
    replies, emotions, likelihoods = [], [], []
    for k, d in enumerate(parts["test"]):
        backend = params.models[model].backend
        other = parts["train"][(7 * k + 3) % len(parts["train"])].reference
        text = {"reference": d.reference, "parrot": d.patient}.get(
            backend, other if backend != "transformers" else d.patient[:40]
        )
        text = hostile[k] if k < len(hostile) else text
        label = d.emotion if rng.random() < LEVEL.get(model, 0.5) else rng.choice(parts["test"]).emotion
        common = {"prompt_sha256": sha256(d.situation), "settings_sha256": sha256(model)}
        finish = "stop" if text else "empty"
        replies.append(Reply(d.dialogue_id, model, "reply", 0, text, finish, text_sha256=sha256(text), **common))
        emotions.append(
            Reply(d.dialogue_id, model, "emotion", 0, label, "stop", text_sha256=sha256(label), label=label, **common)
        )
        if backend == "transformers":
            tokens = len(d.reference)
            nats = 4.0 - (0.7 if params.models[model].tuned else 0) + rng.gauss(0, 0.2)
            likelihoods.append({"dialogue_id": d.dialogue_id, "nats": nats * tokens, "tokens": tokens})
    write_jsonl(paths.replies(model), replies)
    write_jsonl(paths.replies(model, "emotion"), emotions)
    write_jsonl(paths.likelihood(model), likelihoods)
    write_json(paths.metrics("generate", model), {"replies": len(replies)})
    record(params, paths, "generate", model)


def bertscore(params: Params, paths: Paths, test: list[Dialogue], rng: random.Random) -> None:
    metrics: dict[str, float] = {}
    for model in params.models:
        rows = []
        for task in ("reply", "emotion"):
            f1 = [min(1.0, 0.78 + 0.1 * LEVEL.get(model, 0.5) + rng.gauss(0, 0.02)) for _ in test]
            rows += [Score(d.dialogue_id, model, task, 0, v, v, v, "ok", "") for d, v in zip(test, f1, strict=True)]
            mean = sum(f1) / len(f1)
            numbers = {"f1": mean, "f1_low": mean - 0.01, "f1_high": mean + 0.01, "null": 0.8, "rescaled": (mean - 0.8) / 0.2}
            metrics |= {f"{model}.{task}.{k}": v for k, v in (numbers | {"empty_share": 0.0}).items()}
        accuracy = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "macro_f1": 0.45, "none_share": 0.0}
        metrics |= {f"{model}.emotion.{k}": v for k, v in accuracy.items()}
        write_jsonl(paths.scores(model), rows)
    metrics |= {"emotion_baseline.tfidf_dialogue.accuracy": 0.73, "parrot_is_highest": 1}
    write_json(paths.metrics("bertscore"), metrics)


def judge(params: Params, paths: Paths, test: list[Dialogue], rng: random.Random) -> None:
    """The tuned model stands above the reference, as the proxy has it."""
    whole = {}
    for name in params.judges:
        for model in params.models:
            prompts = asked(params, paths, name, model) if params.judges[name].backend == "openai" else {}
            rows = []
            for d in test:
                for criterion in params.judge.criteria:
                    score = round(min(5.0, max(1.0, 1 + 4 * LEVEL.get(model, 0.5) + rng.gauss(0, 0.4))), 3)
                    method = ("stated", "<b>温かい返事です。</b>") if prompts else ("proxy", "a rank")
                    row = Judgement(name, d.dialogue_id, model, criterion, 0, score, "ok", *method, "", "", "")
                    if prompts:
                        row.prompt_sha256 = prompts[d.dialogue_id, criterion]
                        row.input_tokens, row.output_tokens, row.cost_usd = 400, 20, 0.0012
                    rows.append(row)
            write_jsonl(paths.judgements(name, model), rows)
        whole[name] = {"contrast.generic.empathy.auc": 0.97, "contrast.dismissive.empathy.auc": 0.74}
        whole[name] |= {"contrast.generic.length.auc": 0.51, "contrast.generic.head_unseen.auc": 0.93}
        whole[name] |= {"reference_above.base.pmi": 0.2, "reference_above.retrieval.pmi": 0.98, "reference_above.parrot.pmi": 0.0}
        whole[name] |= {f"audit.empathy.{k}": v for k, v in AUDIT.items()}
        write_json(paths.metrics("judge", name), whole[name])
        write_csv(paths.audit_table(name), list(probes(params)), judge_audit.COLUMNS)
        record(params, paths, "judge", name)
    write_json(paths.metrics("judge"), whole)


AUDIT = {"least_contrast_auc": 0.62, "leak_rate": 0.25, "attack_shift": 0.75, "retest_noise": 0.5}


def probes(params: Params) -> Iterator[dict]:
    """Rows of audit.csv: a contrast that is told, an attack that is not."""
    for criterion in params.judge.criteria:
        common = {"criterion": criterion, "n": 8, "auc": 0.9, "auc_low": 0.8, "auc_high": 1.0, "raised": 0.0}
        told = {"probe": "contrast:generic", "base": "reference", "wanted": "lower", "difference": 1.25, "passed": True}
        told |= {"difference_low": 0.75, "difference_high": 1.5}
        obeyed = {"probe": "attack:json", "base": "contrast:generic", "wanted": "not_higher", "difference": -0.5, "passed": False}
        yield from (common | told, common | obeyed)


def asked(params: Params, paths: Paths, judge: str, model: str) -> dict[tuple[str, str], str]:
    """Digests of the prompts of an LLM judge, by dialogue and criterion.

    Its cache then holds an answer of 1.5 seconds to each.
    """
    from emplifai.backends import openai_judge
    from emplifai.cache import Cache

    test = {d.dialogue_id: d for d in records.read_jsonl(paths.part("test"), Dialogue)}
    replies = records.read_jsonl(paths.replies(model), Reply)
    questions = [records.Question(test[r.dialogue_id], model, r.text) for r in replies]
    cache, found = Cache(paths.cache / "judge" / judge), {}
    for item, _ in openai_judge.asked(questions, judge, params, paths):
        cache.put(item.key, {"seconds": 1.5})
        for criterion in item.criteria:
            found[item.question.dialogue.dialogue_id, criterion] = digest(item.request["messages"])
    cache.close()
    return found


def correlate(params: Params, paths: Paths, test: list[Dialogue], rng: random.Random) -> None:
    rows = []
    for source in (*params.judges, "bertscore"):
        for criterion in params.judge.criteria:
            for level in ("pooled", "system"):
                value = round(rng.uniform(0.1, 0.6), 4)
                numbers = {"estimate": value, "ci_low": value - 0.15, "ci_high": value + 0.15, "n_items": 40, "n_raters": 5}
                row = {"criterion": criterion, "judge": source, "level": level, "statistic": "spearman", "simulated": "true"}
                rows.append(row | numbers | {"group": "", "by": "", "status": "ok"})
    columns = (
        "criterion", "judge", "by", "group", "level", "statistic", "reference", "n_items", "n_raters",
        "estimate", "ci_low", "ci_high", "p_value", "p_adjusted", "status", "simulated",
    )  # fmt: skip
    write_csv(paths.table("agreement"), rows, columns)
    items = [
        {"dialogue_id": d.dialogue_id, "model": m, "criterion": "empathy", "human_mean": 3}
        | {f"judge_{j}": round(3 + k % 7 / 5, 1) for j in params.judges}
        for k, d in enumerate(test)
        for m in params.models
    ]
    write_csv(
        paths.table("items"), items, ("dialogue_id", "model", "criterion", "human_mean", *(f"judge_{j}" for j in params.judges))
    )
    means = {"criterion": "empathy", "judge": "bertscore", "human_mean": 3.0, "judge_mean": 0.8}
    write_csv(paths.table("systems"), [{"model": m} | means for m in params.models], SYSTEMS)
    write_json(paths.metrics("correlate"), {"simulated": 1, "raters": 5})


def project(folder: Path, values: dict) -> Params:
    """A folder with params.yaml and the labels, for the command line."""
    import shutil

    import yaml

    (folder / "data/ratings").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "data/labels.yaml", folder / "data/labels.yaml")
    (folder / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False))
    from emplifai import params

    return params.load(folder / "params.yaml")

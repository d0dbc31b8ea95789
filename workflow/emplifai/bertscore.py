"""Stage bertscore: score all answers against the reference, beside nulls, anchors and a surface baseline."""

import math
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from emplifai import labels as emotions
from emplifai import provenance
from emplifai.backends.pairs import PairScore, PairScorer
from emplifai.errors import UserError
from emplifai.labels import Label
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Reply, Score, read_jsonl, sha256, write_csv, write_json, write_jsonl
from emplifai.shards import Shard
from emplifai.statistics.bootstrap import mean_interval
from emplifai.statistics.classification import accuracy, confusion, macro_f1, top
from emplifai.statistics.shuffled import partners
from emplifai.statistics.surface import rank_labels

TASKS = ("reply", "emotion")
PARTS = ("precision", "recall", "f1")
EMOTIONS = ("model", "task", "emotion", "n", "f1", "f1_low", "f1_high", "precision", "recall")
Scores = dict[tuple[str, str], PairScore]


class Item(NamedTuple):
    """A text that a model wrote, and what it is compared with."""

    reply: Reply
    dialogue: Dialogue
    candidate: str
    reference: str


def run(params: Params, paths: Paths, shard: Shard | None = None) -> None:
    """Write MODEL.jsonl, emotions.csv, confusion.csv, metrics.json and run.json. Raises UserError.

    A shard only fills the cache with the scores of its references: each is encoded by one shard.
    """
    test = {d.dialogue_id: d for d in read_jsonl(paths.part("test"), Dialogue)}
    labels = emotions.covering(params.data.labels, test.values())
    systems = {(m, task): _items(paths, m, task, test, labels) for m in params.models for task in TASKS}
    if shard:
        pairs = [pair for (_, task), items in systems.items() for pair in _pairs(task, items, test, params.bertscore.seed)]
        PairScorer(params.bertscore, paths.cache).scores(pair for pair in pairs if shard.owns(sha256(pair[1])))
        return
    inputs = [paths.part("train"), paths.part("test"), params.data.labels, *(paths.replies(m, t) for m, t in systems)]
    _remove_orphans(params, paths)
    with provenance.record(paths.record("bertscore"), "bertscore", params.section("bertscore"), inputs) as record:
        scorer = PairScorer(params.bertscore, paths.cache)
        nulls = {key: _null_pairs(key[1], items, test, params.bertscore.seed) for key, items in systems.items()}
        real = [(i.candidate, i.reference) for items in systems.values() for i in items]
        scores = scorer.scores([*real, *(pair for pairs in nulls.values() for pair in pairs)])
        for model in params.models:
            write_jsonl(paths.scores(model), (_score(i, scores) for task in TASKS for i in systems[model, task]))
        metrics = {}
        for key, items in systems.items():
            metrics |= {f"{'.'.join(key)}.{k}": v for k, v in _summary(key[1], items, nulls[key], scores).items()}
        metrics |= _baselines(list(read_jsonl(paths.part("train"), Dialogue)), list(test.values())) | _parrot(params, metrics)
        write_csv(paths.score_table("emotions"), _by_emotion(systems, scores, labels), EMOTIONS)
        write_csv(paths.score_table("confusion"), _confusion(systems), ("model", "gold", "predicted", "count"))
        write_json(paths.metrics("bertscore"), {k: v for k, v in metrics.items() if v is not None})
        record |= {"hash": scorer.hash, "models": list(params.models)}
        record |= {"encoded_tokens": scorer.encoded_tokens, "scored_pairs": scorer.scored_pairs}
    _show(params, metrics)


def _items(paths: Paths, model: str, task: str, test: dict[str, Dialogue], labels: dict[str, Label]) -> list[Item]:
    found, path = [], paths.replies(model, task)
    for number, reply in enumerate(read_jsonl(path, Reply), 1):
        dialogue = test.get(reply.dialogue_id)
        if dialogue is None:
            raise UserError(f"{path}:{number}: {reply.dialogue_id!r} is no test dialogue; run the generate stage again")
        if task == "reply":
            found.append(Item(reply, dialogue, reply.text, dialogue.reference))
        else:  # the label's one name, whatever word for it the model chose; what is no label stays as written
            word = labels[reply.label].word if reply.label in labels else reply.text
            found.append(Item(reply, dialogue, word, labels[dialogue.emotion].word))
    return sorted(found, key=lambda i: (i.reply.dialogue_id, i.reply.sample))


def _pairs(task: str, items: list[Item], test: dict[str, Dialogue], seed: int) -> list[tuple[str, str]]:
    return [*((i.candidate, i.reference) for i in items), *_null_pairs(task, items, test, seed)]


def _null_pairs(task: str, items: list[Item], test: dict[str, Dialogue], seed: int) -> Counter[tuple[str, str]]:
    """How often each pair of the null counts.

    Replies: each against another situation's reference. Emotions: every word against every gold word, whose mean is the
    exact expectation over all permutations of the gold labels.
    """
    if task == "emotion":
        words, gold = Counter(i.candidate for i in items), Counter(i.reference for i in items)
        return Counter({(w, g): words[w] * gold[g] for w in words for g in gold})
    other = partners(test.values(), seed)
    drawn = ((i, [d.reference for d in other.get(i.dialogue.dialogue_id, [])]) for i in items)
    # a system that answers with other dialogues' replies may have drawn the very reference: that is no chance agreement
    return Counter((i.candidate, new[0]) for i, refs in drawn if (new := [r for r in refs if r != i.candidate]))


def _score(item: Item, scores: Scores) -> Score:
    found, reply = scores[item.candidate, item.reference], item.reply
    numbers = (found.precision, found.recall, found.f1)
    status = "empty" if found.f1 is None else "ok"
    return Score(reply.dialogue_id, reply.model, reply.task, reply.sample, *numbers, status, reply.text_sha256)


def _summary(task: str, items: list[Item], null_pairs: Counter[tuple[str, str]], scores: Scores) -> dict[str, Any]:
    """Means with intervals over situations. Texts without a score are left out of the means and counted."""
    if not items:
        return {}
    pairs = [(i, scores[i.candidate, i.reference]) for i in items]
    good = [(i, s) for i, s in pairs if s.f1 is not None]
    found: dict[str, Any] = {}
    for part in reversed(PARTS):
        found |= _interval(part, [getattr(s, part) for _, s in good], [i for i, _ in good])
    null = [(s.f1, n) for pair, n in null_pairs.items() if (s := scores[pair]).f1 is not None]
    if good and null:
        found["null"] = round(math.fsum(f1 * n for f1, n in null) / sum(n for _, n in null), 6)
        found["rescaled"] = round((found["f1"] - found["null"]) / (1 - found["null"]), 6) if found["null"] < 1 else None
    found |= {"n": len(items), "empty_share": round(1 - len(good) / len(items), 6)}
    found["f1_empty_as_zero"] = round(sum(s.f1 for _, s in good) / len(items), 6)
    found["truncated_share"] = round(sum(s.truncated for _, s in pairs) / len(items), 6)
    return found | (_classified(items) if task == "emotion" else {})


def _interval(name: str, values: list[float], items: list[Item]) -> dict[str, Any]:
    mean = mean_interval(values, [i.dialogue.situation_id for i in items])
    numbers = {name: mean.estimate, f"{name}_low": mean.low, f"{name}_high": mean.high}
    return {k: None if v is None else round(v, 6) for k, v in numbers.items()}


def _classified(items: list[Item]) -> dict[str, Any]:
    gold, named = [i.dialogue.emotion for i in items], [i.reply.label or "none" for i in items]
    found = _interval("accuracy", [float(g == p) for g, p in zip(gold, named, strict=True)], items)
    found |= {"macro_f1": round(macro_f1(gold, named), 6), "none_share": round(named.count("none") / len(named), 6)}
    if all(i.reply.ranking for i in items):
        found["top3"] = round(top(gold, [i.reply.ranking or [] for i in items]), 6)
    return found


def _baselines(train: list[Dialogue], test: list[Dialogue]) -> dict[str, float]:
    """TF-IDF + logistic regression from the patient's words, and from those with the reference reply."""
    if len({d.emotion for d in train}) < 2 or not test:
        return {}
    found, gold = {}, [d.emotion for d in test]
    for name, read in (("patient", lambda d: d.patient), ("dialogue", lambda d: f"{d.patient}\n{d.reference}")):
        rankings = rank_labels([read(d) for d in train], [d.emotion for d in train], [read(d) for d in test])
        named = [ranking[0] for ranking in rankings]
        numbers = {"accuracy": accuracy(gold, named), "macro_f1": macro_f1(gold, named), "top3": top(gold, rankings)}
        found |= {f"emotion_baseline.tfidf_{name}.{k}": round(v, 6) for k, v in numbers.items()}
    return found


def _parrot(params: Params, metrics: dict[str, Any]) -> dict[str, int]:
    """Whether repeating the patient scores highest of all systems but the reference itself."""
    f1 = {m: metrics.get(f"{m}.reply.f1") for m, model in params.models.items() if model.backend != "reference"}
    known = {m: v for m, v in f1.items() if v is not None}
    parrots = [m for m in known if params.models[m].backend == "parrot"]
    if not parrots or len(known) == len(parrots):
        return {}
    return {"parrot_is_highest": int(known[max(known, key=lambda m: known[m])] == max(known[m] for m in parrots))}


def _by_emotion(systems: dict[tuple[str, str], list[Item]], scores: Scores, labels: dict[str, Label]) -> list[dict[str, Any]]:
    rows = []
    for (model, task), items in systems.items():
        groups = defaultdict(list)
        for item in items:
            if scores[item.candidate, item.reference].f1 is not None:
                groups[item.dialogue.emotion].append(item)
        for emotion in (e for e in labels if e in groups):
            row: dict[str, Any] = {"model": model, "task": task, "emotion": emotion, "n": len(groups[emotion])}
            for part in PARTS:
                values = [getattr(scores[i.candidate, i.reference], part) for i in groups[emotion]]
                row |= {k: v for k, v in _interval(part, values, groups[emotion]).items() if k in EMOTIONS}
            rows.append(row)
    return rows


def _confusion(systems: dict[tuple[str, str], list[Item]]) -> list[dict[str, Any]]:
    rows = []
    for (model, task), items in systems.items():
        if task == "emotion":
            cells = confusion([i.dialogue.emotion for i in items], [i.reply.label or "none" for i in items])
            rows += [{"model": model, "gold": g, "predicted": p, "count": n} for (g, p), n in cells.items()]
    return rows


def _remove_orphans(params: Params, paths: Paths) -> None:
    """Scores of models that the last run knew and params.yaml no longer does."""
    for file in paths.stage("bertscore").glob("*.jsonl"):
        with file.open(encoding="utf-8") as lines:  # the folder may be a user's own (--out): only what is ours goes
            ours = f'"model": "{file.stem}"' in next(lines, "")
        if ours and file.stem not in params.models:
            file.unlink()


def _show(params: Params, metrics: dict[str, Any]) -> None:
    print(f"{'system':<16} {'F1':>7} {'95 % interval':>18} {'null':>7} {'rescaled':>9} {'empty':>6}")
    f1 = {m: metrics.get(f"{m}.reply.f1") for m in params.models}  # None: all of a model's replies are empty
    for model in sorted(f1, key=lambda m: (f1[m] is None, -(f1[m] or 0))):
        mean, low, high, null, rescaled, empty = (
            "-" if (v := metrics.get(f"{model}.reply.{k}")) is None else f"{v:.3f}"
            for k in ("f1", "f1_low", "f1_high", "null", "rescaled", "empty_share")
        )
        print(f"{model:<16} {mean:>7} {f'{low} to {high}':>18} {null:>7} {rescaled:>9} {empty:>6}")
    if metrics.get("parrot_is_highest"):
        print("Repeating the patient's own words scores highest: BERTScore measures shared words here, not empathy.")

"""Let a model answer the test dialogues: the supporter's reply, and the patient's emotion."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emplifai import provenance, systems
from emplifai.cache import Cache
from emplifai.errors import UserError
from emplifai.params import Model, Params
from emplifai.paths import Paths
from emplifai.prompt import Talk, talk_of
from emplifai.records import Dialogue, Reply, read_jsonl, sha256, write_json, write_jsonl
from emplifai.shards import Shard
from emplifai.statistics.bootstrap import Interval, mean_interval


def run(params: Params, paths: Paths, name: str, shard: Shard | None = None) -> None:
    """Write reply.jsonl, emotion.jsonl, likelihood.jsonl and metrics.json of one model. A task not asked for is empty.

    A shard only fills the cache with its share of the answers.
    """
    entry = params.models[name]
    test = list(read_jsonl(paths.part("test"), Dialogue))
    train = list(read_jsonl(paths.part("train"), Dialogue))
    talk = talk_of(params.data, [*test, *train])
    adapter = _adapter(entry, paths, name)
    if shard:
        _answers(params, paths, name, adapter, test, train, talk, {}, shard)
        return
    inputs = [paths.part("test"), paths.part("train"), params.data.labels, *(sorted(adapter.iterdir()) if adapter else [])]
    used = {"generate": params.section("generate"), "prompt": params.data.prompt, "model": params.section("models")[name]}
    with provenance.record(paths.record("generate", name), "generate", used, inputs, name) as notes:
        replies, emotions, likelihood = _answers(params, paths, name, adapter, test, train, talk, notes)
        write_jsonl(paths.replies(name), replies)
        write_jsonl(paths.replies(name, "emotion"), emotions)
        write_jsonl(paths.likelihood(name), likelihood)
        write_json(paths.metrics("generate", name), metrics(test, replies, emotions, likelihood))


def _adapter(entry: Model, paths: Paths, name: str) -> Path | None:
    if entry.adapter is None:
        return None
    path = paths.adapter(name) if entry.tuned else Path(entry.adapter)
    if not path.is_dir():
        raise UserError(f"models.{name}.adapter: {path}: no such folder; run finetune first, or name the adapter's folder")
    return path


def _answers(params, paths, name, adapter, test, train, talk, notes, shard=None) -> tuple[list[Reply], list[Reply], list[dict]]:
    entry, tasks = params.models[name], params.generate.tasks
    if entry.backend in systems.SYSTEMS:
        answers = systems.SYSTEMS[entry.backend](test, train, params.generate.seed)
        replies = systems.replies(name, entry.backend, test, answers) if "reply" in tasks else []
        emotions = systems.emotions(name, entry.backend, test, answers, talk.labels) if "emotion" in tasks else []
        return replies, emotions, []
    cache = Cache(paths.cache / "generate")
    try:
        model = _model(params, name, adapter, talk, cache, exemplars(train, entry.shots))
        model.shard = shard
        replies = model.reply(test) if "reply" in tasks else []
        likelihood = model.likelihood(test) if "reply" in tasks else []
        emotions = model.emotion(test) if "emotion" in tasks else []
        notes |= {"fresh": model.fresh, "cached": model.cached, "device": model.device}
    finally:
        cache.close()
    return replies, emotions, likelihood


def _model(params: Params, name: str, adapter: Path | None, talk: Talk, cache: Cache, shots) -> Any:
    entry = params.models[name]
    if entry.backend == "openai":
        from emplifai.backends.chat import Chat

        return Chat(name, entry, params, talk, cache, shots)
    from emplifai.backends.transformers import Transformers

    return Transformers(name, entry, params.generate, talk, cache, adapter, shots)


def exemplars(train: Sequence[Dialogue], count: int) -> tuple[Dialogue, ...]:
    """Few-shot exemplars from train, the same for all: one an emotion, emotions and dialogues by hash."""
    first: dict[str, Dialogue] = {}
    for dialogue in sorted(train, key=lambda d: sha256(d.dialogue_id)):
        first.setdefault(dialogue.emotion, dialogue)
    return tuple(first[emotion] for emotion in sorted(first, key=sha256)[:count])


def metrics(
    test: Sequence[Dialogue], replies: Sequence[Reply], emotions: Sequence[Reply], likelihood: Sequence[dict]
) -> dict[str, float | int | None]:
    """Flat numbers of one model; an interval is of whole situations drawn again. What was not done is left out."""
    dialogues = {d.dialogue_id: d for d in test}
    values: dict[str, Any] = {"dialogues": len(test), "replies": len(replies)}
    if replies:
        values |= {f"replies_{reason}": _count(replies, reason) for reason in ("empty", "length", "error")}
        values["distinct_3"] = distinct([r.text for r in replies], 3)
        values["mean_characters"] = sum(len(r.text) for r in replies) / len(replies)
    if likelihood:
        rows = [(row["nats"] / row["tokens"], dialogues[row["dialogue_id"]].situation_id, row["tokens"]) for row in likelihood]
        nats = [v for v, _, tokens in rows for _ in range(tokens)]  # each token counts once: a ratio of sums
        values |= _interval("nats_per_token", mean_interval(nats, [s for _, s, tokens in rows for _ in range(tokens)]))
        values["reference_tokens"] = len(nats)
    if emotions:
        values |= _emotion(dialogues, emotions)
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items() if v is not None}


def _emotion(dialogues: dict[str, Dialogue], emotions: Sequence[Reply]) -> dict[str, Any]:
    gold = [dialogues[r.dialogue_id] for r in emotions]
    hits = [float(r.label == d.emotion) for r, d in zip(emotions, gold, strict=True)]
    values = {"emotions": len(emotions), **_interval("emotion_accuracy", mean_interval(hits, [d.situation_id for d in gold]))}
    values["emotion_none"] = sum(r.label == "none" for r in emotions)
    values["emotion_labels"] = len({r.label for r in emotions} - {"none"})
    if all(r.ranking for r in emotions):
        values["emotion_top3"] = sum(d.emotion in r.ranking[:3] for r, d in zip(emotions, gold, strict=True)) / len(gold)
    return values


def _interval(name: str, interval: Interval) -> dict[str, float | None]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _count(replies: Sequence[Reply], reason: str) -> int:
    return sum(r.finish_reason == reason for r in replies)


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Share of different character n-grams among all of them (distinct-n, Li et al. 2016, N16-1014, on characters)."""
    grams = [text[k : k + n] for text in texts for k in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
